package server

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
)

// Config holds what a server says about itself. The zero value of a field is
// replaced by that of DefaultConfig.
type Config struct {
	ContainerID string
	MaxFrame    uint32        // bytes of the largest frame taken and sent
	ChannelMax  uint16        // largest channel number
	HandleMax   uint32        // largest link handle of a session
	Window      uint32        // transfer frames a session may have on the way to us
	Credit      uint32        // deliveries a link may have on the way and unsettled
	MaxMessage  uint64        // bytes of the largest message taken
	IdleTimeout time.Duration // a peer silent for longer is closed
	Log         *slog.Logger
}

// DefaultConfig returns what the real hub answers (wire contract, section 3.1).
func DefaultConfig() Config {
	return Config{
		ContainerID: "DeviceGateway_hubsim",
		MaxFrame:    65536,
		ChannelMax:  8191,
		HandleMax:   262143,
		Window:      5000,
		Credit:      1000,
		MaxMessage:  1 << 20,
		IdleTimeout: 240 * time.Second,
		Log:         slog.New(slog.DiscardHandler),
	}
}

func (c Config) withDefaults() Config {
	d := DefaultConfig()
	set(&c.ContainerID, d.ContainerID)
	set(&c.MaxFrame, d.MaxFrame)
	set(&c.ChannelMax, d.ChannelMax)
	set(&c.HandleMax, d.HandleMax)
	set(&c.Window, d.Window)
	set(&c.Credit, d.Credit)
	set(&c.MaxMessage, d.MaxMessage)
	set(&c.IdleTimeout, d.IdleTimeout)
	set(&c.Log, d.Log)
	return c
}

func set[T comparable](v *T, missing T) {
	var zero T
	if *v == zero {
		*v = missing
	}
}

// Routes says what the addresses of one connection mean. Its methods are
// called by the connection's reading goroutine, one at a time.
type Routes interface {
	// Plain checks user name and password of SASL PLAIN.
	Plain(user, password string) error
	// Attach accepts or refuses a link. A refusal goes to the client as the
	// link's error.
	Attach(l *Link) (Endpoint, *amqp.Error)
	// Closed is called once, last, when the connection has ended and all of
	// its links with it.
	Closed()
}

// Endpoint is the hub's side of a link. All fields are optional.
type Endpoint struct {
	// Take gets every message of a link on which the client sends, in order,
	// on the reading goroutine: it must not wait. It must settle the delivery
	// sooner or later, from any goroutine.
	Take func(Delivery)
	// Pump runs in a goroutine of its own once a link on which the client
	// receives is up. It must return soon after Link.Done is closed; the link
	// stays up when it returns before.
	Pump func()
	// Outcome gets the client's settlement of an unsettled delivery.
	Outcome func(id uint32, s amqp.State)
	// Gone is called once when the link has ended, whoever ended it.
	Gone func()
}

// Bounds of a connection.
const (
	// openTimeout is how long a client may take from the first byte to OPEN.
	openTimeout = 60 * time.Second
	// writeTimeout ends a connection whose peer does not read.
	writeTimeout = 30 * time.Second
	// closeTimeout is how long the engine waits for the peer's half of a close.
	closeTimeout = 2 * time.Second
	// outLimit is how much unsent output stops the reading of input; pumpLimit
	// is how much stops the pumps. In bytes.
	outLimit  = 4 << 20
	pumpLimit = 256 << 10
)

// Conn is one connection. Its exported methods are safe for concurrent use.
type Conn struct {
	cfg    Config
	nc     net.Conn
	in     *input
	routes Routes

	mu       sync.Mutex // guards everything below, and the state of sessions and links
	room     *sync.Cond // credit, windows or output room have grown, or something has ended
	out      []byte     // encoded frames that the writer has not taken yet
	batching bool       // the reader will flush before it blocks
	dirty    []*session // have something to say at the next flush
	sessions map[uint16]*session
	gone     []func() // Gone callbacks to call without the lock
	opened   bool     // OPEN is exchanged: from here on silence is bounded
	closing  bool     // CLOSE is sent: nothing follows it
	ended    bool
	hostname string // that the peer asked for

	peerFrame uint32
	peerIdle  time.Duration // 0 for none
	wake      chan struct{} // for the writer, holds at most one
	done      chan struct{} // closed when the connection ends
	parts     sync.WaitGroup
}

