package upload

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxBodies is how many blocks are read at once, each of them in memory whole: of
	// one leaf never two.
	maxBodies = 4
	// minRate is how many bytes a second a block has to come with while another leaf
	// waits for its place, after grace: what is slower is cut off, and comes again
	// when there is room. While nobody waits a leaf may be as slow as it is.
	minRate = 32 << 10
	grace   = 5 * time.Second
)

// errSlow says that a block came so slowly that others had to wait.
var errSlow = errors.New("the block comes too slowly, and others wait")

// places are where blocks are read, one for each.
type places struct {
	slots chan struct{}
	grace time.Duration
	look  time.Duration // between looks at who is slow

	mu      sync.Mutex
	turns   map[string]chan struct{} // by leaf, capacity 1; guarded by mu
	reading []*reading               // guarded by mu
}

// reading is a block that is being read.
type reading struct {
	body  io.Reader
	began time.Time
	bytes atomic.Int64
	cut   func() // ends Read, from any goroutine
	slow  atomic.Bool
}

// Read counts.
func (r *reading) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	r.bytes.Add(int64(n))
	if err != nil && err != io.EOF && r.slow.Load() {
		err = errSlow
	}
	return n, err
}

// rate is in bytes a second.
func (r *reading) rate(now time.Time) float64 {
	return float64(r.bytes.Load()) / max(now.Sub(r.began).Seconds(), 1e-3)
}

func newPlaces() *places {
	return &places{slots: make(chan struct{}, maxBodies), grace: grace, look: time.Second, turns: make(map[string]chan struct{})}
}

// take runs read when a block of the leaf may be read; cut ends the reading of body.
func (p *places) take(ctx context.Context, leaf string, body io.Reader, cut func(), read func(io.Reader) error) error {
	p.mu.Lock()
	turn := p.turns[leaf]
	if turn == nil { // as many as there are leaves with files
		turn = make(chan struct{}, 1)
		p.turns[leaf] = turn
	}
	p.mu.Unlock()
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := p.wait(ctx); err != nil {
		return err
	}
	r := &reading{body: body, began: time.Now(), cut: cut}
	p.mu.Lock()
	p.reading = append(p.reading, r)
	p.mu.Unlock()
	defer p.leave(r)
	return read(r)
}

// wait waits for a place, and has those cut off who are slow.
func (p *places) wait(ctx context.Context) error {
	select {
	case p.slots <- struct{}{}:
		return nil
	default:
	}
	tick := time.NewTicker(p.look)
	defer tick.Stop()
	for {
		select {
		case p.slots <- struct{}{}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case now := <-tick.C:
			select {
			case p.slots <- struct{}{}:
				return nil
			default:
				p.cutSlowest(now)
			}
		}
	}
}

// leave gives the place back first: with one to be had nobody is cut off.
func (p *places) leave(r *reading) {
	<-p.slots
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reading = slices.DeleteFunc(p.reading, func(x *reading) bool { return x == r })
}

// cutSlowest cuts off the slowest of those who are too slow, if none is being cut
// off already.
func (p *places) cutSlowest(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var slowest *reading
	for _, r := range p.reading {
		switch {
		case r.slow.Load():
			return
		case now.Sub(r.began) < p.grace || r.rate(now) >= minRate:
		case slowest == nil || r.rate(now) < slowest.rate(now):
			slowest = r
		}
	}
	if slowest != nil {
		slowest.slow.Store(true)
		slowest.cut()
	}
}
