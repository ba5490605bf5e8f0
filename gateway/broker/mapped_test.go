package broker

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/broker/mapping"
)

// newMappedBench has the firmware of the field with two lines of rule each, and
// the leaves lamp and lock behind the bridge z2m.
func newMappedBench(t *testing.T) *bench {
	b := newBench(t, nil)
	for _, id := range []string{"z2m", "lamp", "lock"} {
		b.addLeaf(id)
	}
	b.end()
	b.rules = mapping.Compile([]mapping.Rule{
		{Topic: "tele/{leaf}/{channel}", Kind: mapping.Telemetry},
		{Topic: "cmnd/{leaf}/{name}", Kind: mapping.Command},
		{Topic: "cmnd/{leaf}/{name}", Kind: mapping.Call, Reply: "stat/{leaf}/RESULT"},
		{Topic: "cfg/{leaf}/{name}", Kind: mapping.Desired},
		{Topic: "all/{leaf}/desired", Kind: mapping.Desired, Login: "z2m"},
		{Topic: "zigbee2mqtt/{leaf}/get/{name}", Kind: mapping.Call, Reply: "zigbee2mqtt/{leaf}", Login: "z2m"},
		{Topic: "zigbee2mqtt/{leaf}", Kind: mapping.Telemetry, Login: "z2m"},
		{Topic: "zigbee2mqtt/{leaf}/set", Kind: mapping.Command, Login: "z2m"},
		{Topic: "zigbee2mqtt/{leaf}/state", Kind: mapping.Reported, Login: "z2m"},
	})
	b.start()
	return b
}

func commandFor(leaf, name string, n int) *gateway.Command {
	return &gateway.Command{
		Leaf: leaf, Body: fmt.Appendf(nil, "%s %d", leaf, n), Number: uint64(n), Enqueued: time.UnixMilli(1000),
		Properties: []gateway.Property{{Name: "command", Value: name}},
	}
}

func (b *bench) untilAttended(leaf string, want gateway.Interest) {
	b.Helper()
	b.until(fmt.Sprintf("%s attended with %b", leaf, want), func() bool { return b.desk.of(leaf) == want })
}

func TestMappedLeaf(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newMappedBench(t)
		w := b.leaf("pump-1", version)
		w.publish(1, "tele/pump-1/SENSOR", "21")
		w.puback(1)
		if m := b.path.message(0); m.Leaf != "pump-1" || m.Channel != "SENSOR" || m.Lane != gateway.LaneTelemetry {
			t.Errorf("got %+v", m)
		}
		w.listen(1, "cmnd/pump-1/#")
		b.untilWants(gateway.WantsCommands | gateway.WantsCalls)
		v := &verdicts{}
		b.b.Command(commandFor("pump-1", "POWER", 1), v.of("c1"))
		got := w.receive()
		if got.topic != "cmnd/pump-1/POWER" || got.body != "pump-1 1" || got.qos != 1 {
			t.Errorf("got %+v", got)
		}
		w.acknowledge(got.id)
		b.untilSaid(v, "c1 completed")
	})
}

// Firmware says more than there are rules for, in its will too.
func TestMappedLeafMayChatter(t *testing.T) {
	b := newMappedBench(t)
	w := b.dial()
	if code, _ := w.connect(hello{clientID: "DVES_1", user: "pump-1", password: secret, version: version311, will: &will{topic: "stat/pump-1/LWT", payload: "Offline"}}); code != 0 {
		t.Fatalf("refused with %d", code)
	}
	w.publish(1, "tasmota/discovery/1/config", "{}")
	w.puback(1)
	w.publish(2, "tele/pump-1/STATE", "on")
	w.puback(2)
	if n := b.path.count(); n != 1 {
		t.Errorf("%d messages, want 1", n)
	}
	if n := b.b.State().Refused[RefuseRule]; n != 2 {
		t.Errorf("%d publications counted as without a rule, want 2", n)
	}
	w.publish(3, "leaf/pump-2/telemetry", "x") // a dialect's topic is none of chatter
	w.expectClosed()
}

