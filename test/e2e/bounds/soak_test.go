package bounds

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/e2e/report"
	"github.com/fieldgate/fieldgate/test/faultproxy"
	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// What faults may leave behind.
const (
	soakGrowth = 8 * mib         // RssAnon, over the second half of the soak
	soakFair   = 5 * time.Minute // shorter than that, what grows is the first use of buffers
	soakMost   = 128 * mib       // VmRSS, ever
	roundFiles = 2               // files and goroutines more than before, beside 5 %
	stormBack  = 8 * mib         // RssAnon, after a storm, more than before it
)

// soakTime is FIELDGATE_SOAK_MINUTES, or what there is time for.
func soakTime(t *testing.T) time.Duration {
	if text := os.Getenv("FIELDGATE_SOAK_MINUTES"); text != "" {
		minutes, err := strconv.ParseFloat(text, 64)
		must(t, err)
		return time.Duration(minutes * float64(time.Minute))
	}
	return 45 * time.Second
}

// trouble is one fault, from its beginning to its end.
type trouble struct {
	name     string
	on, off  func() error
	duration time.Duration
}

// TestSoak runs the gateway under a steady load while one fault after the other
// comes and goes at random: nothing is lost, and memory, files and goroutines are
// in the end what they were.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	length := soakTime(t)
	ctx, cancel := context.WithTimeout(t.Context(), length+patience)
	defer cancel()
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	list := devices(20, site.SDK, site.SDK, site.SDK, site.Serial)
	var proxy *faultproxy.Proxy
	s := newSite(ctx, t, site.Plan{
		Leaves: list,
		Config: site.Config{Uplink: "stall_timeout = \"5s\"\n"},
		Through: func(hub string) (string, error) {
			var err error
			if proxy, err = faultproxy.Start(faultproxy.Config{To: hub}); err != nil {
				return "", err
			}
			return proxy.Addr().String(), nil
		},
	})
	t.Cleanup(func() { _ = proxy.Close() })
	must(t, s.StartGateway(ctx))
	crew, err := s.Launch(ctx, list, leafsim.Options{Rate: 10, Size: 200})
	must(t, err)
	t.Cleanup(crew.Abandon)
	must(t, s.Await(ctx, "the load to flow", func() bool { return len(s.Arrivals()) > 50*len(list) }))
	before, err := use(ctx, s)
	must(t, err)

	begin := time.Now()
	var course samples
	met := make(map[string]int)
	for time.Since(begin) < length {
		x := draw(ctx, random, s, proxy, list)
		met[x.name]++
		must(t, x.on())
		course.watch(ctx, s, begin, x.duration)
		must(t, x.off())
		course.watch(ctx, s, begin, time.Duration(1+random.IntN(4))*time.Second)
	}

	must(t, s.Restore(ctx))
	must(t, s.Await(ctx, "the backlog to be gone", func() bool { return metric(ctx, s, "fieldgate_store_messages") == 0 }))
	after := comeBack(ctx, t, s, before)
	must(t, crew.Finish(ctx))
	must(t, s.AwaitArrival(ctx))
	found, err := s.Check(ctx)
	must(t, err)
	if err := found.Err(); err != nil {
		t.Error(err)
	}
	if n := metric(ctx, s, "fieldgate_messages_dropped_total"); n != 0 {
		t.Errorf("%v messages were dropped", n)
	}
	growth := course.growth()
	if most := course.most(); most.rss > soakMost {
		t.Errorf("%v, and VmRSS may be %d MiB", most, soakMost/mib)
	}
	if length >= soakFair && growth > soakGrowth {
		t.Errorf("memory grew by %.1f MiB over the second half", growth/mib)
	}
	var b strings.Builder
	total := found.Total()
	fmt.Fprintf(&b, "%v, seed %d, faults %v\n", length, seed, met)
	fmt.Fprintf(&b, "%d acknowledged, %d arrived, %d lost, %d duplicated, %d out of order; %v connections\n",
		total.Acked, total.Arrived, total.Lost, total.Duplicated, total.OutOfOrder, metric(ctx, s, "fieldgate_uplink_connects_total"))
	fmt.Fprintf(&b, "before: %v\nmost:   %v\nafter:  %v\n", before, course.most(), after)
	fmt.Fprintf(&b, "RssAnon over the second half: %+.2f MiB (least squares, %d samples)\n", growth/mib, len(course))
	report.Write(t, "Soak", b.String())
}

