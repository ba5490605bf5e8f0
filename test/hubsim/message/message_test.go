package message_test

import (
	"math"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"pgregory.net/rapid"
)

// through returns what is left of m after a way over AMQP.
func through(t interface{ Fatalf(string, ...any) }, m *message.Message) *message.Message {
	a, err := amqp.ParseMessage(m.AMQP().Append(nil))
	if err != nil {
		t.Fatalf("cannot read %+v again: %v", m, err)
	}
	return message.FromAMQP(a)
}

// messages draws any message. Its body is never nil, as AMQP does not tell that
// from an empty one.
func messages() *rapid.Generator[*message.Message] {
	return rapid.Custom(func(t *rapid.T) *message.Message {
		text := func(label string) string { return rapid.String().Draw(t, label) }
		symbol := func(label string) string { return rapid.StringMatching(`[!-~]{0,20}`).Draw(t, label) }
		instant := func(label string, unit time.Duration) time.Time {
			if rapid.Bool().Draw(t, label+" absent") {
				return time.Time{}
			}
			return time.UnixMilli(0).Add(time.Duration(rapid.Int64Range(1, 1<<40).Draw(t, label)) * unit).UTC()
		}
		m := &message.Message{
			ID: text("id"), CorrelationID: text("correlation id"), UserID: text("user id"), To: text("to"),
			ContentType: symbol("content type"), ContentEncoding: symbol("content encoding"),
			Expiry: instant("expiry", time.Millisecond), Created: instant("created", time.Microsecond),
			Ack: text("ack"), Output: text("output"), Schema: text("schema"),
			InterfaceID: text("interface id"), Component: text("component"),
			Body: rapid.SliceOf(rapid.Byte()).Draw(t, "body"),
		}
		for range rapid.IntRange(0, 5).Draw(t, "properties") {
			// A prefix keeps names apart from those that the hub gives a meaning.
			m.Properties = append(m.Properties, message.Property{Name: "p" + text("name"), Value: text("value")})
		}
		return m
	})
}

func TestAMQP(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := messages().Draw(t, "message")
		if got := through(t, m); !reflect.DeepEqual(got, m) {
			t.Fatalf("over AMQP\n%+v\nbecomes\n%+v", m, got)
		}
	})
}

// A property bag can hold any bytes once it is unescaped.
func TestAMQPMendsText(t *testing.T) {
	m := &message.Message{
		ID: "\xff1", CorrelationID: "\xff2", To: "\xff3", Output: "\xff4", Component: "\xff5",
		Properties: []message.Property{{"\xff6", "\xff7"}}, Body: []byte("\xff"),
	}
	want := &message.Message{
		ID: "\ufffd1", CorrelationID: "\ufffd2", To: "\ufffd3", Output: "\ufffd4", Component: "\ufffd5",
		Properties: []message.Property{{"\ufffd6", "\ufffd7"}}, Body: []byte("\xff"),
	}
	if got := through(t, m); !reflect.DeepEqual(got, want) {
		t.Errorf("over AMQP\n%+v\nbecomes\n%+v", m, got)
	}
}

// Clients send ids of all types, and properties that are not text.
func TestFromAMQP(t *testing.T) {
	id := amqp.UUID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	m := message.FromAMQP(&amqp.Message{
		Properties: &amqp.Properties{MessageID: id, CorrelationID: uint64(7), UserID: []byte("user")},
		Application: amqp.Map{
			{Key: "n", Value: int32(-5)},
			{Key: "iothub-creation-time-utc", Value: "2026-01-02T03:04:05.6Z"},
			{Key: "iothub-ack", Value: amqp.Symbol("full")},
			{Key: "b", Value: true},
		},
		HasValue: true, Value: "text",
	})
	want := &message.Message{
		ID: "01020304-0506-0708-090a-0b0c0d0e0f10", CorrelationID: "7", UserID: "user",
		Created: time.Date(2026, 1, 2, 3, 4, 5, 6e8, time.UTC), Ack: "full",
		Properties: []message.Property{{Name: "n", Value: "-5"}, {Name: "b", Value: "true"}},
		Body:       []byte("text"),
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("message\n%+v, want\n%+v", m, want)
	}
}

