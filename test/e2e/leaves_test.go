package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/meter"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// A device over BLE, a Modbus slave and an MQTT-SN node at one gateway. What each says is at
// the hub under its own identity, and a cloud-to-device message to that identity writes
// the characteristic, sets the register, reaches the node. The hub is away for a while, and the
// gateway is killed in the middle of that: what was said before and after is there
// in the end, in order, and what the hub was told to send meanwhile has its effect once.
func TestLeavesOfThreeKinds(t *testing.T) {
	ctx := testContext(t, 4*time.Minute)
	node := site.Device{ID: "node-1", Kind: site.MQTTSN}
	s := running(ctx, t, site.Plan{Leaves: []site.Device{{ID: "valve-1", Kind: site.Valve}, {ID: "meter-1", Kind: site.Modbus}, node}})
	l := &snLeaf{ctx: ctx, t: t, heard: make(map[string][]string)}
	l.SN = &leafsim.SN{Filters: []string{"command/#"}, Heard: l.hear}
	leaf, err := s.Leaf(node, leafsim.Options{Line: l.SN, Rate: 20})
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- leaf.Run(ctx) }()
	k := threeKinds{bluetooth{ctx, t, s}, l}

	k.tells(11)
	k.await("what each says at the hub", func() bool {
		return slices.Contains(k.positions(), 11) && k.meterReadings() > 2 && leaf.Stats().Acked > 5
	})
	k.send("70", `{"setpoint": 21.5}`, "open")
	k.obeyed(70, 215, "open")

	must(t, s.Cut(ctx))
	acked, polled := leaf.Stats().Acked, k.taken("modbus")
	k.tells(12)
	k.await("custody without the hub", func() bool { return leaf.Stats().Acked > acked+20 && k.taken("modbus") > polled+5 })
	k.send("55", `{"setpoint": 22}`, "shut") // the hub has it, and cannot deliver it
	readings := k.taken("modbus")
	s.Gateway().Kill()
	must(t, s.StartGateway(ctx))
	acked = leaf.Stats().Acked
	k.tells(13)
	k.await("custody after the kill", func() bool { return leaf.Stats().Acked > acked+20 && k.taken("modbus") > 5 })
	must(t, s.Restore(ctx))
	k.obeyed(55, 220, "shut")

	leaf.Stop()
	select {
	case err := <-ended:
		must(t, err)
	case <-ctx.Done():
		t.Fatal("the node does not end")
	}
	l.work.Wait()
	k.await("all readings of the meter", func() bool { return k.meterReadings() >= readings+k.taken("modbus") })
	k.await("all that the valve has said", func() bool { return slices.Contains(k.positions(), 13) })
	// Where it was moved to was not said by it; 12 comes again when it is read at the next
	// connection.
	told := slices.DeleteFunc(k.positions(), func(n int) bool { return n < 11 || n > 13 })
	if !slices.Equal(slices.Compact(told), []int{11, 12, 13}) {
		t.Errorf("the valve said 11, 12 and 13, and %v has arrived", told)
	}
	if _, err := s.Readings("meter-1"); err != nil {
		t.Error(err)
	}
	if got := l.on("command/message"); !slices.Equal(got, []string{"open", "shut"}) {
		t.Errorf("the node was sent %q", got)
	}
	allArrived(ctx, t, s)
	for _, e := range s.Events() {
		if !slices.Contains([]string{"valve-1", "meter-1", "node-1"}, e.Device) {
			t.Errorf("%s came under the identity of %q", e.Body, e.Device)
		}
	}
}

type threeKinds struct {
	bluetooth
	node *snLeaf
}

// taken is how many messages of a kind of driver the running gateway has in custody, -1
// while it does not say.
func (k threeKinds) taken(driver string) int {
	all, err := k.Metrics(k.ctx)
	if err != nil {
		return -1
	}
	return int(all[fmt.Sprintf("fieldgate_messages_received_total{kind=\"telemetry\",transport=%q}", driver)])
}

// tells has the valve say where it stands, and waits for custody: there is nobody else over
// BLE.
func (k threeKinds) tells(position byte) {
	k.t.Helper()
	before := -1
	k.await("the valve to be listened to", func() bool {
		// What is read at each connection is in custody by then.
		before = k.taken("ble")
		return before > 0 && k.Radio().Tell("valve-1", position)
	})
	k.await("what the valve says to be in custody", func() bool { return k.taken("ble") > before })
}

// positions are those that have arrived from the valve under its identity, each message
// once.
func (k threeKinds) positions() (list []int) {
	ids := make(map[string]bool)
	for _, e := range k.Events() {
		var m struct{ Position *int }
		if e.Device != "valve-1" || ids[e.MessageID] {
			continue
		}
		ids[e.MessageID] = true
		if json.Unmarshal(e.Body, &m) != nil || m.Position == nil {
			k.t.Errorf("%s came under the identity of the valve", e.Body)
			continue
		}
		list = append(list, *m.Position)
	}
	return list
}

func (k threeKinds) meterReadings() int {
	list, _ := k.Readings("meter-1")
	return len(list)
}

// send has the hub send to each.
func (k threeKinds) send(valve, meter, node string) {
	k.t.Helper()
	must(k.t, k.Hub().Send(k.ctx, "valve-1", valve))
	must(k.t, k.Hub().Send(k.ctx, "meter-1", meter))
	must(k.t, k.Hub().Send(k.ctx, "node-1", node))
}

// obeyed waits until each has done what it was sent, and the hub knows.
func (k threeKinds) obeyed(position int, register uint16, text string) {
	k.t.Helper()
	k.holds(position)
	k.await("the register to be set", func() (set bool) {
		k.Bus().Do(1, func(m *meter.Slave) { set = m.Holding[0] == register })
		return set
	})
	k.await("the node to hear it", func() bool { return slices.Contains(k.node.on("command/message"), text) })
	for _, id := range []string{"valve-1", "meter-1", "node-1"} {
		k.await("the command to "+id+" to be completed", func() bool { return queued(k.ctx, k.t, k.Site, id) == 0 })
	}
}
