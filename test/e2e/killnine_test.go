package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway/failpoint"
	"github.com/fieldgate/fieldgate/gateway/store"
	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// killRounds is how often each gateway is killed: 0.7 seconds each. More by
// FIELDGATE_KILL_ROUNDS, for the night.
func killRounds(t *testing.T) int {
	if text := os.Getenv("FIELDGATE_KILL_ROUNDS"); text != "" {
		n, err := strconv.Atoi(text)
		must(t, err)
		return n
	}
	if testing.Short() {
		return 5
	}
	return 100
}

// fragile is a folder with the programs, with a fieldgate that has failpoints.
var fragile = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(bin, "failpoints")
	build := exec.Command("go", "build", "-tags", "failpoints", "-o", filepath.Join(dir, "fieldgate"), "github.com/fieldgate/fieldgate/cmd/fieldgate")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build fieldgate with failpoints: %w\n%s", err, out)
	}
	return dir, os.Symlink(filepath.Join(bin, "hubsim"), filepath.Join(dir, "hubsim"))
})

// Where points are that ordinary traffic does not pass; other tests do.
var elsewhere = []failpoint.Point{
	failpoint.RewriteFilled, failpoint.RewriteAway, failpoint.RewriteDone,
	failpoint.MetaShelve, failpoint.MetaShelved,
}

// The gateway is killed with signal 9 under load, at each of its failpoints and
// at random moments, with the link up, cut or flapping: nothing acknowledged is
// lost, the order is kept, what comes twice has the same message id, and it
// always starts again.
func TestKillNine(t *testing.T) {
	for _, custody := range []string{"relay", "disk"} {
		t.Run(custody, func(t *testing.T) {
			t.Parallel()
			rounds := killRounds(t)
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			ctx := testContext(t, 2*patience+time.Duration(rounds)*5*time.Second)
			v := newVictim(ctx, t, rand.New(rand.NewPCG(seed, 0)), site.Plan{
				Leaves: devices(8, site.SDK, site.SDK, site.MQTT3, site.SDK, site.MQTT5, site.SDK, site.SDK, site.Serial),
				Config: site.Config{Custody: custody, Store: "segment_size = \"1MiB\"\n"},
			})
			v.campaign(ctx, t, rounds)
		})
	}
}

// victim is a gateway under load that is killed again and again.
type victim struct {
	*site.Site
	whole   context.Context // of all rounds
	devices []site.Device
	crew    *site.Crew
	floods  []*site.Crew
	random  *rand.Rand
	died    map[failpoint.Point]int
}

// flooders is how many leaves more there are that each, once, send enough to
// fill a segment.
const flooders = 6

func newVictim(ctx context.Context, t *testing.T, random *rand.Rand, plan site.Plan) *victim {
	t.Helper()
	dir, err := fragile()
	must(t, err)
	plan.Bin = dir
	v := &victim{whole: ctx, devices: plan.Leaves, random: random, died: make(map[failpoint.Point]int)}
	for i := range flooders {
		plan.Leaves = append(plan.Leaves, site.Device{ID: fmt.Sprintf("flood-%d", i+1), Kind: site.SDK})
	}
	v.Site = running(ctx, t, plan)
	v.crew = launch(ctx, t, v.Site, v.devices, leafsim.Options{Rate: 40, AlarmEvery: 10, Size: 300})
	return v
}

