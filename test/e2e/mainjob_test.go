package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/demo"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// The demonstration, shorter and with fewer leaves.
func TestMainJob(t *testing.T) {
	t.Parallel()
	var told strings.Builder
	err := demo.Run(testContext(t, 3*patience), demo.Options{
		Bin: bin, Dir: folder(t), Leaves: 6, Length: 10 * time.Second, Rate: 10, Out: &told,
	})
	if err != nil {
		t.Errorf("%v\n%s", err, told.String())
	}
}

// 200 leaves at once: one connection to the hub, each leaf under its own
// identity on it.
func TestTwoHundredLeaves(t *testing.T) {
	const leaves, each = 200, 20
	ctx := testContext(t, 3*patience)
	// Most log in with a token: a password costs the gateway a tenth of a
	// second each, by design.
	list := devices(leaves, site.SDK, site.SDK, site.SDK, site.SDK, site.MQTT5, site.SDK, site.SDK, site.SDK, site.SDK, site.MQTT3)
	s := running(ctx, t, site.Plan{Leaves: list})
	crew := launch(ctx, t, s, list, leafsim.Options{Count: each, Rate: 10})
	must(t, s.Await(ctx, "all leaves to send everything", func() bool { return crew.Stats().Acked == leaves*each }))
	must(t, s.AwaitArrival(ctx))

	hub, err := s.HubStats(ctx)
	must(t, err)
	if hub.ConnectionsOpen != 1 || hub.ConnectionsEver != 1 || hub.Identities != leaves {
		t.Errorf("the hub sees %d connections, saw %d ever, with %d identities; want 1, 1 and %d",
			hub.ConnectionsOpen, hub.ConnectionsEver, hub.Identities, leaves)
	}
	allArrived(ctx, t, s)
	report, err := s.Check(ctx)
	must(t, err)
	for _, l := range report.Leaves {
		if l.Arrived != each || l.Duplicated != 0 {
			t.Errorf("%s: %d arrived, %d duplicated; want %d and none: nothing failed here", l.ID, l.Arrived, l.Duplicated, each)
		}
	}
	if len(report.Leaves) != leaves {
		t.Errorf("messages arrived under %d identities, want %d", len(report.Leaves), leaves)
	}
}
