package broker

import (
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

// What a leaf publishes arrives as it meant it, in both dialects.
func TestDialects(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newBench(t, nil)
		w := b.leaf("pump-1", version)
		for i, tc := range []struct {
			topic string
			want  gateway.Message
		}{
			{"leaf/pump-1/telemetry", gateway.Message{Lane: gateway.LaneTelemetry}},
			{"leaf/pump-1/telemetry/room/1", gateway.Message{Lane: gateway.LaneTelemetry, Channel: "room/1"}},
			{"leaf/pump-1/alarm", gateway.Message{Lane: gateway.LaneAlarm}},
			{"leaf/pump%2D1/alarm/fire", gateway.Message{Lane: gateway.LaneAlarm, Channel: "fire"}},
			{"devices/pump-1/messages/events/", gateway.Message{Lane: gateway.LaneTelemetry}},
			{"devices/pump-1/messages/events/%24.mid=m-1&%24.ct=application%2Fjson&a=b%20c", gateway.Message{
				Lane:       gateway.LaneTelemetry,
				System:     gateway.System{MessageID: "m-1", ContentType: "application/json"},
				Properties: []gateway.Property{{Name: "a", Value: "b c"}},
			}},
		} {
			w.publish(uint16(i+1), tc.topic, "body")
			w.puback(uint16(i + 1))
			tc.want.Leaf, tc.want.Body = "pump-1", []byte("body")
			tc.want.Stream = new(gateway.Stream) // it ends at the first message that is not taken
			if got := b.path.message(i); !reflect.DeepEqual(*got, tc.want) {
				t.Errorf("%s: got %+v, want %+v", tc.topic, *got, tc.want)
			}
		}
	})
}

// MQTT 5 properties become those of the message; a retain flag becomes one.
func TestProperties5(t *testing.T) {
	b := newBench(t, nil)
	w := b.leaf("pump-1", version5)
	props := []byte{2, 0, 0, 0, 60, 3, 0, 10, 't', 'e', 'x', 't', '/', 'p', 'l', 'a', 'i', 'n', 9, 0, 2, 'c', '7'}
	props = append(props, 38, 0, 1, 'k', 0, 1, 'v', 38, 0, 1, 'k', 0, 1, 'w')
	p := w.publication(1, topic1, "x", props...)
	p[0] |= 1
	w.send(p)
	w.puback(1)
	m := b.path.message(0)
	want := gateway.System{ContentType: "text/plain", CorrelationID: "c7", Expiry: b.clock().Wall.Add(time.Minute)}
	if m.System != want {
		t.Errorf("system properties %+v, want %+v", m.System, want)
	}
	if want := []gateway.Property{{Name: "mqtt-retain", Value: "true"}, {Name: "k", Value: "v"}, {Name: "k", Value: "w"}}; !reflect.DeepEqual(m.Properties, want) {
		t.Errorf("properties %v, want %v", m.Properties, want)
	}

	b.setClock(gateway.Instant{Quality: gateway.Unsynced})
	w.send(w.publication(2, topic1, "x", 2, 0, 0, 0, 60, 9, 0, 1, 0xff))
	w.puback(2)
	if s := b.path.message(1).System; s != (gateway.System{}) {
		t.Errorf("no trusted clock, binary correlation data: got %+v", s)
	}
}

// spoofed are topics that pump-1 may not publish to.
var spoofed = []string{
	"leaf/pump-2/telemetry", "leaf/pump-2/alarm/x", "leaf/pump-10/telemetry", "leaf/pump/telemetry",
	"leaf//telemetry", "leaf/pump-1", "leaf/pump-1/", "leaf/pump-1/other", "leaf/pump-1/telemetryx",
	"leaf/PUMP-1/telemetry", "/leaf/pump-1/telemetry", "leaf/pump-1\ufeff/telemetry",
	"leaf/pump-2/../pump-1/telemetry", "leaf/pump-1/twin/desired", "leaf/pump-2/twin/reported", "leaf/pump-2/twin/get",
	"leaf/pump-1/command/reboot", "leaf/pump-2/command/reboot/1", "leaf/pump-2/reply/1/200", "leaf/pump-1/reply//200", "leaf/pump-1/reply/1/x",
	"devices/pump-2/messages/events/", "devices/pump-2/messages/events/a=b", "devices/pump-1/modules/m/messages/events/",
	"devices/pump-1/messages/events/a/b", "devices/pump-1/messages/eventsx", "devices/pump-1/messages/devicebound/",
	"devices/pump-1", "devices//messages/events/", "DEVICES/pump-1/messages/events/",
	"$SYS/broker/uptime", "$iothub/twin/res/200/?$rid=1", "$iothub/other", "$iothub/methods/POST/reboot/?$rid=1",
	"$iothub/twin/GET/", "$iothub/twin/GET/?$rid=", "$iothub/methods/res/x/?$rid=1", "$iothub/twin/PATCH/properties/desired/?$rid=1",
	"$share/g/leaf/pump-1/telemetry", "a", "/", "$",
}

