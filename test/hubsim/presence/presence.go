// Package presence knows which identities are connected, however they are, and
// sees to it that each is connected once: who comes later displaces who was
// there (wire contract, sections 2.7 and 3.9).
package presence

import (
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// Session is one identity on one connection, from its first sign of life there
// to its last. Its methods are safe for concurrent use.
type Session struct {
	table *Table
	id    registry.ID
	end   func(*refusal.Error)
}

// ID returns whose session it is.
func (s *Session) ID() registry.ID { return s.id }

// State is what is known of an identity that has been seen.
type State struct {
	Connected    bool
	Changed      time.Time // of Connected; zero when never connected
	LastActivity time.Time // zero when never
}

// Table is all sessions. Create it with New. It is safe for concurrent use.
type Table struct {
	mu       sync.Mutex // guards everything below
	sessions map[registry.ID]*Session
	states   map[registry.ID]State
	watchers []func(registry.ID, bool)
	news     chan struct{} // closed at the next arrival
}

// New returns an empty table.
func New() *Table {
	return &Table{
		sessions: make(map[registry.ID]*Session),
		states:   make(map[registry.ID]State),
		news:     make(chan struct{}),
	}
}

// OnChange has f called after each arrival and each departure. A displaced
// session is neither. Call it before the table is used; f must not wait and may
// be called from several goroutines.
func (t *Table) OnChange(f func(id registry.ID, connected bool)) {
	t.watchers = append(t.watchers, f)
}

// Enter begins a session. An older one of the same identity is ended with
// 400027, before Enter returns. end is called at most once, without locks held,
// when the session must end from the hub's side; it closes or detaches and need
// not call Leave, but may.
func (t *Table) Enter(id registry.ID, end func(*refusal.Error)) *Session {
	s := &Session{table: t, id: id, end: end}
	t.mu.Lock()
	older := t.sessions[id]
	t.sessions[id] = s
	state := t.states[id]
	now := time.Now()
	if !state.Connected {
		state.Connected, state.Changed = true, now
	}
	state.LastActivity = now
	t.states[id] = state
	close(t.news)
	t.news = make(chan struct{})
	t.mu.Unlock()
	if older != nil {
		older.end(refusal.New(400027, "a newer connection of "+id.String()+" has come"))
		return s
	}
	t.tell(id, true)
	return s
}

// Leave ends the session; calling it again, or after it was ended or displaced,
// does nothing.
func (s *Session) Leave() {
	if s.table.remove(s) {
		s.table.tell(s.id, false)
	}
}

// Touch notes activity of the identity.
func (s *Session) Touch() {
	t := s.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if state, ok := t.states[s.id]; ok {
		state.LastActivity = time.Now()
		t.states[s.id] = state
	}
}

// remove takes a session out, if it is still the one.
func (t *Table) remove(s *Session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions[s.id] != s {
		return false
	}
	delete(t.sessions, s.id)
	state := t.states[s.id]
	state.Connected, state.Changed = false, time.Now()
	t.states[s.id] = state
	return true
}

// End ends the session of an identity with the reason given, and says whether
// there was one.
func (t *Table) End(id registry.ID, reason *refusal.Error) bool {
	t.mu.Lock()
	s := t.sessions[id]
	t.mu.Unlock()
	if s == nil || !t.remove(s) {
		return false
	}
	s.end(reason)
	t.tell(id, false)
	return true
}

// Forget drops what is known of an identity that is deleted.
func (t *Table) Forget(id registry.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions[id] == nil {
		delete(t.states, id)
	}
}

// State returns what is known of an identity; zero when it was never seen.
func (t *Table) State(id registry.ID) State {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.states[id]
}

// Count returns how many devices are connected; modules do not count.
func (t *Table) Count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for id := range t.sessions {
		if id.Module == "" {
			n++
		}
	}
	return n
}

// Arrivals returns a channel that is closed when the next session begins.
func (t *Table) Arrivals() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.news
}

func (t *Table) tell(id registry.ID, connected bool) {
	for _, f := range t.watchers {
		f(id, connected)
	}
}