// campaign kills the gateway so many times and then compares.
func (v *victim) campaign(ctx context.Context, t *testing.T, rounds int) {
	points := slices.DeleteFunc(failpoint.Points(), func(p failpoint.Point) bool { return slices.Contains(elsewhere, p) })
	var plan []failpoint.Point
	for len(plan)+len(points) <= rounds {
		plan = append(plan, points...)
	}
	for len(plan) < rounds {
		plan = append(plan, "") // any moment
	}
	v.random.Shuffle(len(plan), func(i, j int) { plan[i], plan[j] = plan[j], plan[i] })
	v.Gateway().Kill()
	for i, p := range plan {
		if err := v.kill(ctx, p); err != nil {
			t.Fatalf("round %d, at %q: %v", i+1, p, err)
		}
	}
	must(t, v.StartGateway(ctx))
	must(t, v.Restore(ctx))
	for _, crew := range append(v.floods, v.crew) {
		must(t, crew.Finish(ctx))
	}
	allArrived(ctx, t, v.Site)
	for _, name := range []string{"messages", "commits", "meta"} {
		if n := metric(ctx, v.Site, "fieldgate_store_damaged_"+name); n != 0 {
			t.Errorf("a gateway that was only killed says fieldgate_store_damaged_%s is %v", name, n)
		}
	}
	if rounds < len(points) {
		return
	}
	for _, p := range points {
		if v.died[p] == 0 {
			t.Errorf("the gateway was never killed at %s", p)
		}
	}
	if stats := v.crew.Stats(); stats.Resent == 0 {
		t.Errorf("no leaf had to send anything again in %d kills: they did not hit", rounds)
	}
}

// kill starts the gateway so that it dies at a point, or is killed at any
// moment, and makes things happen until it has died.
func (v *victim) kill(ctx context.Context, p failpoint.Point) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if died, err := v.start(ctx, arm(p, 1+v.random.IntN(passes(p)))); died || err != nil {
		return v.note(p, err)
	}
	env := arm(p, 1) // when it is started again: a life may be too short for more
	events := []func(context.Context, []string) error{v.cut, v.stop, v.back, v.disturb}
	if p == failpoint.SegmentRecover || p == failpoint.SegmentRecovered {
		events[1] = v.crash // only then is there something to recover
	}
	for i := v.random.IntN(len(events)); ; i++ {
		if p == "" {
			timer := time.AfterFunc(time.Duration(v.random.IntN(int(500*time.Millisecond))), v.Gateway().Kill)
			defer timer.Stop()
		}
		if err := events[i%len(events)](ctx, env); err != nil || v.dead() {
			return v.note(p, err)
		}
	}
}

// arm is the environment of a gateway that dies at the nth pass of a point.
func arm(p failpoint.Point, n int) []string {
	if p == "" {
		return nil
	}
	return []string{fmt.Sprintf("%s=%s:%d", failpoint.Variable, p, n)}
}

// passes is how many passes of a point to let go by at most, and one.
func passes(p failpoint.Point) int {
	switch p {
	case failpoint.BrokerHandover, failpoint.CustodyTake, failpoint.CustodySpill, failpoint.StoreCommit, failpoint.StoreCommitted,
		failpoint.CustodyAnswer, failpoint.BrokerPuback, failpoint.BrokerPubacked, failpoint.UplinkSend, failpoint.UplinkSent,
		failpoint.UplinkSettle, failpoint.UplinkSettled:
		return 40
	case failpoint.SerialAnswer, failpoint.SerialAnswered, failpoint.BacklogRead, failpoint.BacklogHave,
		failpoint.JournalWrite, failpoint.JournalWritten:
		return 3
	}
	return 1
}

// note counts a death at a point, and tells it from any other end.
func (v *victim) note(p failpoint.Point, err error) error {
	switch {
	case err != nil && !v.dead():
		return err
	case !v.Gateway().Killed():
		return fmt.Errorf("the gateway ended by itself with exit code %d, see %s", v.Gateway().ExitCode(), v.Log("fieldgate"))
	}
	v.died[p]++
	return nil
}

func (v *victim) dead() bool {
	select {
	case <-v.Gateway().Done():
		return true
	default:
		return false
	}
}

// start says whether the gateway has died while it started.
func (v *victim) start(ctx context.Context, env []string) (died bool, err error) {
	err = v.StartGateway(ctx, env...)
	if v.dead() {
		return true, nil
	}
	return false, err
}

