package powercut

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/store"
	"github.com/fieldgate/fieldgate/test/cutfs"
	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

var everyFault = flag.Bool("every-fault", false, "let each single operation fail, not some of them")

// next is which operation fails after the nth did.
func next(n int, random *rand.Rand) int {
	if *everyFault {
		return n + 1
	}
	return 3*n + random.IntN(2*n)
}

// faults are all ways in which one kind of operation can fail.
func faults(kind cutfs.Kind) (list []cutfs.Fault) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EROFS} {
		for _, forever := range []bool{false, true} {
			list = append(list, cutfs.Fault{Kind: kind, Errno: errno, Forever: forever})
		}
	}
	return list
}

func describe(f cutfs.Fault) string {
	often := "once"
	if f.Forever {
		often = "for ever"
	}
	return fmt.Sprintf("%v number %d fails %s with %v", f.Kind, f.Nth, often, f.Errno)
}

// Every operation of the store fails in turn, once or until further notice. The
// gateway lives, tells of it, acknowledges only what is safe, and goes on by
// itself when the fault is over.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("takes two minutes")
	}
	t.Logf("seed %d", *seed)
	for _, kind := range cutfs.Kinds {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			failInTurn(t, kind, rand.New(rand.NewPCG(*seed, uint64(kind))))
		})
	}
}

func failInTurn(t *testing.T, kind cutfs.Kind, random *rand.Rand) {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	leaves := devices(6, site.SDK, site.MQTT3, site.SDK, site.SDK, site.Serial, site.MQTT5)
	r := newRig(ctx, t, leaves, site.Config{Custody: "disk"}, cutfs.Options{Names: cutfs.ByFile})
	must(t, r.StartGateway(ctx))
	crew := r.launch(ctx, leaves[:5], leafsim.Options{Rate: 150, AlarmEvery: 10, Size: 3500})
	// MQTT 5 refuses single messages. Which of those behind it the gateway still
	// takes is then a matter of moments, so a leaf that wants them in order sends
	// one at a time.
	careful := r.launch(ctx, leaves[5:], leafsim.Options{Rate: 150, AlarmEvery: 10, Size: 3500, Window: 1})
	for _, f := range faults(kind) {
		runs := 0
		for f.Nth = 1; ; f.Nth = next(f.Nth, random) {
			hit, err := r.failOnce(ctx, crew, f)
			if err != nil {
				r.save("disk-image")
				t.Fatalf("%s: %v", describe(f), err)
			}
			if !hit {
				break
			}
			runs++
		}
		f.Nth = 0
		t.Logf("%v, %v, for ever %v: %d faults", f.Kind, f.Errno, f.Forever, runs)
		if runs == 0 {
			t.Errorf("%v: no operation failed: the test proves nothing", f)
		}
	}
	must(t, r.Restore(ctx))
	must(t, errors.Join(crew.Finish(ctx), careful.Finish(ctx)))
	must(t, r.AwaitArrival(ctx))
	report, err := r.Check(ctx)
	must(t, err)
	total := report.Total()
	t.Logf("%d acknowledged, %d lost, %d sent twice, %d sent again by leaves", total.Acked, total.Lost, total.Duplicated, total.Resent)
	if err := report.Err(); err != nil {
		t.Error(err)
	}
}

// failOnce lets leaves send while the link is down and then drain, with a fault
// set. It returns whether the fault struck.
func (r *rig) failOnce(ctx context.Context, crew *site.Crew, f cutfs.Fault) (hit bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := r.Cut(ctx); err != nil {
		return false, err
	}
	told := r.metric(ctx, "fieldgate_store_errors_total")
	struck := r.fs.Break(f)
	defer r.fs.Mend()
	before := crew.Stats().Acked
	const enough = 400 // for more than one segment
	hit, err = r.awaitOr(ctx, struck, "acknowledgements", func() bool { return crew.Stats().Acked >= before+enough })
	if err == nil && !hit {
		if err := r.Restore(ctx); err != nil {
			return false, err
		}
		hit, err = r.awaitOr(ctx, struck, "the store to drain", func() bool { return r.drained(ctx) })
	}
	if err != nil || !hit {
		return hit, err
	}
	if f.Forever {
		if err := r.Await(ctx, "the gateway to say that its store fails", func() bool { return r.ails(ctx, told) }); err != nil {
			return hit, err
		}
	} else if err := r.awaitMore(ctx, crew); err != nil {
		return hit, err
	}
	if err := r.checkSafe(ctx); err != nil {
		return hit, err
	}
	r.fs.Mend()
	if err := r.awaitMore(ctx, crew); err != nil {
		return hit, err
	}
	return hit, r.Await(ctx, "the gateway to say that its store is well", func() bool { return r.well(ctx) })
}

// awaitOr waits for a condition or for the fault to strike.
func (r *rig) awaitOr(ctx context.Context, struck <-chan struct{}, what string, met func() bool) (hit bool, err error) {
	err = r.Await(ctx, what, func() bool {
		select {
		case <-struck:
			hit = true
		default:
		}
		return hit || met()
	})
	return hit, err
}

// awaitMore waits until leaves are acknowledged again.
func (r *rig) awaitMore(ctx context.Context, crew *site.Crew) error {
	before := crew.Stats().Acked
	return r.Await(ctx, "acknowledgements after the fault", func() bool { return crew.Stats().Acked > before+50 })
}

