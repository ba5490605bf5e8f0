package routes

import (
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

func TestAddresses(t *testing.T) {
	for address, want := range map[string]struct {
		id   registry.ID
		rest string
	}{
		"/devices/d/messages/events":                             {registry.ID{Device: "d"}, "messages/events"},
		"devices/d/twin":                                         {registry.ID{Device: "d"}, "twin"},
		"amqps://myhub.example/devices/d/messages/deviceBound":   {registry.ID{Device: "d"}, "messages/deviceBound"},
		"/devices/d/modules/m/methods/devicebound":               {registry.ID{Device: "d", Module: "m"}, "methods/devicebound"},
		"/devices/a%23b%252F/messages/events":                    {registry.ID{Device: "a#b%2F"}, "messages/events"},
		"/Devices/D/Modules/M/twin":                              {registry.ID{Device: "D", Module: "M"}, "twin"},
		"amqps://myhub.example:5671/devices/d/messages/events":   {}, // refused by the service
		"/devices//messages/events":                              {},
		"/devices/%zz/messages/events":                           {registry.ID{Device: "%zz"}, "messages/events"},
		"sb://myhub.example:5671/messages/events/ConsumerGroups": {},
		"": {},
	} {
		path, ok := parseAddress(address)
		id, rest, found := splitIdentity(path)
		if id != want.id || strings.Join(rest, "/") != want.rest || (ok && found) != (want.rest != "") {
			t.Errorf("%q: got %v %v %v", address, id, rest, found)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, seed := range []string{
		"$cbs", "/devices/d/messages/events", "amqps://h/devices/d%20e/modules/m/twin",
		"sb://h:5671/messages/events/ConsumerGroups/$Default/Partitions/0", "//", "%", "://:/",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		path, ok := parseAddress(address)
		if !ok {
			return
		}
		for _, segment := range path {
			if segment == "" {
				t.Fatalf("%q has an empty segment: %q", address, path)
			}
		}
		if id, rest, ok := splitIdentity(path); ok {
			words := 2
			if id.Module != "" {
				words = 4
			}
			if id.Device == "" || len(rest)+words != len(path) {
				t.Fatalf("%q: %v and %q of %q", address, id, rest, path)
			}
		}
	})
}
