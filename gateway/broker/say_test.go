package broker

import (
	"slices"
	"testing"
)

// What the gateway says of itself is there for who comes later, each change comes
// once, and only to who may listen to all.
func TestGatewaySaysHowItIs(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newListenBench(t)
		if !b.b.Say("fieldgate/status/bridge", []byte("1")) || b.b.Say("fieldgate/status/bridge", []byte("1")) {
			t.Error("the first is news, and the same again is not")
		}
		b.b.Say("fieldgate/status/health", []byte("up"))
		all := b.leaf("all", version)
		all.listen(1, "fieldgate/#")
		got := []delivery{all.receive(), all.receive()}
		slices.SortFunc(got, func(a, b delivery) int { return len(a.body) - len(b.body) })
		if got[0].topic != "fieldgate/status/bridge" || got[0].body != "1" || !got[0].retained || got[1].body != "up" || !got[1].retained {
			t.Errorf("who comes later hears %+v", got)
		}
		b.b.Say("fieldgate/status/bridge", []byte("1"))
		b.b.Say("fieldgate/status/bridge", []byte("0"))
		if d := all.receive(); d.body != "0" || d.retained {
			t.Errorf("the change is %+v", d)
		}
		all.listen(1, "fieldgate/+/bridge") // once more, and narrower: again retained
		if d := all.receive(); d.body != "0" || !d.retained {
			t.Errorf("asked again: %+v", d)
		}
	})
}

// MQTT 5 leaves can say that they do not want what was there before.
func TestRetainHandling(t *testing.T) {
	b := newListenBench(t)
	b.b.Say("fieldgate/status/bridge", []byte("1"))
	all := b.leaf("all", version5)
	subscribe := func(options byte) {
		all.send(frame(0x82, append(append([]byte{0, 9, 0}, text("fieldgate/status/#")...), options)))
		all.packet() // SUBACK
	}
	subscribe(retainedNever << 4)
	subscribe(retainedIfNew << 4) // it is not new
	b.b.Say("fieldgate/status/bridge", []byte("0"))
	if d := all.receive(); d.body != "0" || d.retained {
		t.Errorf("got %+v first", d)
	}
	subscribe(0)
	if d := all.receive(); d.body != "0" || !d.retained {
		t.Errorf("got %+v", d)
	}
}

// A session that was kept hears at once what it may have missed.
func TestKeptSessionHearsHowItIs(t *testing.T) {
	b := newListenBench(t)
	b.b.Say("fieldgate/status/bridge", []byte("1"))
	first := b.dial()
	first.connect(hello{clientID: "all", user: hubUser("all"), password: b.token("all"), keep: true})
	first.listen(1, "fieldgate/status/bridge")
	first.receive()
	first.c.Close()
	b.until("the connection to be gone", func() bool { return b.b.State().Leaves["all"] == 0 })
	b.b.Say("fieldgate/status/bridge", []byte("0"))
	again := b.dial()
	if _, present := again.connect(hello{clientID: "all", user: hubUser("all"), password: b.token("all"), keep: true}); !present {
		t.Fatal("the session was not kept")
	}
	if d := again.receive(); d.body != "0" || !d.retained {
		t.Errorf("got %+v", d)
	}
}

// Nobody else hears it, and nobody at all can say anything there: not with retain,
// not as a will, not by a rule.
func TestStatusIsNotForLeaves(t *testing.T) {
	b := newListenBench(t)
	for _, filter := range []string{"fieldgate/#", "fieldgate/status/bridge", "fieldgate", "+/status/#", "#", "fieldgate/"} {
		for _, login := range []string{"pump-1", "some"} {
			if _, ok := b.b.readFilter(login, filter); ok {
				t.Errorf("%s may subscribe to %s", login, filter)
			}
		}
	}
	if _, ok := b.b.readFilter("all", "fieldgate/status/+"); !ok {
		t.Error("who may listen to all may not listen to the gateway")
	}
	b.b.Say("fieldgate/status/bridge", []byte("1"))
	for _, login := range []string{"pump-1", "some", "all"} {
		w := b.leaf(login, version5)
		w.send(frame(0x31, append(append(text("fieldgate/status/bridge"), 0), "0"...))) // QoS 0, retain
		w.publish(7, "fieldgate/status/bridge", "0")
		for first, body := w.packet(); ; first, body = w.packet() {
			if first>>4 == typePuback {
				if body[2] != 0x87 {
					t.Errorf("%s publishes there: % x", login, body)
				}
				break
			}
		}
	}
	all := b.leaf("all", version311)
	all.listen(0, "fieldgate/status/bridge")
	if d := all.receive(); d.body != "1" {
		t.Errorf("somebody has said %+v", d)
	}
}