// Serve speaks AMQP on nc until either side closes it, and closes nc. Everything
// it started has ended when it returns. The error is nil after an orderly close
// by either side.
func Serve(nc net.Conn, cfg Config, routes func(*Conn) Routes) error {
	c := &Conn{
		cfg:      cfg.withDefaults(),
		nc:       nc,
		sessions: make(map[uint16]*session),
		wake:     make(chan struct{}, 1),
		done:     make(chan struct{}),
	}
	c.room = sync.NewCond(&c.mu)
	c.in = newInput(nc, c.flush, c.resume)
	c.routes = routes(c)
	err := c.converse()
	c.finish()
	c.routes.Closed()
	return err
}

// RemoteAddr is where the client is.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// Done is closed when the connection ends.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Abort ends the connection without a word.
func (c *Conn) Abort() { _ = c.nc.Close() }

// Close ends the connection in order, giving e as the reason; nil for none. It
// does not wait for the end.
func (c *Conn) Close(e *amqp.Error) {
	c.mu.Lock()
	c.closeLocked(e)
	c.unlock()
}

func (c *Conn) closeLocked(e *amqp.Error) {
	if c.closing || c.ended {
		return
	}
	c.flushLocked()
	c.send(0, &amqp.Close{Error: e}, nil)
	c.closing = true
	_ = c.nc.SetReadDeadline(time.Now().Add(closeTimeout))
	c.wakeWriter()
}

// converse does the whole conversation, from the protocol header on.
func (c *Conn) converse() error {
	open, err := c.greet()
	if err != nil {
		return c.reject(err)
	}
	c.peerFrame = min(max(open.MaxFrameSize, amqp.MinMaxFrame), c.cfg.MaxFrame)
	c.peerIdle = time.Duration(open.IdleTimeout) * time.Millisecond
	c.mu.Lock()
	c.hostname = open.Hostname
	c.sendOpen()
	c.batching, c.opened = true, true
	c.mu.Unlock()
	c.parts.Go(c.write)
	return c.readFrames()
}

// reject tells a client that did not get as far as OPEN why it must go. The
// standard wants an OPEN before a CLOSE from our side too.
func (c *Conn) reject(err error) error {
	var e *amqp.Error
	if !errors.As(err, &e) {
		return err
	}
	c.mu.Lock()
	c.sendOpen()
	c.send(0, &amqp.Close{Error: e}, nil)
	out := c.out
	c.out = nil
	c.mu.Unlock()
	_ = c.nc.SetWriteDeadline(time.Now().Add(closeTimeout))
	_, _ = c.nc.Write(out)
	return err
}

func (c *Conn) sendOpen() {
	c.send(0, &amqp.Open{
		ContainerID:  c.cfg.ContainerID,
		MaxFrameSize: c.cfg.MaxFrame,
		ChannelMax:   c.cfg.ChannelMax,
		IdleTimeout:  uint32(c.cfg.IdleTimeout.Milliseconds()),
	}, nil)
}

// readFrames handles frames until the connection is over.
func (c *Conn) readFrames() error {
	for {
		f, err := c.nextFrame()
		if err != nil {
			return c.readFailed(err)
		}
		if len(f.Body) == 0 {
			continue // heartbeat
		}
		p, payload, err := amqp.ParsePerformative(f.Body)
		if err != nil {
			c.Close(&amqp.Error{Condition: amqp.CondDecodeError, Description: err.Error()})
			return c.drain(err)
		}
		over, err := c.handle(f.Channel, p, payload)
		switch {
		case over:
			return err
		case err != nil:
			return c.drain(err)
		}
	}
}

// nextFrame reads one frame of the AMQP layer.
func (c *Conn) nextFrame() (amqp.Frame, error) {
	raw, err := c.in.frame(c.cfg.MaxFrame)
	if err != nil {
		return amqp.Frame{}, err
	}
	f, err := amqp.ParseFrame(raw)
	if err == nil && f.Type != amqp.FrameAMQP {
		err = fmt.Errorf("%w: frame type %d after OPEN", amqp.ErrDecode, f.Type)
	}
	return f, err
}

