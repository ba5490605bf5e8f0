package hub

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
)

func TestParseUsername(t *testing.T) {
	date := "2021-04-12"
	device := Username{Host: "h.example", Device: "dev", APIVersion: date}
	module := device
	module.Module = "mod"
	for _, tc := range []struct {
		text string
		want Username
	}{
		{"h.example/dev/?api-version=2021-04-12", device},
		{"h.example/dev/?api-version=2021-04-12&DeviceClientType=azure-iot-device%2F1.17", device},
		{"h.example/dev/?DeviceClientType=x&api-version=2021-04-12", device},
		{"h.example/dev/mod/?api-version=2021-04-12&x", module},
		{"h.example/dev/api-version=2021-04-12&DeviceClientType=x", device},
		{"h.example/dev/mod/api-version=2021-04-12", module},
		{"h.example/dev?api-version=2021-04-12", device},
		{"h.example/dev/mod?&api-version=2021-04-12", module},
		{"h.example/dev/mod/api-version=2021-04-12/DeviceClientType=x", module},
		{
			"h.example/dev/?api-version=2021-04-12&model-id=dtmi:com:example:T;1",
			Username{Host: "h.example", Device: "dev", APIVersion: date, ModelID: "dtmi:com:example:T;1"},
		},
		{
			"h.example/dev/?api-version=2021-04-12&model-id=dtmi%3Acom%3Aexample%3AT%3B1",
			Username{Host: "h.example", Device: "dev", APIVersion: date, ModelID: "dtmi:com:example:T;1"},
		},
		{"h.example/wh?t/?api-version=2021-04-12", Username{Host: "h.example", Device: "wh?t", APIVersion: date}},
		{"h.example/50%/?api-version=2021-04-12", Username{Host: "h.example", Device: "50%", APIVersion: date}},
	} {
		got, err := ParseUsername(tc.text)
		if err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v; want %+v", tc.text, got, err, tc.want)
		}
	}
	for _, text := range []string{
		"", "dev", "h.example/dev", "h.example/dev/", "h.example/?api-version=1", "/dev/?api-version=1",
		"h.example//?api-version=1", "h.example/dev//?api-version=1", "h.example/a/b/c/?api-version=1",
		"h.example/dev/?api-version=", "h.example/dev/?x=1", "?api-version=1", "/?api-version=1", "/api-version=1",
	} {
		if got, err := ParseUsername(text); err != ErrUsername {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

// Every form of the user name gives back what it was made of.
func TestUsernameRoundTrip(t *testing.T) {
	id := rapid.StringMatching(`[A-Za-z0-9\-.%_*?!(),:=@$']{1,20}`)
	rapid.Check(t, func(t *rapid.T) {
		want := Username{
			Host: rapid.StringMatching(`[a-z0-9.-]{1,20}`).Draw(t, "host"), Device: id.Draw(t, "device"),
			APIVersion: rapid.StringMatching(`20[0-9]{2}-[0-9]{2}-[0-9]{2}(-preview)?`).Draw(t, "version"),
		}
		path := want.Host + "/" + want.Device
		if rapid.Bool().Draw(t, "module") {
			want.Module = id.Draw(t, "module id")
			path += "/" + want.Module
		}
		query := []string{"DeviceClientType=x%2Fy", "api-version=" + want.APIVersion, "auth-chain=a;b"}
		query = rapid.Permutation(query).Draw(t, "query")
		text := path + "/?" + strings.Join(query, "&")
		if got, err := ParseUsername(text); err != nil || got != want {
			t.Fatalf("%s: %+v, %v; want %+v", text, got, err, want)
		}
	})
}

func FuzzParseUsername(f *testing.F) {
	f.Add("h.example/dev/mod/?api-version=2021-04-12&model-id=x")
	f.Add("h.example/dev/mod/api-version=2021-04-12/DeviceClientType=x")
	f.Add("h/d?api-version=%")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseUsername(text)
		if err == nil && (u.Host == "" || u.Device == "" || strings.Contains(u.Host+u.Device+u.Module, "/") || !strings.HasPrefix(text, u.Host+"/"+u.Device)) {
			t.Errorf("%q: %+v", text, u)
		}
	})
}

func TestParseEventsTopic(t *testing.T) {
	for topic, want := range map[string][3]string{
		"devices/d/messages/events":                    {"d", "", ""},
		"devices/d/messages/events/":                   {"d", "", ""},
		"devices/d/messages/events//":                  {"d", "", ""},
		"devices/d/messages/events/a=b":                {"d", "", "a=b"},
		"devices/d/messages/events/a=b/":               {"d", "", "a=b"},
		"devices/d/messages/events/?a=b":               {"d", "", "?a=b"},
		"devices/d%2B/messages/events/":                {"d%2B", "", ""},
		"devices/d/modules/m/messages/events/a":        {"d", "m", "a"},
		"devices/modules/messages/events/":             {"modules", "", ""},
		"devices/d/modules/messages/messages/events/x": {"d", "messages", "x"},
	} {
		d, m, bag, ok := ParseEventsTopic(topic)
		if got := [3]string{d, m, bag}; !ok || got != want {
			t.Errorf("%s: %q, %v; want %q", topic, got, ok, want)
		}
	}
	for _, topic := range []string{
		"", "devices", "devices/", "devices//messages/events/", "devices/d/messages/event", "devices/d/messages/eventsx",
		"devices/d/messages/events/a/b", "devices/d/modules//messages/events/", "devices/d/modules/m",
		"devices/d/x/messages/events/", "Devices/d/messages/events/", "/devices/d/messages/events/", "devices/d/messages/devicebound/",
	} {
		if d, m, bag, ok := ParseEventsTopic(topic); ok {
			t.Errorf("%s: %q, %q, %q", topic, d, m, bag)
		}
	}
}

