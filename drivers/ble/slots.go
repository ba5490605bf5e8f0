package ble

import (
	"context"
	"slices"
	"sync"
)

// slots are the connections that an adapter can hold. Devices get them in the order in
// which they ask. Safe for concurrent use.
type slots struct {
	mu sync.Mutex
	// guarded by mu:
	free, used int
	line       []chan struct{} // who waits, first to come first; closed when it is their turn
}

func newSlots(n int) *slots { return &slots{free: n} }

// get waits for a slot. The error is that of ctx.
func (s *slots) get(ctx context.Context) error {
	s.mu.Lock()
	if s.free > 0 && len(s.line) == 0 {
		s.free--
		s.used++
		s.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	s.line = append(s.line, turn)
	s.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	i := slices.Index(s.line, turn)
	if i >= 0 {
		s.line = slices.Delete(s.line, i, i+1)
	}
	s.mu.Unlock()
	if i < 0 { // it was given at the last moment
		s.put()
	}
	return ctx.Err()
}

// put gives a slot back.
func (s *slots) put() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.line) > 0 {
		close(s.line[0])
		s.line = s.line[1:]
		return
	}
	s.free++
	s.used--
}

// wanted says that somebody waits.
func (s *slots) wanted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.line) > 0
}

// taken is how many are in use.
func (s *slots) taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}