func TestBridge(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newMappedBench(t)
		w := b.leaf("z2m", version)
		w.listen(1, "zigbee2mqtt/#")
		for i, leaf := range []string{"lamp", "lock"} {
			if wants := b.desk.of(leaf); wants != 0 {
				t.Errorf("the bridge listens for %s, of which it has not spoken, with %b", leaf, wants)
			}
			w.publish(uint16(i+1), "zigbee2mqtt/"+leaf, leaf)
			w.puback(uint16(i + 1))
			if m := b.path.message(i); m.Leaf != leaf || m.Channel != "" || string(m.Body) != leaf {
				t.Errorf("got %+v", m)
			}
			b.untilAttended(leaf, gateway.WantsCommands|gateway.WantsCalls)
		}
		w.publish(3, "zigbee2mqtt/lamp/state", `{"on":true}`)
		w.puback(3)
		if r := b.twins.reported(); len(r) != 1 || r[0].leaf != "lamp" || r[0].patch != `{"on":true}` {
			t.Errorf("reported %+v", r)
		}
		if b.desk.of("pump-1") != 0 || b.desk.of("z2m") != 0 {
			t.Error("the bridge listens for who has nothing to do with it")
		}
		// The first command of each has the same number: they are two.
		v := &verdicts{}
		for _, leaf := range []string{"lamp", "lock"} {
			b.desk.mu.Lock()
			way := b.desk.ways[leaf]
			b.desk.mu.Unlock()
			way.Command(commandFor(leaf, "x", 1), v.of(leaf))
			got := w.receive()
			if got.topic != "zigbee2mqtt/"+leaf+"/set" || got.body != leaf+" 1" {
				t.Errorf("got %+v", got)
			}
			w.acknowledge(got.id)
		}
		b.untilSaid(v, "lamp completed, lock completed")
		w.c.Close()
		away := gateway.Interest(0)
		if version == version311 { // its session is kept
			away = gateway.WantsCommands | gateway.WantsCalls | gateway.Asleep
		}
		b.untilAttended("lamp", away)
		b.untilAttended("lock", away)
	})
}

// A session that is kept listens for its leaves after a restart as well.
func TestBridgeAsleep(t *testing.T) {
	b := newMappedBench(t)
	w := b.dial()
	w.connect(hello{clientID: "z2m", user: "z2m", password: secret, version: version311, keep: true})
	w.listen(1, "zigbee2mqtt/lamp/set")
	b.untilAttended("lamp", gateway.WantsCommands)
	w.c.Close()
	b.untilAttended("lamp", gateway.WantsCommands|gateway.Asleep)
	b.end()
	b.desk = newFakeDown()
	b.start()
	b.untilAttended("lamp", gateway.WantsCommands|gateway.Asleep)
}

// Neither does a leaf act for another without a rule that names it, nor a bridge
// for one that is not in its rule or not admitted.
func TestRulesKeepLeavesApart(t *testing.T) {
	b := newMappedBench(t)
	for _, c := range []struct{ login, topic string }{
		{"pump-1", "tele/pump-2/SENSOR"},
		{"pump-1", "zigbee2mqtt/lamp"},
		{"pump-1", "zigbee2mqtt/lamp/state"},
		{"pump-1", "cmnd/pump-1/POWER"},
		{"z2m", "tele/lamp/SENSOR"},
		{"z2m", "zigbee2mqtt/stranger"},
		{"z2m", "zigbee2mqtt/stranger/state"},
		{"z2m", "zigbee2mqtt/lamp/set"},
		{"z2m", "leaf/lamp/telemetry"},
	} {
		w := b.leaf(c.login, version5)
		w.publish(1, c.topic, `{"x":1}`)
		w.expect(c.login+" at "+c.topic, 0x40, 0, 1, 0x87)
		w.c.Close()
	}
	if n := b.path.count(); n != 0 || len(b.twins.reported()) != 0 {
		t.Errorf("%d messages and the reports %+v got through", n, b.twins.reported())
	}
	for _, c := range []struct{ login, filter string }{
		{"pump-1", "cmnd/pump-2/#"},
		{"pump-1", "cmnd/+/POWER"},
		{"pump-1", "cmnd/#"},
		{"pump-1", "#"},
		{"pump-1", "zigbee2mqtt/#"},
		{"pump-1", "zigbee2mqtt/lamp/set"},
		{"z2m", "cmnd/lamp/#"},
		{"z2m", "leaf/lamp/#"},
		{"z2m", "#"},
	} {
		w := b.leaf(c.login, version5)
		w.send(frame(0x82, append(append([]byte{0, 9, 0}, text(c.filter)...), 1)))
		w.expect(c.login+" at "+c.filter, 0x90, 0, 9, 0, 0x87)
		w.c.Close()
	}
	w := b.leaf("pump-1", version311)
	w.listen(1, "cmnd/pump-1/#")
	b.untilWants(gateway.WantsCommands | gateway.WantsCalls)
	v := &verdicts{}
	b.b.Command(commandFor("lamp", "x", 1), v.of("lamp"))
	b.untilSaid(v, "lamp undelivered")
}

