package link

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/fieldgate/fieldgate/test/e2e/report"
	"github.com/fieldgate/fieldgate/test/faultproxy"
	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/check"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// window is how many messages of one leaf may be with the hub: small, so that a
// gateway that repeats more than it must is found out.
const window = 16

// row is one kind of link.
type row struct {
	name    string
	nightly bool   // only where there is time
	hub     string // lines for [hub]
	uplink  string // lines for [uplink]
	tags    string // build tags of the gateway
	begin   func(ctx context.Context, l *line) (env []string, err error)
	story   func(ctx context.Context, l *line) error // while leaves send
	steady  bool                                     // nothing breaks: one connection, nothing twice
	relinks bool                                     // leaves' own links break, the connection does not
}

// line is one row as it runs: an installation of its own.
type line struct {
	*site.Site
	proxy *faultproxy.Proxy
	crew  *site.Crew
	notes []string
}

func (l *line) note(format string, args ...any) {
	l.notes = append(l.notes, fmt.Sprintf(format, args...))
}

// result is what became of a row.
type result struct {
	total       check.Leaf
	connections int // that the gateway made, successful ones
	attempts    int // all
	notes       []string
	err         error
}

// TestMatrix runs all rows at once, each with its own hub, gateway and leaves:
// they mostly wait.
func TestMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute and more, and the programs are not those with the race detector")
	}
	dir, err := os.MkdirTemp("", "fieldgate-link-")
	if err != nil {
		t.Fatal(err)
	}
	rows := matrix(report.Nightly())
	for _, tags := range []string{"", benchClock} {
		if err := site.Build(t.Context(), filepath.Join(dir, "bin"+tags), tags); err != nil {
			t.Fatal(err)
		}
	}
	results := make([]result, len(rows))
	var all sync.WaitGroup
	for i := range rows {
		all.Go(func() { results[i] = rows[i].run(t.Context(), filepath.Join(dir, fmt.Sprintf("row-%02d", i)), dir) })
	}
	all.Wait()
	for i, r := range results {
		if r.err != nil {
			t.Errorf("%s: %v", rows[i].name, r.err)
		}
	}
	report.Write(t, "Bad links to the hub", table(rows, results))
	if t.Failed() {
		t.Logf("everything is kept in %s", dir)
	} else if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

func table(rows []row, results []result) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "link\tacknowledged\tarrived\tlost\tduplicated\tout of order\tconnections\tattempts\t")
	for i, r := range results {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", rows[i].name,
			r.total.Acked, r.total.Arrived, r.total.Lost, r.total.Duplicated, r.total.OutOfOrder, r.connections, r.attempts)
	}
	w.Flush()
	for i, r := range results {
		if len(r.notes) > 0 {
			fmt.Fprintf(&b, "%s: %s\n", rows[i].name, strings.Join(r.notes, "; "))
		}
	}
	return b.String()
}

// limit is how long a row may take at all: no expectation, but a row that hangs
// must end and say where.
func (r *row) limit() time.Duration {
	if report.Nightly() {
		return 15 * time.Minute
	}
	return 5 * time.Minute
}

// run plays a row from an empty folder to its judgement.
func (r *row) run(ctx context.Context, dir, bins string) (res result) {
	ctx, cancel := context.WithTimeout(ctx, r.limit())
	defer cancel()
	leaves := []site.Device{{ID: "sdk", Kind: site.SDK}, {ID: "pump", Kind: site.MQTT5}, {ID: "meter", Kind: site.Serial}}
	l := &line{}
	s, err := site.New(ctx, site.Plan{
		Dir: dir, Bin: filepath.Join(bins, "bin"+r.tags), Leaves: leaves,
		Config: site.Config{Hub: r.hub, Uplink: fmt.Sprintf("window = %d\n%s", window, r.uplink)},
		Through: func(hub string) (string, error) {
			var err error
			if l.proxy, err = faultproxy.Start(faultproxy.Config{To: hub}); err != nil {
				return "", err
			}
			return l.proxy.Addr().String(), nil
		},
	})
	if l.proxy != nil {
		defer l.proxy.Close()
	}
	if err != nil {
		return result{err: err}
	}
	l.Site = s
	res = r.play(ctx, l, leaves)
	res.notes = l.notes
	res.err = errors.Join(res.err, s.Close())
	return res
}

