package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/control"
)

const (
	// maxRecent is how many messages of a leaf are remembered, and maxSent how many of
	// those that were sent to it.
	maxRecent = 20
	maxSent   = 10
	// maxExcerpt is how much of the body of each, in bytes: a line of the screen.
	maxExcerpt = 64
	// maxSentName is how much of the name of a command or a method, in bytes.
	maxSentName = 64
)

// recent remembers the last messages of each leaf, and to it, for operators who look at
// it: in memory, some kilobytes for each leaf that sends. Safe for concurrent use.
type recent struct {
	known gateway.Leaves

	mu       sync.Mutex
	from, to map[string]*passages // by leaf; guarded by mu
}

// passages are the last messages of one leaf, or to it, in a ring.
type passages struct {
	ring []control.Passage
	next uint64 // number of the next one, from 0
}

func newRecent(known gateway.Leaves) *recent {
	return &recent{known: known, from: make(map[string]*passages), to: make(map[string]*passages)}
}

// watch remembers what is handed over to next, and what becomes of it.
func (r *recent) watch(next gateway.Handler) gateway.Handler {
	return gateway.HandlerFunc(func(ctx context.Context, m *gateway.Message, done gateway.Done) {
		if !r.known.Known(m.Leaf) { // else strangers would fill the memory
			next.Handle(ctx, m, done)
			return
		}
		began := time.Now()
		// Channel and message id are parts of a topic, which can be 64 KiB long: copies.
		end := r.begin(r.from, maxRecent, m.Leaf, m.Body, control.Passage{
			Time: began.UTC(), Direction: control.FromLeaf, Lane: m.Lane.String(), Channel: strings.Clone(m.Channel),
		})
		next.Handle(ctx, m, func(err error) {
			end(func(x *control.Passage) {
				x.MessageID, x.Fate = strings.Clone(m.System.MessageID), control.FateTaken
				if err != nil {
					x.Fate, x.Why = control.FateRefused, cut(err.Error(), maxFacts)
				}
			})
			done(err)
		})
	})
}

// begin remembers a message that waits, and returns what says how it ends. A ring has so
// many places.
func (r *recent) begin(side map[string]*passages, places int, leaf string, body []byte, x control.Passage) (end func(func(*control.Passage))) {
	x.Bytes, x.Fate, x.Excerpt = len(body), control.FateWaiting, bytes.Clone(body[:min(len(body), maxExcerpt)])
	r.mu.Lock()
	defer r.mu.Unlock()
	p := side[leaf]
	if p == nil {
		p = &passages{ring: make([]control.Passage, places)}
		side[leaf] = p
	}
	number := p.next
	p.ring[number%uint64(places)] = x
	p.next++
	return func(change func(*control.Passage)) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if p.next-number > uint64(places) {
			return // it is forgotten
		}
		x := &p.ring[number%uint64(places)]
		x.Milliseconds = float64(time.Since(x.Time).Microseconds()) / 1e3
		change(x)
	}
}

// of returns the last messages of a leaf and to it, the oldest first.
func (r *recent) of(leaf string) []control.Passage {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := append(r.from[leaf].all(), r.to[leaf].all()...)
	slices.SortStableFunc(list, func(a, b control.Passage) int { return a.Time.Compare(b.Time) })
	return list
}

// all returns them, the oldest first.
func (p *passages) all() (list []control.Passage) {
	if p == nil {
		return nil
	}
	places := uint64(len(p.ring))
	for i := p.next - min(p.next, places); i < p.next; i++ {
		list = append(list, p.ring[i%places])
	}
	return list
}

// forget drops what is remembered of a leaf that is no more.
func (r *recent) forget(leaf string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.from, leaf)
	delete(r.to, leaf)
}

// attendance passes on which leaves can be reached to next, and remembers what is sent to
// them.
func (r *recent) attendance(next gateway.Attendance) gateway.Attendance {
	return attended(func(leaf string, way gateway.Reach, wants gateway.Interest) {
		next.Attend(leaf, sentOver{r, way}, wants)
	})
}

// sentOver is a way to leaves of which is remembered what is sent on it. Two of the same
// way are equal.
type sentOver struct {
	*recent
	way gateway.Reach
}

func (s sentOver) begin(leaf, kind, name string, body []byte) (end func(func(*control.Passage))) {
	if !s.known.Known(leaf) {
		return func(func(*control.Passage)) {}
	}
	return s.recent.begin(s.to, maxSent, leaf, body, control.Passage{
		Time: time.Now().UTC(), Direction: control.ToLeaf, Lane: kind, Channel: strings.Clone(cut(name, maxSentName)),
	})
}

// Command is described at gateway.DownHandler.
func (s sentOver) Command(c *gateway.Command, answer func(gateway.Verdict)) {
	name := ""
	for _, p := range c.Properties {
		if p.Name == "command" {
			name = p.Value
		}
	}
	end := s.begin(c.Leaf, "command", name, c.Body)
	s.way.Command(c, func(v gateway.Verdict) {
		end(func(x *control.Passage) {
			x.MessageID, x.Fate, x.Why = strings.Clone(cut(c.System.MessageID, maxFacts)), control.FateTaken, ""
			if v != gateway.Completed {
				x.Fate, x.Why = control.FateRefused, v.String()
			}
		})
		answer(v)
	})
}

// Call is described at gateway.DownHandler.
func (s sentOver) Call(ctx context.Context, c *gateway.Call) (*gateway.Reply, error) {
	end := s.begin(c.Leaf, "method", c.Name, c.Body)
	reply, err := s.way.Call(ctx, c)
	end(func(x *control.Passage) {
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			x.Fate, x.Why = control.FateRefused, "no answer in time"
		case err != nil:
			x.Fate, x.Why = control.FateRefused, cut(err.Error(), maxFacts)
		default:
			x.Fate, x.Why = control.FateTaken, fmt.Sprintf("status %d", reply.Status)
		}
	})
	return reply, err
}

// Desired is described at gateway.DownHandler. heard may never be called.
func (s sentOver) Desired(leaf string, patch []byte, version int64, heard func()) {
	end := s.begin(leaf, "twin", "desired", patch)
	s.way.Desired(leaf, patch, version, func() {
		end(func(x *control.Passage) { x.Fate = control.FateTaken })
		heard()
	})
}
