package powercut

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/fieldgate/fieldgate/test/cutfs"
	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/check"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

var (
	rounds   = flag.Int("rounds", 30, "how often the power is cut")
	seed     = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of everything random")
	byFolder = flag.Bool("by-folder", false, "cut on a file system that keeps names only when their folder is synced, which the store does not ask for")
)

// story is what stays the same over a number of cuts.
type story struct {
	mode    cutfs.Mode
	names   cutfs.Names
	custody string
	lane    string // more configuration of the lanes
	size    int    // of messages, in bytes
	rounds  int
	seed    uint64
}

// stories spreads the rounds over all modes, and everything else by chance.
func stories(n int, seed uint64) (list []story) {
	random := rand.New(rand.NewPCG(seed, 0))
	each := max(1, min(10, n/6))
	for i := 0; n > 0; i++ {
		s := story{
			mode:    cutfs.Modes[i%len(cutfs.Modes)],
			names:   []cutfs.Names{cutfs.Journaled, cutfs.ByFile}[random.IntN(2)],
			custody: []string{"disk", "relay"}[i/len(cutfs.Modes)%2],
			size:    []int{300, 2000, 3500}[random.IntN(3)],
			rounds:  min(n, each),
			seed:    random.Uint64(),
		}
		if *byFolder {
			s.names = cutfs.ByFolder
		}
		if s.custody == "relay" && random.IntN(2) == 0 {
			s.lane = "spill_after = \"10ms\"\n" // also what the hub takes goes to flash
		}
		n -= s.rounds
		list = append(list, s)
	}
	return list
}

// The power is cut under load. Nothing acknowledged is lost, the order is kept,
// and the gateway always starts.
func TestPowerCut(t *testing.T) {
	n := *rounds
	if testing.Short() {
		n = min(n, 6)
	}
	t.Logf("seed %d", *seed)
	var all summary
	t.Run("rounds", func(t *testing.T) {
		for i, s := range stories(n, *seed) {
			t.Run(fmt.Sprintf("%d-%v-%s", i+1, s.mode, s.custody), func(t *testing.T) {
				t.Parallel()
				all.add(s, s.tell(t))
			})
		}
	})
	t.Logf("power cuts:\n%s", all.table())
}

// outcome is how a story went.
type outcome struct {
	total  check.Leaf
	reopen []time.Duration // from the start of the program until leaves could connect
	rounds int
	aimed  int // cuts that hit the operation they were aimed at
}

// tell lives through a story.
func (s story) tell(t *testing.T) (o outcome) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience+time.Duration(s.rounds)*patience/4)
	t.Cleanup(cancel)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("names %v, %s %q, %d bytes, %d rounds, seed %d", s.names, s.custody, s.lane, s.size, s.rounds, s.seed)
		}
	})
	random := rand.New(rand.NewPCG(s.seed, 1))
	leaves := devices(8, site.SDK, site.SDK, site.MQTT3, site.SDK, site.MQTT5, site.SDK, site.SDK, site.Serial)
	r := newRig(ctx, t, leaves, site.Config{Custody: s.custody, Lane: s.lane}, cutfs.Options{Names: s.names})
	must(t, r.StartGateway(ctx))
	crew := r.launch(ctx, leaves, leafsim.Options{Rate: 80, AlarmEvery: 10, Size: s.size})
	for range s.rounds {
		if err := s.round(ctx, r, crew, random, &o); err != nil {
			r.save("disk-image")
			t.Fatalf("round %d: %v", o.rounds+1, err)
		}
	}
	must(t, r.Restore(ctx))
	must(t, crew.Finish(ctx))
	if err := r.AwaitArrival(ctx); err != nil {
		r.save("disk-image")
		t.Error(err)
	}
	report, err := r.Check(ctx)
	must(t, err)
	o.total = report.Total()
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	if o.total.Acked == 0 {
		t.Error("nothing was acknowledged: the test proves nothing")
	}
	for _, what := range []string{"messages", "commits", "meta"} {
		// Where names need their folder's sync the meta database may lose a table.
		if n := r.metric(ctx, "fieldgate_store_damaged_"+what); n != 0 && !*byFolder {
			r.save("disk-image")
			t.Errorf("what a power cut leaves is taken for damage: fieldgate_store_damaged_%s is %v", what, n)
		}
	}
	return o
}

// round cuts the power once, or twice when the second comes while the gateway is
// starting again.
func (s story) round(ctx context.Context, r *rig, crew *site.Crew, random *rand.Rand, o *outcome) error {
	before := crew.Stats().Acked
	stop, err := someLink(ctx, r, random)
	if err != nil {
		return err
	}
	half := uint64(1 + random.IntN(600))
	if err := r.Await(ctx, "acknowledgements", func() bool { return crew.Stats().Acked > before+half }); err != nil {
		stop()
		return err
	}
	a := aims[random.IntN(len(aims))]
	if r.awaitCut(r.fs.CutWhen(a.nth(1+random.IntN(5)), random.IntN(2) == 0)) {
		o.aimed++
	}
	stop()
	if err := r.darken(s.mode, random); err != nil {
		return err
	}
	if random.IntN(4) == 0 {
		if err := s.cutStart(r, random); err != nil {
			return fmt.Errorf("second cut: %w", err)
		}
	}
	began := time.Now()
	if err := r.StartGateway(ctx); err != nil {
		return fmt.Errorf("after a cut at %s: %w", a.name, err)
	}
	o.reopen = append(o.reopen, time.Since(began))
	o.rounds++
	return nil
}

