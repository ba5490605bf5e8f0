package hubsim_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// twinClient runs a verb of the script with the vendor's SDKs against a hub.
func twinClient(t *testing.T, h *hubsim.Hub, verb string, args ...string) []map[string]any {
	t.Helper()
	info := h.Info()
	args = append([]string{verb, info.OwnerConnectionString}, args...)
	return node(t, []string{"NODE_EXTRA_CA_CERTS=" + info.CAFile}, "hub-twin.js", args...)
}

// bySteps sorts what a script printed by its steps.
func bySteps(list []map[string]any) map[string]map[string]any {
	steps := make(map[string]map[string]any)
	for _, o := range list {
		steps[o["step"].(string)] = o
	}
	return steps
}

// without returns the object without the hub's marks, whose names start with $,
// at any depth, as JSON.
func without(t *testing.T, object any) string {
	t.Helper()
	var clean func(any) any
	clean = func(v any) any {
		members, ok := v.(map[string]any)
		if !ok {
			return v
		}
		result := make(map[string]any)
		for name, value := range members {
			if !strings.HasPrefix(name, "$") {
				result[name] = clean(value)
			}
		}
		return result
	}
	text, err := json.Marshal(clean(object))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// dig follows names into objects; nil when there is no such member.
func dig(v any, names ...string) any {
	for _, name := range names {
		object, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = object[name]
	}
	return v
}

// The service's SDK reads, patches and replaces twins, and knows every error for
// what it is.
func TestTwinService(t *testing.T) {
	t.Parallel()
	h := benchHub(t, hubsim.Config{Devices: map[string]string{"pump-1": ""}})
	if _, err := h.Domain().Registry.Create(registry.Identity{ID: registry.ID{Device: "pump-1", Module: "valve"}}); err != nil {
		t.Fatal(err)
	}
	steps := bySteps(twinClient(t, h, "service", "pump-1", "valve"))
	for _, c := range []struct{ step, tags, desired string }{
		{"read", `{}`, `{}`},
		{"patch", `{"plant":{"hall":3,"row":"b"}}`, `{"list":[1,"x",{"y":true}],"rate":{"off":2,"on":1}}`},
		{"remove", `{"plant":{"hall":3,"row":"b"}}`, `{"list":[1,"x",{"y":true}],"rate":{"on":1}}`},
		{"whole", `{"plant":{"hall":3,"row":"b"},"whole":true}`, `{"list":[1,"x",{"y":true}],"rate":{"on":1}}`},
		{"replace", `{"only":1}`, `{"speed":5}`},
		{"read module", `{"of":"valve"}`, `{}`},
	} {
		twin := steps[c.step]["twin"]
		if got := without(t, dig(twin, "tags")); got != c.tags {
			t.Errorf("%s: tags are %s, want %s", c.step, got, c.tags)
		}
		if got := without(t, dig(twin, "properties", "desired")); got != c.desired {
			t.Errorf("%s: desired is %s, want %s", c.step, got, c.desired)
		}
		if dig(twin, "etag") == nil || dig(twin, "properties", "desired", "$metadata", "$lastUpdated") == nil {
			t.Errorf("%s: the twin has no marks: %v", c.step, twin)
		}
	}
	for step, want := range map[string]string{
		"stale": "InvalidEtagError", "unknown device": "DeviceNotFoundError", "unknown module": "Error",
		"bad name": "ArgumentError", "too large": "TooManyDevicesError", // what the SDK makes of every 403
	} {
		if got := steps[step]["error"]; got != want {
			t.Errorf("%s gives %v, want %s", step, steps[step], want)
		}
	}
}

// The device's SDK and the service's share a twin over every transport.
func TestTwinDevice(t *testing.T) {
	for _, transport := range []string{"mqtt", "mqtt-ws", "amqp", "amqp-ws"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			h := benchHub(t, hubsim.Config{Devices: map[string]string{"pump-1": ""}})
			wish(t, h, "pump-1", `{"tags":{"hidden":1},"properties":{"desired":{"gone":1,"kept":2}}}`)
			steps := bySteps(twinClient(t, h, "device", h.Info().Devices["pump-1"].ConnectionString, transport))
			for _, c := range []struct {
				step string
				got  any
				want string
			}{
				{"device reads", steps["device reads"]["properties"], `{"desired":{"gone":1,"kept":2},"reported":{}}`},
				{"device is told", steps["device is told"]["delta"], `{"gone":null,"rate":7}`},
				{"service reads", steps["service reads"]["reported"], fmt.Sprintf(`{"state":{"rate":7},"transport":%q}`, transport)},
			} {
				if got := without(t, c.got); got != c.want {
					t.Errorf("%s: %s, want %s", c.step, got, c.want)
				}
			}
			if version := dig(steps["device is told"], "delta", "$version"); version != 3.0 {
				t.Errorf("the device is told of version %v, want 3", version)
			}
			if version := dig(steps["service reads"], "reported", "$version"); version != 3.0 {
				t.Errorf("reported has version %v, want 3", version)
			}
			if steps["bad report"]["error"] == nil {
				t.Error("the SDK takes a refused report for a good one")
			}
		})
	}
}

