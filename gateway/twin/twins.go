package twin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
)

// Config is the table [twin] of the configuration.
type Config struct {
	// HubWait is how long a leaf waits for the hub's answer about its twin (10ms
	// to 1m). After that it gets the copy kept here, and what it reports is taken
	// into custody.
	HubWait gateway.Duration `toml:"hub_wait"`
}

// DefaultConfig returns the shipped defaults.
func DefaultConfig() Config { return Config{HubWait: gateway.Duration(2 * time.Second)} }

// Validate checks ranges. Errors are of type *gateway.KeyError.
func (c *Config) Validate() error {
	if c.HubWait.D() < 10*time.Millisecond || c.HubWait.D() > time.Minute {
		return gateway.BadKey("hub_wait", "%v is out of range: 10ms to 1m", c.HubWait)
	}
	return nil
}

// requests is how many requests about twins are with the hub at a time: after a
// break all leaves have one.
const requests = 16

// Way is the way down behind the twins: *gateway.Down.
type Way interface {
	gateway.Downward
	gateway.Attendance
}

// Parts are what Twins are made of.
type Parts struct {
	Hub   gateway.HubTwins
	Down  Way
	Notes gateway.Notes
	Clock gateway.Clock
	Log   *slog.Logger
	// Has says whether the hub keeps a twin for the leaf; nil: for all. Who has none
	// is told so at once, with the hub and without.
	Has func(leaf string) bool
}

// Twins answers leaves about their twins. For the uplink and for those who reach
// leaves it stands in front of the way down, and passes on what it is told. Safe
// for concurrent use.
type Twins struct {
	Way                        // the rest of the way down
	cfg atomic.Pointer[Config] // see Configure
	Parts
	life  context.Context // of requests to the hub
	end   context.CancelFunc
	slots chan struct{}  // one element for each request that is with the hub
	work  sync.WaitGroup // on leaves

	saving sync.Mutex // held while a copy is written; before mu

	mu     sync.Mutex
	linkUp bool
	closed bool
	leaves map[string]*leaf
	counts State
}

var _ gateway.Twins = (*Twins)(nil)

// State counts, since the start of the gateway.
type State struct {
	Reported  int64 // patches taken over from leaves
	Kept      int64 // of those, taken into custody on flash
	Refused   int64 // refused by the hub after they had been in custody: lost, and logged
	Missed    int64 // desired changes that were found by version and passed on later
	FromCopy  int64 // reads answered from the copy
	Waiting   int   // leaves with reported patches in custody, now
	KnownHere int   // leaves of which anything is known, now
}

// Configure changes the configuration, which must be valid. What waits already goes
// by it when it is looked at next.
func (t *Twins) Configure(cfg Config) { t.cfg.Store(&cfg) }

// New joins the parts, and reads which reported patches are in custody. cfg must
// be valid. Nothing is sent before Run.
func New(cfg Config, p Parts) (*Twins, error) {
	if p.Has == nil {
		p.Has = func(string) bool { return true }
	}
	t := &Twins{Way: p.Down, Parts: p, slots: make(chan struct{}, requests), leaves: make(map[string]*leaf)}
	t.cfg.Store(&cfg)
	t.life, t.end = context.WithCancel(context.Background())
	if err := t.recall(); err != nil {
		return nil, fmt.Errorf("cannot read what leaves have reported: %w", err)
	}
	return t, nil
}

// State takes a snapshot.
func (t *Twins) State() State {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.counts
	s.KnownHere = len(t.leaves)
	for _, l := range t.leaves {
		if len(l.kept) > 0 {
			s.Waiting++
		}
	}
	return s
}

// Twin is described at gateway.Twins. The leaf is told of changes behind what it
// reads here.
func (t *Twins) Twin(ctx context.Context, id string) ([]byte, time.Duration, error) {
	return t.look(ctx, id, func(l *leaf) {
		l.handed = l.desired
		l.toldLocked(l.desired)
	})
}

// Look is Twin for others than the leaf.
func (t *Twins) Look(ctx context.Context, id string) ([]byte, time.Duration, error) {
	return t.look(ctx, id, func(*leaf) {})
}