func TestDecodeBag(t *testing.T) {
	expiry := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)
	for _, tc := range []struct {
		bag        string
		system     gateway.System
		properties []gateway.Property
	}{
		{"", gateway.System{}, nil},
		{"?", gateway.System{}, nil},
		{"&&", gateway.System{}, nil},
		{"=x", gateway.System{}, nil},
		{"?prop1&prop2=&prop3=a%20string", gateway.System{}, []gateway.Property{{Name: "prop1"}, {Name: "prop2"}, {Name: "prop3", Value: "a string"}}},
		{"%C3%A9=%E2%82%AC&a+b=c+d", gateway.System{}, []gateway.Property{{Name: "é", Value: "€"}, {Name: "a+b", Value: "c+d"}}},
		{"a=1&b=2&a=3", gateway.System{}, []gateway.Property{{Name: "a", Value: "3"}, {Name: "b", Value: "2"}}},
		{"a=b=c", gateway.System{}, []gateway.Property{{Name: "a", Value: "b=c"}}},
		{"a=50%&b=%zz&c=%ff&d=%00", gateway.System{}, []gateway.Property{
			{Name: "a", Value: "50%"}, {Name: "b", Value: "%zz"}, {Name: "c", Value: "%ff"}, {Name: "d", Value: "%00"},
		}},
		{
			"%24.mid=1&$.cid=2&%24.uid=3&%24.ct=application%2Fjson&%24.ce=utf-8&%24.ctime=t&%24.on=o&%24.schema=s&%24.ifid=i&%24.sub=c",
			gateway.System{
				MessageID: "1", CorrelationID: "2", UserID: "3", ContentType: "application/json", ContentEncoding: "utf-8",
				CreationTime: "t", OutputName: "o", Schema: "s", InterfaceID: "i", Component: "c",
			},
			nil,
		},
		{"%24.exp=2026-01-02T03%3A04%3A05.678Z", gateway.System{Expiry: expiry}, nil},
		{"%24.exp=2026-01-02T05:04:05.678%2B02:00", gateway.System{Expiry: expiry}, nil},
		{"%24.exp=2026-01-02T03:04:05.6780000", gateway.System{Expiry: expiry}, nil},
		{"%24.exp=tomorrow", gateway.System{}, []gateway.Property{{Name: "$.exp", Value: "tomorrow"}}},
		{"%24.to=x&%24.cdid=other&%24.cmid=m", gateway.System{}, nil},
		{"%24.diagid=x", gateway.System{}, []gateway.Property{{Name: "$.diagid", Value: "x"}}},
		{"%24.mid=1&%24.mid=2", gateway.System{MessageID: "2"}, nil},
		{"iothub-MessageType=Will", gateway.System{}, []gateway.Property{{Name: "iothub-MessageType", Value: "Will"}}},
	} {
		system, properties := DecodeBag(tc.bag)
		if system != tc.system || !reflect.DeepEqual(properties, tc.properties) {
			t.Errorf("%s: %+v, %v; want %+v, %v", tc.bag, system, properties, tc.system, tc.properties)
		}
	}
}

// encode escapes as the stock SDKs do: everything but what RFC 3986 calls
// unreserved.
func encode(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// Whatever text a leaf puts into a bag comes out, in order, with the last value
// of each name; many names as well as few.
func TestBagRoundTrip(t *testing.T) {
	text := rapid.String().Filter(func(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") })
	name := text.Filter(func(s string) bool { return s != "" && !strings.HasPrefix(s, "$.") })
	rapid.Check(t, func(t *rapid.T) {
		var want []gateway.Property
		var pairs []string
		at := make(map[string]int)
		for range rapid.IntRange(0, 3*fewProperties).Draw(t, "count") {
			p := gateway.Property{Name: name.Draw(t, "name"), Value: text.Draw(t, "value")}
			pairs = append(pairs, encode(p.Name)+"="+encode(p.Value))
			if i, known := at[p.Name]; known {
				want[i].Value = p.Value
				continue
			}
			at[p.Name] = len(want)
			want = append(want, p)
		}
		id := text.Draw(t, "message id")
		pairs = append(pairs, "%24.mid="+encode(id))
		topic := "devices/d/messages/events/" + strings.Join(pairs, "&")
		_, _, bag, ok := ParseEventsTopic(topic)
		system, got := DecodeBag(bag)
		if !ok || system != (gateway.System{MessageID: id}) || !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: %+v, %v; want %q, %v", topic, system, got, id, want)
		}
	})
}

// Whatever the bag, its names are distinct, and text if the bag is.
func FuzzDecodeBag(f *testing.F) {
	f.Add("?%24.mid=1&a=b&a=c&d&=e")
	f.Add("a=%ff&%c3=%a9&%=%2")
	f.Add("$.exp=2026-01-02T03:04:05Z&$.to=x&$.x=y")
	f.Add(strings.Repeat("a=b&", 20) + "c&d&e&f&g&h&i&j&k&l&m&n&o&p&q&r&s&t&c=1")
	f.Fuzz(func(t *testing.T, bag string) {
		system, properties := DecodeBag(bag)
		seen := make(map[string]bool)
		for _, p := range properties {
			if p.Name == "" || seen[p.Name] {
				t.Errorf("name %q is empty or comes twice", p.Name)
			}
			seen[p.Name] = true
			if utf8.ValidString(bag) && !utf8.ValidString(p.Name+p.Value) {
				t.Errorf("%q=%q is not text", p.Name, p.Value)
			}
		}
		if utf8.ValidString(bag) && !utf8.ValidString(fmt.Sprint(system)) {
			t.Errorf("%+v is not text", system)
		}
	})
}
