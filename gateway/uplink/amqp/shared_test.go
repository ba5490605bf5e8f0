package amqp_test

import (
	"errors"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/identity"
)

// sharedBench has leaves under the gateway's identity, gate-7, and one leaf with
// an identity of its own.
func sharedBench(t *testing.T, adjust ...func(*settings)) (b *bench, shared []string) {
	t.Helper()
	shared = names(20)
	keys := identity.NewKeyring("hub.test")
	return newBench(t, []string{"gate-7", "own"}, append(adjust, func(s *settings) {
		s.keys, s.proofs = keys, identity.NewProofs(keys, "gate-7", nil, nil)
		for _, leaf := range shared {
			s.proofs.Set(leaf, identity.AuthGateway)
		}
	})...), shared
}

func TestLeavesWithoutIdentityShareTheGateways(t *testing.T) {
	b, shared := sharedBench(t)
	all := append([]string{"own"}, shared...)
	for range 5 {
		for _, leaf := range all {
			b.publish(leaf, 4)
		}
	}
	b.awaitAll(all...)
	for _, leaf := range all {
		if d := b.checkOrder(leaf); d > 0 {
			t.Errorf("%s: %d duplicates without any failure", leaf, d)
		}
	}
	for a := range b.hub.Arrivals() {
		leaf, given := a.Properties["fieldgate-leaf"]
		if given != (a.Device == "gate-7") || leaf == "own" {
			t.Fatalf("a message of %q names the leaf %q", a.Device, leaf)
		}
	}
	// $cbs has two, the gateway one for all.
	if s := b.hub.Stats(); s.ConnectionsEver != 1 || s.Identities != 2 || s.Links != 4 {
		t.Errorf("the hub saw %d connections, %d identities and %d links, want 1, 2 and 4", s.ConnectionsEver, s.Identities, s.Links)
	}
}

// The link of many is detached, and its session ended, while messages of all are
// on it; that of a leaf with its own identity is not touched by it.
func TestSharedLinkThatEndsKeepsOrder(t *testing.T) {
	b, shared := sharedBench(t, func(s *settings) { s.amqp.LeavesPerSession = 1 })
	b.hub.SlowSettle(5 * time.Millisecond)
	cost := 0
	disturb(b, append([]string{"own"}, shared...), 4, func() {
		cost += b.hub.DetachLink("gate-7", "amqp:link:detach-forced")
		cost += b.hub.EndSession("gate-7")
	})
	if cost == 0 {
		t.Error("nothing was ever ended")
	}
	if d := b.checkOrder("own"); d > 0 {
		t.Errorf("the leaf with its own link: %d duplicates", d)
	}
}

// A message that the hub does not take ends the link of all: none of the others'
// is taken for it. It happens once: what ends the link again while messages go
// one at a time is taken for the one under way, and there is none here to blame.
func TestSharedLinkThatAMessageEndsCostsNoInnocent(t *testing.T) {
	b, shared := sharedBench(t)
	b.hub.SettleNever(true) // something is on the link when it ends, however busy the machine is
	for _, leaf := range shared {
		b.publish(leaf, 20)
	}
	b.await("something arrives", func() bool { return b.hub.Stats().Messages > 0 })
	b.hub.SettleNever(false)
	b.hub.SlowSettle(5 * time.Millisecond)
	b.hub.DetachLink("gate-7", "amqp:link:message-size-exceeded")
	b.awaitAll(shared...)
	for _, leaf := range shared {
		b.checkOrder(leaf)
	}
	if s := b.uplink.State(); s.Rejected > 0 || s.Recalls == 0 {
		t.Errorf("state %+v: want no message refused, and leaves recalled", s)
	}
}

func TestIdleSharedLinkIsDetachedAndComesBack(t *testing.T) {
	b, shared := sharedBench(t, func(s *settings) { s.uplink.IdleDetach = gateway.Duration(50 * time.Millisecond) })
	for range 3 {
		b.publish(shared[0], 3)
		b.publish(shared[1], 3)
		b.awaitAll(shared[:2]...)
		b.await("the link is gone", func() bool { return b.uplink.State().Links == 0 && b.hub.Stats().Links == 2 })
	}
	if s := b.uplink.State(); s.Recalls != 0 {
		t.Errorf("detaching cost something: %+v", s)
	}
}

func TestSharedLinkOfARefusedGateway(t *testing.T) {
	b, shared := sharedBench(t, func(s *settings) { s.uplink.AuthBackoffMin = gateway.Duration(50 * time.Millisecond) })
	b.hub.RefuseToken("gate-7", true)
	b.publish(shared[0], 5)
	b.publish("own", 5)
	b.awaitAll("own")
	b.await("the refusal is said", func() bool { return b.uplink.State().Refused[shared[0]] != "" })
	b.hub.RefuseToken("gate-7", false)
	b.awaitAll(shared[0])
}

// What needs an identity is refused in words, and nothing is opened for it.
func TestLeafWithoutIdentityHasNoTwin(t *testing.T) {
	b, shared := sharedBench(t)
	b.publish(shared[0], 1)
	b.awaitAll(shared[0])
	for name, ask := range map[string]func() error{
		"get":   func() error { _, err := b.uplink.GetTwin(t.Context(), shared[0]); return err },
		"patch": func() error { _, err := b.uplink.PatchReported(t.Context(), shared[0], []byte(`{}`)); return err },
	} {
		if refused, ok := errors.AsType[*gateway.TwinError](ask()); !ok || refused.Code != 400003 {
			t.Errorf("%s: got %v, want 400003", name, refused)
		}
	}
	b.twins.Attend(shared[0], new(deaf), gateway.WantsCommands|gateway.WantsCalls)
	b.publish(shared[0], 1)
	b.awaitAll(shared[0])
	if s := b.hub.Stats(); s.Links != 3 {
		t.Errorf("%d links at the hub, want 3", s.Links)
	}
}

// deaf is a way on which nothing must come.
type deaf struct{ gateway.Reach }
