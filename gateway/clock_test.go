package gateway_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/store"
)

func TestAge(t *testing.T) {
	at := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	boot1 := func(up time.Duration, wall time.Time, q gateway.TimeQuality) gateway.Instant {
		return gateway.Instant{Wall: wall, Quality: q, Boot: 1, Uptime: up}
	}
	other := func(wall time.Time, q gateway.TimeQuality) gateway.Instant {
		return gateway.Instant{Wall: wall, Quality: q, Boot: 2}
	}
	for _, c := range []struct {
		name      string
		then, now gateway.Instant
		age       time.Duration
		known     bool
	}{
		{"ten years forth within a boot", boot1(0, at, gateway.Synced), boot1(time.Minute, at.AddDate(10, 0, 0), gateway.Synced), time.Minute, true},
		{"never set", boot1(0, time.Unix(0, 0), gateway.Unsynced), boot1(time.Minute, time.Unix(60, 0), gateway.Unsynced), time.Minute, true},
		{"rebooted, was not steered", boot1(0, at, gateway.Estimated), other(at.Add(time.Hour), gateway.Synced), 0, false},
		{"rebooted, steered", boot1(0, at, gateway.Synced), other(at.Add(time.Hour), gateway.Synced), time.Hour, true},
		{"rebooted, nothing steers", boot1(0, at, gateway.Synced), other(at.Add(time.Hour), gateway.Estimated), 0, false},
		{"rebooted, was never set", boot1(0, time.Unix(0, 0), gateway.Unsynced), other(at, gateway.Synced), 0, false},
		{"rebooted, was ahead", boot1(0, at.AddDate(10, 0, 0), gateway.Synced), other(at, gateway.Synced), 0, true},
		{"no boot at all", gateway.Instant{Wall: at, Quality: gateway.Synced}, gateway.Instant{Wall: at, Quality: gateway.Estimated}, 0, false},
	} {
		if age, known := c.then.Age(c.now); age != c.age || known != c.known {
			t.Errorf("%s: %v, %v; want %v, %v", c.name, age, known, c.age, c.known)
		}
	}
}

// machine is a board whose clock goes wrong. It knows what time it really is.
type machine struct {
	mu      sync.Mutex
	truth   time.Time     // really
	ahead   time.Duration // how far the wall clock is off; 0 while steered
	steered bool
	boot    uint64
	began   time.Time // when this boot did
	floor   time.Time // noted: a clock before it is not believed
}

// set changes the clock while the path reads it.
func (m *machine) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

func (m *machine) read() gateway.Instant {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := gateway.Instant{Wall: m.truth.Add(m.ahead), Boot: m.boot, Uptime: m.truth.Sub(m.began)}
	switch {
	case m.steered:
		i.Quality = gateway.Synced
	case !i.Wall.Before(m.floor):
		i.Quality = gateway.Estimated
	}
	return i
}

// published is what really happened.
type published struct {
	at   time.Time
	read gateway.Instant
	fate string // "" while nobody knows
}

// course is a path on a real store, through restarts, with such a clock.
type course struct {
	*rapid.T
	dir     string
	ttl     time.Duration
	machine machine
	store   *store.Store
	path    *gateway.Path
	stop    func()
	flows   map[string][]*published // by leaf and lane, in the order of their numbers n
	drops   int
}

func (c *course) begin() {
	cfg := store.DefaultConfig()
	cfg.AllowAnyFS, cfg.SegmentSize, cfg.CommitWindow = true, 1<<20, 0
	var err error
	if c.store, err = store.Open(c.dir, cfg, slog.New(slog.DiscardHandler)); err != nil {
		c.Fatal(err)
	}
	way := gateway.DefaultConfig()
	for l := range way.Lanes {
		way.Lanes[l].TTL = gateway.Duration(c.ttl)
	}
	c.path = gateway.NewPath(way, c.store, allLeaves{}, nil, c.machine.read, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = c.path.Run(ctx) })
	c.stop = func() {
		cancel()
		running.Wait()
	}
}