func TestSpoofedPublish(t *testing.T) {
	b := newBench(t, nil)
	five := b.leaf("pump-1", version5)
	for i, topic := range spoofed {
		five.publish(uint16(i+1), topic, "x")
		five.expect("PUBACK, not authorized, for "+topic, 0x40, 0, byte(i+1), 0x87)
		five.publish(0, topic, "x")
	}
	five.alive()
	for _, topic := range spoofed {
		for id := range uint16(2) {
			w := b.dial()
			if code, _ := w.connect(hello{clientID: "x", user: "pump-1", password: secret}); code != 0 {
				t.Fatalf("code %d", code)
			}
			w.publish(id, topic, "x")
			if got := w.expectClosed(); len(got) > 0 {
				t.Errorf("%s: got % x", topic, got)
			}
		}
	}
	if n := b.path.count(); n != 0 {
		t.Errorf("%d messages handed over, the first as %+v", n, b.path.message(0))
	}
	if n := b.b.State().Refused[RefuseTopic]; n != uint64(4*len(spoofed)) {
		t.Errorf("%d refused, want %d", n, 4*len(spoofed))
	}
}

func TestSpoofedSubscribe(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newBench(t, nil)
		w := b.leaf("pump-1", version)
		denied := byte(0x87)
		if version == version311 {
			denied = 0x80
		}
		for i, tc := range []struct {
			filter string
			ok     bool
		}{
			{"leaf/pump-1/#", true},
			{"leaf/pump-1/command/+", true},
			{"devices/pump-1/messages/devicebound/#", true},
			{"$iothub/twin/res/#", true},
			{"#", false},
			{"+/pump-1/telemetry", false},
			{"leaf/#", false},
			{"leaf/+/telemetry", false},
			{"leaf/pump-2/#", false},
			{"leaf/pump-1", false},
			{"devices/pump-2/messages/devicebound/#", false},
			{"devices/+/messages/devicebound/#", false},
			{"devices/#", false},
			{"$iothub/#", false},
			{"$SYS/#", false},
			{"$share/g/leaf/pump-1/#", false},
		} {
			want := denied
			if tc.ok {
				want = 1
			}
			w.subscribe(uint16(i+1), tc.filter)
			w.expect("SUBACK "+tc.filter, 0x90, 0, byte(i+1))
			// the code is the last byte
			w.subscribe(uint16(i+1), tc.filter)
			_, body := w.packet()
			if got := body[len(body)-1]; got != want {
				t.Errorf("%s: %#x, want %#x", tc.filter, got, want)
			}
		}
	})
}

// QoS 2 closes the connection, as the hub does.
func TestQoS2(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newBench(t, nil)
		w := b.leaf("pump-1", version)
		p := w.publication(1, topic1, "x")
		p[0] = 0x34
		w.send(p)
		if version == version5 {
			w.expect("DISCONNECT, QoS not supported", 0xe0, 0x9b)
		}
		if got := w.expectClosed(); len(got) > 0 {
			t.Errorf("got % x", got)
		}
		if b.path.count() > 0 || b.b.State().Refused[RefuseQoS] != 1 {
			t.Error("taken, or not counted")
		}
	})
}

// QoS 0 is handed over, and counted when it is not taken.
func TestQoS0(t *testing.T) {
	b := newBench(t, nil)
	b.path.verdict = func(*gateway.Message) error { return gateway.ErrStoreFull }
	w := b.leaf("pump-1", version311)
	w.publish(0, topic1, "x")
	w.alive()
	if n := b.b.State().Refused[RefuseFull]; n != 1 || b.path.count() != 1 {
		t.Errorf("refused %d, handed over %d; want 1, 1", n, b.path.count())
	}
}

// Whatever the topic, a message is its publisher's own, and is text where the
// hub wants text.
func FuzzParseTopic(f *testing.F) {
	for _, topic := range spoofed {
		f.Add("pump-1", topic)
	}
	f.Add("pump-1", "leaf/pump-1/telemetry/a")
	f.Add("pump-1", "devices/pump-1/messages/events/%24.exp=2026-01-01T00:00:00Z&a=%ff&b")
	f.Fuzz(func(t *testing.T, leaf, topic string) {
		m, err := parseTopic(leaf, topic)
		if err != nil {
			return
		}
		if m.Leaf != leaf {
			t.Fatalf("%q publishes as %q", leaf, m.Leaf)
		}
		level := strings.Split(topic, "/")[1]
		if !plain.Names(level, leaf) {
			t.Fatalf("%q publishes to %q", leaf, topic)
		}
		for _, p := range m.Properties {
			if utf8.ValidString(topic) && (!utf8.ValidString(p.Name) || !utf8.ValidString(p.Value)) {
				t.Fatalf("property %q=%q is not text", p.Name, p.Value)
			}
		}
	})
}

// parseFilter agrees with a plain reading of its rule, whatever the filter.
func TestMaySubscribe(t *testing.T) {
	levels := []string{"leaf", "devices", "pump-1", "pump-2", "messages", "devicebound", "#", "+", "telemetry", "$iothub", "twin", "res", ""}
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.SampledFrom(levels), 1, 5).Draw(t, "levels")
		filter := strings.Join(parts, "/")
		want := filter == "$iothub/twin/res/#" || filter == "devices/pump-1/messages/devicebound/#" ||
			len(parts) > 2 && parts[0] == "leaf" && parts[1] == "pump-1" && strings.Join(parts[2:], "/") != ""
		if _, got := parseFilter("pump-1", filter); got != want {
			t.Fatalf("%s: %v, want %v", filter, got, want)
		}
	})
}