func (r *row) play(ctx context.Context, l *line, leaves []site.Device) (res result) {
	var env []string
	if r.begin != nil {
		if env, res.err = r.begin(ctx, l); res.err != nil {
			return res
		}
	}
	if res.err = l.StartGateway(ctx, env...); res.err != nil {
		return res
	}
	if l.crew, res.err = l.Launch(ctx, leaves, leafsim.Options{Rate: 10, AlarmEvery: 10, Size: 200}); res.err != nil {
		return res
	}
	defer l.crew.Abandon()
	steps := []func() error{
		func() error { return l.Await(ctx, "the link to the hub", l.up(ctx)) },
		func() error { return r.story(ctx, l) },
		func() error { return l.crew.Finish(ctx) },
		func() error { return l.AwaitArrival(ctx) },
	}
	for _, step := range steps {
		if res.err = step(); res.err != nil {
			return res
		}
	}
	return r.judge(ctx, l)
}

// judge compares what was acknowledged with what arrived, and both with what the
// gateway says.
func (r *row) judge(ctx context.Context, l *line) (res result) {
	found, err := l.Check(ctx)
	if err != nil {
		return result{err: err}
	}
	res.total = found.Total()
	errs := []error{found.Err()}
	want := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	accounts := func() bool {
		return l.metric(ctx, "fieldgate_store_messages") == 0 &&
			l.metric(ctx, "fieldgate_messages_sent_total") == float64(res.total.Acked)
	}
	if err := l.Await(ctx, "the gateway to have an empty store and the right count of messages sent", accounts); err != nil {
		errs = append(errs, err)
	}
	m, err := l.Metrics(ctx)
	errs = append(errs, err)
	res.connections = int(m[`fieldgate_uplink_connects_total{result="ok"}`])
	res.attempts = int(m.Sum("fieldgate_uplink_connects_total"))
	t := res.total
	want(t.Acked > 0, "nothing was acknowledged: the row proves nothing")
	want(t.Resent == 0 && t.Ragged == 0, "%d messages sent again by leaves and %d ragged runs, and nothing happened to leaves or gateway", t.Resent, t.Ragged)
	want(m.Sum("fieldgate_messages_dropped_total") == 0, "the gateway says it dropped messages")
	want(l.OneConnectionAtATime(), "messages came over more than one connection at a time")
	_, longest, _ := repeats(l.Site, func(e hubsim.Arrival) string { return e.Device })
	// What is sent again is one piece of each lane.
	runs, _, flows := repeats(l.Site, func(e hubsim.Arrival) string { return e.Device + " " + e.Properties["fieldgate-lane"] })
	want(longest <= window, "%d messages of a leaf were repeated in one go, the window is %d", longest, window)
	if !r.relinks {
		breaks := (res.connections - 1) * flows
		want(runs <= breaks, "%d runs of repeats, and %d lanes of leaves saw %d breaks", runs, flows, res.connections-1)
	}
	if r.steady {
		want(res.connections == 1 && t.Duplicated == 0, "%d connections and %d duplicates, and the link never broke", res.connections, t.Duplicated)
	}
	res.err = errors.Join(errs...)
	return res
}

// repeats looks for messages that the gateway sent again: in how many runs, how
// long the longest run is, and in how many flows. The flow of a message is what
// flow says. A run ends with something new of its flow, with another connection,
// or when it begins again.
func repeats(s *site.Site, flow func(hubsim.Arrival) string) (runs, longest, flows int) {
	type stream struct {
		seen, run  map[string]bool
		connection uint64
	}
	streams := make(map[string]*stream)
	for _, e := range s.Events() {
		f := streams[flow(e)]
		if f == nil {
			f = &stream{seen: make(map[string]bool)}
			streams[flow(e)] = f
		}
		switch {
		case !f.seen[e.MessageID]:
			f.run = nil
		case f.run == nil, f.connection != e.Connection, f.run[e.MessageID]:
			f.run = map[string]bool{e.MessageID: true}
			runs++
		default:
			f.run[e.MessageID] = true
		}
		f.seen[e.MessageID], f.connection = true, e.Connection
		longest = max(longest, len(f.run))
	}
	return runs, longest, len(streams)
}

// metric reads one metric, summed over its labels; -1 while it cannot be read.
func (l *line) metric(ctx context.Context, name string) float64 {
	m, err := l.Metrics(ctx)
	if err != nil || !m.Has(name) {
		return -1
	}
	return m.Sum(name)
}

func (l *line) up(ctx context.Context) func() bool {
	return func() bool { return l.metric(ctx, "fieldgate_uplink_up") == 1 }
}

func (l *line) down(ctx context.Context) func() bool {
	return func() bool { return l.metric(ctx, "fieldgate_uplink_up") == 0 }
}
