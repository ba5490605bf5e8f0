package broker

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

// newListenBench has a program of the site that may listen to pump-1 and lamp, and
// one that may listen to all.
func newListenBench(t *testing.T) *bench {
	b := newBench(t, nil)
	for _, id := range []string{"lamp", "some", "all"} {
		b.addLeaf(id)
	}
	b.end()
	b.mayListen = map[string][]string{"some": {"pump-1", "lamp"}, "all": {AnyLeaf}}
	b.start()
	return b
}

func TestProgramsListen(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newListenBench(t)
		some, all := b.leaf("some", version), b.leaf("all", version)
		some.listen(1, "leaf/+/telemetry/#")
		all.listen(1, "leaf/lamp/#")
		pump, lamp, other := b.leaf("pump-1", version311), b.leaf("lamp", version311), b.leaf("pump-2", version311)
		other.publish(1, "leaf/pump-2/telemetry", "not for some")
		other.puback(1)
		pump.publish(1, "leaf/pump-1/alarm", "not listened to")
		pump.puback(1)
		pump.publish(2, "leaf/pump-1/telemetry/a/b", "21")
		pump.puback(2)
		lamp.publish(1, "devices/lamp/messages/events/x=y", "on")
		lamp.puback(1)
		lamp.publish(2, "leaf/lamp/alarm/smoke", "!")
		lamp.puback(2)
		for i, want := range []string{"leaf/pump-1/telemetry/a/b 21", "leaf/lamp/telemetry on"} {
			if got := some.receive(); got.topic+" "+got.body != want || got.qos != 0 {
				t.Errorf("some, %d: %+v, want %s", i, got, want)
			}
		}
		for i, want := range []string{"leaf/lamp/telemetry on", "leaf/lamp/alarm/smoke !"} {
			if got := all.receive(); got.topic+" "+got.body != want {
				t.Errorf("all, %d: %+v, want %s", i, got, want)
			}
		}
		if wants := b.desk.of("some"); wants != 0 {
			t.Errorf("who listens is attended with %b", wants)
		}
	})
}

// What is not in custody nobody has heard.
func TestRefusedMessageIsNotHeard(t *testing.T) {
	b := newListenBench(t)
	w := b.leaf("all", version311)
	w.listen(1, "leaf/+/#")
	b.path.mu.Lock()
	b.path.verdict = func(m *gateway.Message) error {
		if string(m.Body) == "refused" {
			return gateway.ErrTooLarge
		}
		return nil
	}
	b.path.mu.Unlock()
	pump := b.leaf("pump-1", version5)
	pump.publish(1, "leaf/pump-1/telemetry", "refused")
	pump.packet() // its PUBACK says why
	pump.publish(2, "leaf/pump-1/telemetry", "taken")
	pump.puback(2)
	if got := w.receive(); got.body != "taken" {
		t.Errorf("heard %q", got.body)
	}
}

func TestWhoMayListen(t *testing.T) {
	b := newListenBench(t)
	for _, c := range []struct {
		login, filter string
		ok            bool
	}{
		{"some", "leaf/pump-1/telemetry", true},
		{"some", "leaf/lamp/#", true},
		{"some", "leaf/+/alarm/+", true},
		{"some", "leaf/pump-2/telemetry", false},
		{"some", "leaf/#", false},
		{"some", "#", false},
		{"some", "+/pump-1/telemetry", false},
		{"some", "leaf/pump-1/command/+", false},
		{"some", "leaf/pump-1/twin/desired", false},
		{"some", "devices/pump-1/messages/devicebound/#", false},
		{"all", "leaf/pump-2/#", true},
		{"all", "leaf/pump-2/twin/#", false},
		{"pump-1", "leaf/lamp/telemetry", false},
		{"pump-1", "leaf/+/telemetry", false},
	} {
		if _, ok := b.b.readFilter(c.login, c.filter); ok != c.ok {
			t.Errorf("%s on %s: %v", c.login, c.filter, ok)
		}
	}
}

// Whatever a login subscribes to, it hears only those to whom it may listen, and
// without permission nobody.
func TestListenersAreKeptApart(t *testing.T) {
	leaves := []string{"a", "b", "c", "some", "a/b", "+"}
	level := rapid.SampledFrom([]string{"leaf", "a", "b", "c", "some", "+", "#", "telemetry", "alarm", "%61", "x"})
	rapid.Check(t, func(t *rapid.T) {
		b := new(Broker)
		b.SetMayListen(map[string][]string{"some": rapid.SliceOf(rapid.SampledFrom([]string{"a", "b"})).Draw(t, "allowed")})
		filter := strings.Join(append([]string{"leaf"}, rapid.SliceOfN(level, 1, 4).Draw(t, "levels")...), "/")
		if sub, ok := b.readHeard("c", filter); ok {
			t.Fatalf("c, who may not, listens with %+v", sub)
		}
		sub, ok := b.readHeard("some", filter)
		if !ok || sub.level == "+" {
			return // then the list of those who may listen to a leaf decides: listenersOf
		}
		for _, leaf := range leaves {
			if plain.Names(sub.level, leaf) && !slices.Contains(b.allowed("some"), leaf) {
				t.Fatalf("some listens to %q with %+v", leaf, sub)
			}
		}
	})
}
