package amqp

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"
	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
)

// drawMessage draws messages with everything that a leaf may send, and more.
func drawMessage(t *rapid.T) *gateway.Message {
	text := func(name string) string {
		return rapid.OneOf(
			rapid.SampledFrom([]string{"", "", "a", "text/plain", "größe", "\xff\xfe", "fieldgate-seq", "FieldGate-X", "iothub-outputname", "iothub-MessageType"}),
			rapid.StringN(0, 300, -1),
		).Draw(t, name)
	}
	m := &gateway.Message{
		Leaf: "pump-1", Kind: rapid.SampledFrom([]gateway.Kind{gateway.Telemetry, gateway.Will}).Draw(t, "kind"),
		Lane: rapid.SampledFrom([]gateway.Lane{gateway.LaneAlarm, gateway.LaneTelemetry}).Draw(t, "lane"), Channel: text("channel"),
		System: gateway.System{
			MessageID: text("id"), CorrelationID: text("correlation"), UserID: text("user"), ContentType: text("type"),
			ContentEncoding: text("encoding"), CreationTime: text("creation"), OutputName: text("output"), Schema: text("schema"),
			InterfaceID: text("interface"), Component: text("component"),
		},
		Body:     rapid.SliceOfN(rapid.Byte(), 0, 400).Draw(t, "body"),
		Captured: gateway.Instant{Wall: time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "captured"), 5e6).UTC(), Quality: gateway.Synced},
		Start:    rapid.Uint32().Draw(t, "start"), Seq: rapid.Uint64().Draw(t, "seq"), Dropped: rapid.Uint64Range(0, 2).Draw(t, "dropped"),
	}
	if rapid.Bool().Draw(t, "expires") {
		m.System.Expiry = time.UnixMilli(rapid.Int64Range(0, 4e12).Draw(t, "expiry")).UTC()
	}
	for range rapid.IntRange(0, 6).Draw(t, "properties") {
		m.Properties = append(m.Properties, gateway.Property{Name: text("name"), Value: text("value")})
	}
	return m
}

// The encoder of our own and the library's say the same of every message.
func TestTheEncodersAgree(t *testing.T) {
	now := gateway.Instant{Wall: time.Unix(1_800_000_000, 0).UTC(), Quality: gateway.Synced}
	rapid.Check(t, func(t *rapid.T) {
		m := drawMessage(t)
		leaf := rapid.SampledFrom([]string{"", m.Leaf}).Draw(t, "leaf")
		mine, ok := hub.AppendAMQP([]byte("before"), m, now, leaf)
		if !ok || !bytes.HasPrefix(mine, []byte("before")) {
			t.Fatal("not encoded")
		}
		a := hub.ToAMQP(m, now)
		if leaf != "" {
			a.Properties[hub.PropertyLeaf] = leaf
		}
		theirs, err := encode(a).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := decode(t, mine[len("before"):]), decode(t, theirs); !reflect.DeepEqual(got, want) {
			t.Fatalf("\ngot  %+v %+v\nwant %+v %+v", got, got.Properties, want, want.Properties)
		}
	})
}

func decode(t *rapid.T, b []byte) *goamqp.Message {
	m := new(goamqp.Message)
	if err := m.UnmarshalBinary(b); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	// Empty and absent mean the same.
	if len(m.ApplicationProperties) == 0 {
		m.ApplicationProperties = nil
	}
	if len(m.Annotations) == 0 {
		m.Annotations = nil
	}
	if len(m.Data) == 1 && len(m.Data[0]) == 0 {
		m.Data = nil
	}
	return m
}

func TestManyPropertiesGoTheOtherWay(t *testing.T) {
	m := &gateway.Message{Properties: make([]gateway.Property, 25)}
	if b, ok := hub.AppendAMQP([]byte("x"), m, gateway.Instant{}, ""); ok || string(b) != "x" {
		t.Errorf("got %q, %v", b, ok)
	}
}

func BenchmarkEncode(b *testing.B) {
	now := gateway.Instant{Wall: time.Now(), Quality: gateway.Synced}
	m := &gateway.Message{
		Leaf: "pump-1", Lane: gateway.LaneTelemetry, Body: make([]byte, 200), Captured: now, Start: 3, Seq: 123456,
		System: gateway.System{MessageID: "fg-abcdefgh-3-telemetry-123456"},
	}
	b.Run("own", func(b *testing.B) {
		b.ReportAllocs()
		var buf []byte
		for b.Loop() {
			buf, _ = hub.AppendAMQP(buf[:0], m, now, "")
		}
	})
	b.Run("library", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = encode(hub.ToAMQP(m, now)).MarshalBinary()
		}
	})
}
