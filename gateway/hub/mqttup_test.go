package hub_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
)

func TestToMQTTKeepsEverything(t *testing.T) {
	name := rapid.StringN(1, 12, 40).Filter(func(s string) bool {
		return utf8.ValidString(s) && !strings.ContainsRune(s, 0) && !strings.HasPrefix(strings.ToLower(s), "fieldgate-") &&
			!strings.HasPrefix(s, "$.") && !strings.HasPrefix(s, "iothub-")
	})
	value := rapid.StringN(0, 20, 60).Filter(func(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) })
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.MapOfN(name, value, 0, 8).Draw(t, "properties")
		m := &gateway.Message{
			Leaf: rapid.StringMatching(`[A-Za-z0-9\-:.%_*?!(),=@$';]{1,128}`).Draw(t, "leaf"), Lane: gateway.LaneTelemetry, Seq: 7,
			System: gateway.System{
				MessageID: value.Draw(t, "mid"), CorrelationID: value.Draw(t, "cid"), UserID: value.Draw(t, "uid"),
				ContentType: "application/json", Schema: value.Draw(t, "schema"), OutputName: value.Draw(t, "output"),
				Expiry: time.UnixMilli(rapid.Int64Range(0, 4e12).Draw(t, "expiry")).UTC(),
			},
			Body: []byte("x"),
		}
		for n, v := range want {
			m.Properties = append(m.Properties, gateway.Property{Name: n, Value: v})
		}
		topic, problem := hub.ToMQTT("gate-7", m, gateway.Instant{})
		if problem != "" {
			t.Fatal(problem)
		}
		if strings.ContainsAny(topic, "#+\x00") {
			t.Errorf("no topic to publish to: %q", topic)
		}
		device, module, bag, ok := hub.ParseEventsTopic(topic)
		if !ok || device != "gate-7" || module != "" {
			t.Fatalf("%q is not the gateway's telemetry", topic)
		}
		system, properties := hub.DecodeBag(bag)
		if system != m.System {
			t.Errorf("system properties:\ngot  %+v\nwant %+v", system, m.System)
		}
		for _, p := range properties {
			if p.Name == hub.PropertyLeaf && p.Value != m.Leaf {
				t.Errorf("leaf %q, want %q", p.Value, m.Leaf)
			}
			if !strings.HasPrefix(p.Name, "fieldgate-") {
				if v, known := want[p.Name]; !known || v != p.Value {
					t.Errorf("property %q is %q, want %q, %v", p.Name, p.Value, v, known)
				}
				delete(want, p.Name)
			}
		}
		if len(want) > 0 {
			t.Errorf("missing: %q", want)
		}
	})
}

func TestWhatMQTTCannotCarry(t *testing.T) {
	message := func(change func(*gateway.Message)) *gateway.Message {
		m := &gateway.Message{Leaf: "pump-1", Body: []byte("x")}
		change(m)
		return m
	}
	for name, m := range map[string]*gateway.Message{
		"bytes": message(func(m *gateway.Message) { m.Body = make([]byte, 256<<10) }),
		"topic": message(func(m *gateway.Message) {
			m.Properties = []gateway.Property{{Name: "p", Value: strings.Repeat("%", 22<<10)}}
		}),
	} {
		if _, problem := hub.ToMQTT("gate-7", m, gateway.Instant{}); !strings.Contains(problem, name) {
			t.Errorf("%s: got %q", name, problem)
		}
	}
	// A leaf cannot set what is the hub's, nor name another leaf.
	topic, _ := hub.ToMQTT("gate-7", message(func(m *gateway.Message) {
		m.System.CreationTime = "yesterday"
		m.Properties = []gateway.Property{{Name: "$.cdid", Value: "other"}, {Name: "$.mid", Value: "other"}, {Name: "FIELDGATE-LEAF", Value: "other"}, {Name: "", Value: "x"}}
	}), gateway.Instant{})
	if strings.Contains(topic, "other") || strings.Contains(topic, "ctime") || !strings.Contains(topic, "iothub-creation-time-utc=yesterday") {
		t.Errorf("got %s", topic)
	}
}

