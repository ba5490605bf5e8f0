package amqp_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
	"github.com/fieldgate/fieldgate/test/hubsim"
)

// What every transport must do is in test/suite/uplink.

func TestManyLeavesShareOneConnection(t *testing.T) {
	leaves := names(200)
	b := newBench(t, leaves)
	for range 5 {
		for _, leaf := range leaves {
			b.publish(leaf, 2)
		}
	}
	b.awaitAll(leaves...)
	for _, leaf := range leaves {
		if d := b.checkOrder(leaf); d > 0 {
			t.Errorf("%s: %d duplicates without any failure", leaf, d)
		}
	}
	if s := b.hub.Stats(); s.ConnectionsEver != 1 || s.Identities != 200 {
		t.Errorf("the hub saw %d connections with %d identities, want 1 with 200", s.ConnectionsEver, s.Identities)
	}
}

func TestRefusedTokenCostsItsLeafOnly(t *testing.T) {
	leaves := names(3)
	bad, good := leaves[0], leaves[1:]
	b := newBench(t, leaves, func(s *settings) { s.uplink.AuthBackoffMin = gateway.Duration(50 * time.Millisecond) })
	b.hub.RefuseToken(bad, true)
	for _, leaf := range leaves {
		b.publish(leaf, 50)
	}
	b.awaitAll(good...)
	b.await("the refusal is in the state", func() bool { return strings.Contains(b.uplink.State().Refused[bad], "401") })
	if got := b.arrived(bad); len(got) != 0 {
		t.Fatalf("%d messages of the refused leaf arrived", len(got))
	}
	b.hub.RefuseToken(bad, false)
	b.awaitAll(bad)
	b.checkOrder(bad)
	b.await("the refusal is over", func() bool { return len(b.uplink.State().Refused) == 0 })
	if s := b.hub.Stats(); s.ConnectionsEver != 1 {
		t.Errorf("%d connections, want 1", s.ConnectionsEver)
	}
}

func TestLinkTakenAwayIsOpenedWithAFreshToken(t *testing.T) {
	b := newBench(t, names(1))
	for range 3 {
		b.publish("leaf-001", 5)
		b.awaitAll("leaf-001")
		b.hub.DetachLink("leaf-001", "amqp:unauthorized-access")
	}
	b.publish("leaf-001", 5)
	b.awaitAll("leaf-001")
	b.checkOrder("leaf-001")
	if s := b.uplink.State(); s.Recalls == 0 || len(s.Refused) > 0 {
		t.Errorf("state %+v", s)
	}
}

func TestLeafDisabledInTheMiddleIsRefusedUntilItIsEnabled(t *testing.T) {
	leaves := names(2)
	b := newBench(t, leaves, func(s *settings) {
		s.uplink.AuthBackoffMin = gateway.Duration(50 * time.Millisecond)
		s.amqp.LeavesPerSession = 1 // a link that ends with messages on it costs its session
	})
	b.hub.SlowSettle(2 * time.Millisecond)
	for _, leaf := range leaves {
		b.publish(leaf, 300)
	}
	b.await("the leaf is in the middle of it", func() bool { return len(b.arrived(leaves[0])) > 10 })
	b.hub.SetEnabled(leaves[0], false)
	b.awaitAll(leaves[1])
	b.await("the leaf is refused", func() bool { return b.uplink.State().Refused[leaves[0]] != "" })
	if b.complete(leaves[0]) {
		t.Fatal("the leaf was disabled too late to show anything")
	}
	b.hub.SetEnabled(leaves[0], true)
	b.awaitAll(leaves[0])
	b.checkOrder(leaves[0])
	if d := b.checkOrder(leaves[1]); d > 0 {
		t.Errorf("%d duplicates of the other leaf", d)
	}
}

func TestLeafWithoutKeyIsNamed(t *testing.T) {
	b := newBench(t, []string{"known"})
	b.publish("stranger", 1)
	b.publish("known", 1)
	b.awaitAll("known")
	b.await("the stranger is named", func() bool { return strings.Contains(b.uplink.State().Refused["stranger"], "no key") })
}

// disturb publishes while it does something to the hub again and again.
func disturb(b *bench, leaves []string, times int, something func()) {
	for range times {
		for _, leaf := range leaves {
			b.publish(leaf, 100)
		}
		before := b.hub.Stats().Messages
		b.await("something arrives", func() bool { return b.hub.Stats().Messages > before })
		something()
	}
	b.awaitAll(leaves...)
	for _, leaf := range leaves {
		b.checkOrder(leaf)
	}
	if s := b.hub.Stats(); s.ConnectionsEver != 1 {
		b.t.Errorf("%d connections, want 1", s.ConnectionsEver)
	}
}

func TestDetachedLinkKeepsOrder(t *testing.T) {
	leaves := names(4)
	b := newBench(t, leaves)
	b.hub.SlowSettle(5 * time.Millisecond)
	detached := 0
	disturb(b, leaves, 10, func() { detached += b.hub.DetachLink(leaves[0], "amqp:link:detach-forced") })
	if detached == 0 {
		t.Error("no link was ever detached")
	}
}

