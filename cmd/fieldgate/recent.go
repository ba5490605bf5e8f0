package main

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/control"
)

const (
	// maxRecent is how many messages of a leaf are remembered.
	maxRecent = 20
	// maxExcerpt is how much of the body of each, in bytes: a line of the screen.
	maxExcerpt = 64
)

// recent remembers the last messages of each leaf for operators who look at it: in
// memory, some kilobytes for each leaf that sends. Safe for concurrent use.
type recent struct {
	known gateway.Leaves

	mu     sync.Mutex
	leaves map[string]*passages // guarded by mu
}

// passages are the last messages of one leaf, in a ring.
type passages struct {
	ring [maxRecent]control.Passage
	next uint64 // number of the next one, from 0
}

func newRecent(known gateway.Leaves) *recent {
	return &recent{known: known, leaves: make(map[string]*passages)}
}

// watch remembers what is handed over to next, and what becomes of it.
func (r *recent) watch(next gateway.Handler) gateway.Handler {
	return gateway.HandlerFunc(func(ctx context.Context, m *gateway.Message, done gateway.Done) {
		if !r.known.Known(m.Leaf) { // else strangers would fill the memory
			next.Handle(ctx, m, done)
			return
		}
		began := time.Now()
		number := r.begin(m, began)
		next.Handle(ctx, m, func(err error) {
			r.end(m, number, time.Since(began), err)
			done(err)
		})
	})
}

func (r *recent) begin(m *gateway.Message, now time.Time) (number uint64) {
	// Channel and message id are parts of a topic, which can be 64 KiB long: copies.
	x := control.Passage{
		Time: now.UTC(), Lane: m.Lane.String(), Channel: strings.Clone(m.Channel), Bytes: len(m.Body), Fate: control.FateWaiting,
		Excerpt: bytes.Clone(m.Body[:min(len(m.Body), maxExcerpt)]),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.leaves[m.Leaf]
	if p == nil {
		p = new(passages)
		r.leaves[m.Leaf] = p
	}
	number = p.next
	p.ring[number%maxRecent] = x
	p.next++
	return number
}

func (r *recent) end(m *gateway.Message, number uint64, took time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.leaves[m.Leaf]
	if p.next-number > maxRecent {
		return // it is forgotten
	}
	x := &p.ring[number%maxRecent]
	x.Milliseconds, x.MessageID, x.Fate = float64(took.Microseconds())/1e3, strings.Clone(m.System.MessageID), control.FateTaken
	if err != nil {
		x.Fate, x.Why = control.FateRefused, cut(err.Error(), maxFacts)
	}
}

// of returns the last messages of a leaf, the oldest first.
func (r *recent) of(leaf string) []control.Passage {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.leaves[leaf]
	if p == nil {
		return nil
	}
	n := min(p.next, maxRecent)
	list := make([]control.Passage, 0, n)
	for i := p.next - n; i < p.next; i++ {
		list = append(list, p.ring[i%maxRecent])
	}
	return slices.Clip(list)
}