func (c *course) end() {
	c.stop()
	c.drops += int(c.path.State().Dropped[gateway.DropTTL])
	if err := c.store.Close(); err != nil {
		c.Error(err)
	}
}

func flowName(leaf string, lane gateway.Lane) string { return leaf + "/" + lane.String() }

// publish hands over messages of one leaf and waits until they are on flash.
func (c *course) publish(leaf string, lane gateway.Lane, count int) {
	var done sync.WaitGroup
	for range count {
		flow := c.flows[flowName(leaf, lane)]
		p := &published{at: c.machine.truth, read: c.machine.read()}
		body := fmt.Appendf(nil, "%d", len(flow))
		c.flows[flowName(leaf, lane)] = append(flow, p)
		done.Add(1)
		c.path.Handle(context.Background(), &gateway.Message{Leaf: leaf, Lane: lane, Body: body}, func(err error) {
			if err != nil {
				p.fate = err.Error()
			}
			done.Done()
		})
	}
	done.Wait()
}

// deliver takes up to most messages to the hub, as the uplink does: not before
// time is trusted.
func (c *course) deliver(most int) {
	if c.machine.read().Quality == gateway.Unsynced {
		return
	}
	c.path.LinkUp()
	defer c.path.LinkDown()
	for most > 0 && c.waiting() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		leaf, err := c.path.NextLeaf(ctx)
		cancel()
		if err != nil {
			continue // nothing is read yet, or all that was has expired
		}
		for most > 0 {
			ds := c.path.Take(leaf, min(most, 3))
			if len(ds) == 0 {
				break
			}
			for _, d := range ds {
				c.arrive(d.Message)
				c.path.Settle(d, gateway.Accepted, "")
			}
			most -= len(ds)
		}
	}
	if !c.waiting() {
		for name, flow := range c.flows {
			c.expired(name, flow)
		}
	}
}

func (c *course) waiting() bool {
	s := c.path.State()
	n := s.StagedBytes
	for _, l := range s.Store.Lanes {
		n += int64(l.Messages)
	}
	return n > 0
}

// arrive judges one arrival, and what before it did not arrive.
func (c *course) arrive(m *gateway.Message) {
	name := flowName(m.Leaf, m.Lane)
	var n int
	if _, err := fmt.Sscan(string(m.Body), &n); err != nil || n >= len(c.flows[name]) {
		c.Fatalf("%s: body %q", name, m.Body)
	}
	p := c.flows[name][n]
	c.expired(name, c.flows[name][:n])
	if p.fate != "" {
		c.Errorf("%s %d arrives and is already %s: out of order or twice", name, n, p.fate)
	}
	p.fate = "arrived"
	now := c.machine.read()
	if age := c.machine.truth.Sub(p.at); p.read.Boot == now.Boot && age > c.ttl {
		c.Errorf("%s %d arrives %v after it was captured", name, n, age)
	}
	c.checkTime(name, n, p, m.Captured, now)
}

// checkTime judges the capture time that the hub is told.
func (c *course) checkTime(name string, n int, p *published, got, now gateway.Instant) {
	unset, sameBoot := p.read.Quality == gateway.Unsynced, p.read.Boot == now.Boot
	want := p.read
	if unset && sameBoot {
		want.Quality = gateway.Estimated
		want.Wall = p.at.Add(now.Wall.Sub(c.machine.truth)) // as good as the clock is now
	}
	if !got.Wall.Equal(want.Wall) || got.Quality != want.Quality {
		c.Errorf("%s %d captured at %v, read as %+v, is sent as %v %v; want %v %v",
			name, n, p.at, p.read, got.Wall, got.Quality, want.Wall, want.Quality)
	}
	if now.Quality == gateway.Synced && got.Quality != gateway.Unsynced && (unset || p.read.Quality == gateway.Synced) && !got.Wall.Equal(p.at) {
		c.Errorf("%s %d was captured at %v, and the hub is told %v (%v)", name, n, p.at, got.Wall, got.Quality)
	}
}

