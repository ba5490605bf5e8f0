package hub_test

import (
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
)

var noon = gateway.Instant{
	Wall: time.Date(2026, 5, 4, 12, 0, 0, 5000, time.UTC), Quality: gateway.Synced, Boot: 7, Uptime: time.Hour,
}

func TestToAMQPFillsEveryPlace(t *testing.T) {
	expiry := noon.Wall.Add(time.Hour)
	m := &gateway.Message{
		Leaf: "pump-1", Kind: gateway.Will, Lane: gateway.LaneAlarm, Channel: "bearing",
		System: gateway.System{
			MessageID: "mid", CorrelationID: "cid", UserID: "uid", ContentType: "application/json",
			ContentEncoding: "utf-8", CreationTime: "2026-05-04T11:59:59Z", Expiry: expiry,
			OutputName: "out", Schema: "sch", InterfaceID: "ifid", Component: "comp",
		},
		Properties: []gateway.Property{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}, {Name: "empty", Value: ""}},
		Body:       []byte("body"), Captured: noon, Start: 3, Seq: 42, Dropped: 5,
	}
	want := hub.AMQPMessage{
		MessageID: "mid", CorrelationID: "cid", UserID: []byte("uid"), ContentType: "application/json",
		ContentEncoding: "utf-8", Expiry: expiry, Body: []byte("body"),
		Properties: map[string]string{
			"a": "2", "empty": "",
			"iothub-creation-time-utc": "2026-05-04T11:59:59Z", "iothub-outputname": "out",
			"iothub-message-schema": "sch", "iothub-MessageType": "Will",
			"fieldgate-lane": "alarm", "fieldgate-seq": "42", "fieldgate-start": "3", "fieldgate-dropped": "5",
			"fieldgate-captured": "2026-05-04T12:00:00.000005Z", "fieldgate-clock": "synced", "fieldgate-channel": "bearing",
		},
		Annotations: map[string]string{"iothub-interface-id": "ifid", "dt-subject": "comp"},
	}
	if got := hub.ToAMQP(m, noon); !reflect.DeepEqual(got, want) {
		t.Errorf("\ngot  %+v\nwant %+v", got, want)
	}
}

func TestToAMQPLeavesOutWhatIsNotSet(t *testing.T) {
	got := hub.ToAMQP(&gateway.Message{Leaf: "x", Lane: gateway.LaneTelemetry, Captured: noon, Start: 1, Seq: 1}, noon)
	want := hub.AMQPMessage{Properties: map[string]string{
		"fieldgate-lane": "telemetry", "fieldgate-seq": "1", "fieldgate-start": "1",
		"fieldgate-captured": "2026-05-04T12:00:00.000005Z", "fieldgate-clock": "synced",
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\ngot  %+v\nwant %+v", got, want)
	}
}

func TestCaptureTimeIsRepairedOnceTheClockIsKnown(t *testing.T) {
	atBoot := gateway.Instant{Wall: time.Unix(60, 0), Boot: 7, Uptime: time.Minute}
	for _, c := range []struct {
		captured    gateway.Instant
		time, clock string
	}{
		{atBoot, "2026-05-04T11:01:00.000005Z", "estimated"},
		{gateway.Instant{Wall: atBoot.Wall, Boot: 6, Uptime: time.Minute}, "1970-01-01T00:01:00Z", "unsynced"},
		{noon, "2026-05-04T12:00:00.000005Z", "synced"},
	} {
		p := hub.ToAMQP(&gateway.Message{Captured: c.captured}, noon).Properties
		if p["fieldgate-captured"] != c.time || p["fieldgate-clock"] != c.clock {
			t.Errorf("%+v: got %s, %s", c.captured, p["fieldgate-captured"], p["fieldgate-clock"])
		}
	}
}

func TestALeafCannotForgeTheProof(t *testing.T) {
	m := &gateway.Message{Captured: noon, Seq: 1, Properties: []gateway.Property{
		{Name: "fieldgate-seq", Value: "9"},
		{Name: "fieldgate-dropped", Value: "9"},
		{Name: "FieldGate-Seq", Value: "9"},
		{Name: "fieldgate-channel", Value: "9"},
		{Name: "fieldgate", Value: "mine"},
	}}
	got := hub.ToAMQP(m, noon).Properties
	for name, value := range got {
		if value == "9" {
			t.Errorf("%s is the leaf's own", name)
		}
	}
	if got["fieldgate"] != "mine" {
		t.Errorf("a harmless name was taken away: %v", maps.Clone(got))
	}
}

// A driver says how little a leaf has proven; nobody can claim to have proven more.
func TestTrustCanOnlyBeLowered(t *testing.T) {
	for value, passes := range map[string]bool{"advertised": true, "unpaired": true, "just-works": true, "paired": false, "": false} {
		m := &gateway.Message{Captured: noon, Seq: 1, Properties: []gateway.Property{{Name: gateway.PropertyTrust, Value: value}}}
		if got, ok := hub.ToAMQP(m, noon).Properties[gateway.PropertyTrust]; ok != passes || ok && got != value {
			t.Errorf("%q became %q, %v", value, got, ok)
		}
		wired, _ := hub.AppendAMQP(nil, m, noon, "")
		if strings.Contains(string(wired), gateway.PropertyTrust) != passes {
			t.Errorf("%q on the wire: %q", value, wired)
		}
	}
}

func TestAddresses(t *testing.T) {
	for leaf, want := range map[string]string{
		"pump-1":  "/devices/pump-1/messages/events",
		"a/b c%#": "/devices/a%2Fb%20c%25%23/messages/events",
	} {
		if got := hub.TelemetryAddress(leaf); got != want {
			t.Errorf("%q: got %s, want %s", leaf, got, want)
		}
	}
	if got := hub.Audience("h.test", "pump-1"); got != "h.test/devices/pump-1" {
		t.Errorf("audience %s", got)
	}
}

// FuzzToAMQP checks that whatever a leaf sends fits AMQP: strings are UTF-8 and
// symbols are ASCII.
func FuzzToAMQP(f *testing.F) {
	f.Add("name", "value", "text/plain", "mid", "channel")
	f.Add("\xff", "\xc0\xaf", "t\x00y", "\xf0\x28", "\x80")
	f.Fuzz(func(t *testing.T, name, value, contentType, id, channel string) {
		a := hub.ToAMQP(&gateway.Message{
			Channel:    channel,
			System:     gateway.System{MessageID: id, CorrelationID: id, ContentType: contentType, ContentEncoding: contentType, Schema: value, Component: value},
			Properties: []gateway.Property{{Name: name, Value: value}},
		}, noon)
		texts := []string{a.MessageID, a.CorrelationID}
		for _, m := range []map[string]string{a.Properties, a.Annotations} {
			for k, v := range m {
				texts = append(texts, k, v)
			}
		}
		for _, s := range texts {
			if !utf8.ValidString(s) {
				t.Errorf("%q is not UTF-8", s)
			}
		}
		for _, s := range []string{a.ContentType, a.ContentEncoding} {
			for i := range len(s) {
				if s[i] < ' ' || s[i] > '~' {
					t.Errorf("%q is no symbol", s)
				}
			}
		}
	})
}
