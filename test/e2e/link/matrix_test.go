package link

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/faultproxy"
)

// benchClock is the build tag of a gateway whose clock is in a file.
const benchClock = "benchclock"

// matrix lists the rows; FIELDGATE_LINK picks those that have a word in their name.
func matrix(nightly bool) (rows []row) {
	long := func(short, full int) int {
		if nightly {
			return full
		}
		return short
	}
	for _, r := range []row{
		{name: "online", story: online(long(20, 60)), steady: true},
		{name: "offline 5 s, online 5 s, 5 times", story: offline(5, 5, 5)},
		{name: "offline 10 s, online 10 s, 3 times", story: offline(10, 10, 3)},
		{name: "offline 15 s, online 15 s, 3 times", story: offline(15, 15, 3), nightly: true},
		{name: "offline 30 s, online 30 s, twice", story: offline(30, 30, 2), nightly: true},
		{name: "offline 5 s, online 20 s, 3 times", story: offline(5, 20, 3), nightly: true},
		{name: "satellite", begin: like(satellite), story: online(long(30, 60)), steady: true},
		{name: "3G", begin: like(mobile), story: online(long(30, 60)), steady: true},
		{name: "half-open, the hub is not heard", story: halfOpen(faultproxy.Down, long(3, 10))},
		{
			// The TCP of the far side acknowledges nothing, and so the kernel tells,
			// after twice keep_alive.
			name: "half-open, the hub's machine does not hear", story: deaf(long(2, 10)),
		},
		{
			// A relay on the way acknowledges, and the hub shows itself all the time, so
			// it is the settlements that tell, after stall_timeout (2 min) and the
			// time-out of a detach (30 s).
			name: "half-open behind a relay, the hub does not hear", story: halfOpen(faultproxy.Up, long(1, 2)),
			relinks: true, nightly: true,
		},
		{name: "flapping, 2 s on, 2 s off", story: flapping(long(8, 60))},
		{name: "cut in the middle of batches", story: midBatch(long(4, 30))},
		{name: "a batch is refused", story: refusedBatch, relinks: true},
		{name: "slow settle", story: during(long(15, 60), "slow-settle", "3s", "0s"), steady: true},
		{
			name: "settle never, then as usual", uplink: "stall_timeout = \"3s\"\nstall_connections = 0\n",
			story: during(long(15, 60), "settle-never", "on", "off"), relinks: true,
		},
		{name: "throttled", story: during(long(15, 60), "throttle", "on", "off"), relinks: true},
		{name: "quota until midnight", tags: benchClock, begin: nearMidnight, story: quota, relinks: true},
	} {
		if only := os.Getenv("FIELDGATE_LINK"); (nightly || !r.nightly) && strings.Contains(r.name, only) {
			rows = append(rows, r)
		}
	}
	return rows
}

