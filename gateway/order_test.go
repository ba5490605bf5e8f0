package gateway_test

import (
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// A leaf that stalls has one message on flash, one sent and only in memory, and
// one unsent. The unsent one must not reach flash before the sent one.
func TestStalledLeafKeepsItsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		b.end()
		b.cfg.StagedBytes = 64 << 10
		b.begin()
		defer b.end()
		b.path.LinkUp()
		want := []string{b.publish("a", gateway.LaneTelemetry)}
		b.pump(1)
		time.Sleep(10100 * time.Millisecond)
		want = append(want, b.publish("a", gateway.LaneTelemetry))
		b.pump(1)
		want = append(want, b.publish("a", gateway.LaneTelemetry))
		b.publishPadded("b", gateway.LaneTelemetry, 40<<10) // memory is scarce now
		time.Sleep(50 * time.Millisecond)
		b.publishPadded("c", gateway.LaneAlarm, 10) // has the stall watch look before a2 is due on flash
		synctest.Wait()
		b.linkDown()
		b.arrived = nil // what was on the wire is lost with the link
		b.drain()
		got := slices.DeleteFunc(slices.Clone(b.arrived), func(name string) bool { return !slices.Contains(want, name) })
		if !slices.Equal(got, want) {
			t.Errorf("after the link loss %v arrived, want %v", got, want)
		}
	})
}

// The first of three messages is refused by the store while the second is in a
// commit of its own and the third is only in memory: the leaf begins again with
// the first, so all three are refused.
func TestRefusalReachesTheNextCommitAndMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		defer b.end()
		b.path.LinkUp()
		b.disk.set(func() { b.disk.failNext, b.disk.stall = 1, true })
		names := []string{b.publish("a", gateway.LaneTelemetry)}
		time.Sleep(260 * time.Millisecond) // the first is on its way to flash
		names = append(names, b.publish("a", gateway.LaneTelemetry))
		time.Sleep(260 * time.Millisecond) // so is the second, in another commit
		names = append(names, b.publish("a", gateway.LaneTelemetry))
		synctest.Wait()
		b.disk.set(func() { b.disk.stall = false })
		synctest.Wait()
		for _, name := range names {
			if !b.refused[name] {
				t.Errorf("%s is not refused", name)
			}
		}
		b.drain()
		if len(b.arrived) > 0 {
			t.Errorf("%v arrived, though the leaf will send all of it again", b.arrived)
		}
	})
}

// Telemetry that the hub does not settle fills half of the memory. The alarm
// lane may use the rest, so its backlog drains all the same.
func TestAlarmBacklogDrainsBesideUnsettledTelemetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		b.end()
		b.cfg.StagedBytes = 64 << 10
		b.begin()
		defer b.end()
		b.path.LinkUp()
		for range 40 {
			b.publishPadded("t", gateway.LaneTelemetry, 1000)
		}
		b.pump(100)
		const alarms = 240
		for range alarms {
			b.publishPadded("a", gateway.LaneAlarm, 500)
			synctest.Wait()
		}
		for range 2 * alarms {
			synctest.Wait()
			b.pump(7)
			b.settle("a", 7, gateway.Accepted)
		}
		if n := b.path.State().Sent[gateway.LaneAlarm]; n != alarms {
			t.Errorf("%d of %d alarms were sent", n, alarms)
		}
	})
}

// brokenLane cannot read one lane.
type brokenLane struct {
	*fakeStore
	lane gateway.Lane
}

func (s *brokenLane) Read(l gateway.Lane, n, bytes int, park func(string) bool) ([]gateway.Stored, error) {
	if l == s.lane {
		return nil, errors.New("unreadable")
	}
	return s.fakeStore.Read(l, n, bytes, park)
}

// A lane whose backlog cannot be read holds up no other.
func TestUnreadableLaneHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		defer b.end()
		alarm, telemetry := b.publish("a", gateway.LaneAlarm), b.publish("a", gateway.LaneTelemetry)
		synctest.Wait()
		b.stop()
		path := gateway.NewPath(b.cfg, &brokenLane{b.store, gateway.LaneAlarm}, allLeaves{}, nil, wallClock, slog.New(slog.DiscardHandler))
		b.run(path)
		b.path.LinkUp()
		time.Sleep(3 * time.Second)
		b.pump(10)
		if !slices.Equal(b.arrived, []string{telemetry}) {
			t.Errorf("arrived %v, want %s, and %s when it can be read", b.arrived, telemetry, alarm)
		}
	})
}

// The hub's refusal of a delivery that was recalled meanwhile means nothing: the
// message is sent again and shelved when it is refused then.
func TestLateRefusalIsNotShelved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		defer b.end()
		b.path.LinkUp()
		b.publish("a", gateway.LaneTelemetry)
		b.pump(1)
		late := b.flight["a"][0]
		b.recall("a", 0, false)
		b.path.Settle(late, gateway.Refused, "late")
		b.pump(1)
		b.settle("a", 1, gateway.Refused)
		if n := len(b.disk.shelf); n != 1 {
			t.Errorf("the message is on the shelf %d times", n)
		}
	})
}
