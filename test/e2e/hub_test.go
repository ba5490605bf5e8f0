package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// logSays says whether a line of the gateway's log has all the words.
func logSays(t *testing.T, s *site.Site, words ...string) bool {
	t.Helper()
	text, err := os.ReadFile(s.Log("fieldgate"))
	must(t, err)
lines:
	for line := range strings.Lines(string(text)) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		return true
	}
	return false
}

// A hub that cannot be reached from the start: the gateway runs, says why,
// takes everything, and delivers when it can.
func TestHubUnreachable(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 2*patience)
	list := devices(4, site.SDK, site.MQTT5, site.MQTT3, site.Serial)
	s := newSite(ctx, t, site.Plan{Leaves: list})
	must(t, s.Cut(ctx))
	must(t, s.StartGateway(ctx))
	const each = 20
	crew := launch(ctx, t, s, list, leafsim.Options{Count: each, Rate: 50})
	must(t, s.Await(ctx, "leaves to be acknowledged without a hub", func() bool { return crew.Stats().Acked == each*uint64(len(list)) }))
	must(t, s.Await(ctx, "the gateway to say that the hub is away", func() bool {
		return metric(ctx, s, "fieldgate_uplink_up") == 0 && metric(ctx, s, "fieldgate_store_messages") == float64(each*len(list))
	}))
	if n := len(s.Arrivals()); n != 0 {
		t.Errorf("%d messages arrived at a hub that is cut off", n)
	}
	must(t, s.Restore(ctx))
	allArrived(ctx, t, s)
	must(t, s.Await(ctx, "the gateway to say that all is well", func() bool {
		return metric(ctx, s, "fieldgate_uplink_up") == 1 && metric(ctx, s, "fieldgate_store_messages") == 0
	}))
	if !logSays(t, s, "no connection to hub", "error=") {
		t.Error("the log does not say why there was no connection")
	}
}

// A hub that refuses one leaf: its messages wait, the others' do not.
func TestHubRefusesALeaf(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 2*patience)
	list := devices(4, site.SDK, site.MQTT5, site.MQTT3, site.Serial)
	refused := list[0].ID
	s := newSite(ctx, t, site.Plan{Leaves: list, Config: site.Config{Uplink: "auth_backoff_min = \"1s\"\nauth_backoff_max = \"1s\"\n"}})
	must(t, s.Fault(ctx, "refuse-token", refused, "on"))
	must(t, s.StartGateway(ctx))
	const each = 20
	crew := launch(ctx, t, s, list, leafsim.Options{Count: each, Rate: 50})
	must(t, s.Await(ctx, "all leaves to be acknowledged", func() bool { return crew.Stats().Acked == each*uint64(len(list)) }))
	must(t, s.Await(ctx, "the others' messages to arrive", func() bool { return len(s.Arrivals()) == each*(len(list)-1) }))
	must(t, s.Await(ctx, "the gateway to say that a leaf is refused", func() bool {
		return metric(ctx, s, "fieldgate_uplink_refused_leaves") == 1 && metric(ctx, s, "fieldgate_store_messages") == each
	}))
	if !logSays(t, s, refused, "refuse") {
		t.Errorf("the log does not say that %s is refused", refused)
	}
	must(t, s.Fault(ctx, "refuse-token", refused, "off"))
	allArrived(ctx, t, s)
}

// A hub that throttles is waited for, never taken for a failure of a message.
func TestHubThrottles(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 2*patience)
	list := devices(3, site.SDK, site.MQTT5, site.Serial)
	s := running(ctx, t, site.Plan{Leaves: list})
	crew := launch(ctx, t, s, list, leafsim.Options{Rate: 50})
	must(t, s.Await(ctx, "messages to arrive", func() bool { return len(s.Arrivals()) > 50 }))
	must(t, s.Fault(ctx, "throttle", "on"))
	must(t, s.Await(ctx, "the gateway to notice", func() bool { return metric(ctx, s, "fieldgate_uplink_throttled_total") > 0 }))
	acked := crew.Stats().Acked
	must(t, s.Await(ctx, "leaves to be acknowledged from disk", func() bool { return crew.Stats().Acked > acked+100 }))
	must(t, s.Fault(ctx, "throttle", "off"))
	must(t, crew.Finish(ctx))
	allArrived(ctx, t, s)
	if n := metric(ctx, s, "fieldgate_messages_dropped_total"); n != 0 {
		t.Errorf("%v messages were dropped", n)
	}
}
