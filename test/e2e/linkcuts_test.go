package e2e

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// The link is cut at random moments, and nothing else happens: nothing is lost,
// and what is sent twice is a tail of what had arrived.
func TestLinkCuts(t *testing.T) {
	t.Parallel()
	cuts := 8
	if testing.Short() {
		cuts = 2
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	ctx := testContext(t, 5*patience)
	list := devices(6, site.SDK, site.MQTT5, site.Serial)
	s := running(ctx, t, site.Plan{Leaves: list})
	// A hub that takes its time has taken, at each cut, what it has not settled.
	must(t, s.Fault(ctx, "slow-settle", "60ms"))
	crew := launch(ctx, t, s, list, leafsim.Options{Rate: 40, AlarmEvery: 10})
	for range cuts {
		for _, change := range []func(context.Context) error{s.Cut, s.Restore} {
			enough := crew.Stats().Acked + uint64(1+random.IntN(300))
			must(t, s.Await(ctx, "acknowledgements", func() bool { return crew.Stats().Acked > enough }))
			must(t, change(ctx))
		}
	}
	must(t, crew.Finish(ctx))
	allArrived(ctx, t, s)
	report, err := s.Check(ctx)
	must(t, err)
	total := report.Total()
	if total.Ragged != 0 || total.Resent != 0 {
		t.Errorf("%d ragged runs, %d messages sent again by leaves; want none, nothing happened to leaves or gateway", total.Ragged, total.Resent)
	}
	if total.Duplicated == 0 {
		t.Error("no message was sent twice: the cuts did not hit")
	}
}
