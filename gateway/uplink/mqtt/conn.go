package mqtt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/gateway/uplink"
	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
)

// goodbye is how long DISCONNECT may take to be written.
const goodbye = 2 * time.Second

// conn is one connection to the hub, as the gateway.
type conn struct {
	*Transport
	stream *dial.Stream
	in     *bufio.Reader
	turns  chan struct{} // capacity 1: taken by a message that must be alone with the hub
	ears   ears
	acks   acks

	writing sync.Mutex // one packet after the other

	live       context.Context // ends with the connection
	cancel     context.CancelFunc
	background sync.WaitGroup
	ending     sync.Once
	done       chan struct{}
	err        error // read it after done is closed

	mu      sync.Mutex
	lastID  uint16                     // guarded by mu
	pending map[uint16]*receipt        // messages without an answer; guarded by mu
	granted map[uint16]chan []byte     // subscriptions without an answer; guarded by mu
	twins   map[string]chan twinAnswer // guarded by mu; by request id
	lastRID uint64                     // guarded by mu
}

var _ uplink.Listener = (*conn)(nil)

func newConn(t *Transport, stream *dial.Stream) *conn {
	c := &conn{
		Transport: t, stream: stream, turns: make(chan struct{}, 1), done: make(chan struct{}),
		pending: make(map[uint16]*receipt), granted: make(map[uint16]chan []byte), twins: make(map[string]chan twinAnswer),
	}
	c.in = bufio.NewReader(patient{stream, 2 * t.cfg.KeepAlive.D()})
	c.live, c.cancel = context.WithCancel(context.Background())
	c.ears.init()
	return c
}

// patient gives the far side the same time for each piece of what it says.
type patient struct {
	stream *dial.Stream
	limit  time.Duration
}

func (p patient) Read(b []byte) (int, error) {
	_ = p.stream.SetReadDeadline(time.Now().Add(p.limit)) // it fails when the read does
	n, err := p.stream.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("nothing was heard of the hub for %v", p.limit)
	}
	return n, err
}

// login says CONNECT and waits for the answer.
func (c *conn) login(ctx context.Context, hello *packets.ConnectPacket) error {
	stop := context.AfterFunc(ctx, c.stream.Abort)
	defer stop()
	err := c.write(hello)
	var answer packets.ControlPacket
	if err == nil {
		answer, err = readPacket(c.in)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = errors.New("no answer in time")
		}
		return &uplink.Unreachable{Err: fmt.Errorf("cannot open MQTT: %w", err)}
	}
	p, ok := answer.(*packets.ConnackPacket)
	if !ok {
		return errors.New("cannot open MQTT: the answer to CONNECT is another packet")
	}
	if p.ReturnCode != packets.Accepted {
		return refusal(p.ReturnCode)
	}
	return nil
}

// begin starts what lasts as long as the connection.
func (c *conn) begin() {
	c.background.Go(c.read)
	c.background.Go(c.keep)
}

// Done is closed when the connection is lost.
func (c *conn) Done() <-chan struct{} { return c.done }

// Err says why the connection is lost.
func (c *conn) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// lose ends the connection.
func (c *conn) lose(err error) {
	c.ending.Do(func() {
		c.suspects.lost(c.unanswered(), err)
		c.err = err
		close(c.done)
		c.cancel()
		c.stream.Abort()
	})
}

// errClosed is the end that we wanted.
var errClosed = errors.New("closed")

// Close ends the connection with DISCONNECT if the hub listens.
func (c *conn) Close() {
	if c.Err() == nil {
		timer := time.AfterFunc(goodbye, c.stream.Abort)
		_ = c.write(packets.NewControlPacket(packets.Disconnect)) // it ends either way
		timer.Stop()
	}
	c.lose(errClosed)
	c.background.Wait()
}

