package mqtt

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/mqtt/packet"
)

// Keep-alive (section 2.7): a client may be silent for one and a half times
// what it promised, but never for longer than maxSilence.
const maxSilence = 1767 * time.Second

// maxOpen is how many messages may wait for an acknowledgement in either
// direction: as many as there are packet ids.
const maxOpen = 1<<16 - 1

// Conn is one connection. Its methods are safe for concurrent use.
type Conn struct {
	cfg    Config
	nc     net.Conn
	in     *bufio.Reader
	routes Routes
	limit  time.Duration // of the client's silence

	mu       sync.Mutex // guards everything below
	client   string     // id, for the log
	out      batch      // what the writer has not taken yet
	holding  bool       // CONNACK or SUBACK is due and goes first
	held     batch      // what waits for it
	receipts []*receipt // of the client's messages, oldest first
	sent     map[uint16]func()
	lastID   uint16 // of the messages to the client
	closing  bool   // nothing follows what is in out
	reason   error  // of our closing
	ended    bool   // the reader has stopped

	wake  chan struct{} // for the writer, holds at most one
	done  chan struct{} // closed when the connection ends
	parts sync.WaitGroup
}

// Serve speaks MQTT on nc until either side closes it, and closes nc. Everything
// it started has ended when it returns. connect judges CONNECT: with a code
// other than Accepted there are no routes. It runs on the reading goroutine and
// may wait. present is the session present flag. What routes send while connect
// runs leaves after CONNACK. The error is nil after DISCONNECT, and otherwise
// why the connection ended.
func Serve(nc net.Conn, cfg Config, connect func(*Conn, Login) (routes Routes, present bool, code byte)) error {
	c := &Conn{
		cfg:     cfg.withDefaults(),
		nc:      nc,
		in:      bufio.NewReader(nc),
		holding: true,
		sent:    make(map[uint16]func()),
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
	}
	c.parts.Go(c.write)
	err := c.greet(connect)
	orderly := false
	if err == nil {
		orderly, err = c.readPackets()
	}
	err = c.stop(err)
	if c.routes != nil {
		c.routes.Closed(orderly)
	}
	c.finish()
	return err
}

// RemoteAddr is where the client is.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// Done is closed when the connection ends.
func (c *Conn) Done() <-chan struct{} { return c.done }

// greet answers CONNECT, which must come first and soon.
func (c *Conn) greet(connect func(*Conn, Login) (Routes, bool, byte)) error {
	c.limit = c.cfg.ConnectTimeout
	p, err := c.next()
	if err != nil {
		return err
	}
	hello, ok := p.(*packet.Connect)
	if !ok {
		return fmt.Errorf("the first packet is a %T, not CONNECT", p)
	}
	present, code := false, BadProtocol
	if hello.Level == packet.Level {
		c.limit = silence(hello.KeepAlive)
		c.mu.Lock()
		c.client = hello.ClientID
		c.mu.Unlock()
		c.routes, present, code = connect(c, login(hello, c.cfg))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if code != Accepted {
		present = false // with another code it must be 0 (section 3.2.2.2 of the standard)
	}
	c.out.bytes = packet.AppendConnack(c.out.bytes, present, code)
	if code != Accepted {
		c.routes, c.closing = nil, true
		c.wakeWriter()
		return fmt.Errorf("CONNECT of %q is refused with code %d", hello.ClientID, code)
	}
	c.releaseLocked()
	return nil
}

// silence is how long a client may be silent that promised a packet every
// keepAlive seconds.
func silence(keepAlive uint16) time.Duration {
	if keepAlive == 0 {
		return maxSilence
	}
	return min(time.Duration(keepAlive)*time.Second*3/2, maxSilence)
}

func login(hello *packet.Connect, cfg Config) Login {
	l := Login{
		ClientID: hello.ClientID, User: hello.User, Password: string(hello.Password),
		CleanSession: hello.CleanSession, KeepAlive: time.Duration(hello.KeepAlive) * time.Second,
		Certificates: cfg.Certificates,
	}
	if w := hello.Will; w != nil {
		l.Will = received(w)
	}
	return l
}

func received(p *packet.Publish) *Publish {
	return &Publish{Topic: p.Topic, Body: p.Body, QoS: p.QoS, Retain: p.Retain, Duplicate: p.Duplicate}
}

// readPackets handles packets until the connection is over; orderly when that
// is the client's DISCONNECT.
func (c *Conn) readPackets() (orderly bool, err error) {
	for {
		p, err := c.next()
		if err != nil {
			return false, err
		}
		if _, ok := p.(*packet.Disconnect); ok {
			return true, nil
		}
		if err := c.handle(p); err != nil {
			return false, err
		}
	}
}

// next reads one packet, for which the client has as long as it may be silent.
func (c *Conn) next() (any, error) {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		return nil, net.ErrClosed
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(c.limit))
	c.mu.Unlock()
	p, err := packet.Read(c.in, c.cfg.MaxPacket)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("nothing was heard for %v: %w", c.limit, err)
	}
	return p, err
}

// handle does what one packet asks for; the error ends the connection.
func (c *Conn) handle(p any) error {
	switch p := p.(type) {
	case *packet.Publish:
		return c.published(p)
	case *packet.Puback:
		c.acknowledged(p.ID)
	case *packet.Subscribe:
		c.subscribe(p)
	case *packet.Unsubscribe:
		for _, topic := range p.Topics {
			c.routes.Unsubscribe(topic)
		}
		c.put(func(b []byte) []byte { return packet.AppendUnsuback(b, p.ID) })
	case *packet.Pingreq:
		c.put(packet.AppendPingresp)
	default:
		return fmt.Errorf("a second CONNECT")
	}
	return nil
}

// subscribe asks the routes about each filter. What they send meanwhile waits
// for SUBACK.
func (c *Conn) subscribe(p *packet.Subscribe) {
	c.mu.Lock()
	c.holding = true
	c.mu.Unlock()
	codes := make([]byte, len(p.Filters))
	for i, f := range p.Filters {
		granted, err := c.routes.Subscribe(f.Topic, f.QoS)
		if err != nil {
			c.cfg.Log.Info("subscription refused", "client", c.client, "filter", f.Topic, "error", err)
			granted = packet.Refused
		}
		codes[i] = granted
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.out.bytes = packet.AppendSuback(c.out.bytes, p.ID, codes)
	}
	c.releaseLocked()
}
