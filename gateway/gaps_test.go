package gateway_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
)

// What the hub refuses is said by the next message that is taken after it.
func TestDroppedIsSaidWhenTheUplinkTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		defer b.end()
		b.path.LinkUp()
		for range 3 {
			b.publish("a", gateway.LaneTelemetry)
		}
		b.pump(1)
		b.settle("a", 1, gateway.Refused)
		b.pump(10)
		for _, d := range b.flight["a"] {
			if d.Dropped != 1 {
				t.Errorf("number %d says %d, want 1", d.Seq, d.Dropped)
			}
		}
	})
}

// Numbers of an earlier start are no gaps of this one, and those of that start are
// said by what is left of it.
func TestDroppedCountsItsOwnStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBenchWith(t, gateway.CustodyRelay, func(c *gateway.Config) { c.Lanes[gateway.LaneTelemetry].TTL = gateway.Duration(time.Hour) })
		for range 5 {
			b.publish("a", gateway.LaneTelemetry)
		}
		synctest.Wait()
		time.Sleep(50 * time.Minute)
		b.publish("a", gateway.LaneTelemetry)
		synctest.Wait()
		b.crash()
		defer b.end()
		time.Sleep(50 * time.Minute)
		b.publish("a", gateway.LaneTelemetry)
		synctest.Wait()
		b.path.LinkUp()
		synctest.Wait()
		b.pumpAny(10)
		var got []string
		for _, d := range b.flight["a"] {
			got = append(got, fmt.Sprint(d.Start, "/", d.Seq, " says ", d.Dropped))
		}
		if want := "[1/6 says 5 2/1 says 0]"; fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
	})
}

// Drops at the bound of the store are said, also of messages that were on their
// way to the hub then.
func TestDroppedCountsTheBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyDisk)
		defer b.end()
		b.path.LinkUp()
		for range 6 {
			b.publish("a", gateway.LaneTelemetry)
		}
		synctest.Wait()
		b.pump(2)
		b.linkDown()                                 // 3 to 6 go back to flash
		b.store.dropOldest(gateway.LaneTelemetry, 2) // 1 and 2
		b.path.LinkUp()
		synctest.Wait()
		b.pumpAny(1)
		b.store.dropOldest(gateway.LaneTelemetry, 2) // 3 is out, 4 read back
		b.linkDown()
		b.path.LinkUp()
		synctest.Wait()
		b.pumpAny(10)
		if ds := b.flight["a"]; len(ds) != 2 || ds[0].Seq != 5 || ds[0].Dropped != 4 || ds[1].Dropped != 4 {
			for _, d := range ds {
				t.Errorf("number %d says %d", d.Seq, d.Dropped)
			}
		}
	})
}

// numbers is what a test of the numbers' proof knows beside the bench.
type numbers struct {
	*bench
	made     map[string]*gateway.Message
	accepted map[string]bool
	said     []claim
}

// claim is what a message said as it was taken.
type claim struct {
	leaf        string
	lane        gateway.Lane
	start       uint32
	seq, number uint64
}

func (n *numbers) sent() (sum int64) {
	for _, s := range n.path.State().Sent {
		sum += s
	}
	return sum
}

func (n *numbers) accept(leaf string, count int) {
	for ; count > 0 && len(n.flight[leaf]) > 0; count-- {
		name, before := string(n.flight[leaf][0].Body), n.sent()
		n.settle(leaf, 1, gateway.Accepted)
		if n.sent() > before {
			n.accepted[name] = true
		}
	}
}

func (n *numbers) take(count int) bool {
	ok := n.pump(count)
	for _, ds := range n.flight {
		for _, d := range ds {
			n.said = append(n.said, claim{d.Leaf, d.Lane, d.Start, d.Seq, d.Dropped})
		}
	}
	return ok
}

// takeAny is take until a leaf has something, as pumpAny.
func (n *numbers) takeAny(count int) bool {
	for range 3 {
		if n.take(count) {
			return true
		}
	}
	return false
}

func (n *numbers) do(o op) {
	switch o.what {
	case "publish":
		for range o.n {
			n.publish(o.leaf, o.lane)
		}
	case "pump":
		n.take(o.n)
	case "settle":
		n.accept(o.leaf, o.n)
	case "poison":
		if ds := n.flight[o.leaf]; len(ds) > 0 {
			n.flight[o.leaf] = ds[1:]
			if n.path.Settle(ds[0], gateway.Refused, "test") != nil {
				n.recall(o.leaf, o.d, false) // as the uplink does
			}
		}
	case "bound":
		n.store.dropOldest(o.lane, o.n)
	default:
		n.bench.do(o)
	}
}

func (n *numbers) drain() {
	n.disk.set(func() { n.disk.full, n.disk.stall = false, false })
	n.path.LinkUp()
	for quiet := 0; quiet < 3; quiet++ {
		time.Sleep(time.Minute)
		synctest.Wait()
		for n.takeAny(7) {
			quiet = 0
			for leaf := range n.flight {
				n.accept(leaf, 1<<30)
			}
			synctest.Wait()
		}
		for leaf := range n.flight {
			n.accept(leaf, 1<<30)
		}
	}
}

// gaps counts the numbers below one that the hub has never accepted.
func (n *numbers) gaps(c claim) (sum uint64) {
	for name, m := range n.made {
		if m.Leaf == c.leaf && m.Lane == c.lane && m.Start == c.start && m.Seq > 0 && m.Seq < c.seq && !n.accepted[name] {
			sum++
		}
	}
	return sum
}

// Whatever is dropped or refused, for whatever reason and in whatever order: no
// message says more than is true, and the last of a start says all.
func TestNumbersProveThatNothingIsMissing(t *testing.T) {
	for _, c := range []struct {
		name      string
		custody   string
		liveFirst bool
		memory    gateway.Size
	}{
		{"relay", gateway.CustodyRelay, false, 0},
		{"disk", gateway.CustodyDisk, false, 0},
		{"relay, live first", gateway.CustodyRelay, true, 0},
		{"relay, little memory", gateway.CustodyRelay, false, 700},
		{"disk, live first, little memory", gateway.CustodyDisk, true, 700},
	} {
		t.Run(c.name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				ops := drawOpsOf(rt, "poison", "poison", "bound", "wait", "wait")
				var err error
				synctest.Test(t, func(t *testing.T) {
					n := &numbers{made: map[string]*gateway.Message{}, accepted: map[string]bool{}}
					n.bench = newBenchWith(t, c.custody, func(cfg *gateway.Config) {
						for l := range cfg.Lanes {
							cfg.Lanes[l].LiveFirst = c.liveFirst
						}
						cfg.Lanes[gateway.LaneTelemetry].TTL = gateway.Duration(30 * time.Second)
						if c.memory > 0 {
							cfg.StagedBytes = c.memory
						}
					})
					n.onPublish = func(name string, m *gateway.Message) { n.made[name] = m }
					for _, o := range ops {
						n.do(o)
					}
					n.drain()
					last := len(n.said)
					for _, leaf := range []string{"a", "b"} {
						n.publish(leaf, gateway.LaneAlarm)
						n.publish(leaf, gateway.LaneTelemetry)
					}
					n.drain()
					for i, s := range n.said {
						if want := n.gaps(s); s.number > want || i >= last && s.number != want {
							err = fmt.Errorf("%+v, and %d are missing", s, want)
						}
					}
					n.end()
				})
				if err != nil {
					rt.Fatal(err)
				}
			})
		})
	}
}