// write writes one packet. It waits while the socket is full, with all leaves:
// there is one stream.
func (c *conn) write(p packets.ControlPacket) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.stream.SetWriteDeadline(time.Now().Add(c.cfg.KeepAlive.D()))
	return p.Write(c.stream)
}

// send is write for packets whose loss is the connection's.
func (c *conn) send(p packets.ControlPacket) error {
	err := c.write(p)
	if err != nil {
		c.lose(fmt.Errorf("cannot write: %w", err))
	}
	return err
}

// keep shows the hub that we are there, and has acknowledgements go out whose
// turn has come by time.
func (c *conn) keep() {
	ping := time.NewTicker(c.cfg.KeepAlive.D())
	defer ping.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ping.C:
			_ = c.send(packets.NewControlPacket(packets.Pingreq))
		case <-tick.C:
			c.flush()
		case <-c.ears.flush:
			c.flush()
		case <-c.done:
			return
		}
	}
}

// read handles what comes until the connection is lost.
func (c *conn) read() {
	for {
		p, err := readPacket(c.in)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errHungUp
		}
		if err != nil {
			c.lose(err)
			return
		}
		switch p := p.(type) {
		case *packets.PubackPacket:
			c.settle(p.MessageID)
		case *packets.SubackPacket:
			c.answerSubscription(p)
		case *packets.PublishPacket:
			if p.Qos > 1 {
				c.lose(fmt.Errorf("the hub sends with QoS %d", p.Qos))
				return
			}
			c.take(p)
		case *packets.PingrespPacket, *packets.UnsubackPacket:
		default:
			c.lose(fmt.Errorf("a packet that no server sends: %T", p))
			return
		}
	}
}

// errHungUp is the hub's only way to say no.
var errHungUp = errors.New("the hub closed the connection without a reason")

// errNoID says that there are too many messages in flight for 16 bits.
var errNoID = errors.New("all packet ids are in use: write a smaller max_inflight into [uplink]")

// nextIDLocked returns a packet id that is not in use, 0 if all are.
func (c *conn) nextIDLocked() uint16 {
	for range 1 << 16 {
		c.lastID++
		if _, used := c.pending[c.lastID]; c.lastID != 0 && !used && c.granted[c.lastID] == nil {
			return c.lastID
		}
	}
	return 0
}

// unanswered returns the names of the messages that the hub has not answered.
func (c *conn) unanswered() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := make([]string, 0, len(c.pending))
	for _, r := range c.pending {
		names = append(names, r.name)
	}
	return names
}

// settle notes that the hub has a message. An answer to nothing is ignored: the
// hub may say it twice.
func (c *conn) settle(id uint16) {
	c.mu.Lock()
	r := c.pending[id]
	delete(c.pending, id)
	c.mu.Unlock()
	if r == nil {
		return
	}
	c.suspects.accepted(r.name)
	if r.alone {
		<-c.turns
	}
	close(r.settled)
}

// subscribe asks for what the filter means.
func (c *conn) subscribe(ctx context.Context, filter string, qos byte) error {
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	p.Topics, p.Qoss = []string{filter}, []byte{qos}
	answer := make(chan []byte, 1)
	c.mu.Lock()
	p.MessageID = c.nextIDLocked()
	if p.MessageID != 0 {
		c.granted[p.MessageID] = answer
	}
	c.mu.Unlock()
	if p.MessageID == 0 {
		return errNoID
	}
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.granted, p.MessageID)
	}()
	if err := c.send(p); err != nil {
		return err
	}
	select {
	case codes := <-answer:
		if len(codes) != 1 || codes[0] > 1 {
			return fmt.Errorf("the hub does not grant %s", filter)
		}
		return nil
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *conn) answerSubscription(p *packets.SubackPacket) {
	c.mu.Lock()
	answer := c.granted[p.MessageID]
	c.mu.Unlock()
	if answer == nil {
		return
	}
	select {
	case answer <- p.ReturnCodes:
	default: // said twice
	}
}