// draw makes up a fault.
func draw(ctx context.Context, random *rand.Rand, s *site.Site, proxy *faultproxy.Proxy, list []site.Device) trouble {
	victim := list[random.IntN(len(list))].ID
	hole := func(on bool, ways ...faultproxy.Direction) func() error {
		return func() error {
			for _, way := range ways {
				if err := proxy.Change(way, func(l *faultproxy.Link) { l.Hole = on }); err != nil {
					return err
				}
			}
			return nil
		}
	}
	slow := func(link faultproxy.Link) func() error {
		return func() error {
			for _, way := range []faultproxy.Direction{faultproxy.Up, faultproxy.Down} {
				if err := proxy.Change(way, func(l *faultproxy.Link) { *l = link }); err != nil {
					return err
				}
			}
			return nil
		}
	}
	fault := func(name string, args ...string) func() error {
		return func() error { return s.Fault(ctx, name, args...) }
	}
	nothing := func() error { return nil }
	all := []trouble{
		{name: "hole", on: hole(true, faultproxy.Up, faultproxy.Down), off: hole(false, faultproxy.Up, faultproxy.Down)},
		{name: "half-open", on: hole(true, faultproxy.Down), off: hole(false, faultproxy.Down)},
		{name: "reset", on: func() error { proxy.Reset(); return nil }, off: nothing},
		{
			name: "refuse",
			on:   func() error { proxy.Refuse(true); proxy.Reset(); return nil },
			off:  func() error { proxy.Refuse(false); return nil },
		},
		{name: "slow line", on: slow(faultproxy.Link{Latency: 300 * time.Millisecond, Loss: 0.02, Resend: time.Second}), off: slow(faultproxy.Link{})},
		{name: "slow settle", on: fault("slow-settle", "2s"), off: fault("slow-settle", "0s")},
		{name: "settle never", on: fault("settle-never", "on"), off: fault("settle-never", "off")},
		{name: "detach", on: fault("detach", victim, "amqp:link:detach-forced"), off: nothing},
		{name: "end session", on: fault("end-session", victim), off: nothing},
		{name: "malform", on: fault("malform", victim), off: nothing},
		{name: "refuse token", on: fault("refuse-token", victim, "on"), off: fault("refuse-token", victim, "off")},
		{name: "throttle", on: fault("throttle", "on"), off: fault("throttle", "off")},
	}
	x := all[random.IntN(len(all))]
	x.duration = time.Second + time.Duration(random.IntN(6000))*time.Millisecond
	return x
}

// sample is a look at the gateway.
type sample struct {
	at time.Duration
	usage
}

type samples []sample

// watch looks twice a second for a while.
func (c *samples) watch(ctx context.Context, s *site.Site, begin time.Time, length time.Duration) {
	end := time.After(length)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-end:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
			if u, err := use(ctx, s); err == nil {
				*c = append(*c, sample{time.Since(begin), u})
			}
		}
	}
}

func (c samples) most() (most usage) {
	for _, x := range c {
		most.rss, most.anon = max(most.rss, x.rss), max(most.anon, x.anon)
		most.fds, most.gos = max(most.fds, x.fds), max(most.gos, x.gos)
	}
	return most
}

// growth is by how many bytes RssAnon grew over the second half: the slope of the
// straight line that fits best, times the half. Single peaks do not count.
func (c samples) growth() float64 {
	half := c[len(c)/2:]
	if len(half) < 10 {
		return 0
	}
	var x, y, xx, xy float64
	n := float64(len(half))
	for _, s := range half {
		at, bytes := s.at.Seconds(), float64(s.anon)
		x, y, xx, xy = x+at, y+bytes, xx+at*at, xy+at*bytes
	}
	slope := (n*xy - x*y) / (n*xx - x*x)
	return slope * (half[len(half)-1].at - half[0].at).Seconds()
}

// comeBack waits until files and goroutines are what they were.
func comeBack(ctx context.Context, t *testing.T, s *site.Site, before usage) (after usage) {
	t.Helper()
	near := func(now, was int) bool { return now <= was+was/20+roundFiles }
	err := s.Await(ctx, "files and goroutines to be as before", func() bool {
		u, err := use(ctx, s)
		if err == nil {
			after = u
		}
		return err == nil && near(u.fds, before.fds) && near(u.gos, before.gos)
	})
	if err != nil {
		t.Errorf("before: %v, after: %v: %v", before, after, err)
	}
	return after
}

// TestReconnectStorm has all leaves connect at once, vanish at once, and again.
func TestReconnectStorm(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const rounds, warmUp = 20, 5
	list := devices(100, site.SDK)
	s := newSite(ctx, t, site.Plan{Leaves: list})
	must(t, s.StartGateway(ctx))
	together := func() *site.Crew {
		crew, err := s.Launch(ctx, list, leafsim.Options{Silent: true})
		must(t, err)
		must(t, s.Await(ctx, "all leaves to connect", func() bool { return crew.Stats().Connected }))
		return crew
	}
	gone := func() bool { return metric(ctx, s, "fieldgate_leaf_connected") == 0 }
	// After a few rounds the gateway has paid for its buffers: what counts is that
	// more of them cost no more.
	for range warmUp {
		together().Abandon()
		must(t, s.Await(ctx, "the gateway to notice", gone))
	}
	quiet, err := use(ctx, s)
	must(t, err)
	crew := together()
	busy, err := use(ctx, s)
	must(t, err)
	var most samples
	for range rounds {
		crew.Abandon()
		crew = together()
		u, err := use(ctx, s)
		must(t, err)
		most = append(most, sample{0, u})
	}
	again := comeBack(ctx, t, s, busy)
	crew.Abandon()
	must(t, s.Await(ctx, "the gateway to notice", gone))
	after := comeBack(ctx, t, s, quiet)
	if after.anon > quiet.anon+stormBack || again.anon > busy.anon+stormBack {
		t.Errorf("memory did not come back: without leaves %v, then %v; with %d leaves %v, then %v", quiet, after, len(list), busy, again)
	}
	report.Write(t, "Reconnect storm", fmt.Sprintf(
		"%d leaves, all at once, %d times\nwithout leaves, before: %v\n                after:  %v\nwith all leaves, before: %v\n                 most:   %v\n                 after:  %v\n",
		len(list), rounds, quiet, after, busy, most.most(), again))
}