// ask calls a method on a way, and returns its answer later.
func (b *bench) ask(way gateway.Reach, leaf, name, body string) func() string {
	answer := make(chan string, 1)
	go func() {
		ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
		defer cancel()
		r, err := way.Call(ctx, &gateway.Call{Leaf: leaf, Name: name, Body: []byte(body)})
		if err != nil {
			answer <- err.Error()
			return
		}
		answer <- fmt.Sprintf("%d %s", r.Status, r.Body)
	}()
	return func() string { return <-answer }
}

// Firmware that knows nothing of methods is called, one call at a time; what it
// says on the topic of its answers is the answer, and a message if there is a rule.
func TestMappedCall(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newMappedBench(t)
		w := b.leaf("pump-1", version)
		w.listen(1, "cmnd/pump-1/#")
		b.untilWants(gateway.WantsCommands | gateway.WantsCalls)
		for _, c := range []struct{ body, sent, said, answer string }{
			{`"ON"`, "ON", `{"POWER":"ON"}`, `200 {"POWER":"ON"}`},
			{`{"a":1}`, `{"a":1}`, "Done", `200 "Done"`},
			{"null", "", "", "200 "},
		} {
			answer := b.ask(b.b, "pump-1", "POWER", c.body)
			got := w.receive()
			if got.topic != "cmnd/pump-1/POWER" || got.body != c.sent || got.qos != 0 {
				t.Errorf("%s came as %+v", c.body, got)
			}
			w.publish(1, "stat/pump-1/RESULT", c.said)
			w.puback(1)
			if got := answer(); got != c.answer {
				t.Errorf("%s: answer %s, want %s", c.body, got, c.answer)
			}
		}
		w.publish(1, "stat/pump-1/RESULT", "nobody has asked")
		w.puback(1)
		if n := b.path.count(); n != 0 {
			t.Errorf("%d answers became messages", n)
		}
		// The second one waits for the end of the first.
		first := b.ask(b.b, "pump-1", "A", "1")
		w.receive()
		second := b.ask(b.b, "pump-1", "B", "2")
		w.publish(1, "stat/pump-1/RESULT", `"a"`)
		for range 2 { // in any order
			kind, body := w.packet()
			if kind == 0x40 {
				continue
			}
			if got := w.parse(kind, body); got.topic != "cmnd/pump-1/B" {
				t.Errorf("the second call came as %+v", got)
			}
		}
		w.publish(1, "stat/pump-1/RESULT", `"b"`)
		w.puback(1)
		if a, b := first(), second(); a != `200 "a"` || b != `200 "b"` {
			t.Errorf("answers %s and %s", a, b)
		}
		gone := b.ask(b.b, "pump-1", "C", "")
		w.receive()
		w.c.Close()
		if got := gone(); got != gateway.ErrAbsent.Error() {
			t.Errorf("a leaf that left answers %s", got)
		}
	})
}

// A bridge answers for those behind it; its answer is their telemetry too.
func TestBridgedCall(t *testing.T) {
	b := newMappedBench(t)
	w := b.leaf("z2m", version311)
	w.listen(1, "zigbee2mqtt/#")
	w.publish(1, "zigbee2mqtt/lamp", "{}")
	w.puback(1)
	b.untilAttended("lamp", gateway.WantsCommands|gateway.WantsCalls)
	b.desk.mu.Lock()
	way := b.desk.ways["lamp"]
	b.desk.mu.Unlock()
	answer := b.ask(way, "lamp", "state", "")
	if got := w.receive(); got.topic != "zigbee2mqtt/lamp/get/state" {
		t.Errorf("got %+v", got)
	}
	other := b.leaf("pump-1", version311)
	other.publish(1, "zigbee2mqtt/lamp", `"forged"`)
	other.puback(1)
	w.publish(2, "zigbee2mqtt/lamp", `{"state":"ON"}`)
	w.puback(2)
	if got := answer(); got != `200 {"state":"ON"}` {
		t.Errorf("answer %s", got)
	}
	if n := b.path.count(); n != 2 {
		t.Errorf("%d messages, want 2", n)
	}
	if got := b.ask(way, "lock", "state", "")(); got != gateway.ErrAbsent.Error() {
		t.Errorf("one of which the bridge has not spoken answers %s", got)
	}
}