// pass lets time pass: here it is the length of an outage that counts.
func pass(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// more waits until n more messages have arrived at the hub.
func (l *line) more(ctx context.Context, n int) error {
	enough := len(l.Arrivals()) + n
	return l.Await(ctx, "messages to arrive", func() bool { return len(l.Arrivals()) >= enough })
}

func online(seconds int) func(context.Context, *line) error {
	return func(ctx context.Context, l *line) error {
		return errors.Join(pass(ctx, time.Duration(seconds)*time.Second), l.more(ctx, 10))
	}
}

// Links as the matrix has them. What it delays on one side only is here shared
// by the two directions; a lost piece comes after a retransmission time-out, of
// a second at the least with such a round trip (RFC 6298).
var (
	satellite = faultproxy.Link{
		Latency: 275 * time.Millisecond, Jitter: 50 * time.Millisecond,
		Loss: 0.02, Resend: time.Second, Bandwidth: 25_000_000 / 8,
	}
	mobile = faultproxy.Link{Latency: 45 * time.Millisecond, Jitter: 10 * time.Millisecond}
)

func like(link faultproxy.Link) func(context.Context, *line) ([]string, error) {
	return func(_ context.Context, l *line) ([]string, error) {
		return nil, l.set(func(x *faultproxy.Link) { *x = link }, faultproxy.Up, faultproxy.Down)
	}
}

func (l *line) set(change func(*faultproxy.Link), ways ...faultproxy.Direction) error {
	for _, way := range ways {
		if err := l.proxy.Change(way, change); err != nil {
			return err
		}
	}
	return nil
}

func (l *line) hole(on bool, ways ...faultproxy.Direction) error {
	return l.set(func(x *faultproxy.Link) { x.Hole = on }, ways...)
}

// lose takes the link away, in turn so that everybody notices and so that nobody
// is told.
func (l *line) lose(round int, off bool) error {
	if round%2 == 0 {
		return l.hole(off, faultproxy.Up, faultproxy.Down)
	}
	l.proxy.Refuse(off)
	if off {
		l.proxy.Reset()
	}
	return nil
}

// offline takes the link away for some seconds, so many times.
func offline(off, on, runs int) func(context.Context, *line) error {
	return func(ctx context.Context, l *line) error {
		for round := range runs {
			if err := l.lose(round, true); err != nil {
				return err
			}
			if err := pass(ctx, time.Duration(off)*time.Second); err != nil {
				return err
			}
			if err := l.Await(ctx, "the gateway to notice", l.down(ctx)); err != nil {
				return err
			}
			if err := l.lose(round, false); err != nil {
				return err
			}
			if err := pass(ctx, time.Duration(on)*time.Second); err != nil {
				return err
			}
			if err := l.Await(ctx, "the link to be back", l.up(ctx)); err != nil {
				return err
			}
		}
		return l.more(ctx, 10)
	}
}

// flapping takes the link away for two seconds of every four.
func flapping(runs int) func(context.Context, *line) error {
	return func(ctx context.Context, l *line) error {
		for round := range runs {
			for _, off := range []bool{true, false} {
				if err := l.lose(round, off); err != nil {
					return err
				}
				if err := pass(ctx, 2*time.Second); err != nil {
					return err
				}
			}
		}
		return l.more(ctx, 10)
	}
}

// halfOpen lets nothing through one way, and no word of it either way: only
// silence tells.
func halfOpen(way faultproxy.Direction, runs int) func(context.Context, *line) error {
	return unheard(runs, func(l *line, on bool) error { return l.hole(on, way) })
}

// deaf has the far side's TCP hear nothing, though it talks.
func deaf(runs int) func(context.Context, *line) error {
	return unheard(runs, func(l *line, on bool) error { return l.proxy.Deafen(on) })
}

// unheard makes a fault that nobody is told of, until the gateway notices.
func unheard(runs int, fault func(l *line, on bool) error) func(context.Context, *line) error {
	return func(ctx context.Context, l *line) error {
		for range runs {
			begin := time.Now()
			if err := fault(l, true); err != nil {
				return err
			}
			if err := l.Await(ctx, "the gateway to notice", l.down(ctx)); err != nil {
				return err
			}
			l.note("noticed after %.1f s", time.Since(begin).Seconds())
			if err := fault(l, false); err != nil {
				return err
			}
			if err := l.Await(ctx, "the link to be back", l.up(ctx)); err != nil {
				return err
			}
			if err := l.more(ctx, 20); err != nil {
				return err
			}
		}
		return nil
	}
}

// thin is a link on which each message of the rows takes 10 ms and more.
const thin = 24 << 10 // bytes a second

// midBatch drains a backlog over a thin link and cuts that again and again: nearly
// all the time a part of a batch is on its way.
func midBatch(cuts int) func(context.Context, *line) error {
	return func(ctx context.Context, l *line) error {
		if err := l.outage(ctx); err != nil {
			return err
		}
		if err := l.set(func(x *faultproxy.Link) { x.Bandwidth = thin }, faultproxy.Up); err != nil {
			return err
		}
		if err := l.lose(1, false); err != nil {
			return err
		}
		for range cuts {
			if err := l.more(ctx, 2*window); err != nil {
				return err
			}
			if l.metric(ctx, "fieldgate_store_messages") == 0 {
				return errors.New("the backlog was gone before the cut: the row proves nothing")
			}
			if err := pass(ctx, rand.N(300*time.Millisecond)); err != nil {
				return err
			}
			l.proxy.Reset()
		}
		if n := l.together(); n < window/2 {
			return fmt.Errorf("at most %d messages arrived together: the row proves nothing", n)
		}
		if err := l.set(func(x *faultproxy.Link) { x.Bandwidth = 0 }, faultproxy.Up); err != nil {
			return err
		}
		return l.more(ctx, 10)
	}
}

// outage takes the link away for as long as a backlog needs that is more than a
// batch for each leaf and lane.
func (l *line) outage(ctx context.Context) error {
	if err := l.lose(1, true); err != nil {
		return err
	}
	return pass(ctx, 6*time.Second)
}

// together returns how many messages of a leaf have arrived in one go at most. The
// hub gives those of one transfer one time.
func (l *line) together() (most int) {
	type transfer struct {
		device     string
		connection uint64
		at         time.Time
	}
	sizes := make(map[transfer]int)
	for _, e := range l.Events() {
		t := transfer{e.Device, e.Connection, e.Enqueued}
		sizes[t]++
		most = max(most, sizes[t])
	}
	return most
}

// refusedBatch has the hub refuse what waits of a leaf in one transfer. The hub
// would take each message of it, so none may go to the shelf, and none be lost.
func refusedBatch(ctx context.Context, l *line) error {
	if err := l.outage(ctx); err != nil {
		return err
	}
	if err := l.Fault(ctx, "reject", "pump", "com.microsoft:argument-error", "1"); err != nil {
		return err
	}
	again := func() float64 {
		m, _ := l.Metrics(ctx) // without it there is nothing
		return m[`fieldgate_uplink_bytes_total{cause="retry"}`]
	}
	before := again()
	if err := l.lose(1, false); err != nil {
		return err
	}
	if err := l.Await(ctx, "the gateway to send again what was refused", func() bool { return again() > before }); err != nil {
		return err
	}
	return l.more(ctx, 100)
}

// during turns a switch of the hub for some seconds.
func during(seconds int, fault, on, off string) func(context.Context, *line) error {
	return func(ctx context.Context, l *line) error {
		if err := l.Fault(ctx, fault, on); err != nil {
			return err
		}
		if err := pass(ctx, time.Duration(seconds)*time.Second); err != nil {
			return err
		}
		if err := l.Fault(ctx, fault, off); err != nil {
			return err
		}
		return l.more(ctx, 10)
	}
}

// nearMidnight gives the gateway and the hub a clock that shows 23:59:40 UTC.
func nearMidnight(ctx context.Context, l *line) ([]string, error) {
	now := time.Now().UTC()
	ahead := time.Date(now.Year(), now.Month(), now.Day(), 23, 59, 40, 0, time.UTC).Sub(now)
	clock := filepath.Join(l.Dir(), "clock")
	if err := os.WriteFile(clock, fmt.Appendf(nil, "%v true boot-1 0\n", ahead), 0o644); err != nil {
		return nil, err
	}
	return []string{"FIELDGATE_BENCH_CLOCK=" + clock}, l.Fault(ctx, "clock-skew", ahead.String())
}

// quota uses the day's messages up. The gateway must come back by itself when
// the next day begins, and not ask again and again before.
func quota(ctx context.Context, l *line) error {
	if err := l.Fault(ctx, "quota", "on"); err != nil {
		return err
	}
	throttled := func() bool { return l.metric(ctx, "fieldgate_uplink_throttled_total") > 0 }
	if err := l.Await(ctx, "the gateway to be told", throttled); err != nil {
		return err
	}
	if err := l.Fault(ctx, "quota", "off"); err != nil { // nobody tells the gateway
		return err
	}
	if err := l.more(ctx, 10); err != nil {
		return err
	}
	if asked := l.metric(ctx, "fieldgate_uplink_throttled_total"); asked != 1 {
		return fmt.Errorf("the gateway asked %v times before midnight, once was enough to know", asked)
	}
	return nil
}