// expired judges messages that did not arrive and will not.
func (c *course) expired(name string, flow []*published) {
	for n, p := range flow {
		if p.fate != "" {
			continue
		}
		p.fate = "expired"
		if age := c.machine.truth.Sub(p.at); age <= c.ttl {
			c.Errorf("%s %d is gone %v after it was captured, and may wait %v; the clock says %+v", name, n, age, c.ttl, c.machine.read())
		}
	}
}

// step is one thing that may happen to the clock or to the gateway.
func (c *course) step() {
	m := &c.machine
	year := 365 * 24 * time.Hour
	switch rapid.SampledFrom([]string{"publish", "publish", "time", "step", "unset", "source", "reboot", "battery", "restart", "deliver"}).Draw(c.T, "step") {
	case "publish":
		leaf := rapid.SampledFrom([]string{"pump", "fan"}).Draw(c.T, "leaf")
		lane := gateway.Lane(rapid.IntRange(0, gateway.Lanes-1).Draw(c.T, "lane"))
		c.publish(leaf, lane, rapid.IntRange(1, 5).Draw(c.T, "messages"))
	case "time":
		passes := rapid.SampledFrom([]time.Duration{time.Second, 20 * time.Minute, 50 * time.Minute, 3 * time.Hour}).Draw(c.T, "passes")
		m.set(func() { m.truth = m.truth.Add(passes) })
	case "step":
		by := rapid.SampledFrom([]time.Duration{-time.Hour, time.Hour, -10 * year, 10 * year}).Draw(c.T, "by")
		m.set(func() { m.steered, m.ahead = false, m.ahead+by })
	case "unset":
		m.set(func() { m.steered, m.ahead = false, time.Unix(0, 0).Sub(m.truth) })
	case "source":
		m.set(func() { m.steered, m.ahead, m.floor = true, 0, m.truth })
	case "reboot":
		c.reboot(rapid.SampledFrom([]time.Duration{m.ahead, time.Unix(0, 0).Sub(m.truth), -time.Hour, 10 * year}).Draw(c.T, "ahead"))
	case "battery": // of the clock is bad, and nobody says what time it is
		c.publish("pump", gateway.LaneTelemetry, 1)
		c.reboot(10 * year)
		c.deliver(1)
	case "restart":
		c.end()
		c.begin()
	case "deliver":
		c.deliver(rapid.IntRange(1, 8).Draw(c.T, "messages"))
	}
}

// reboot switches the machine off and on.
func (c *course) reboot(ahead time.Duration) {
	c.end()
	c.machine.boot, c.machine.began = c.machine.boot+1, c.machine.truth
	c.machine.steered, c.machine.ahead = false, ahead
	c.begin()
}

// Through any course of a clock that is unset, stepped by hours and years, set
// right, and of restarts and reboots, with a real store: no message is gone
// before its time has really come, each flow arrives in order and once, and the
// hub is told the true capture time wherever the clock was or became known.
func TestClockGoesWrong(t *testing.T) {
	root := t.TempDir()
	lives := 0
	rapid.Check(t, func(rt *rapid.T) {
		lives++
		c := &course{
			T: rt, dir: filepath.Join(root, fmt.Sprint(lives)), ttl: time.Hour, flows: make(map[string][]*published),
		}
		defer os.RemoveAll(c.dir)
		c.machine = machine{boot: 1, truth: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)}
		c.machine.began = c.machine.truth
		c.machine.floor = c.machine.truth
		if c.machine.steered = rapid.Bool().Draw(rt, "steered"); !c.machine.steered {
			c.machine.ahead = time.Unix(0, 0).Sub(c.machine.truth)
		}
		c.begin()
		for range rapid.IntRange(3, 14).Draw(rt, "steps") {
			c.step()
		}
		c.machine.set(func() { c.machine.steered, c.machine.ahead = true, 0 })
		c.deliver(1 << 20)
		c.end()
		gone := 0
		for name, flow := range c.flows {
			for n, p := range flow {
				switch p.fate {
				case "expired":
					gone++
				case "arrived":
				default:
					rt.Errorf("%s %d: %q", name, n, p.fate)
				}
			}
		}
		if gone != c.drops {
			rt.Errorf("%d messages are gone, %d are counted", gone, c.drops)
		}
	})
}