func TestEndedSessionKeepsOrder(t *testing.T) {
	leaves := names(6)
	b := newBench(t, leaves, func(s *settings) { s.amqp.LeavesPerSession = 3 })
	b.hub.SlowSettle(5 * time.Millisecond)
	ended := 0
	disturb(b, leaves, 5, func() { ended += b.hub.EndSession(leaves[0]) })
	if ended == 0 {
		t.Error("no session was ever ended")
	}
}

func TestEndedSessionCostsItsLeavesOnly(t *testing.T) {
	leaves := names(6)
	b := newBench(t, leaves, func(s *settings) { s.amqp.LeavesPerSession = 3 })
	for _, leaf := range leaves { // one after the other, so that we know who shares a session
		b.publish(leaf, 1)
		b.awaitAll(leaf)
	}
	// In the middle of it, however busy the machine is: what the hub has of the
	// leaves whose session will end it does not settle.
	inTheMiddle := func(leaves []string) {
		for _, leaf := range leaves {
			b.publish(leaf, 200)
		}
		b.await("all are in the middle of it", func() bool {
			arrivals := b.arrivals()
			return !slices.ContainsFunc(leaves, func(leaf string) bool { return len(arrivals[leaf]) < 20 })
		})
	}
	b.hub.SettleNever(true)
	inTheMiddle(leaves[:3])
	b.hub.SettleNever(false)
	b.hub.SlowSettle(20 * time.Millisecond)
	inTheMiddle(leaves[3:])
	if b.hub.EndSession(leaves[0]) == 0 {
		t.Fatal("no session was ended")
	}
	b.awaitAll(leaves...)
	for i, leaf := range leaves {
		if d := b.checkOrder(leaf); i >= 3 && d > 0 {
			t.Errorf("%s has nothing to do with it: %d duplicates", leaf, d)
		}
	}
	if s := b.uplink.State(); s.Recalls != 3 || s.Connects["ok"] != 1 {
		t.Errorf("state %+v, want 3 leaves recalled and one connection", s)
	}
}

func TestTokensAreRenewedInPlace(t *testing.T) {
	t.Parallel() // it waits most of the time
	leaves := names(5)
	// The hub ends the link of a token that runs out. Its clock is behind, so a busy
	// machine has that much longer to renew.
	const life, late = 2 * time.Second, 5 * time.Second
	b := newBench(t, leaves, func(s *settings) {
		s.hubLate = late
		s.amqp.TokenTTL = gateway.Duration(life)
	})
	for _, leaf := range leaves {
		b.publish(leaf, 1)
	}
	b.awaitAll(leaves...)
	// Until the tokens with which the links were attached have run out at the hub, too.
	for end := time.Now().Add(life + late + time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for _, leaf := range leaves {
			b.publish(leaf, 1)
		}
	}
	b.awaitAll(leaves...)
	for _, leaf := range leaves {
		if d := b.checkOrder(leaf); d > 0 {
			t.Errorf("%s: %d duplicates", leaf, d)
		}
	}
	if s := b.uplink.State(); s.Recalls != 0 || s.Connects["ok"] != 1 {
		t.Errorf("a link was lost: %+v", s)
	}
}

func TestRefusedRenewalCostsItsLeafOnly(t *testing.T) {
	t.Parallel() // it waits most of the time
	leaves := names(2)
	b := newBench(t, leaves, func(s *settings) {
		s.hubLate = 5 * time.Second // the other leaf has that long for its renewals
		s.amqp.TokenTTL = gateway.Duration(2 * time.Second)
	})
	for _, leaf := range leaves {
		b.publish(leaf, 1)
	}
	b.awaitAll(leaves...)
	b.hub.RefuseToken(leaves[0], true)
	b.await("the leaf is refused", func() bool {
		b.publish(leaves[0], 1)
		b.publish(leaves[1], 1)
		return b.uplink.State().Refused[leaves[0]] != ""
	})
	b.awaitAll(leaves[1])
	if d := b.checkOrder(leaves[1]); d > 0 {
		t.Errorf("%s: %d duplicates", leaves[1], d)
	}
}

func TestIdleLeafIsDetachedAndComesBack(t *testing.T) {
	b := newBench(t, names(2), func(s *settings) { s.uplink.IdleDetach = gateway.Duration(100 * time.Millisecond) })
	for range 3 {
		b.publish("leaf-001", 5)
		b.publish("leaf-002", 5)
		b.awaitAll("leaf-001", "leaf-002")
		b.await("links are gone", func() bool { return b.uplink.State().Links == 0 && b.hub.Stats().Links == 2 }) // $cbs stays
	}
	if s := b.uplink.State(); s.Recalls != 0 {
		t.Errorf("detaching cost something: %+v", s)
	}
	if d := b.checkOrder("leaf-001"); d > 0 {
		t.Errorf("%d duplicates", d)
	}
}