// acknowledged waits until leaves have got so many acknowledgements more, or
// the gateway is dead.
func (v *victim) acknowledged(ctx context.Context, n int) error {
	enough := v.crew.Stats().Acked + uint64(n)
	return v.Await(ctx, "acknowledgements", func() bool { return v.crew.Stats().Acked >= enough })
}

// cut cuts the link, with or without the gateway seeing it at once, and lets it
// take what leaves have to say; sometimes that is enough to fill a segment.
func (v *victim) cut(ctx context.Context, _ []string) error {
	if err := v.Cut(ctx); err != nil {
		return err
	}
	if v.random.IntN(2) == 0 {
		if err := v.Fault(ctx, "reset"); err != nil {
			return err
		}
	}
	if len(v.floods) < flooders && v.random.IntN(4) == 0 {
		if err := v.fillSegment(ctx); err != nil {
			return err
		}
	}
	return v.acknowledged(ctx, 20+v.random.IntN(60))
}

// fillSegment lets one leaf more send what is more than a segment holds.
func (v *victim) fillSegment(ctx context.Context) error {
	const count = 250
	d := site.Device{ID: fmt.Sprintf("flood-%d", len(v.floods)+1), Kind: site.SDK}
	crew, err := v.Launch(v.whole, []site.Device{d}, leafsim.Options{Count: count, Size: 6000})
	if err != nil {
		return err
	}
	v.floods = append(v.floods, crew)
	return v.Await(ctx, "a segment to be full", func() bool { return crew.Stats().Acked == count })
}

// stop stops the gateway in order and starts it again.
func (v *victim) stop(ctx context.Context, env []string) error {
	if err := v.Gateway().Stop(); err != nil && !v.Gateway().Killed() {
		return err
	}
	if v.Gateway().Killed() {
		return nil
	}
	died, err := v.start(ctx, env)
	if died {
		return nil
	}
	return err
}

// crash kills the gateway and starts it again.
func (v *victim) crash(ctx context.Context, env []string) error {
	v.Gateway().Kill()
	died, err := v.start(ctx, env)
	if died {
		return nil
	}
	return err
}

// back mends the link and lets the backlog drain.
func (v *victim) back(ctx context.Context, _ []string) error {
	if err := v.Restore(ctx); err != nil {
		return err
	}
	enough := len(v.Arrivals()) + 20 + v.random.IntN(200)
	return v.Await(ctx, "messages to arrive", func() bool { return len(v.Arrivals()) >= enough })
}

// disturb lets the link flap: a leaf's own, or all.
func (v *victim) disturb(ctx context.Context, _ []string) error {
	if err := v.Restore(ctx); err != nil {
		return err
	}
	if err := v.acknowledged(ctx, 20); err != nil {
		return err
	}
	var err error
	if v.random.IntN(2) == 0 {
		err = v.Fault(ctx, "reset")
	} else {
		err = v.Fault(ctx, "detach", v.devices[v.random.IntN(len(v.devices))].ID, "amqp:link:detach-forced")
	}
	if err != nil {
		return err
	}
	return v.acknowledged(ctx, 20)
}

// The gateway dies while it rewrites a segment that Badger cannot open: all that
// was in it is delivered.
func TestKillNineWithinRewrite(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 3*patience)
	v := newVictim(ctx, t, rand.New(rand.NewPCG(1, 0)), site.Plan{
		Leaves: devices(3, site.SDK, site.MQTT5, site.MQTT3),
		Config: site.Config{Store: "segment_size = \"1MiB\"\n"},
	})
	for _, p := range []failpoint.Point{failpoint.RewriteFilled, failpoint.RewriteAway, failpoint.RewriteDone} {
		must(t, v.Cut(ctx))
		must(t, v.Fault(ctx, "reset"))
		must(t, v.fillSegment(ctx))
		var full []string
		must(t, v.Await(ctx, "a segment to be closed", func() bool {
			full, _ = filepath.Glob(filepath.Join(v.DataDir(), "store/queue/telemetry/*/index"))
			return len(full) > 0
		}))
		v.Gateway().Kill()
		err := os.Remove(filepath.Join(filepath.Dir(full[0]), "MANIFEST"))
		if !errors.Is(err, fs.ErrNotExist) { // it may be that of the last time, not yet rewritten
			must(t, err)
		}
		must(t, v.Restore(ctx))
		if died, err := v.start(ctx, arm(p, 1)); !died {
			must(t, err)
			select {
			case <-v.Gateway().Done():
			case <-ctx.Done():
				t.Fatalf("the gateway does not come to %s, see %s", p, v.Log("fieldgate"))
			}
		}
		must(t, v.note(p, nil))
		must(t, v.StartGateway(ctx))
	}
	for _, crew := range append(v.floods, v.crew) {
		must(t, crew.Finish(ctx))
	}
	allArrived(ctx, t, v.Site)
}

