package amqp_test

import (
	"errors"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// stall is far longer than a busy machine needs to settle a message, or a test to see
// what the ladder has done and stop it.
const stall = time.Second

func impatient(s *settings) {
	s.uplink.StallTimeout = gateway.Duration(stall)
	s.uplink.StallConnections = 2
	s.uplink.BackoffMin, s.uplink.BackoffMax = gateway.Duration(time.Millisecond), gateway.Duration(10*time.Millisecond)
}

// A hub that takes everything and settles nothing: the uplink gives up the link,
// then the session, then the connection, then itself; and the next process
// delivers everything.
func TestWatchdogClimbsItsLadder(t *testing.T) {
	t.Parallel() // it waits most of the time
	leaves := names(3)
	b := newBench(t, leaves, impatient)
	for _, leaf := range leaves { // all have a link in one session
		b.publish(leaf, 1)
		b.awaitAll(leaf)
	}
	b.await("all settled", func() bool { return b.uplink.State().Accepted == 3 })
	b.hub.SettleNever(true)
	b.publish(leaves[0], 10)
	// However late it is looked at: nothing wider is given up before what is narrower.
	b.await("the last rung", func() bool {
		climbed := b.uplink.State().Climbed
		for i, rung := range uplink.Rungs[1:] {
			if narrower := uplink.Rungs[i]; climbed[rung] > 0 && climbed[narrower] == 0 {
				t.Fatalf("%s was given up before %s: %v", rung, narrower, climbed)
			}
		}
		return climbed[uplink.RungProcess] > 0
	})
	select {
	case err := <-b.ended:
		if !errors.Is(err, uplink.ErrStuck) {
			t.Fatalf("the uplink ended with %v, want ErrStuck", err)
		}
	case <-time.After(time.Minute):
		t.Fatalf("the uplink has not ended: %+v", b.uplink.State())
	}
	s := b.uplink.State()
	if s.Rung != uplink.RungProcess || s.Climbed[uplink.RungLink] == 0 || s.Climbed[uplink.RungSession] == 0 ||
		s.Climbed[uplink.RungConnection] != 2 || s.Climbed[uplink.RungProcess] != 1 {
		t.Errorf("state %+v", s)
	}
	if h := b.hub.Stats(); h.Detached == 0 || h.SessionsEnded == 0 || h.ConnectionsEver != 2 {
		t.Errorf("hub %+v, want a link and a session ended, and the 2 connections that were given up", h)
	}
	b.end()
	b.hub.SettleNever(false)
	b.restart()
	b.await("all settled", func() bool { return b.path.State().Store.Lanes[gateway.LaneTelemetry].Messages == 0 })
	b.awaitAll(leaves...)
	for i, leaf := range leaves {
		if d := b.checkOrder(leaf); i > 0 && d > 0 {
			t.Errorf("%s had nothing unsettled and %d duplicates", leaf, d)
		}
	}
}

// While the hub settles for others, a leaf that it forgets costs its link and its
// session, never the connection.
func TestWatchdogSparesTheConnectionOfOthers(t *testing.T) {
	t.Parallel() // it waits most of the time
	leaves := names(2)
	b := newBench(t, leaves, impatient, func(s *settings) { s.amqp.LeavesPerSession = 1 })
	b.hub.SettleNever(true)
	b.publish(leaves[0], 3)
	b.await("the hub has them", func() bool { return len(b.arrived(leaves[0])) == 3 })
	b.hub.SettleNever(false)
	b.awaitAll(leaves[0])
	for range 10 {
		b.publish(leaves[1], 10)
		b.awaitAll(leaves[1])
	}
	b.await("everything is settled", func() bool { return b.uplink.State().Accepted == 103 })
	b.checkOrder(leaves[0])
	if d := b.checkOrder(leaves[1]); d > 0 {
		t.Errorf("%d duplicates of the other leaf", d)
	}
	s, h := b.uplink.State(), b.hub.Stats()
	if h.ConnectionsEver != 1 || s.Climbed[uplink.RungLink] == 0 || s.Rung != "" {
		t.Errorf("hub %+v, state %+v: want a link given up, and the ladder left", h, s)
	}
}

// A hub that says that it is throttled makes no progress either, but nothing of
// ours is at fault: no rung is climbed.
func TestWatchdogWaitsWhileTheHubAsksTo(t *testing.T) {
	t.Parallel() // it waits most of the time
	b := newBench(t, names(1), impatient)
	b.hub.Quota(true)
	b.publish("leaf-001", 5)
	b.await("the hub asks to wait", func() bool { return b.uplink.State().Throttled > 0 })
	time.Sleep(3 * stall) // three times what its first rung needs
	select {
	case err := <-b.ended:
		t.Fatalf("the uplink ended: %v", err)
	default:
	}
	if s := b.uplink.State(); len(s.Climbed) > 0 || s.ClosedUntil.IsZero() || b.hub.Stats().ConnectionsEver != 1 {
		t.Errorf("state %+v", s)
	}
}