func TestRejectedMessageIsShelvedAndTheRestGoesOn(t *testing.T) {
	b := newBench(t, names(1))
	b.publish("leaf-001", 1)
	b.awaitAll("leaf-001")
	b.hub.Reject("leaf-001", "com.microsoft:argument-error", 1)
	b.publish("leaf-001", 1) // alone: the hub would refuse a batch as a whole
	b.await("refused", func() bool { return b.uplink.State().Rejected == 1 })
	b.publish("leaf-001", 20)
	b.await("the rest", func() bool { return b.complete("leaf-001", 2) })
	if got := b.arrived("leaf-001"); slices.Contains(got, 2) {
		t.Errorf("the rejected message arrived: %v", got)
	}
	b.await("shelved", func() bool { return b.uplink.State().Rejected == 1 })
}

// The hub refuses a batch as a whole. What is good in it goes out one by one, in
// its order; only the one that is refused alone is missing.
func TestRejectedBatchCostsNothingThatIsGood(t *testing.T) {
	b := newBench(t, names(1))
	b.publish("leaf-001", 1)
	b.awaitAll("leaf-001")
	b.hub.Reject("leaf-001", "com.microsoft:argument-error", 2)
	b.publish("leaf-001", 300)
	b.await("all but what was refused alone", func() bool {
		return b.complete("leaf-001", b.missing("leaf-001")...) &&
			len(b.missing("leaf-001")) == int(b.uplink.State().Rejected)
	})
	gap := b.missing("leaf-001")
	last := make(map[int]int) // position of the last copy
	for i, n := range b.arrived("leaf-001") {
		last[n] = i
	}
	for n := 2; n <= b.sent["leaf-001"]; n++ {
		if i, ok := last[n]; ok && i < last[n-1] {
			t.Fatalf("%d arrived at position %d, before %d at %d", n, i, n-1, last[n-1])
		}
	}
	if len(gap) > 2 {
		t.Errorf("missing: %v, and the hub refused two deliveries", gap)
	}
}

func TestUnansweredMessageCostsItsLink(t *testing.T) {
	t.Parallel() // it waits most of the time
	leaves := names(2)
	b := newBench(t, leaves, func(s *settings) { s.uplink.StallTimeout = gateway.Duration(stall) })
	b.hub.SettleNever(true)
	b.publish("leaf-001", 10)
	b.await("the stall", func() bool { return b.uplink.State().Recalls > 0 })
	b.hub.SettleNever(false)
	b.awaitAll("leaf-001")
	b.checkOrder("leaf-001")
	b.await("settled", func() bool { return b.uplink.State().Inflight == 0 })
	if s := b.hub.Stats(); s.ConnectionsEver != 1 {
		t.Errorf("%d connections, want 1", s.ConnectionsEver)
	}
}

func TestUplinkWaitsForTrustedTime(t *testing.T) {
	t.Parallel() // it waits most of the time
	quality := make(chan gateway.TimeQuality, 1)
	quality <- gateway.Unsynced
	b := newBench(t, names(1), func(s *settings) {
		s.clock = func() gateway.Instant {
			i := systemClock()
			q := <-quality
			quality <- q
			i.Quality = q
			return i
		}
	})
	b.publish("leaf-001", 1)
	b.await("the reason is said", func() bool { return b.uplink.State().Waiting == "trusted time" })
	if s := b.hub.Stats(); s.ConnectionsEver != 0 {
		t.Error("it connected with a clock that is not to be trusted")
	}
	<-quality
	quality <- gateway.Synced
	b.awaitAll("leaf-001")
}

func TestLinksOpenAgainAfterTheTokenPairIsLost(t *testing.T) {
	b := newBench(t, names(2))
	b.publish("leaf-001", 1)
	b.awaitAll("leaf-001")
	if b.hub.DetachLink("", "amqp:link:detach-forced") == 0 {
		t.Fatal("the hub on the bench detached nothing")
	}
	b.publish("leaf-002", 1)
	b.awaitAll("leaf-002")
}

func TestHubOfAnotherAuthorityIsNotTrusted(t *testing.T) {
	other := startHub(t, hubsim.Config{Dir: t.TempDir()})
	b := newBench(t, names(1), func(s *settings) {
		s.amqp.CAFile = other.Info().CAFile
		s.uplink.BackoffMax = gateway.Duration(50 * time.Millisecond)
		s.uplink.BackoffMin = s.uplink.BackoffMax
	})
	b.publish("leaf-001", 1)
	b.await("several attempts fail, and why is said", func() bool {
		s := b.uplink.State()
		return s.Connects[uplink.ConnectFailed] >= 3 && strings.Contains(s.LastError, "cannot secure the connection") &&
			strings.Contains(s.LastError, "unknown authority")
	})
	if s := b.hub.Stats(); s.Messages > 0 || s.Identities > 0 {
		t.Errorf("it got tokens or messages: %+v", s)
	}
}
