package routes

import (
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

var (
	pump   = registry.ID{Device: "pump-1"}
	filter = registry.ID{Device: "pump-1", Module: "filter"}
	odd    = registry.ID{Device: "a%2F#+?b"}
)

func TestEventTopics(t *testing.T) {
	for _, v := range []struct {
		id    registry.ID
		topic string
		bag   string
		ok    bool
	}{
		{pump, "devices/pump-1/messages/events", "", true},
		{pump, "devices/pump-1/messages/events/", "", true},
		{pump, "devices/pump-1/messages/events/a=b", "a=b", true},
		{pump, "devices/pump-1/messages/events/a=b/", "a=b", true},
		{pump, "devices/pump-1/messages/events/?a=b", "a=b", true},
		{filter, "devices/pump-1/modules/filter/messages/events/a=b/", "a=b", true},
		{odd, "devices/a%2F#+?b/messages/events/a=b", "a=b", true},
		{odd, "devices/a%252F%23+%3Fb/messages/events/a=b", "a=b", true},
		{pump, "devices/pump-1/messages/events/a=b/c=d", "", false},
		{pump, "devices/pump-1/messages/eventsa=b", "", false},
		{pump, "devices/pump-1/modules/filter/messages/events/", "", false},
		{pump, "devices/pump-10/messages/events/", "", false},
		{pump, "devices/pump-2/messages/events/", "", false},
		{pump, "/devices/pump-1/messages/events/", "", false},
		{filter, "devices/pump-1/messages/events/", "", false},
		{pump, "devices/pump-1", "", false},
		{pump, "", "", false},
	} {
		bag, ok := eventBag(v.id, v.topic)
		if ok != v.ok || (ok && bag != v.bag) {
			t.Errorf("%s: got %q and %v, want %q and %v", v.topic, bag, ok, v.bag, v.ok)
		}
	}
}

func TestFilters(t *testing.T) {
	for _, v := range []struct {
		id     registry.ID
		filter string
		want   purpose
	}{
		{pump, "devices/pump-1/messages/devicebound/#", commandsTo},
		{odd, "devices/a%2F#+?b/messages/devicebound/#", commandsTo},
		{pump, "$iothub/twin/res/#", answersTo},
		{pump, "$iothub/twin/PATCH/properties/desired/#", desiredTo},
		{pump, "$iothub/methods/POST/#", methodsTo},
		{filter, "$iothub/methods/POST/#", methodsTo},
		{filter, "devices/pump-1/modules/filter/inputs/#", inputsTo},
		{filter, "devices/pump-1/modules/filter/#", inputsTo},
		{filter, "devices/pump-1/messages/devicebound/#", unknown},
		{pump, "devices/pump-1/modules/filter/#", unknown},
		{pump, "devices/pump-2/messages/devicebound/#", unknown},
		{pump, "devices/+/messages/devicebound/#", unknown},
		{pump, "devices/pump-1/#", unknown},
		{pump, "#", unknown},
		{pump, "$iothub/#", unknown},
	} {
		if got := filterPurpose(v.id, v.filter); got != v.want {
			t.Errorf("%s of %s: got %d, want %d", v.filter, v.id, got, v.want)
		}
	}
}

func TestRequestTopics(t *testing.T) {
	for topic, want := range map[string]request{
		"$iothub/twin/GET/?$rid=1":                                    {kind: twinGet, requestID: "1"},
		"$iothub/twin/GET?$rid=a%20b":                                 {kind: twinGet, requestID: "a%20b"},
		"$iothub/twin/PATCH/properties/reported/?$rid=1&$version=6":   {kind: twinPatch, requestID: "1", version: 6},
		"$iothub/twin/PATCH/properties/reported/?$version=6&x&$rid=1": {kind: twinPatch, requestID: "1", version: 6},
		"$iothub/methods/res/200/?$rid=0a1b":                          {kind: methodAnswer, requestID: "0a1b", status: 200},
		"$iothub/methods/res/-7/?$rid=0a1b&more=1":                    {kind: methodAnswer, requestID: "0a1b", status: -7},
	} {
		got, err := parseRequest(topic)
		if err != nil || got != want {
			t.Errorf("%s: got %+v and %v, want %+v", topic, got, err, want)
		}
	}
	for _, topic := range []string{
		"", "$iothub/twin/GET/", "$iothub/twin/GET/?$rid=", "$iothub/twin/PUT/?$rid=1", "$iothub/twin/GET/more/?$rid=1",
		"$iothub/methods/res/ok/?$rid=1", "$iothub/methods/res/99999999999/?$rid=1", "$iothub/methods/res/?$rid=1",
		"$iothub/twin/PATCH/properties/desired/?$rid=1", "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=x",
		"devices/pump-1/messages/devicebound/", "$SYS/x",
	} {
		if got, err := parseRequest(topic); err == nil {
			t.Errorf("%s: got %+v, want an error", topic, got)
		}
	}
}

func TestIdentify(t *testing.T) {
	for _, v := range []struct {
		client, user string
		want         registry.ID
		code         byte
	}{
		{"pump-1", "hub.test/pump-1/?api-version=2021-04-12", pump, mqtt.Accepted},
		{"pump-1", "hub.test/pump-1/?api-version=2021-04-12&model-id=dtmi:com:example:T;1&DeviceClientType=node%2F1", pump, mqtt.Accepted},
		{"pump-1", "hub.test/pump-1/?DeviceClientType=x&api-version=2021-04-12", pump, mqtt.Accepted},
		{"pump-1", "hub.test/pump-1/api-version=2016-11-14", pump, mqtt.Accepted},
		{"pump-1", "hub.test/pump-1?api-version=2016-11-14", pump, mqtt.Accepted},
		{"pump-1/filter", "hub.test/pump-1/filter/?api-version=2018-06-30", filter, mqtt.Accepted},
		{"pump-1/filter", "hub.test/pump-1/filter/api-version=2018-06-30", filter, mqtt.Accepted},
		{"pump-1/filter", "hub.test/pump-1/filter?&api-version=2018-06-30", filter, mqtt.Accepted},
		{"pump-1/filter", "hub.test/pump-1/filter/api-version=2017-06-30/DeviceClientType=x", filter, mqtt.Accepted},
		{"a?api-version=b", "hub.test/a?api-version=b/?api-version=1", registry.ID{Device: "a?api-version=b"}, mqtt.Accepted},
		{"pump-2", "hub.test/pump-1/?api-version=2021-04-12", registry.ID{}, mqtt.BadIdentifier},
		{"pump", "hub.test/pump-1/?api-version=2021-04-12", registry.ID{}, mqtt.BadIdentifier},
		{"pump-1", "hub.test/pump-1/filter/?api-version=2021-04-12", registry.ID{}, mqtt.BadIdentifier},
		{"pump-1", "hub.test/pump-1/filter/api-version=2021-04-12", registry.ID{}, mqtt.BadIdentifier},
		{"pump-1/filter", "hub.test/pump-1/?api-version=2021-04-12", registry.ID{}, mqtt.BadIdentifier},
		{"", "hub.test/?api-version=2021-04-12", registry.ID{}, mqtt.BadIdentifier},
		{"pump-1", "", registry.ID{}, mqtt.BadUserOrPassword},
		{"pump-1", "pump-1", registry.ID{}, mqtt.BadUserOrPassword},
		{"pump-1", "hub.test/pump-1", registry.ID{}, mqtt.BadUserOrPassword},
		{"pump-1", "hub.test/pump-1/?DeviceClientType=x", registry.ID{}, mqtt.BadUserOrPassword},
	} {
		got, code, err := identify(mqtt.Login{ClientID: v.client, User: v.user})
		if got != v.want || code != v.code || (err == nil) != (code == mqtt.Accepted) {
			t.Errorf("%q with user %q: got %v, code %d and %v, want %v and code %d", v.client, v.user, got, code, err, v.want, v.code)
		}
	}
}

// FuzzTopics reads any topic, filter and user name.
func FuzzTopics(f *testing.F) {
	for _, text := range []string{
		"devices/pump-1/messages/events/a=b", "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=6",
		"$iothub/methods/res/200/?$rid=1", "hub.test/pump-1/?api-version=2021-04-12",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if bag, ok := eventBag(pump, text); ok {
			_, _ = decodeBag(bag)
		}
		filterPurpose(odd, text)
		if r, err := parseRequest(text); err == nil && r.requestID == "" {
			t.Errorf("%q was read without a request id", text)
		}
		if id, _, err := identify(mqtt.Login{ClientID: "pump-1", User: text}); err == nil && id != pump {
			t.Errorf("%q was read as %v", text, id)
		}
	})
}
