// Package faultproxy is a bad link: a TCP proxy that delays, slows, holds back
// and breaks what passes, for the faults that a server cannot play itself. It
// knows nothing of what it carries.
//
// The bytes of a connection and a direction keep their order whatever the
// switches do, and none is lost unless the connection ends. At most Window bytes
// of each wait in the proxy; then the sender is held back, as by a real link.
package faultproxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Sizes of what waits in the proxy, in bytes: each connection and direction
// holds up to Window, in pieces of chunkSize.
const (
	chunkSize = 4 << 10
	Window    = 256 << 10
)

// dialTimeout is how long the server may take to answer.
const dialTimeout = 10 * time.Second

// Link is what one direction of all connections is like. The zero value is a
// perfect link.
type Link struct {
	Latency   time.Duration // each byte takes this long
	Jitter    time.Duration // and up to this much longer, evenly spread
	Loss      float64       // share of pieces of up to 4 KiB that are lost on the way (0 to 1)
	Resend    time.Duration // and come this much later, with everything behind them: what loss is to TCP
	Bandwidth int64         // bytes a second that all connections share; 0 for no bound
	Hole      bool          // nothing moves and nobody is told; what waits goes on when it ends
}

// Direction says which way.
type Direction uint8

// The two ways.
const (
	Up   Direction = iota // from the client to the server
	Down                  // from the server to the client
)

// Config is what a proxy is started with.
type Config struct {
	Listen   string // address; default 127.0.0.1:0
	To       string // address of the server
	Up, Down Link
}

// Stats counts what is there now, and what ever was.
type Stats struct {
	Open     int      // connections
	Ever     int      // connections
	Bytes    [2]int64 // delivered, by direction
	Refused  int      // connections that were not let in
	NoServer int      // connections for which the server did not answer
	Lost     int      // pieces that came late because they were lost
}

// Proxy is a bad link that carries. Its methods are safe for concurrent use.
type Proxy struct {
	to       string
	listener net.Listener
	parts    sync.WaitGroup
	done     chan struct{} // closed by Close
	closing  sync.Once

	mu      sync.Mutex // guards everything below
	links   [2]Link
	free    [2]time.Time // when the bandwidth of a direction is free again
	changed chan struct{}
	refuse  bool
	conns   map[*conn]struct{}
	stats   Stats
}

// Start starts a proxy. It must be closed.
func Start(cfg Config) (*Proxy, error) {
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	for _, l := range []Link{cfg.Up, cfg.Down} {
		if err := l.check(); err != nil {
			return nil, err
		}
	}
	var sockets net.ListenConfig
	sockets.SetMultipathTCP(false) // it knows no filters: see deafen
	listener, err := sockets.Listen(context.Background(), "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("cannot start proxy: %w", err)
	}
	p := &Proxy{
		to: cfg.To, listener: listener, links: [2]Link{cfg.Up, cfg.Down},
		done: make(chan struct{}), changed: make(chan struct{}), conns: make(map[*conn]struct{}),
	}
	p.parts.Go(p.accept)
	return p, nil
}

func (l Link) check() error {
	if l.Latency < 0 || l.Jitter < 0 || l.Bandwidth < 0 || l.Resend < 0 {
		return errors.New("latency, jitter, bandwidth and resend must not be negative")
	}
	if !(l.Loss >= 0 && l.Loss <= 1) { // not a number neither
		return errors.New("loss must be from 0 to 1")
	}
	return nil
}

// Addr is where clients connect.
func (p *Proxy) Addr() net.Addr { return p.listener.Addr() }

// Link returns what a direction is like.
func (p *Proxy) Link(d Direction) Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.links[d]
}

// Change changes a direction, for the connections that are there too. What is on
// its way keeps the delay it has. It fails, and changes nothing, when the link
// that change makes has a negative value.
func (p *Proxy) Change(d Direction, change func(*Link)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.links[d]
	change(&l)
	if err := l.check(); err != nil {
		return err
	}
	p.links[d] = l
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

// Refuse resets new connections at once while on.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = on
}

// Reset ends all connections with RST to both sides and returns how many.
func (p *Proxy) Reset() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.reset()
	}
	return len(p.conns)
}

// Deafen has the proxy's TCP hear nothing of clients while on, neither data nor
// acknowledgements, though what it says still reaches them: the kernel drops what
// comes, as a link would that is cut one way. Nobody can connect meanwhile.
func (p *Proxy) Deafen(on bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := deafen(p.listener.(*net.TCPListener), on)
	for c := range p.conns {
		err = errors.Join(err, deafen(c.client, on))
	}
	return err
}

// Stats returns the counts.
func (p *Proxy) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Open = len(p.conns)
	return s
}

// Close ends all connections, and returns when nothing of the proxy runs any
// more.
func (p *Proxy) Close() error {
	var err error
	p.closing.Do(func() {
		err = p.listener.Close()
		close(p.done)
		p.Reset()
		p.parts.Wait()
	})
	return err
}

// accept takes connections until the listener is closed.
func (p *Proxy) accept() {
	for {
		nc, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // one that was gone before it was taken
		}
		c := &conn{p: p, client: nc.(*net.TCPConn), done: make(chan struct{})}
		if p.enter(c) {
			p.parts.Go(c.carry)
		}
	}
}

// enter notes a connection; a refused one is reset.
func (p *Proxy) enter(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		c.reset()
		return false
	default:
	}
	if p.refuse {
		p.stats.Refused++
		c.reset()
		return false
	}
	p.stats.Ever++
	p.conns[c] = struct{}{}
	return true
}

// delay draws how long a piece of a direction takes.
func (p *Proxy) delay(d Direction) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.links[d]
	delay := l.Latency
	if l.Jitter > 0 {
		delay += rand.N(l.Jitter)
	}
	if rand.Float64() < l.Loss {
		p.stats.Lost++
		delay += l.Resend
	}
	return delay
}

// reserve takes a piece's share of the bandwidth and returns when it is through.
func (p *Proxy) reserve(d Direction, bytes int) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	l := p.links[d]
	if l.Bandwidth == 0 {
		return now
	}
	start := p.free[d]
	if start.Before(now) {
		start = now
	}
	p.free[d] = start.Add(time.Duration(float64(bytes) / float64(l.Bandwidth) * float64(time.Second)))
	return p.free[d]
}

// open says whether a direction has no hole, and what is closed when that may
// have changed.
func (p *Proxy) open(d Direction) (bool, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.links[d].Hole, p.changed
}
