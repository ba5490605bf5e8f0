package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// reloads is how often the configuration is taken over in a test.
const reloads = 100

// operator changes the configuration of a site.
type operator struct {
	*site.Site
	t     *testing.T
	plain string // the configuration file as it was
}

func newOperator(t *testing.T, s *site.Site) *operator {
	t.Helper()
	text, err := os.ReadFile(s.ConfigFile())
	must(t, err)
	return &operator{s, t, string(text)}
}

// write writes the configuration with tables behind it, and other lines in the place
// of old ones.
func (o *operator) write(tail string, oldNew ...string) {
	o.t.Helper()
	text := strings.NewReplacer(oldNew...).Replace(o.plain)
	for i := 0; i < len(oldNew); i += 2 {
		if !strings.Contains(o.plain, oldNew[i]) {
			o.t.Fatalf("the configuration has no %q", oldNew[i])
		}
	}
	must(o.t, os.WriteFile(o.ConfigFile()+".next", []byte(text+tail), 0o644))
	must(o.t, os.Rename(o.ConfigFile()+".next", o.ConfigFile()))
}

// said counts the lines in the gateway's log with all of the words.
func (o *operator) said(words ...string) (n int) {
	text, err := os.ReadFile(o.Log("fieldgate"))
	must(o.t, err)
lines:
	for line := range strings.Lines(string(text)) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		n++
	}
	return n
}

// await waits for a condition.
func (o *operator) await(ctx context.Context, what string, met func() bool) {
	o.t.Helper()
	for tick := time.NewTicker(5 * time.Millisecond); !met(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			o.t.Fatalf("waiting for %s: %v\n%s", what, ctx.Err(), o.Gateway().Said())
		}
	}
}

// hangUp sends the signal and waits until the gateway has said how it went.
func (o *operator) hangUp(ctx context.Context) {
	o.t.Helper()
	before := o.said("configuration is")
	must(o.t, syscall.Kill(o.Gateway().PID(), syscall.SIGHUP))
	o.await(ctx, "the gateway to take over its configuration", func() bool { return o.said("configuration is") > before })
}

// Under load the configuration is taken over a hundred times, with other values of
// keys marked live: no leaf's connection ends, the one to the hub neither, and
// nothing is lost.
func TestReloadUnderLoad(t *testing.T) {
	ctx := testContext(t, 4*patience)
	leaves := devices(10, site.SDK, site.MQTT3, site.MQTT5)
	o := newOperator(t, running(ctx, t, site.Plan{Leaves: leaves, Config: site.Config{Lane: "max_bytes = \"256MiB\"\n"}}))
	crew := launch(ctx, t, o.Site, leaves, leafsim.Options{Rate: 100, AlarmEvery: 10, Window: 256, Size: 100})
	o.await(ctx, "all leaves", func() bool { return crew.Stats().Connected })
	for i := range reloads {
		n := i % 7
		o.write(fmt.Sprintf(`
[log]
level = %q

[broker]
max_connections = %d

[path]
staged_bytes = "%dMiB"

[twin]
hub_wait = "%dms"

[[module]]
name = "filter"
action = "drop"
field = "never-%d"
op = "<"
value = 0.5

[[map]]
topic = "tele/{leaf}/x%d"
`, []string{"info", "debug"}[n%2], 500+n, 4+n, 500+n, n, n), `max_bytes = "256MiB"`, fmt.Sprintf("max_bytes = \"%dMiB\"\nspill_after = \"%dms\"", 256+n, 250+n))
		o.hangUp(ctx)
	}
	if n := o.said("configuration is taken over"); n != reloads {
		t.Errorf("taken over %d times of %d", n, reloads)
	}
	must(t, crew.Finish(ctx))
	if s := crew.Stats(); s.Connects != uint64(len(leaves)) || s.Resent != 0 {
		t.Errorf("%d leaves connected %d times and sent %d messages again", len(leaves), s.Connects, s.Resent)
	}
	m, err := o.Metrics(ctx)
	must(t, err)
	if n := m[`fieldgate_uplink_connects_total{result="ok"}`]; n != 1 {
		t.Errorf("connected to the hub %v times, want once", n)
	}
	allArrived(ctx, t, o.Site)
}