func TestText(t *testing.T) {
	for _, c := range []struct {
		value any
		want  string
	}{
		{nil, ""},
		{"text", "text"},
		{"", ""},
		{amqp.Symbol("symbol"), "symbol"},
		{[]byte("bytes"), "bytes"},
		{[]byte("\xff byte"), "\ufffd byte"},
		{true, "true"},
		{uint8(200), "200"},
		{int64(math.MinInt64), "-9223372036854775808"},
		{1.5, "1.5"},
		{math.NaN(), ""},
		{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), "2026-01-02T03:04:05Z"},
	} {
		if got := message.Text(c.value); got != c.want {
			t.Errorf("%T %v is %q, want %q", c.value, c.value, got, c.want)
		}
	}
}

func TestProperty(t *testing.T) {
	m := &message.Message{Properties: []message.Property{{"a", "1"}, {"b", ""}, {"a", "2"}}}
	for name, want := range map[string]string{"a": "2", "b": ""} {
		if got, ok := m.Property(name); got != want || !ok {
			t.Errorf("%s is %q, %v; want %q", name, got, ok, want)
		}
	}
	if got, ok := m.Property("c"); ok {
		t.Errorf("c is %q", got)
	}
}

// The size is body, values of system properties, names and values of the
// application's.
func TestSize(t *testing.T) {
	m := &message.Message{}
	if n := m.Size(); n != 0 {
		t.Errorf("nothing has the size %d", n)
	}
	m.Body = make([]byte, 100)
	m.Properties = []message.Property{{"name", "value"}}
	for n, field := range []*string{
		&m.ID, &m.CorrelationID, &m.UserID, &m.To, &m.ContentType, &m.ContentEncoding,
		&m.Ack, &m.Output, &m.Schema, &m.InterfaceID, &m.Component,
	} {
		before := m.Size()
		*field = strings.Repeat("x", n+1)
		if grown := m.Size() - before; grown != n+1 {
			t.Errorf("field %d counts %d, want %d", n, grown, n+1)
		}
	}
	if n := m.Size(); n != 100+9+66 {
		t.Errorf("size %d, want 175", n)
	}
}

func TestNewGUID(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := make(map[string]bool)
	for range 100 {
		id := message.NewGUID()
		if !form.MatchString(id) || seen[id] {
			t.Fatalf("%q is no new GUID", id)
		}
		seen[id] = true
	}
}

// Whatever a client sends: it never panics, and what was understood stays the
// same when it is sent on.
func FuzzFromAMQP(f *testing.F) {
	f.Add((&message.Message{}).AMQP().Append(nil))
	f.Add((&message.Message{
		ID: "1", Ack: "full", Created: time.Unix(1, 0), Expiry: time.Unix(2, 0), Component: "c",
		Properties: []message.Property{{"a", "b"}}, Body: []byte("body"),
	}).AMQP().Append(nil))
	f.Add((&amqp.Message{
		Properties:  &amqp.Properties{MessageID: amqp.UUID{1}, CorrelationID: uint64(1)},
		Application: amqp.Map{{Key: amqp.Symbol("k"), Value: amqp.List{int8(1)}}}, HasValue: true, Value: "v",
	}).Append(nil))
	f.Fuzz(func(t *testing.T, encoded []byte) {
		a, err := amqp.ParseMessage(encoded)
		if err != nil {
			return
		}
		m := message.FromAMQP(a)
		again := through(t, m)
		again.Body, m.Body = append([]byte{}, again.Body...), append([]byte{}, m.Body...)
		if !reflect.DeepEqual(again, m) {
			t.Fatalf("%+v becomes %+v", m, again)
		}
	})
}
