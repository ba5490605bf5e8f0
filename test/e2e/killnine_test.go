package e2e

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// The gateway is killed with signal 9 at random moments under load, with the
// link up or cut: nothing acknowledged is lost, and the order is kept.
func TestKillNine(t *testing.T) {
	rounds := 25 // of each mode of custody
	if testing.Short() {
		rounds = 3
	}
	for _, custody := range []string{"relay", "disk"} {
		t.Run(custody, func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			killRounds(t, rounds, custody, rand.New(rand.NewPCG(seed, 0)))
		})
	}
}

func killRounds(t *testing.T, rounds int, custody string, random *rand.Rand) {
	ctx := testContext(t, 5*patience)
	list := devices(8, site.SDK, site.SDK, site.MQTT3, site.SDK, site.MQTT5, site.SDK, site.SDK, site.Serial)
	s := running(ctx, t, site.Plan{Leaves: list, Config: site.Config{Custody: custody}})
	crew := launch(ctx, t, s, list, leafsim.Options{Rate: 40, AlarmEvery: 10, Size: 300})
	for round := range rounds {
		must(t, oneKill(ctx, s, crew, random))
		if t.Failed() {
			t.Fatalf("failed in round %d", round+1)
		}
	}
	must(t, s.Restore(ctx))
	must(t, crew.Finish(ctx))
	allArrived(ctx, t, s)
	if stats := crew.Stats(); stats.Resent == 0 && !testing.Short() {
		t.Errorf("no leaf had to send anything again in %d kills: they did not hit", rounds)
	}
}

// oneKill changes the link at random, waits until the leaves have got a random
// number of acknowledgements from this gateway, kills it and starts another.
func oneKill(ctx context.Context, s *site.Site, crew *site.Crew, random *rand.Rand) error {
	change := s.Restore
	if random.IntN(5) < 2 {
		change = s.Cut
	}
	before := crew.Stats().Acked
	half, more := uint64(random.IntN(100)), uint64(1+random.IntN(200))
	if err := s.Await(ctx, "acknowledgements", func() bool { return crew.Stats().Acked > before+half }); err != nil {
		return err
	}
	if err := change(ctx); err != nil {
		return err
	}
	if err := s.Await(ctx, "more acknowledgements", func() bool { return crew.Stats().Acked > before+half+more }); err != nil {
		return err
	}
	s.Gateway().Kill()
	return s.StartGateway(ctx)
}

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
