package uplink

import (
	"maps"
	"slices"
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
	// Transport names the way of the present connection, or of the last one, and
	// Reason says why that one, "" where it is the best or the only one.
	Transport, Reason string
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

	LastAccepted time.Time // when a message was last settled as accepted, zero if never
	// Rung is the highest rung of the watchdog's ladder since then, "" for none,
	// and Climbed counts them all.
	Rung    Rung
	Climbed map[Rung]int64

	Bytes Bytes // of the uplink by cause; zero where the transport does not count

	Links int // leaves that have a link open
	// Taken names the leaves of whom the hub has taken something since the start, or
	// whose identity it has accepted, and that it does not refuse now.
	Taken map[string]bool
	// Refused names the leaves whose identity the hub does not take, and why, and
	// RefusedUntil when the hub is asked again for each of them.
	Refused      map[string]string
	RefusedUntil map[string]time.Time
}

// NextAttempt is what State.Waiting says between two attempts to connect.
const NextAttempt = "next attempt"

// tally is the State as it is kept.
type tally struct {
	clock gateway.Clock

	mu      sync.Mutex
	s       State         // guarded by mu
	downAt  time.Duration // uptime when the present time without connection began; guarded by mu
	sent    int64         // bytes of bodies handed to the transport; guarded by mu
	settled int64         // of them, settled; guarded by mu
	retried int64         // of them, given up; guarded by mu
	offline bool          // whether downAt counts; guarded by mu
	before  Traffic       // of former transports; guarded by mu
}

func newTally(clock gateway.Clock) *tally {
	return &tally{clock: clock, s: State{
		Since:    clock().Wall,
		Connects: make(map[string]int64),
		Taken:    make(map[string]bool),
		Refused:  make(map[string]string),

		RefusedUntil: make(map[string]time.Time),
		Climbed:      make(map[Rung]int64),
	}}
}

// State returns a snapshot. Safe for concurrent use.
func (u *Uplink) State() State {
	t := u.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.s
	s.Connects = maps.Clone(s.Connects)
	s.Taken = maps.Clone(s.Taken)
	s.Refused, s.RefusedUntil = maps.Clone(s.Refused), maps.Clone(s.RefusedUntil)
	s.Climbed = maps.Clone(s.Climbed)
	if m, ok := u.Transport.(Metered); ok {
		t.s.Bytes = t.before.plus(m.Traffic()).split(t.settled, t.retried, t.sent, t.s.Bytes)
		s.Bytes = t.s.Bytes
	}
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

// up says that the connection stands, and on which way.
func (t *tally) up(transport, reason string) {
	now := t.clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.s.Connected, t.s.Since = true, now.Wall
	t.s.Transport, t.s.Reason = transport, reason
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

// climbed notes a rung of the watchdog.
func (t *tally) climbed(r Rung) {
	t.update(func(s *State) {
		s.Climbed[r]++
		if slices.Index(Rungs, r) > slices.Index(Rungs, s.Rung) {
			s.Rung = r
		}
	})
}

// progress is when the hub last settled anything for anybody.
func (t *tally) progress() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.s.LastAccepted
}

func (t *tally) accepted() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.s.Accepted
}

// sends counts a body that was put on its way, and done what became of it.
func (t *tally) sends(bytes int) { t.update(func(*State) { t.sent += int64(bytes) }) }

func (t *tally) done(bytes int, settled bool) {
	t.update(func(*State) {
		if settled {
			t.settled += int64(bytes)
		} else {
			t.retried += int64(bytes)
		}
	})
}

// inflight counts messages that go to the hub and answers that come back.
func (t *tally) inflight(change int) {
	t.update(func(s *State) { s.Inflight += change })
}

// refused notes that the hub does not take a leaf, and is asked again after the
// pause; it says whether that is news.
func (t *tally) refused(leaf string, err error, pause time.Duration) (news bool) {
	until := t.clock().Wall.Add(pause)
	t.update(func(s *State) {
		_, known := s.Refused[leaf]
		s.Refused[leaf], s.RefusedUntil[leaf] = err.Error(), until
		delete(s.Taken, leaf)
		news = !known
	})
	return news
}

// welcome notes that the hub took a message of a leaf, or the leaf itself; it says
// whether that is news of one that it has refused.
func (t *tally) welcome(leaf string) (news bool) {
	t.update(func(s *State) {
		s.Taken[leaf] = true
		_, news = s.Refused[leaf]
		delete(s.Refused, leaf)
		delete(s.RefusedUntil, leaf)
	})
	return news
}

// proven notes that the hub has accepted a token of a leaf. That a leaf is refused is
// taken back only when the hub takes something of it.
func (t *tally) proven(leaf string) {
	t.update(func(s *State) {
		if _, refused := s.Refused[leaf]; !refused {
			s.Taken[leaf] = true
		}
	})
}

// Forget takes a leaf out of Taken: what comes under its name from now on is
// another's. Safe for concurrent use.
func (u *Uplink) Forget(leaf string) {
	u.tally.update(func(s *State) { delete(s.Taken, leaf) })
}

// throttled notes that the hub asked to wait.
func (t *tally) throttled(wait time.Duration) {
	until := t.clock().Wall.Add(wait)
	t.update(func(s *State) {
		s.Throttled++
		s.ClosedUntil = until
	})
}
