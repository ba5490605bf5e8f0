package routes

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

func TestDecodeBag(t *testing.T) {
	for bag, want := range map[string]message.Message{
		"":  {},
		"&": {},
		"%24.mid=m-1&%24.cid=c&%24.uid=u&%24.to=%2Fx&%24.ct=application%2Fjson&%24.ce=utf-8": {
			ID: "m-1", CorrelationID: "c", UserID: "u", To: "/x", ContentType: "application/json", ContentEncoding: "utf-8",
		},
		"$.mid=raw&$.on=out&$.schema=s&$.ifid=i&$.sub=thermostat": {
			ID: "raw", Output: "out", Schema: "s", InterfaceID: "i", Component: "thermostat",
		},
		"%24.exp=2026-01-02T03%3A04%3A05.678Z&%24.ctime=2025-01-02T03:04:05Z": {
			Expiry:  time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC),
			Created: time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC),
		},
		"gr%C3%B6%C3%9Fe%20%26%20zeichen=50%20%25%20%3D%20%C2%BD&plus=a+b": {
			Properties: []message.Property{{Name: "größe & zeichen", Value: "50 % = ½"}, {Name: "plus", Value: "a+b"}},
		},
		"null&empty=&eq=a=b":  {Properties: []message.Property{{Name: "null"}, {Name: "empty"}, {Name: "eq", Value: "a=b"}}},
		"a=1&b=2&a=3&$.mid=x": {ID: "x", Properties: []message.Property{{Name: "a", Value: "3"}, {Name: "b", Value: "2"}}},
		"%24.new=1":           {Properties: []message.Property{{Name: "$.new", Value: "1"}}},
	} {
		got, err := decodeBag(bag)
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: got %+v and %v, want %+v", bag, got, err, want)
		}
	}
	for _, bag := range []string{"a=%", "%zz=a", "$.exp=soon", "$.ctime=2025-01-02"} {
		if _, err := decodeBag(bag); !refusal.Is(err, 400004) {
			t.Errorf("%s: got %v, want 400004", bag, err)
		}
	}
}

func TestEncodeBag(t *testing.T) {
	id := registry.ID{Device: "pump-1"}
	m := &message.Message{
		ID: "m 1", CorrelationID: "c", UserID: "u", ContentType: "application/json", ContentEncoding: "utf-8", Ack: "full",
		Expiry:     time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC),
		Properties: []message.Property{{Name: "größe", Value: "a+b&c"}, {Name: "empty"}},
	}
	want := "%24.to=%2Fdevices%2Fpump-1%2Fmessages%2FdeviceBound&%24.mid=m%201&%24.cid=c&%24.uid=u" +
		"&%24.exp=2026-01-02T03%3A04%3A05.678Z&%24.ct=application%2Fjson&%24.ce=utf-8&iothub-ack=full" +
		"&gr%C3%B6%C3%9Fe=a%2Bb%26c&empty="
	if got := encodeBag(id, m); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := encodeBag(id, &message.Message{}); got != "%24.to=%2Fdevices%2Fpump-1%2Fmessages%2FdeviceBound" {
		t.Errorf("of an empty message: got %s", got)
	}
}

// FuzzDecodeBag reads any bag. What was read and written again is one topic
// level, and reads as the same.
func FuzzDecodeBag(f *testing.F) {
	for _, bag := range []string{
		"%24.mid=m&$.cid=c&a=1&b", "a=%C3%A9+%2B", "iothub-ack=full&a=1&a=2", "$.exp=2026-01-02T03:04:05.1Z&=&==",
	} {
		f.Add(bag)
	}
	f.Fuzz(func(t *testing.T, bag string) {
		m, err := decodeBag(bag)
		if err != nil {
			return
		}
		text := encodeBag(registry.ID{Device: "d"}, m)
		if strings.ContainsAny(text, "/+#?") {
			t.Fatalf("%q is not one topic level", text)
		}
		again, err := decodeBag(text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if again.ID != m.ID || again.CorrelationID != m.CorrelationID || again.ContentType != m.ContentType ||
			!again.Expiry.Equal(m.Expiry) || !reflect.DeepEqual(again.Properties, m.Properties) {
			t.Fatalf("got %+v, want %+v", again, m)
		}
	})
}
