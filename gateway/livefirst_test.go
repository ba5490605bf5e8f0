package gateway_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// A leaf with a backlog and a steady stream of its own: what is live does not
// wait for the backlog, and the backlog gets its share.
func TestBacklogDrainsBesideLiveWithItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBenchWith(t, gateway.CustodyRelay, func(cfg *gateway.Config) {
			cfg.Lanes[gateway.LaneTelemetry].LiveFirst = true
			cfg.Lanes[gateway.LaneTelemetry].BackfillShare = 25
		})
		defer b.end()
		for range 100 {
			b.publish("a", gateway.LaneTelemetry)
		}
		synctest.Wait()
		b.path.LinkUp()
		synctest.Wait()
		for range 400 {
			b.publish("a", gateway.LaneTelemetry)
		}
		for len(b.arrived) < 200 {
			b.pump(10)
			b.settle("a", 10, gateway.Accepted)
			synctest.Wait()
		}
		old := 0
		for _, name := range b.arrived {
			if b.old[name] {
				old++
			}
		}
		if b.old[b.arrived[0]] || old < 49 || old > 51 {
			t.Errorf("%d of the first %d are from the backlog, want 25 %%; the first is %s", old, len(b.arrived), b.arrived[0])
		}
		b.drain()
		if err := b.check(); err != nil {
			t.Error(err)
		}
	})
}

// Live messages that fill the memory must not keep the backlog out of it.
func TestBacklogGetsMemoryBesideLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBenchWith(t, gateway.CustodyRelay, func(cfg *gateway.Config) {
			cfg.Lanes[gateway.LaneTelemetry].LiveFirst = true
			cfg.StagedBytes = 64 << 10
		})
		defer b.end()
		b.publish("old", gateway.LaneTelemetry)
		synctest.Wait()
		b.path.LinkUp()
		for range 60 {
			b.publishPadded("live", gateway.LaneTelemetry, 1000)
		}
		synctest.Wait()
		for range 5 {
			b.pump(1)
		}
		if !b.old["old/telemetry/1"] {
			t.Errorf("the backlog was not sent: %v", b.arrived)
		}
	})
}

// A budget of two messages a second holds what comes from flash to that, and
// leaves live messages alone.
func TestBudgetHoldsTheBacklogOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBenchWith(t, gateway.CustodyRelay, func(cfg *gateway.Config) {
			cfg.Lanes[gateway.LaneTelemetry].LiveFirst = true
			cfg.BackfillMessagesPerSecond = 2
		})
		defer b.end()
		for range 100 {
			b.publish("a", gateway.LaneTelemetry)
		}
		synctest.Wait()
		b.path.LinkUp()
		for range 200 {
			b.publish("b", gateway.LaneTelemetry)
			time.Sleep(50 * time.Millisecond)
			synctest.Wait()
			for b.pumpAny(10) {
				b.settle("a", 10, gateway.Accepted)
				b.settle("b", 10, gateway.Accepted)
			}
		}
		sent := make(map[byte]int)
		for _, name := range b.arrived {
			sent[name[0]]++
		}
		if sent['b'] != 200 || sent['a'] < 18 || sent['a'] > 22 {
			t.Errorf("in ten seconds %d live and %d of the backlog were sent, want 200 and about 20", sent['b'], sent['a'])
		}
	})
}