// cutStart cuts the power while the gateway starts.
func (s story) cutStart(r *rig, random *rand.Rand) error {
	any := aim{"", func(cutfs.Op) bool { return true }}
	cut := r.fs.CutWhen(any.nth(1+random.IntN(80)), random.IntN(2) == 0)
	if err := r.SpawnGateway(); err != nil {
		return err
	}
	r.awaitCut(cut)
	return r.darken(s.mode, random)
}

// awaitCut waits for a cut. One that is aimed at what does not happen comes at
// some moment. It reports whether the aim was hit.
func (r *rig) awaitCut(cut <-chan struct{}) (hit bool) {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-cut:
		return true
	case <-timer.C:
		r.fs.Cut()
	case <-r.Gateway().Done(): // which the start after this will report
	}
	return false
}

// aim is a kind of moment at which the power is cut.
type aim struct {
	name string
	is   func(cutfs.Op) bool
}

// nth matches the nth such moment.
func (a aim) nth(n int) func(cutfs.Op) bool {
	return func(op cutfs.Op) bool {
		if a.is(op) {
			n--
		}
		return n == 0
	}
}

func at(kind cutfs.Kind, name string) aim {
	return aim{fmt.Sprintf("%v of %s", kind, name), func(op cutfs.Op) bool {
		return op.Kind == kind && op.Changes && strings.HasSuffix(op.Name, name)
	}}
}

var aims = []aim{
	{"some moment", func(cutfs.Op) bool { return false }},
	at(cutfs.Write, ""),
	at(cutfs.Sync, ""),
	at(cutfs.Open, ""),         // files and folders of a new segment
	at(cutfs.Open, ".mem"),     // that is rolled
	at(cutfs.Sync, ".vlog"),    // a group commit
	at(cutfs.Sync, ".mem"),     // its second half
	at(cutfs.Write, ".vlog"),   // or while it is written
	at(cutfs.Write, "index"),   // a segment is sealed
	at(cutfs.Write, "settled"), // watermarks
	at(cutfs.Sync, "settled"),
	at(cutfs.Rename, ""), // into the trash
	at(cutfs.Remove, ""), // and out of it
}

// someLink leaves the link up, cuts it, or lets it flap until stop.
func someLink(ctx context.Context, r *rig, random *rand.Rand) (stop func(), err error) {
	switch random.IntN(3) {
	case 0:
		return func() {}, r.Restore(ctx)
	case 1:
		return func() {}, r.Cut(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	var flapping sync.WaitGroup
	tick := time.NewTicker(time.Duration(100+random.IntN(400)) * time.Millisecond)
	flapping.Go(func() {
		defer tick.Stop()
		for up := false; ; up = !up {
			change := r.Cut
			if up {
				change = r.Restore
			}
			_ = change(ctx) // an error says that it is over
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return func() {
		cancel()
		flapping.Wait()
	}, nil
}

// summary adds up outcomes by mode and custody. The zero value is ready.
type summary struct {
	mu   sync.Mutex
	rows []*row // guarded by mu
}

type row struct {
	title  string
	sum    check.Leaf
	reopen []time.Duration
	rounds int
	aimed  int
}

func (s *summary) add(of story, o outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, title := range []string{fmt.Sprintf("%v, %s", of.mode, of.custody), "total"} {
		i := slices.IndexFunc(s.rows, func(r *row) bool { return r.title == title })
		if i < 0 {
			i = len(s.rows)
			s.rows = append(s.rows, &row{title: title})
		}
		r := s.rows[i]
		r.rounds += o.rounds
		r.aimed += o.aimed
		r.reopen = append(r.reopen, o.reopen...)
		r.sum.Acked += o.total.Acked
		r.sum.Lost += o.total.Lost
		r.sum.OutOfOrder += o.total.OutOfOrder
		r.sum.Duplicated += o.total.Duplicated
		r.sum.Resent += o.total.Resent
	}
}

func (s *summary) table() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(s.rows, func(a, b *row) int { return strings.Compare(a.title, b.title) })
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "mode\trounds\tat their aim\tacknowledged\tlost\tout of order\tsent twice\tsent again by leaf\treopen p50\tp99\tmax\t")
	for _, r := range s.rows {
		slices.Sort(r.reopen)
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t", r.title, r.rounds, r.aimed, r.sum.Acked, r.sum.Lost, r.sum.OutOfOrder, r.sum.Duplicated, r.sum.Resent)
		for _, share := range []int{50, 99, 100} {
			var d time.Duration
			if n := len(r.reopen); n > 0 {
				d = r.reopen[(n*share+99)/100-1]
			}
			fmt.Fprintf(w, "%v\t", d.Round(10*time.Millisecond))
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush() // into memory
	return text.String()
}