func TestCommandsOverMQTT(t *testing.T) {
	const topic = "devices/gate-7/messages/devicebound/%24.to=%2Fdevices%2Fgate-7%2Fmessages%2FdeviceBound&%24.mid=m1&iothub-ack=full&fieldgate-leaf=pump%201&site=north"
	c, ok := hub.FromMQTT("gate-7", topic, []byte("open"), time.Minute)
	if !ok || c.Leaf != "pump 1" || c.System.MessageID != "m1" || c.Ack != "full" || string(c.Body) != "open" || c.Number == 0 ||
		len(c.Properties) != 1 || c.Properties[0].Name != "site" || time.Until(c.LockedTo) < 50*time.Second {
		t.Errorf("got %+v, %v", c, ok)
	}
	again, _ := hub.FromMQTT("gate-7", topic, []byte("open"), time.Minute)
	other, _ := hub.FromMQTT("gate-7", topic, []byte("close"), time.Minute)
	if again.Number != c.Number || other.Number == c.Number {
		t.Errorf("numbers %d, %d and %d", c.Number, again.Number, other.Number)
	}
	for _, topic := range []string{"devices/gate-8/messages/devicebound/x=1", "devices/gate-7/messages/events/x=1", "$iothub/methods/POST/x/?$rid=1", ""} {
		if _, ok := hub.FromMQTT("gate-7", topic, nil, time.Minute); ok {
			t.Errorf("%q is a command", topic)
		}
	}
}

func TestTopicsOfRequests(t *testing.T) {
	for topic, want := range map[string]struct {
		rid             string
		status, version int64
		ok              bool
	}{
		"$iothub/twin/res/204/?$rid=9&$version=6": {"9", 204, 6, true},
		"$iothub/twin/res/200/?$rid=a-b":          {"a-b", 200, 0, true},
		"$iothub/twin/res/200/?$version=6":        {"", 200, 6, false},
		"$iothub/twin/res/x/?$rid=1":              {"1", 0, 0, false},
		"$iothub/twin/PATCH":                      {},
	} {
		if rid, status, version, ok := hub.ParseTwinAnswer(topic); ok != want.ok || ok && (rid != want.rid || status != want.status || version != want.version) {
			t.Errorf("%s: %q, %d, %d, %v", topic, rid, status, version, ok)
		}
	}
	if name, rid, ok := hub.ParseMethod("$iothub/methods/POST/re%20boot/?$rid=7"); !ok || name != "re boot" || rid != "7" {
		t.Errorf("got %q, %q, %v", name, rid, ok)
	}
	if _, _, ok := hub.ParseMethod("$iothub/methods/POST/reboot"); ok {
		t.Error("a method without a request id")
	}
	if v, ok := hub.ParseDesired("$iothub/twin/PATCH/properties/desired/?$version=12"); !ok || v != 12 {
		t.Errorf("got %d, %v", v, ok)
	}
	if c, ok := hub.ParseLeafCall([]byte(`{"leaf":"pump-1","payload":[1]}`)); !ok || c.Leaf != "pump-1" || string(c.Payload) != "[1]" {
		t.Errorf("got %+v, %v", c, ok)
	}
	for _, body := range []string{"", "null", "{}", `{"leaf":1}`, `"pump-1"`} {
		if _, ok := hub.ParseLeafCall([]byte(body)); ok {
			t.Errorf("%s names a leaf", body)
		}
	}
}

// FuzzHubTopics: no topic of a hub brings the reading of it down.
func FuzzHubTopics(f *testing.F) {
	f.Add("devices/gate-7/messages/devicebound/%24.mid=1&fieldgate-leaf=a", []byte(`{"leaf":"a","payload":1}`))
	f.Add("$iothub/twin/res/204/?$rid=9&$version=6", []byte{})
	f.Add("$iothub/methods/POST/a/?$rid=1", []byte("null"))
	f.Fuzz(func(t *testing.T, topic string, body []byte) {
		if c, ok := hub.FromMQTT("gate-7", topic, body, time.Minute); ok && c.LockedTo.IsZero() {
			t.Error("a command without a lock")
		}
		hub.ParseTwinAnswer(topic)
		hub.ParseDesired(topic)
		hub.ParseMethod(topic)
		if c, ok := hub.ParseLeafCall(body); ok && c.Leaf == "" {
			t.Error("a call of no leaf")
		}
	})
}
