package gateway_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// A message is refused to its leaf while a younger one is on its way to the hub:
// when the link is lost, the younger is not sent alone before the leaf repeats both.
func TestWhatIsSentBehindARefusedMessageDoesNotPassIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		b.end()
		b.cfg.StagedBytes = 64 << 10
		b.begin()
		defer b.end()
		b.path.LinkUp()
		b.disk.set(func() { b.disk.failNext, b.disk.stall = 1, true })
		a1 := b.publish("a", gateway.LaneTelemetry)
		b.pump(1)
		time.Sleep(260 * time.Millisecond) // a1 is in a commit of its own
		a2 := b.publish("a", gateway.LaneTelemetry)
		b.pump(1)
		b.publishPadded("b", gateway.LaneTelemetry, 70<<10) // memory is above its bound
		b.publish("b", gateway.LaneTelemetry)               // to flash only
		synctest.Wait()
		b.disk.set(func() { b.disk.stall = false })
		synctest.Wait()
		b.recall("a", 0, false)
		b.arrived = nil
		for b.pumpAny(7) {
		}
		if slices.Contains(b.arrived, a2) {
			t.Errorf("%v arrived after the refusal of %s", b.arrived, a1)
		}
		b.arrived = nil
		b.drain()
		for _, n := range b.arrived {
			if n == a2 && b.refused[a1] {
				t.Errorf("%s arrived and was acknowledged (%v) though %s before it was refused and is still the leaf's", a2, b.isAcked(a2), a1)
			}
		}
	})
}

// The same with the younger one in a commit of its own.
func TestWhatIsStoredBehindARefusedMessageDoesNotPassIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		defer b.end()
		b.path.LinkUp()
		b.disk.set(func() { b.disk.failNext, b.disk.stall = 1, true })
		a1 := b.publish("a", gateway.LaneTelemetry)
		b.pump(1)
		time.Sleep(260 * time.Millisecond) // a1 is in a commit of its own
		a2 := b.publish("a", gateway.LaneTelemetry)
		b.pump(1)
		time.Sleep(260 * time.Millisecond) // a2 in the next
		synctest.Wait()
		b.disk.set(func() { b.disk.stall = false })
		synctest.Wait()
		b.linkDown()
		b.arrived = nil
		b.drain()
		if b.refused[a1] && b.isAcked(a2) {
			t.Errorf("a2 acked, a1 refused; arrived %v", b.arrived)
		}
	})
}

// Message ids tell leaves apart: those that go under the gateway's own identity are
// one device to the hub.
func TestMessageIDsTellLeavesApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		defer b.end()
		b.path.LinkUp()
		one, two := b.publish("a", gateway.LaneTelemetry), b.publish("b", gateway.LaneTelemetry)
		b.drain()
		if b.ids[one] == b.ids[two] {
			t.Errorf("%s and %s both arrived as %s", one, two, b.ids[one])
		}
	})
}
