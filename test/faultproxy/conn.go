package faultproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// conn is one client's connection and the one to the server that belongs to it.
type conn struct {
	p      *Proxy
	client *net.TCPConn

	mu     sync.Mutex // guards server and dead
	server *net.TCPConn
	dead   bool
	done   chan struct{} // closed by reset
}

// carry connects to the server and carries both directions until both have
// ended.
func (c *conn) carry() {
	defer c.leave()
	for d := range Direction(2) { // nobody reaches the other side through a hole
		if !c.wait(d) {
			return
		}
	}
	server, err := c.dial()
	if err != nil {
		c.p.mu.Lock()
		c.p.stats.NoServer++
		c.p.mu.Unlock()
		c.reset()
		return
	}
	if !c.connected(server.(*net.TCPConn)) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { c.direction(Up, c.client, c.server) })
	both.Go(func() { c.direction(Down, c.server, c.client) })
	both.Wait()
	_ = c.client.Close() // both directions are closed already
	_ = c.server.Close()
}

// dial reaches the server, unless the connection ends before.
func (c *conn) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	})
	defer watch.Wait()
	defer cancel()
	var d net.Dialer
	return d.DialContext(ctx, "tcp", c.p.to)
}

// connected notes the connection to the server; false when it came too late.
func (c *conn) connected(server *net.TCPConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server = server
	if c.dead {
		_ = server.SetLinger(0)
		_ = server.Close()
	}
	return !c.dead
}

func (c *conn) leave() {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	delete(c.p.conns, c)
}

// reset ends both sides with RST.
func (c *conn) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return
	}
	c.dead = true
	defer close(c.done) // last: who sees it may close the sockets in the ordinary way
	for _, nc := range []*net.TCPConn{c.client, c.server} {
		if nc != nil {
			_ = nc.SetLinger(0) // a socket that is closed already needs no more
			_ = nc.Close()
		}
	}
}

// piece is some bytes on their way. Without bytes it is the end of the
// direction.
type piece struct {
	bytes []byte
	due   time.Time
}

// direction carries bytes one way, and at their end closes that way only.
func (c *conn) direction(d Direction, from, to *net.TCPConn) {
	queue := make(chan piece, Window/chunkSize)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(queue)
		c.read(d, from, queue)
	})
	c.write(d, to, queue)
	for range queue { // what a dead connection still had
	}
	reader.Wait()
}

// read takes bytes in and sets when each piece is due: never before the one
// ahead of it.
func (c *conn) read(d Direction, from *net.TCPConn, queue chan<- piece) {
	var last time.Time
	for {
		buffer := make([]byte, chunkSize)
		n, err := from.Read(buffer)
		if n == 0 && err != nil && !errors.Is(err, io.EOF) {
			if c.wait(d) { // a hole hides that too
				c.reset()
			}
			return
		}
		due := time.Now().Add(c.p.delay(d))
		if due.Before(last) {
			due = last
		}
		last = due
		select {
		case queue <- piece{buffer[:n], due}:
		case <-c.done:
			return
		}
		if n == 0 {
			return
		}
	}
}

// write gives the pieces out when their time has come.
func (c *conn) write(d Direction, to *net.TCPConn, queue <-chan piece) {
	for piece := range queue {
		if !c.sleep(time.Until(piece.due)) || !c.wait(d) {
			return
		}
		if len(piece.bytes) == 0 {
			_ = to.CloseWrite() // a peer that is gone knows
			return
		}
		if !c.sleep(time.Until(c.p.reserve(d, len(piece.bytes)))) || !c.wait(d) {
			return
		}
		if _, err := to.Write(piece.bytes); err != nil {
			c.reset()
			return
		}
		c.p.mu.Lock()
		c.p.stats.Bytes[d] += int64(len(piece.bytes))
		c.p.mu.Unlock()
	}
}

// wait waits until the direction has no hole; false when the connection ended.
func (c *conn) wait(d Direction) bool {
	for {
		open, changed := c.p.open(d)
		if open {
			return true
		}
		select {
		case <-changed:
		case <-c.done:
			return false
		}
	}
}

// sleep waits; false when the connection ended.
func (c *conn) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.done:
		return false
	}
}
