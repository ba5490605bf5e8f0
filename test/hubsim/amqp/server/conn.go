package server

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
)

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
	given  *GivenUp // nil: nobody counts

	mu       sync.Mutex // guards everything below, and the state of sessions and links
	room     *sync.Cond // credit, windows or output room have grown, or something has ended
	out      []byte     // encoded frames that the writer has not taken yet
	batching bool       // the reader will flush before it blocks
	dirty    []*session // have something to say at the next flush
	sessions map[uint16]*session
	later    []func() // callbacks to call without the lock
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

// GivenUp counts what peers ended by themselves while we did not. One may serve
// many connections.
type GivenUp struct {
	Links, Sessions atomic.Uint64
}

// Count has what the peer gives up counted. It is called while the routes of the
// connection are made.
func (c *Conn) Count(g *GivenUp) { c.given = g }

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

// Certificates are what the client showed in TLS, leaf first; nil for none.
func (c *Conn) Certificates() []*x509.Certificate { return c.cfg.Certificates }

// Done is closed when the connection ends.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Abort ends the connection without a word, with RST where the socket can: what
// lies under TLS and WebSocket is closed, without their goodbyes.
func (c *Conn) Abort() {
	nc := c.nc
	for {
		if socket, ok := nc.(interface{ SetLinger(seconds int) error }); ok {
			_ = socket.SetLinger(0)
			break
		}
		outer, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		nc = outer.NetConn()
	}
	_ = nc.Close()
}

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
	later := c.later
	c.later = nil
	c.mu.Unlock()
	for _, f := range later {
		f()
	}
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