func (t *Twins) look(ctx context.Context, id string, readLocked func(*leaf)) ([]byte, time.Duration, error) {
	if !t.Has(id) {
		return nil, 0, hub.ErrNoTwin
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Load().HubWait.D())
	defer cancel()
	err := t.fetch(ctx, id)
	if refused, ok := errors.AsType[*gateway.TwinError](err); ok && !passing(refused) {
		return nil, 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.leafLocked(id)
	if l.desired == nil {
		return nil, 0, gateway.ErrNoTwin
	}
	age := time.Duration(0)
	if err != nil {
		age = since(l.read, t.Clock())
		t.counts.FromCopy++
	}
	readLocked(l)
	reported := l.reported
	for _, patch := range l.unsent() {
		reported = apply(reported, patch)
	}
	return format(object{"desired": l.desired, "reported": reported}), age, nil
}

// passing says that the hub may answer otherwise soon.
func passing(e *gateway.TwinError) bool { return e.Status == 429 || e.Status >= 500 }

// since returns how long ago then was; negative when that cannot be told.
func since(then, now gateway.Instant) time.Duration {
	switch then = then.Repair(now); {
	case then.Boot == now.Boot:
		return max(0, now.Uptime-then.Uptime)
	case then.Quality == gateway.Unsynced || now.Quality == gateway.Unsynced:
		return -1
	}
	return max(0, now.Wall.Sub(then.Wall))
}

// fetch reads the twin from the hub into the copy.
func (t *Twins) fetch(ctx context.Context, id string) error {
	for {
		gap, err := t.fetchOnce(ctx, id)
		if err != nil || !gap {
			return err
		}
	}
}

// fetchOnce returns whether the copy has a gap all the same, since the hub took
// patches while it answered: the next answer has them.
func (t *Twins) fetchOnce(ctx context.Context, id string) (gap bool, err error) {
	t.mu.Lock()
	before := t.leafLocked(id).versions()
	up := t.linkUp
	t.mu.Unlock()
	if !up {
		return false, gateway.ErrLinkDown
	}
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	text, err := t.Hub.GetTwin(ctx, id)
	if err != nil {
		return false, err
	}
	document, err := parse(text)
	if err != nil {
		return false, fmt.Errorf("the hub's twin of %q: %w", id, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.leafLocked(id)
	l.readLocked(document, before, t.Clock())
	return l.gap, nil
}

// Report is described at gateway.Twins.
func (t *Twins) Report(id string, text []byte, done func(int64, error)) {
	if !t.Has(id) {
		done(0, hub.ErrNoTwin)
		return
	}
	patch, err := parse(text)
	if err == nil {
		err = validate(patch)
	}
	if err != nil {
		done(0, &gateway.TwinError{Status: 400, Code: 400004, Message: err.Error()})
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		go done(0, gateway.ErrShuttingDown) // not from within the lock
		return
	}
	l := t.leafLocked(id)
	l.queue = append(l.queue, report{patch: patch, done: done, since: time.Now()})
	t.counts.Reported++
	t.serveLocked(l)
}

// Attend passes on who reaches a leaf. A leaf that listens again is told what it
// has missed.
func (t *Twins) Attend(id string, way gateway.Reach, wants gateway.Interest) {
	t.Way.Attend(id, way, wants)
	if !t.Has(id) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.leafLocked(id)
	_, listened := l.listening[way]
	listens := wants.Has(gateway.WantsDesired) && !wants.Has(gateway.Asleep)
	if listens == listened {
		return
	}
	if listens {
		l.listening[way] = struct{}{}
	} else {
		delete(l.listening, way)
	}
	if listens && wants.Has(gateway.CannotAsk) && l.told == nil {
		l.told = object{} // it knows nothing, and that is known
	}
	l.handed = l.told // what was on its way may be lost
	t.tellMissedLocked(l)
}

// LinkUp passes on that the connection stands.
func (t *Twins) LinkUp() {
	t.mu.Lock()
	t.linkUp = true
	for _, l := range t.leaves {
		l.failures, l.until = 0, time.Time{}
		t.serveLocked(l)
	}
	t.mu.Unlock()
	t.Way.LinkUp()
}

// LinkDown passes on that the connection is lost. From here on leaves read the copies,
// and so they do after a crash: those that are not on flash as they are here go there.
func (t *Twins) LinkDown() {
	t.mu.Lock()
	t.linkUp = false
	for _, l := range t.leaves {
		l.soon = l.changed
		t.serveLocked(l)
	}
	t.mu.Unlock()
	t.Way.LinkDown()
}

// Listening passes on that the hub sends desired changes of a leaf from now on.
// What came before is found by a look at the twin.
func (t *Twins) Listening(id string, wants gateway.Interest) {
	t.Way.Listening(id, wants)
	if !wants.Has(gateway.WantsDesired) || !t.Has(id) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.leafLocked(id)
	l.stale = true
	t.serveLocked(l)
}

// Desired takes a change of desired properties from the hub. The leaf is told each
// change once, and none twice. heard is called when the change is here.
func (t *Twins) Desired(id string, text []byte, version int64, heard func()) {
	go heard() // never from within
	patch, err := parse(text)
	if err != nil {
		t.Log.Warn("the hub's desired change is no JSON object", "leaf", id, "err", err)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.leafLocked(id)
	switch {
	case l.desired == nil && l.handed == nil && len(l.listening) > 0:
		t.Way.Desired(id, text, version, func() {})
	case l.desired != nil && version == l.version()+1:
		knew := l.handed == nil || versionOf(l.handed) == l.version()
		l.desired = apply(l.desired, patch)
		l.desired[versionKey] = number(version)
		l.changed = true
		if len(l.listening) > 0 && knew {
			t.tellLocked(l, text) // as the hub spelt it
		}
		t.tellMissedLocked(l)
	}
	// The change may have been a replacement, which looks the same, or changes
	// before it may be missing: the twin itself tells.
	l.stale = true
	t.serveLocked(l)
}

// tellMissedLocked tells a leaf that listens what it has missed. A leaf that has
// never asked for its twin asks when it wants it.
func (t *Twins) tellMissedLocked(l *leaf) {
	version := l.version()
	if len(l.listening) == 0 || l.handed == nil || l.desired == nil || versionOf(l.handed) == version {
		return
	}
	patch := difference(l.handed, l.desired)
	patch[versionKey] = number(version)
	t.counts.Missed++
	t.tellLocked(l, format(patch))
}

// tellLocked hands a change over that makes the leaf know the copy.
func (t *Twins) tellLocked(l *leaf, patch []byte) {
	desired := l.desired
	l.handed = desired
	t.Way.Desired(l.id, patch, versionOf(desired), func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if versionOf(desired) > versionOf(l.told) {
			l.toldLocked(desired)
		}
	})
}
