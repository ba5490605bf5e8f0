package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

const (
	// stableAfter is how long a connection must have lasted for the next failure
	// to count as the first one.
	stableAfter = time.Minute
	// timeCheck is how often an untrusted clock is looked at again.
	timeCheck = time.Second
	// farewell is how long the hub may take at the end to settle what it has.
	farewell = 3 * time.Second
)

// throttle is the schedule of pauses that the hub asks for (wire contract,
// section 6.4: SDKs use 5 s growing to 60 s, never less than 10 s).
var throttle = schedule{10 * time.Second, time.Minute}

// Parts are what an Uplink is made of.
type Parts struct {
	Transport Transport
	Clock     gateway.Clock
	Log       *slog.Logger
	// Down takes what the hub sends to leaves; nil: nothing is listened for.
	Down gateway.Downward
	// Acked, if not nil, is told for each accepted message how long the hub took
	// to settle it. It is called from many goroutines and must not block.
	Acked func(time.Duration)
}

// Uplink keeps one connection to the hub and carries all leaves over it.
type Uplink struct {
	Parts
	cfg     Config // this and the schedules change between connections only, see adopt
	backoff schedule
	auth    schedule
	tally   *tally
	gate    gate
	// records outlives connections: reconnecting must not shorten the wait of a
	// leaf that the hub refuses. Only the feed of the present pump touches the map.
	records map[string]*record
	// earRecords is the same for the way down. Only the present pump's hear touches it.
	earRecords map[string]*record
	current    atomic.Pointer[Conn] // nil while there is none
	changes    changes
}

// New makes an uplink; cfg must be valid. Nothing happens before Run.
func New(cfg Config, p Parts) *Uplink {
	if p.Acked == nil {
		p.Acked = func(time.Duration) {}
	}
	u := &Uplink{
		Parts:   p,
		tally:   newTally(p.Clock),
		records: make(map[string]*record),

		earRecords: make(map[string]*record),
	}
	u.changes.news = make(chan struct{})
	u.configure(cfg)
	return u
}

func (u *Uplink) configure(cfg Config) {
	u.cfg = cfg
	u.backoff = schedule{cfg.BackoffMin.D(), cfg.BackoffMax.D()}
	u.auth = schedule{cfg.AuthBackoffMin.D(), cfg.AuthBackoffMax.D()}
}

// Run keeps the connection up and carries messages from the outbox until ctx
// ends. It then lets the hub settle what is on its way, for a few seconds at
// most, and returns nil. An error wraps ErrStuck: see StallConnections.
// Everything it started has ended when it returns. It is called once.
func (u *Uplink) Run(ctx context.Context, out gateway.Outbox) error {
	u.tally.begin()
	failures, inVain := 0, 0
	for u.awaitTime(ctx) {
		u.adopt(out)
		u.tally.update(func(s *State) { s.Attempts, s.Waiting = failures+1, "answer of the hub" })
		accepted := u.tally.accepted()
		lasted, err := u.connection(ctx, out, failures)
		if ctx.Err() != nil {
			break
		}
		if u.changes.isWanted() {
			u.Log.Info("connection to hub is replaced", "reason", whyChanged)
			failures, inVain = 0, 0
			continue
		}
		if err := u.vain(&inVain, accepted, err); err != nil {
			return err
		}
		if lasted >= stableAfter {
			failures = 0
		}
		if renewal, ok := errors.AsType[*renewed](err); ok {
			u.Log.Info("connection to hub is replaced", "reason", renewal.why)
			continue
		}
		failures++
		if !u.rest(ctx, failures, err) {
			break
		}
	}
	return nil
}

// awaitTime waits until the clock can be trusted: tokens and certificates would
// be judged with a wrong time otherwise, and fail for ever. It says whether ctx
// still runs.
func (u *Uplink) awaitTime(ctx context.Context) bool {
	if u.Clock().Quality != gateway.Unsynced {
		return ctx.Err() == nil
	}
	u.Log.Warn("uplink waits for trusted time")
	for u.Clock().Quality == gateway.Unsynced {
		u.tally.wait("trusted time", timeCheck)
		if !sleep(ctx, timeCheck) {
			return false
		}
	}
	u.Log.Info("time is trusted, uplink goes on")
	return ctx.Err() == nil
}

// connection is the life of one connection. It returns how long it lasted and
// why it ended.
func (u *Uplink) connection(ctx context.Context, out gateway.Outbox, failures int) (time.Duration, error) {
	dialling, end := u.unlessChanged(ctx)
	conn, err := u.Transport.Dial(dialling)
	end()
	if err != nil {
		u.tally.noConnection(err)
		return 0, fmt.Errorf("cannot connect to hub: %w", err)
	}
	begin := time.Now()
	name, why := u.way()
	u.tally.up(name, why)
	u.Log.Info("connected to hub", "event", "link-up", "failed_attempts", failures, "transport", name, "reason", why)
	u.current.Store(&conn)
	out.LinkUp()
	if u.Down != nil {
		u.Down.LinkUp()
	}
	err = u.serve(ctx, conn, out)
	u.current.Store(nil)
	if u.Down != nil {
		u.Down.LinkDown()
	}
	// Everything that could settle has ended: what is left is custody's again.
	out.LinkDown()
	u.tally.down()
	return time.Since(begin), fmt.Errorf("connection to hub lost: %w", err)
}

// way says which way the connection goes, and why.
func (u *Uplink) way() (name, why string) {
	if known, ok := u.Transport.(Known); ok {
		return known.Way()
	}
	return "", ""
}

// rest waits before the next attempt, as the failure asks for. It says whether
// ctx still runs.
func (u *Uplink) rest(ctx context.Context, failures int, err error) bool {
	var pause time.Duration
	switch remedyOf(err) {
	case Refused:
		pause = u.auth.upper(failures)
	case Throttled:
		pause = max(pauseOf(err), throttle.upper(failures))
	default:
		if failures > 1 {
			pause = u.backoff.full(failures - 1)
		}
	}
	level := slog.LevelDebug // a repeated failure is no news
	if failures == 1 {
		level = slog.LevelWarn
	}
	u.Log.Log(ctx, level, "no connection to hub", "event", "link-down", "error", err, "failures", failures, "retry_ms", pause.Milliseconds())
	u.tally.update(func(s *State) { s.LastError = err.Error() })
	u.tally.wait(NextAttempt, pause)
	resting, end := u.unlessChanged(ctx)
	defer end()
	sleep(resting, pause)
	return ctx.Err() == nil
}
