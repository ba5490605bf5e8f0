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
	shut  bool
	conns map[*gatedConn]struct{}
}

// errDead is what a reader or writer gets whose socket was cut off and is now
// closed.
var errDead = errors.New("connection was cut")

// gatedConn is a socket behind the gate.
type gatedConn struct {
	net.Conn
	gate *gate

	mu     sync.Mutex // guards dead
	dead   bool       // the gate was shut while the socket was open: no way back
	closed chan struct{}
	once   sync.Once
}

func newGate() *gate { return &gate{conns: make(map[*gatedConn]struct{})} }

// wrap puts a new socket behind the gate.
func (g *gate) wrap(nc net.Conn) *gatedConn {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := &gatedConn{Conn: nc, gate: g, dead: g.shut, closed: make(chan struct{})}
	g.conns[c] = struct{}{}
	return c
}

// close shuts the gate. Sockets behind it are dead from now on.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	for c := range g.conns {
		c.kill()
	}
}

// open opens the gate again and closes the dead sockets.
func (g *gate) open() {
	g.mu.Lock()
	g.shut = false
	var dead []*gatedConn
	for c := range g.conns {
		if c.isDead() {
			dead = append(dead, c)
		}
	}
	g.mu.Unlock()
	for _, c := range dead {
		_ = c.Close()
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
		if tcp, ok := c.Conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
	return len(all)
}

func (c *gatedConn) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
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

// Write writes to the socket; on a dead one it waits for the end.
func (c *gatedConn) Write(b []byte) (int, error) {
	if c.isDead() {
		<-c.closed
		return 0, errDead
	}
	return c.Conn.Write(b)
}

// Close closes the socket and lets go of those who wait on it.
func (c *gatedConn) Close() (err error) {
	c.once.Do(func() {
		c.gate.mu.Lock()
		delete(c.gate.conns, c)
		c.gate.mu.Unlock()
		close(c.closed)
		err = c.Conn.Close()
	})
	return err
}
