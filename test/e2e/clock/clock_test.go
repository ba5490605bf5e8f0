package clock

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

const (
	patience = time.Minute
	year     = 365 * 24 * time.Hour
	ttl      = time.Hour // of both lanes, in all tests
	each     = 10        // messages of each leaf at a time
)

// accuracy is how far a capture time may be off: the machine's two clocks are
// read one after the other.
const accuracy = 250 * time.Millisecond

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bench is an installation whose gateway has a clock in a file.
type bench struct {
	*site.Site
	t      *testing.T
	ctx    context.Context
	leaves []site.Device
	spans  map[string][]span // what is known of each leaf's messages, in order
	boots  int
	began  int64 // uptime of the real machine when this boot began
}

// span says what the clock was for the next messages of a leaf.
type span struct {
	what    string
	count   int
	quality string        // with which they must arrive
	ahead   time.Duration // of the truth, their capture times
	unknown bool          // their capture times can be anything
}

// newBench makes an installation. Leaves log in with passwords: tokens are
// judged by the clock, and this is about messages. hub are lines for [hub].
func newBench(t *testing.T, hub ...string) *bench {
	if testing.Short() {
		t.Skip("the programs are not those with the race detector")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	dir, err := os.MkdirTemp("", "fieldgate-clock-")
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("everything is kept in %s", dir)
		} else if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	b := &bench{
		t: t, ctx: ctx, spans: make(map[string][]span),
		leaves: []site.Device{{ID: "pump", Kind: site.MQTT5}, {ID: "meter", Kind: site.Serial}},
	}
	b.Site, err = site.New(ctx, site.Plan{
		Dir: dir, Bin: bin, Leaves: b.leaves,
		Config: site.Config{Hub: strings.Join(hub, "\n"), Lane: fmt.Sprintf("ttl = %q\n", ttl), Uplink: "auth_backoff_min = \"1s\"\nauth_backoff_max = \"1s\"\n"},
	})
	must(t, err)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// bin is the folder with the programs, the gateway with the tag benchclock.
var bin string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	var err error
	if bin, err = os.MkdirTemp("", "fieldgate-clock-bin-"); err == nil {
		defer os.RemoveAll(bin)
		err = site.Build(context.Background(), bin, "benchclock")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// shows sets the clock: how far it is ahead of the truth, and whether a time
// source steers it.
func (b *bench) shows(ahead time.Duration, steered bool) {
	b.t.Helper()
	text := fmt.Sprintf("%v %v boot-%d %d\n", ahead, steered, b.boots, b.began)
	must(b.t, os.WriteFile(b.clockFile()+".next", []byte(text), 0o644))
	must(b.t, os.Rename(b.clockFile()+".next", b.clockFile()))
}

func (b *bench) clockFile() string { return filepath.Join(b.Dir(), "clock") }

// epoch is how far a clock that shows 1970 is ahead.
func epoch() time.Duration { return -time.Since(time.Unix(0, 0)) }

// reboot switches the machine off and on, with a clock as given.
func (b *bench) reboot(ahead time.Duration, steered bool) {
	b.t.Helper()
	if b.Gateway() != nil {
		b.Gateway().Kill()
	}
	var up unix.Timespec
	must(b.t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &up))
	b.boots, b.began = b.boots+1, up.Nano()
	b.shows(ahead, steered)
	b.start()
}

func (b *bench) start() {
	b.t.Helper()
	must(b.t, b.StartGateway(b.ctx, "FIELDGATE_BENCH_CLOCK="+b.clockFile()))
}

// launch starts the leaves. They count on through the whole test.
func (b *bench) launch() *site.Crew {
	b.t.Helper()
	crew, err := b.Launch(b.ctx, b.leaves, leafsim.Options{Window: 1, Silent: true})
	must(b.t, err)
	b.t.Cleanup(crew.Abandon)
	return crew
}

// publish has each leaf send some messages, and notes how they are to arrive.
func (b *bench) publish(crew *site.Crew, s span) {
	b.t.Helper()
	before := crew.Stats().Acked
	crew.Send(each)
	must(b.t, b.Await(b.ctx, s.what+": acknowledgements", func() bool {
		return crew.Stats().Acked == before+uint64(each*len(b.leaves))
	}))
	s.count = each
	for _, d := range b.leaves {
		b.spans[d.ID] = append(b.spans[d.ID], s)
	}
}

// arrived waits until everything is at the hub, and judges it: order and
// identity, and each capture time against the time between handing over and
// acknowledgement, by the leaf's own clock.
func (b *bench) arrived() {
	b.t.Helper()
	must(b.t, b.AwaitArrival(b.ctx))
	found, err := b.Check(b.ctx)
	must(b.t, err)
	if err := found.Err(); err != nil {
		b.t.Error(err)
	}
	if n := b.metric("fieldgate_messages_dropped_total"); n != 0 {
		b.t.Errorf("%v messages were dropped", n)
	}
	acks, err := leafsim.ReadAcks(b.AckFile())
	must(b.t, err)
	times := make(map[string]leafsim.Ack)
	for _, a := range acks {
		times[fmt.Sprint(a.Leaf, a.N)] = a
	}
	for _, e := range b.Events() {
		body, err := leafsim.ParseBody(e.Body)
		must(b.t, err)
		b.judge(body, times[fmt.Sprint(body.Leaf, body.N)], e.Properties)
	}
}

func (b *bench) judge(body leafsim.Body, ack leafsim.Ack, properties map[string]string) {
	b.t.Helper()
	n := int(body.N) - 1
	for _, s := range b.spans[body.Leaf] {
		if n >= s.count {
			n -= s.count
			continue
		}
		captured, err := time.Parse(time.RFC3339Nano, properties["fieldgate-captured"])
		early, late := ack.Sent.Add(s.ahead-accuracy), ack.At.Add(s.ahead+accuracy)
		quality := properties["fieldgate-clock"]
		if err != nil || quality != s.quality || !s.unknown && (captured.Before(early) || captured.After(late)) {
			b.t.Errorf("%s: %s %d was captured at %v (%s), want between %v and %v (%s)",
				s.what, body.Leaf, body.N, captured, quality, early, late, s.quality)
		}
		return
	}
	b.t.Errorf("%s %d is one more than was sent", body.Leaf, body.N)
}

func (b *bench) metric(name string) float64 {
	m, err := b.Metrics(b.ctx)
	if err != nil || !m.Has(name) {
		return -1
	}
	return m.Sum(name)
}

// waits waits until the gateway says that it waits for time, the nth time.
func (b *bench) waits(n int) {
	b.t.Helper()
	must(b.t, b.Await(b.ctx, "the gateway to wait for time", func() bool {
		text, err := os.ReadFile(b.Log("fieldgate"))
		return err == nil && strings.Count(string(text), "uplink waits for trusted time") >= n
	}))
}

func (b *bench) up() bool { return b.metric("fieldgate_uplink_up") == 1 }

// Power-on without a battery: everything local works, no token and no
// certificate is judged, nothing expires; when the time is known all of it
// arrives, with capture times as if it had been known before.
func TestUnsetAtPowerOn(t *testing.T) {
	b := newBench(t)
	b.reboot(epoch(), false)
	crew := b.launch()
	b.publish(crew, span{what: "in 1970", quality: "estimated"})
	b.waits(1)
	b.Gateway().Kill() // the process, not the machine
	b.start()
	b.publish(crew, span{what: "in 1970, after kill -9", quality: "estimated"})
	b.waits(2)
	if n := b.metric("fieldgate_uplink_connects_total"); n > 0 {
		t.Errorf("%v attempts to connect with a clock that is not set", n)
	}
	b.shows(0, true)
	must(t, b.Await(b.ctx, "the link to the hub", b.up))
	b.publish(crew, span{what: "when the time is known", quality: "synced"})
	must(t, crew.Finish(b.ctx))
	b.arrived()
}

// The clock is set to 1970 while the link is up and nothing ever steered it. Its
// tokens run out meanwhile; new ones wait for a time that can be trusted, rather
// than be refused by the hub.
func TestSetTo1970(t *testing.T) {
	b := newBench(t, `token_ttl = "3s"`)
	b.reboot(0, false)
	must(t, b.Await(b.ctx, "the link to the hub", b.up))
	crew := b.launch()
	b.publish(crew, span{what: "set by hand", quality: "estimated"})
	must(t, b.Await(b.ctx, "arrivals", func() bool { return len(b.Arrivals()) == each*len(b.leaves) }))
	b.shows(epoch(), false)
	must(t, b.Await(b.ctx, "tokens to run out", func() bool {
		s, err := b.HubStats(b.ctx)
		return err == nil && s.Identities == 0
	}))
	b.publish(crew, span{what: "in 1970", quality: "estimated"})
	b.shows(0, false)
	must(t, crew.Finish(b.ctx))
	b.arrived()
	text, err := os.ReadFile(b.Log("fieldgate"))
	must(t, err)
	if strings.Contains(string(text), "hub refuses leaf") {
		t.Error("a token was sent that the hub had to refuse")
	}
}

// The machine is switched off and on with its clock unset, twice, before the time
// is known: what was captured in a boot whose time nobody ever knew is said to be
// so, and is delivered all the same.
func TestRebootsBeforeTimeIsKnown(t *testing.T) {
	b := newBench(t)
	must(t, b.Cut(b.ctx))
	b.reboot(0, true)
	crew := b.launch()
	b.publish(crew, span{what: "good time", quality: "synced"})
	b.reboot(epoch(), false)
	b.publish(crew, span{what: "unset until the end of the boot", quality: "unsynced", unknown: true})
	b.reboot(epoch(), false)
	b.publish(crew, span{what: "unset, set later", quality: "estimated"})
	b.shows(0, true)
	must(t, b.Restore(b.ctx))
	must(t, crew.Finish(b.ctx))
	b.arrived()
}

// The clock is set by hand, forth and back, by an hour and by ten years, with the
// link up and with a backlog. It was steered before, so nobody is deceived.
func TestStepsByHand(t *testing.T) {
	for _, cut := range []bool{false, true} {
		t.Run(fmt.Sprintf("cut %v", cut), func(t *testing.T) {
			b := newBench(t)
			b.reboot(0, true)
			must(t, b.Await(b.ctx, "the link to the hub", b.up))
			crew := b.launch()
			b.publish(crew, span{what: "good time", quality: "synced"})
			if cut {
				must(t, b.Cut(b.ctx))
			}
			for _, ahead := range []time.Duration{time.Hour, -time.Hour, 10 * year, -10 * year, epoch()} {
				b.shows(ahead, false)
				b.publish(crew, span{what: fmt.Sprintf("%v ahead", ahead), quality: "estimated"})
			}
			if cut {
				must(t, b.Restore(b.ctx))
			}
			must(t, crew.Finish(b.ctx))
			b.arrived()
		})
	}
}

// A time source lies, by an hour and by ten years, while a backlog stands, and
// then tells the truth. Nothing expires within the boot, and the gateway does not
// wait for ten years to pass, not even after a restart.
func TestTimeSourceLies(t *testing.T) {
	b := newBench(t)
	must(t, b.Cut(b.ctx))
	b.reboot(0, true)
	crew := b.launch()
	b.publish(crew, span{what: "good time", quality: "synced"})
	for _, ahead := range []time.Duration{time.Hour, -time.Hour / 60, 10 * year} {
		b.shows(ahead, true)
		b.publish(crew, span{what: fmt.Sprintf("source %v ahead", ahead), quality: "synced", ahead: ahead})
	}
	b.Gateway().Kill()
	b.start() // it notes the time ten years ahead
	must(t, b.Await(b.ctx, "the lie to be noted", func() bool {
		info, err := os.Stat(filepath.Join(b.DataDir(), "clock"))
		return err == nil && time.Until(info.ModTime()) > 9*year
	}))
	b.shows(0, true)
	b.Gateway().Kill()
	b.start()
	must(t, b.Restore(b.ctx))
	must(t, b.Await(b.ctx, "the link to the hub", b.up))
	must(t, crew.Finish(b.ctx))
	b.arrived()
}

// The last good time is a floor for a clock that nothing steers.
func TestLastGoodTimeIsAFloor(t *testing.T) {
	b := newBench(t)
	const days = 24 * time.Hour
	b.reboot(2*days, true) // the truth is two days on, and it is noted
	must(t, b.Await(b.ctx, "the link to the hub", b.up))
	crew := b.launch()
	b.publish(crew, span{what: "noted", quality: "synced", ahead: 2 * days})
	b.reboot(1*days, false) // the battery was empty for a while
	b.publish(crew, span{what: "a day below the floor", quality: "estimated", ahead: 3 * days})
	b.waits(1)
	if n := b.metric("fieldgate_uplink_connects_total"); n > 0 {
		t.Errorf("%v attempts to connect with a clock below the last good time", n)
	}
	b.shows(3*days, false) // set by hand, above the floor
	must(t, b.Await(b.ctx, "the link to the hub", b.up))
	must(t, crew.Finish(b.ctx))
	b.arrived()
}

// mended waits until the hub's certificate has been found out of date, by a clock
// that is ten years ahead; then a time source sets it right.
func (b *bench) mended() {
	b.t.Helper()
	must(b.t, b.Await(b.ctx, "an attempt to connect that fails", func() bool {
		m, err := b.Metrics(b.ctx)
		return err == nil && m[`fieldgate_uplink_connects_total{result="failed"}`] > 0
	}))
	b.shows(0, true)
}

// Time to live counts trusted time: by the machine's uptime within a boot, by a
// steered clock across boots, and not by any other.
func TestTimeToLive(t *testing.T) {
	for _, c := range []struct {
		name    string
		pass    func(b *bench) // while the link is cut
		expires bool
		wrong   bool // the clock, too much for the hub's certificate: it must be set right
	}{
		{"same boot, two hours of uptime", func(b *bench) { b.began -= int64(2 * ttl); b.shows(2*ttl, true) }, true, false},
		{"same boot, ten years by hand", func(b *bench) { b.shows(10*year, false) }, false, false},
		{"another boot, steered", func(b *bench) { b.reboot(2*ttl, true) }, true, false},
		{"another boot, ten years and nothing steers", func(b *bench) { b.reboot(10*year, false) }, false, true},
		{"another boot, unset, then ten years by hand", func(b *bench) { b.reboot(epoch(), false); b.shows(10*year, false) }, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			must(t, b.Cut(b.ctx))
			b.reboot(0, true)
			crew := b.launch()
			b.publish(crew, span{what: "before", quality: "synced"})
			must(t, crew.Finish(b.ctx))
			c.pass(b)
			must(t, b.Restore(b.ctx))
			if c.wrong {
				b.mended()
			}
			must(t, b.Await(b.ctx, "the store to be empty", func() bool { return b.metric("fieldgate_store_messages") == 0 }))
			all := each * len(b.leaves)
			want := 0
			if c.expires {
				want = all
			}
			m, err := b.Metrics(b.ctx)
			must(t, err)
			if n := m[`fieldgate_messages_dropped_total{reason="ttl"}`]; int(n) != want {
				t.Errorf("%v of %d messages expired, want %d", n, all, want)
			}
			must(t, b.Await(b.ctx, "the others to arrive", func() bool { return len(b.Arrivals()) == all-want }))
		})
	}
}