// drained says that nothing waits on flash but what has just come, and that the
// segments of before are gone.
func (r *rig) drained(ctx context.Context) bool {
	if n := r.metric(ctx, "fieldgate_store_messages"); n < 0 || n > 100 {
		return false
	}
	segments, err := filepath.Glob(filepath.Join(r.DataDir(), "store/queue/*/*"))
	return err == nil && len(segments) <= 4
}

// ails says that the gateway says that something is wrong with its store, or was
// just now.
func (r *rig) ails(ctx context.Context, errors float64) bool {
	return r.metric(ctx, "fieldgate_store_failing") == 1 || r.metric(ctx, "fieldgate_store_hindered") == 1 ||
		r.metric(ctx, "fieldgate_store_errors_total") > errors
}

func (r *rig) well(ctx context.Context) bool {
	return r.metric(ctx, "fieldgate_store_failing") == 0 && r.metric(ctx, "fieldgate_store_hindered") == 0
}

// checkSafe returns an error if a message was acknowledged that would be gone if
// the power went now.
func (r *rig) checkSafe(ctx context.Context) error {
	acks, err := leafsim.ReadAcks(r.AckFile())
	if err != nil {
		return err
	}
	safe, err := r.onDisk()
	if err != nil {
		return fmt.Errorf("the store that a power cut would leave: %w", err)
	}
	var missing []leafsim.Ack
	err = r.Await(ctx, "everything acknowledged to be on disk or at the hub", func() bool {
		list := r.Arrivals()
		for _, a := range list[r.read:] {
			note(r.arrived, a.Body)
		}
		r.read, missing = len(list), missing[:0]
		for _, a := range acks {
			if m := (message{a.Leaf, a.Lane, a.N}); !safe[m] && !r.arrived[m] {
				missing = append(missing, a)
			}
		}
		return len(missing) == 0
	})
	if len(missing) > 0 {
		err = errors.Join(err, fmt.Errorf("%d are not, the first is %+v", len(missing), missing[0]))
	}
	return err
}

type message struct {
	leaf, lane string
	n          uint64
}

func note(safe map[message]bool, body []byte) {
	if b, err := leafsim.ParseBody(body); err == nil {
		safe[message{b.Leaf, b.Lane, b.N}] = true
	}
}

// onDisk returns the messages that would be in the store after a power cut now.
func (r *rig) onDisk() (safe map[message]bool, err error) {
	dir, err := os.MkdirTemp(r.dir, "after-cut-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := r.fs.Survivors(cutfs.Strict, nil).Save(dir); err != nil {
		return nil, err
	}
	c := store.DefaultConfig()
	c.SegmentSize, c.AllowAnyFS = 1<<20, true
	s, err := store.Open(filepath.Join(dir, "data/store"), c, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	safe = map[message]bool{}
	for lane := range gateway.Lane(gateway.Lanes) {
		for {
			list, err := s.Read(lane, 1000, 1<<20, nil)
			if err != nil {
				return nil, err
			}
			if len(list) == 0 {
				break
			}
			for _, m := range list {
				note(safe, m.Message.Body)
			}
		}
	}
	return safe, nil
}

// Every operation fails in turn while the gateway starts, with messages in its
// store. It starts nevertheless, or ends and says why; either way the next start
// finds everything.
func TestFaultAtStart(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Logf("seed %d", *seed)
	random := rand.New(rand.NewPCG(*seed, 99))
	for _, kind := range cutfs.Kinds {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			failStarts(t, kind, rand.New(rand.NewPCG(random.Uint64(), 0)))
		})
	}
}

func failStarts(t *testing.T, kind cutfs.Kind, random *rand.Rand) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
	t.Cleanup(cancel)
	leaves := devices(3, site.SDK)
	r := newRig(ctx, t, leaves, site.Config{Custody: "disk"}, cutfs.Options{Names: cutfs.ByFile})
	must(t, r.Cut(ctx))
	must(t, r.StartGateway(ctx))
	crew := r.launch(ctx, leaves, leafsim.Options{Rate: 200, AlarmEvery: 10, Size: 3500})
	must(t, r.Await(ctx, "acknowledgements", func() bool { return crew.Stats().Acked > 700 }))
	must(t, r.darken(cutfs.RandomHalf, random))
	refused, started := 0, 0
	for _, f := range faults(kind) {
		for f.Nth = 1; ; f.Nth = next(f.Nth, random) {
			struck := r.fs.Break(f)
			must(t, r.SpawnGateway())
			patient, enough := context.WithTimeout(ctx, patience)
			err := r.AwaitGateway(patient)
			enough()
			r.fs.Mend()
			select {
			case <-r.Gateway().Done():
				refused++
				if code := r.Gateway().ExitCode(); code != 1 { // a panic is 2
					t.Fatalf("%s: exit code %d, see %s", describe(f), code, r.Log("fieldgate"))
				}
			default:
				started++
				must(t, err)
			}
			must(t, r.darken(cutfs.RandomHalf, random))
			select {
			case <-struck:
				continue
			default:
			}
			break
		}
	}
	t.Logf("%d starts, %d refusals to start", started, refused)
	must(t, r.StartGateway(ctx))
	must(t, r.Restore(ctx))
	must(t, crew.Finish(ctx))
	must(t, r.AwaitArrival(ctx))
	report, err := r.Check(ctx)
	must(t, err)
	total := report.Total()
	t.Logf("%d acknowledged, %d lost", total.Acked, total.Lost)
	if err := report.Err(); err != nil {
		t.Error(err)
	}
}
