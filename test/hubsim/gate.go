package hubsim

import (
	"errors"
	"net"
	"sync"
)

// gate stands between all sockets of a hub and everything above them. While it
// is shut, nothing passes in either direction and no socket is closed, as when
// a cable is pulled: bytes that arrive are lost, what is written waits.
type gate struct {
	mu    sync.Mutex // guards everything below
	shut  bool       // nothing passes
	mute  bool       // nothing passes towards the clients
	conns map[*gatedConn]struct{}
}

// errDead is what a reader or writer gets whose socket was cut off and is now
// closed.
var errDead = errors.New("connection was cut")

// gatedConn is a socket behind the gate.
type gatedConn struct {
	net.Conn
	gate *gate

	mu     sync.Mutex // guards dead and mute
	dead   bool       // the gate was shut while the socket was open: no way back
	mute   bool       // what is written is lost: no way back either
	closed chan struct{}
	once   sync.Once
	closer sync.Once // closes the socket itself
}

func newGate() *gate { return &gate{conns: make(map[*gatedConn]struct{})} }

// wrap puts a new socket behind the gate.
func (g *gate) wrap(nc net.Conn) *gatedConn {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := &gatedConn{Conn: nc, gate: g, dead: g.shut, mute: g.mute, closed: make(chan struct{})}
	g.conns[c] = struct{}{}
	return c
}

// close shuts the gate. Sockets behind it are dead from now on.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	for c := range g.conns {
		c.set(&c.dead)
	}
}

// silence lets bytes from the clients in and none out to them.
func (g *gate) silence() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mute = true
	for c := range g.conns {
		c.set(&c.mute)
	}
}

// open opens the gate again and closes the sockets that have missed something.
func (g *gate) open() {
	g.mu.Lock()
	g.shut, g.mute = false, false
	var dead []*gatedConn
	for c := range g.conns {
		if c.isDead() || c.isMute() {
			dead = append(dead, c)
		}
	}
	g.mu.Unlock()
	for _, c := range dead {
		_ = c.end()
	}
}

// reset closes all sockets with RST and returns how many.
func (g *gate) reset() int {
	g.mu.Lock()
	var all []*gatedConn
	for c := range g.conns {
		all = append(all, c)
	}
	g.mu.Unlock()
	for _, c := range all {
		_ = c.SetLinger(0)
		_ = c.end()
	}
	return len(all)
}

func (c *gatedConn) set(flag *bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*flag = true
}

func (c *gatedConn) isMute() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mute
}

func (c *gatedConn) isDead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead
}

// Read reads from the socket. What arrives at a dead socket is lost.
func (c *gatedConn) Read(b []byte) (int, error) {
	if !c.isDead() {
		n, err := c.Conn.Read(b)
		if !c.isDead() {
			return n, err
		}
	}
	<-c.closed
	return 0, errDead
}

// Write writes to the socket; on a dead one it waits for the end, and what is
// written to a mute one is lost.
func (c *gatedConn) Write(b []byte) (int, error) {
	if c.isMute() {
		return len(b), nil
	}
	if c.isDead() {
		<-c.closed
		return 0, errDead
	}
	return c.Conn.Write(b)
}

// SetLinger says what becomes of unsent bytes when the socket is closed; with 0
// they are lost and the client gets RST. It is for those who look below TLS for
// a way to end a connection without a word.
func (c *gatedConn) SetLinger(seconds int) error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		return tcp.SetLinger(seconds)
	}
	return nil
}

// Close closes the socket and lets go of those who wait on it. During a cut the
// socket itself stays until the gate opens: its peer must not hear of the end.
func (c *gatedConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	if c.gate.holds(c) {
		return nil
	}
	return c.end()
}

// holds says whether a socket has to stay open because the gate is shut.
func (g *gate) holds(c *gatedConn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut && c.isDead()
}

// end closes the socket whatever the gate says.
func (c *gatedConn) end() (err error) {
	c.once.Do(func() { close(c.closed) })
	c.closer.Do(func() {
		c.gate.mu.Lock()
		delete(c.gate.conns, c)
		c.gate.mu.Unlock()
		err = c.Conn.Close()
	})
	return err
}