// Keys of the hub replace the connection to it, and nothing else: leaves stay, and
// what they have handed over is neither lost nor put out of order.
func TestReloadRenewsTheUplink(t *testing.T) {
	ctx := testContext(t, 4*patience)
	leaves := devices(6, site.SDK, site.MQTT3, site.Serial)
	o := newOperator(t, running(ctx, t, site.Plan{Leaves: leaves}))
	crew := launch(ctx, t, o.Site, leaves, leafsim.Options{Rate: 40, AlarmEvery: 10})
	o.await(ctx, "all leaves", func() bool { return crew.Stats().Connected })
	const renewals = 5
	for i := range renewals {
		connected := o.said("connected to hub")
		o.write("", `keep_alive = "2s"`, fmt.Sprintf("keep_alive = \"%ds\"", 3+i))
		o.hangUp(ctx)
		o.await(ctx, "the next connection", func() bool { return o.said("connected to hub") > connected })
		crew.Send(20)
	}
	must(t, crew.Finish(ctx))
	if s := crew.Stats(); s.Connects != uint64(len(leaves)) {
		t.Errorf("%d leaves connected %d times", len(leaves), s.Connects)
	}
	allArrived(ctx, t, o.Site)
}

// A leaf is let in, put out and given another key while others send.
func TestReloadLeaves(t *testing.T) {
	ctx := testContext(t, 4*patience)
	leaves := devices(3, site.MQTT3)
	o := newOperator(t, running(ctx, t, site.Plan{Leaves: leaves}))
	crew := launch(ctx, t, o.Site, leaves, leafsim.Options{Rate: 20})
	o.await(ctx, "all leaves", func() bool { return crew.Stats().Connected })

	file := o.Dir() + "/gateway/leaf.d/bench.toml"
	text, err := os.ReadFile(file)
	must(t, err)
	tables := strings.SplitAfter(string(text), "\n\n")
	without := strings.Join(tables[1:], "")
	must(t, os.WriteFile(file, []byte(without), 0o644))
	o.hangUp(ctx)
	o.await(ctx, "the leaf to be put out", func() bool { return o.said("leaf disconnected", "leaf=leaf-001") == 1 })
	must(t, os.WriteFile(file, text, 0o644))
	o.hangUp(ctx)
	o.await(ctx, "the leaf to be back", func() bool { return o.said("leaf connected", "leaf=leaf-001") == 2 })
	if n := o.said("leaf disconnected"); n != 1 {
		t.Errorf("%d connections ended, want that of leaf-001 only", n)
	}
	must(t, crew.Finish(ctx))
	allArrived(ctx, t, o.Site)
}

// One leaf is disabled while all send: the others notice nothing, nothing of it is taken
// until it is enabled, and then it goes on where it was.
func TestDisableUnderLoad(t *testing.T) {
	ctx := testContext(t, 4*patience)
	leaves := devices(6, site.MQTT3, site.MQTT5)
	o := newOperator(t, running(ctx, t, site.Plan{Leaves: leaves}))
	c := &terminal{t, ctx, o.Site}
	crew := launch(ctx, t, o.Site, leaves, leafsim.Options{Rate: 50, Window: 32})
	o.await(ctx, "all leaves", func() bool { return crew.Stats().Connected && crew.Stats().Acked > 100 })
	const out = "leaf-001"
	c.gets(0, "device", "disable", out)
	o.await(ctx, out+" to be put out", func() bool { return o.said("leaf disconnected", "leaf="+out) == 1 })
	arrived := func(of bool) (n int) {
		for _, a := range o.Events() {
			if (a.Device == out) == of {
				n++
			}
		}
		return n
	}
	o.await(ctx, "what was taken of it to arrive", func() bool {
		text := c.gets(0, "store", "list", "--output", "jsonl")
		return !strings.Contains(text, out) && strings.Contains(c.gets(0, "device", "list"), "disabled")
	})
	before, others := arrived(true), arrived(false)
	o.await(ctx, "the others to go on", func() bool { return arrived(false) >= others+300 })
	if n := arrived(true); n > before+32 { // what was on its way to the hub at that moment
		t.Errorf("%d messages of a disabled leaf have arrived since", n-before)
	}
	c.gets(0, "device", "enable", out)
	o.await(ctx, out+" to be back", func() bool { return o.said("leaf connected", "leaf="+out) == 2 })
	if n := o.said("leaf disconnected"); n != 1 {
		t.Errorf("%d connections ended, want that of %s only", n, out)
	}
	must(t, crew.Finish(ctx))
	allArrived(ctx, t, o.Site)
}