// Desired properties come one by one where the topic has a name, else as they are.
func TestMappedDesired(t *testing.T) {
	b := newMappedBench(t)
	w := b.leaf("pump-1", version311)
	w.listen(1, "cfg/pump-1/+")
	b.untilWants(gateway.WantsDesired | gateway.CannotAsk)
	heard := make(chan int, 3)
	b.b.Desired("pump-1", []byte(`{"Mode":"eco","a/b":{"x":1},"gone":null,"$version":4}`), 4, func() { heard <- 4 })
	for _, want := range []string{"cfg/pump-1/Mode eco", `cfg/pump-1/a%2Fb {"x":1}`} {
		got := w.receive()
		if got.topic+" "+got.body != want {
			t.Errorf("got %+v, want %s", got, want)
		}
		select {
		case <-heard:
			t.Error("heard before it was acknowledged")
		default:
		}
		w.acknowledge(got.id)
	}
	if n := <-heard; n != 4 {
		t.Errorf("heard %d", n)
	}
	b.b.Desired("pump-1", []byte(`{"gone":null,"$version":5}`), 5, func() { heard <- 5 })
	if n := <-heard; n != 5 {
		t.Errorf("a change with nothing to say: heard %d", n)
	}

	z := b.leaf("z2m", version5)
	z.listen(1, "all/lamp/#")
	b.untilAttended("lamp", gateway.WantsDesired|gateway.CannotAsk)
	b.desk.mu.Lock()
	way := b.desk.ways["lamp"]
	b.desk.mu.Unlock()
	way.Desired("lamp", []byte(`{"a":1,"$version":2}`), 2, func() { heard <- 2 })
	got := z.receive()
	if got.topic != "all/lamp/desired" || got.body != `{"a":1,"$version":2}` {
		t.Errorf("got %+v", got)
	}
	z.acknowledge(got.id)
	if n := <-heard; n != 2 {
		t.Errorf("heard %d", n)
	}
	way.Desired("pump-2", []byte(`{"a":1,"$version":2}`), 2, func() { t.Error("pump-2 has heard through a bridge") })
}

// What a leaf says too late for the caller who has given up is nobody's answer: the
// next call goes out only behind it.
func TestLateAnswerOfAMappedCallIsNobodys(t *testing.T) {
	b := newMappedBench(t)
	w := b.leaf("pump-1", version311)
	w.listen(1, "cmnd/pump-1/#")
	b.untilWants(gateway.WantsCommands | gateway.WantsCalls)
	ctx, giveUp := context.WithCancel(t.Context())
	first := b.call(ctx, "A", "1")
	w.receive()
	giveUp()
	b.answered(first, context.Canceled.Error())
	second := b.call(t.Context(), "B", "2")
	ctx, giveUp = context.WithCancel(t.Context())
	third := b.call(ctx, "C", "3") // does not wait so long, and the leaf never hears of it
	giveUp()
	b.answered(third, context.Canceled.Error())
	w.publish(0, "stat/pump-1/RESULT", `"a"`)
	if got := w.receive(); got.topic != "cmnd/pump-1/B" {
		t.Errorf("the second call came as %+v", got)
	}
	w.publish(0, "stat/pump-1/RESULT", `"b"`)
	b.answered(second, `200 "b"`)
	if n := b.b.State().LateReplies; n != 1 {
		t.Errorf("%d late replies, want 1", n)
	}
}

// A rule of a bridge that names no leaf is for the bridge itself.
func TestBridgesOwnTopic(t *testing.T) {
	b := newMappedBench(t)
	b.end()
	b.rules = mapping.Compile([]mapping.Rule{
		{Topic: "zigbee2mqtt/bridge/request", Kind: mapping.Command, Login: "z2m"},
		{Topic: "zigbee2mqtt/{leaf}", Kind: mapping.Telemetry, Login: "z2m"},
	})
	b.start()
	w := b.leaf("z2m", version311)
	w.listen(1, "zigbee2mqtt/bridge/request")
	b.untilAttended("z2m", gateway.WantsCommands)
	w.publish(1, "zigbee2mqtt/lamp", "{}")
	w.puback(1)
	w.alive()
	if wants := b.desk.of("lamp"); wants != 0 {
		t.Errorf("the bridge takes what is for lamp (%b) on a topic of its own", wants)
	}
	v := &verdicts{}
	b.b.Command(commandFor("z2m", "x", 1), v.of("z2m"))
	got := w.receive()
	if got.topic != "zigbee2mqtt/bridge/request" || got.body != "z2m 1" {
		t.Errorf("got %+v", got)
	}
	w.acknowledge(got.id)
	b.untilSaid(v, "z2m completed")
}