// The gateway dies around the writing of a dead letter: what the hub refused is
// on the shelf in the end.
func TestKillNineAtTheShelf(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 3*patience)
	v := newVictim(ctx, t, rand.New(rand.NewPCG(1, 0)), site.Plan{Leaves: devices(2, site.SDK, site.MQTT5)})
	refused := v.devices[0].ID
	must(t, v.Fault(ctx, "reject", refused, "amqp:not-allowed", "1000000"))
	for _, p := range []failpoint.Point{failpoint.MetaShelve, failpoint.MetaShelved} {
		v.Gateway().Kill()
		if died, err := v.start(ctx, arm(p, 3)); !died {
			must(t, err)
			select {
			case <-v.Gateway().Done():
			case <-ctx.Done():
				t.Fatalf("the gateway does not come to %s, see %s", p, v.Log("fieldgate"))
			}
		}
		must(t, v.note(p, nil))
	}
	must(t, v.StartGateway(ctx))
	must(t, v.crew.Finish(ctx))
	must(t, v.Await(ctx, "the backlog to drain", func() bool {
		return metric(ctx, v.Site, "fieldgate_store_messages") == 0 && metric(ctx, v.Site, "fieldgate_staged_bytes") == 0
	}))
	must(t, v.Gateway().Stop())
	shelf := make(map[uint64]bool)
	cfg := store.DefaultConfig()
	cfg.AllowAnyFS = true
	s, err := store.Open(filepath.Join(v.DataDir(), "store"), cfg, slog.New(slog.DiscardHandler))
	must(t, err)
	must(t, s.DeadLetters(func(d store.DeadLetter) bool {
		b, err := leafsim.ParseBody(d.Message.Body)
		must(t, err)
		shelf[b.N] = true
		return true
	}))
	must(t, s.Close())
	acked := 0
	for _, l := range v.crew.Leaves() {
		for _, a := range l.Acked() {
			if a.Leaf != refused {
				continue
			}
			acked++
			if !shelf[a.N] {
				t.Errorf("message %d was acknowledged, refused by the hub, and is not on the shelf", a.N)
			}
		}
	}
	if acked == 0 {
		t.Error("nothing was acknowledged to the leaf that the hub refuses: the test proves nothing")
	}
}

// The failpoints are in the binary that these tests kill, and nothing of them is
// in the one that is shipped: no name, no variable, no function to call.
func TestFailpointsAreNotShipped(t *testing.T) {
	dir, err := fragile()
	must(t, err)
	with, err := os.ReadFile(filepath.Join(dir, "fieldgate"))
	must(t, err)
	without, err := os.ReadFile(filepath.Join(bin, "fieldgate"))
	must(t, err)
	for _, p := range append(failpoint.Points(), failpoint.Variable, "gateway/failpoint.Hit") {
		if !bytes.Contains(with, []byte(p)) {
			t.Errorf("%s is not in the binary with failpoints: this test is looking for the wrong thing", p)
		}
		if bytes.Contains(without, []byte(p)) {
			t.Errorf("%s is in the shipped binary", p)
		}
	}
}