// wish has the service write to a twin.
func wish(t *testing.T, h *hubsim.Hub, device, body string) {
	t.Helper()
	if _, err := h.Domain().Twins.Update(registry.ID{Device: device}, []byte(body), false, ""); err != nil {
		t.Fatal(err)
	}
}

// newFleet is a hub with the devices leaf-0 to leaf-5, whose tags are their
// numbers.
func newFleet(t *testing.T) *hubsim.Hub {
	t.Helper()
	devices := make(map[string]string)
	for n := range 6 {
		devices[fmt.Sprintf("leaf-%d", n)] = ""
	}
	h := benchHub(t, hubsim.Config{Devices: devices})
	for n := range 6 {
		wish(t, h, fmt.Sprintf("leaf-%d", n), fmt.Sprintf(`{"tags":{"n":%d,"odd":%v}}`, n, n%2 == 1))
	}
	return h
}

// Queries through the service's SDK, page by page.
func TestTwinQuery(t *testing.T) {
	t.Parallel()
	h := newFleet(t)
	for _, c := range []struct {
		text, itemType string
		pages          []string
	}{
		{
			`SELECT * FROM devices WHERE tags.n >= 1`, "Twin",
			[]string{
				`[{"canUpdate":"function","deviceId":"leaf-1"},{"canUpdate":"function","deviceId":"leaf-2"}]`,
				`[{"canUpdate":"function","deviceId":"leaf-3"},{"canUpdate":"function","deviceId":"leaf-4"}]`,
				`[{"canUpdate":"function","deviceId":"leaf-5"}]`,
			},
		},
		{
			`SELECT tags.odd AS odd, COUNT() AS n FROM devices GROUP BY tags.odd`, "Raw",
			[]string{`[{"n":3,"odd":false},{"n":3,"odd":true}]`},
		},
		{`SELECT TOP 1 deviceId FROM devices WHERE starts_with(deviceId, 'leaf') AND tags.n IN [3, 4]`, "Raw", []string{`[{"deviceId":"leaf-3"}]`}},
	} {
		printed := twinClient(t, h, "query", "2", c.text)
		var pages []string
		for _, o := range printed {
			text, err := json.Marshal(o["page"])
			if err != nil {
				t.Fatal(err)
			}
			pages = append(pages, string(text))
			if o["type"] != c.itemType {
				t.Errorf("%s: items of type %v, want %s", c.text, o["type"], c.itemType)
			}
		}
		if !reflect.DeepEqual(pages, c.pages) {
			t.Errorf("%s: pages %s, want %s", c.text, pages, c.pages)
		}
	}
	refused := twinClient(t, h, "query", "2", `SELECT * FROM devices WHERE tags.n = `)
	if len(refused) != 1 || refused[0]["error"] != "ArgumentError" || !strings.Contains(fmt.Sprint(refused[0]["body"]), "at character") {
		t.Errorf("a wrong query gives %v", refused)
	}
}
