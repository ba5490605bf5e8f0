package uplink

import (
	"maps"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Results of attempts to connect, the keys of State.Connects.
const (
	ConnectOK        = "ok"
	ConnectFailed    = "failed"    // no network, no TLS, no answer
	ConnectRefused   = "refused"   // the hub does not take the gateway
	ConnectThrottled = "throttled" // the hub asks to wait
)

// State is a snapshot of the uplink for status, metrics and the screen. It
// shares no memory with the uplink. Counters count from the start of Run.
type State struct {
	Connected bool
	Since     time.Time // since when Connected is what it is
	// Waiting says in words what is being waited for while not connected, ""
	// for nothing.
	Waiting   string
	LastError string    // of the last failure of the connection, "" if none
	RetryAt   time.Time // of the next attempt, zero while connected or dialling
	Attempts  int       // attempts to connect since the last stable connection
	Connects  map[string]int64
	Offline   time.Duration // total time without a connection

	Inflight    int   // messages with the hub and not settled
	Accepted    int64 // messages settled as accepted
	Rejected    int64 // messages that the hub refused
	Recalls     int64 // how often the unsettled messages of a leaf were taken back
	Throttled   int64 // how often the hub asked to wait
	ClosedUntil time.Time

	Links int // leaves that have a link open
	// Refused names the leaves whose identity the hub does not take, and why.
	Refused map[string]string
}

// tally is the State as it is kept.
type tally struct {
	clock gateway.Clock

	mu      sync.Mutex
	s       State         // guarded by mu
	downAt  time.Duration // uptime when the present time without connection began; guarded by mu
	offline bool          // whether downAt counts; guarded by mu
}

func newTally(clock gateway.Clock) *tally {
	return &tally{clock: clock, s: State{
		Since:    clock().Wall,
		Connects: make(map[string]int64),
		Refused:  make(map[string]string),
	}}
}

// State returns a snapshot. Safe for concurrent use.
func (u *Uplink) State() State {
	t := u.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.s
	s.Connects = maps.Clone(s.Connects)
	s.Refused = maps.Clone(s.Refused)
	if t.offline {
		s.Offline += t.clock().Uptime - t.downAt
	}
	if !s.ClosedUntil.After(t.clock().Wall) {
		s.ClosedUntil = time.Time{}
	}
	return s
}

// update changes the state under its lock.
func (t *tally) update(change func(*State)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.s)
}

// begin starts counting: there is no connection yet.
func (t *tally) begin() {
	now := t.clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.s.Since, t.downAt, t.offline = now.Wall, now.Uptime, true
}

// up says that the connection stands.
func (t *tally) up() {
	now := t.clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.s.Connected, t.s.Since = true, now.Wall
	t.s.Waiting, t.s.RetryAt = "", time.Time{}
	t.s.Connects[ConnectOK]++
	t.s.Offline += now.Uptime - t.downAt
	t.offline = false
}

// down says that the connection is lost.
func (t *tally) down() {
	now := t.clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.s.Connected, t.s.Since = false, now.Wall
	t.s.Links = 0
	t.downAt, t.offline = now.Uptime, true
}

// wait says what is being waited for, and until when.
func (t *tally) wait(what string, d time.Duration) {
	at := t.clock().Wall.Add(d)
	t.update(func(s *State) { s.Waiting, s.RetryAt = what, at })
}

// noConnection counts an attempt to connect that failed.
func (t *tally) noConnection(err error) {
	result := ConnectFailed
	switch remedyOf(err) {
	case Refused:
		result = ConnectRefused
	case Throttled:
		result = ConnectThrottled
	}
	t.update(func(s *State) { s.Connects[result]++ })
}

// inflight counts messages that go to the hub and answers that come back.
func (t *tally) inflight(change int) {
	t.update(func(s *State) { s.Inflight += change })
}

// refused notes that the hub does not take a leaf; it says whether that is news.
func (t *tally) refused(leaf string, err error) (news bool) {
	t.update(func(s *State) {
		_, known := s.Refused[leaf]
		s.Refused[leaf] = err.Error()
		news = !known
	})
	return news
}

// welcome notes that the hub took a message of a leaf; it says whether that is
// news.
func (t *tally) welcome(leaf string) (news bool) {
	t.update(func(s *State) {
		_, news = s.Refused[leaf]
		delete(s.Refused, leaf)
	})
	return news
}

// throttled notes that the hub asked to wait.
func (t *tally) throttled(wait time.Duration) {
	until := t.clock().Wall.Add(wait)
	t.update(func(s *State) {
		s.Throttled++
		s.ClosedUntil = until
	})
}
