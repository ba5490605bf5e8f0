package hub

import (
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
)

// The wording is that of the bench's hub, which the vendor's SDKs have read.
func TestEncodeBag(t *testing.T) {
	for _, tc := range []struct {
		c    gateway.Command
		want string
	}{
		{gateway.Command{Leaf: "pump-1"}, "%24.to=%2Fdevices%2Fpump-1%2Fmessages%2FdeviceBound"},
		{
			gateway.Command{
				Leaf: "pump-1", Ack: "full",
				System: gateway.System{
					MessageID: "m-1", CorrelationID: "c=1", UserID: "u", ContentType: "application/json", ContentEncoding: "utf-8",
					Expiry: time.Date(2026, 11, 27, 18, 0, 0, 500e6, time.FixedZone("", 3600)),
				},
				Properties: []gateway.Property{{Name: "größe & zeichen", Value: "50 % = ½"}, {Name: "empty", Value: ""}, {Name: "a+b", Value: "~-._"}},
			},
			"%24.to=%2Fdevices%2Fpump-1%2Fmessages%2FdeviceBound&%24.mid=m-1&%24.cid=c%3D1&%24.uid=u&%24.exp=2026-11-27T17%3A00%3A00.5Z" +
				"&%24.ct=application%2Fjson&%24.ce=utf-8&iothub-ack=full" +
				"&gr%C3%B6%C3%9Fe%20%26%20zeichen=50%20%25%20%3D%20%C2%BD&empty=&a%2Bb=~-._",
		},
		{gateway.Command{Leaf: "a%b?c"}, "%24.to=%2Fdevices%2Fa%25b%3Fc%2Fmessages%2FdeviceBound"},
	} {
		if got := EncodeBag(&tc.c); got != tc.want {
			t.Errorf("got  %s\nwant %s", got, tc.want)
		}
	}
}

// What is written is read back the same, and is one level of a topic.
func TestCommandBagRoundTrip(t *testing.T) {
	text := rapid.StringOf(rapid.Rune().Filter(func(r rune) bool { return r != 0 && utf8.ValidRune(r) }))
	rapid.Check(t, func(t *rapid.T) {
		c := &gateway.Command{Leaf: "pump-1"}
		c.System.MessageID, c.System.CorrelationID, c.System.UserID = text.Draw(t, "mid"), text.Draw(t, "cid"), text.Draw(t, "uid")
		c.System.ContentType, c.System.ContentEncoding = text.Draw(t, "ct"), text.Draw(t, "ce")
		seen := map[string]bool{"": true, "iothub-ack": true}
		for range rapid.IntRange(0, 4).Draw(t, "n") {
			p := gateway.Property{Name: text.Draw(t, "name"), Value: text.Draw(t, "value")}
			if !seen[p.Name] && !strings.HasPrefix(p.Name, "$.") {
				c.Properties = append(c.Properties, p)
			}
			seen[p.Name] = true
		}
		bag := EncodeBag(c)
		if strings.ContainsAny(bag, "/+#\x00 ") {
			t.Fatalf("%q is no level of a topic", bag)
		}
		system, properties := DecodeBag(bag)
		if system != c.System || !reflect.DeepEqual(properties, c.Properties) {
			t.Fatalf("%q: got %+v %v, want %+v %v", bag, system, properties, c.System, c.Properties)
		}
	})
}

func TestParseRequest(t *testing.T) {
	for topic, want := range map[string]Request{
		"$iothub/twin/GET/?$rid=1":                                     {GetTwin, "1", 0},
		"$iothub/twin/GET/?%24rid=a%2Fb":                               {GetTwin, "a%2Fb", 0},
		"$iothub/twin/GET/?x=y&$rid=1&z":                               {GetTwin, "1", 0},
		"$iothub/twin/PATCH/properties/reported/?$rid=7&$version=3":    {PatchReported, "7", 0},
		"$iothub/methods/res/200/?$rid=1":                              {AnswerMethod, "1", 200},
		"$iothub/methods/res/-1/?$rid=1":                               {AnswerMethod, "1", -1},
		"$iothub/twin/GET/":                                            {},
		"$iothub/twin/GET/?":                                           {},
		"$iothub/twin/GET/?$rid=":                                      {},
		"$iothub/twin/GET/?rid=1":                                      {},
		"$iothub/twin/GET?$rid=1":                                      {},
		"$iothub/twin/get/?$rid=1":                                     {},
		"$iothub/twin/GET/x/?$rid=1":                                   {},
		"$iothub/methods/res/?$rid=1":                                  {},
		"$iothub/methods/res/99999999999/?$rid=1":                      {},
		"$iothub/methods/res/200/x/?$rid=1":                            {},
		"$iothub/methods/POST/x/?$rid=1":                               {},
		"devices/x/messages/events/?$rid=1":                            {},
		"$iothub/twin/PATCH/properties/desired/?$rid=1":                {},
		"$iothub/twin/PATCH/properties/reported/?$version=1&$rid=ab-c": {PatchReported, "ab-c", 0},
	} {
		got, ok := ParseRequest(topic)
		if ok != (want.Kind != 0) || ok && got != want {
			t.Errorf("%s: got %+v, %v", topic, got, ok)
		}
	}
}

func TestTopicsDown(t *testing.T) {
	for got, want := range map[string]string{
		MethodTopic("blink", "7"): "$iothub/methods/POST/blink/?$rid=7",
		MethodTopic("a/b+#", "7"): "$iothub/methods/POST/a%2Fb%2B%23/?$rid=7",
		DesiredTopic(12):          "$iothub/twin/PATCH/properties/desired/?$version=12",
		TwinAnswerTopic(200, "a"): "$iothub/twin/res/200/?$rid=a",
		TwinAnswerTopic(204, "a", gateway.Property{Name: "$version", Value: "6"}): "$iothub/twin/res/204/?$rid=a&$version=6",
		CommandTopic("pump%2D1", &gateway.Command{Leaf: "pump-1"}):                "devices/pump%2D1/messages/devicebound/%24.to=%2Fdevices%2Fpump-1%2Fmessages%2FdeviceBound",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for filter, want := range map[string]string{
		"devices/pump-1/messages/devicebound/#": "pump-1", "devices//messages/devicebound/#": "", "devices/a/messages/devicebound/": "",
		"devices/a/b/messages/devicebound/#": "", "devices/a": "", "x": "",
	} {
		if got, ok := ParseCommandsFilter(filter); got != want && ok || ok != (want != "") {
			t.Errorf("%s: %q, %v", filter, got, ok)
		}
	}
}

// FuzzParseRequest: a request id is never empty and stands in the topic.
func FuzzParseRequest(f *testing.F) {
	f.Add("$iothub/twin/GET/?$rid=1")
	f.Add("$iothub/methods/res/200/?$rid=1&a=b")
	f.Fuzz(func(t *testing.T, topic string) {
		r, ok := ParseRequest(topic)
		if ok && (r.RID == "" || !strings.Contains(topic, "="+r.RID) || r.Kind == 0) {
			t.Fatalf("%q: %+v", topic, r)
		}
	})
}