// readFailed turns the error of a read into what the client is told, if it can
// still be told anything.
func (c *Conn) readFailed(err error) error {
	c.mu.Lock()
	closing := c.closing
	c.mu.Unlock()
	switch {
	case closing:
		return nil // the peer never answered our CLOSE, which is its loss
	case errors.Is(err, amqp.ErrDecode):
		c.Close(&amqp.Error{Condition: amqp.CondFraming, Description: err.Error()})
		return c.drain(err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.Close(&amqp.Error{Condition: amqp.CondResourceLimit, Description: "local idle time-out expired"})
		return c.drain(err)
	}
	return err
}

// drain reads and forgets until the peer has answered our CLOSE, so that the
// socket does not reset under the CLOSE that is still on its way.
func (c *Conn) drain(cause error) error {
	c.flush()
	if _, err := io.Copy(io.Discard, c.nc); err != nil {
		return errors.Join(cause, err)
	}
	return cause
}

// handle does what one performative asks for. over says that the connection is
// done; an error without over means that CLOSE has been sent.
func (c *Conn) handle(channel uint16, p any, payload []byte) (over bool, err error) {
	if attach, ok := p.(*amqp.Attach); ok {
		c.attach(channel, attach)
		return false, nil
	}
	if transfer, ok := p.(*amqp.Transfer); ok {
		c.transfer(channel, transfer, payload)
		return false, nil
	}
	c.mu.Lock()
	defer c.unlock()
	switch p := p.(type) {
	case *amqp.Close:
		c.closeLocked(nil)
		if p.Error != nil {
			return true, p.Error
		}
		return true, nil
	case *amqp.Open:
		e := &amqp.Error{Condition: amqp.CondNotAllowed, Description: "second OPEN"}
		c.closeLocked(e)
		return false, e
	case *amqp.Begin:
		return false, c.begin(channel, p)
	}
	s := c.sessions[channel]
	if s == nil {
		if c.closing {
			return false, nil
		}
		e := &amqp.Error{Condition: amqp.CondFraming, Description: fmt.Sprintf("no session on channel %d", channel)}
		c.closeLocked(e)
		return false, e
	}
	s.handle(p)
	return false, nil
}

// unlock releases mu and makes the calls that had to wait for that.
func (c *Conn) unlock() {
	gone := c.gone
	c.gone = nil
	c.mu.Unlock()
	for _, f := range gone {
		f()
	}
}

// send appends one frame to the output.
func (c *Conn) send(channel uint16, p amqp.Performative, payload []byte) {
	if c.closing || c.ended {
		return
	}
	c.out = amqp.AppendFrame(c.out, channel, p, payload)
	if !c.batching {
		c.wakeWriter()
	}
}

func (c *Conn) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default: // awake already
	}
}

// flush is called by the reader before each read that may block. It sends what
// has gathered and holds the reader while the peer does not read.
func (c *Conn) flush() {
	c.mu.Lock()
	c.flushLocked()
	c.batching = false
	if len(c.out) > 0 {
		c.wakeWriter()
	}
	if c.opened && !c.closing {
		_ = c.nc.SetReadDeadline(time.Now().Add(c.cfg.IdleTimeout))
	}
	for len(c.out) > outLimit && !c.ended {
		c.room.Wait()
	}
	c.unlock()
}

// resume is called by the reader when a read has brought bytes.
func (c *Conn) resume() {
	c.mu.Lock()
	c.batching = true
	c.mu.Unlock()
}

func (c *Conn) flushLocked() {
	for _, s := range c.dirty {
		s.flush()
	}
	c.dirty = c.dirty[:0]
}

// write sends the output, and heartbeats at half the time after which the peer
// would give up (part 2, section 2.4.5). It ends when the connection has ended
// and everything said before is out.
func (c *Conn) write() {
	var beat <-chan time.Time
	if c.peerIdle > 0 {
		t := time.NewTicker(max(c.peerIdle/2, time.Millisecond))
		defer t.Stop()
		beat = t.C
	}
	var spare []byte
	for {
		c.mu.Lock()
		out, over := c.out, c.ended || c.closing
		c.out = spare[:0]
		c.room.Broadcast()
		c.mu.Unlock()
		if len(out) > 0 {
			_ = c.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
			if _, err := c.nc.Write(out); err != nil {
				c.Abort() // the reader notices and ends the connection
				return
			}
			spare = keep(out)
			continue
		}
		spare = out
		if over {
			return
		}
		select {
		case <-c.wake:
		case <-c.done:
		case <-beat:
			c.mu.Lock()
			if len(c.out) == 0 && !c.closing {
				c.out = amqp.AppendHeartbeat(c.out)
			}
			c.mu.Unlock()
		}
	}
}

// keep returns b for use again unless a burst has made it large.
func keep(b []byte) []byte {
	if cap(b) > 2*pumpLimit {
		return nil
	}
	return b
}

// finish ends everything that belongs to the connection.
func (c *Conn) finish() {
	c.mu.Lock()
	orderly := c.closing
	for _, s := range c.sessions {
		s.drop()
	}
	c.ended = true
	close(c.done)
	c.room.Broadcast()
	c.unlock()
	if !orderly {
		_ = c.nc.Close() // the writer may be stuck in a write
	} else {
		_ = c.nc.SetWriteDeadline(time.Now().Add(closeTimeout))
	}
	c.parts.Wait()
	_ = c.nc.Close()
}
