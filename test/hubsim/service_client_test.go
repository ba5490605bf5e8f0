package hubsim_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// serviceClient runs a verb of the script with the vendor's service SDK, for an
// identity of the hub.
func serviceClient(t *testing.T, h *hubsim.Hub, id registry.ID, verb string, args ...string) []map[string]any {
	t.Helper()
	info := h.Info()
	i, err := h.Domain().Registry.Find(id)
	if err != nil {
		t.Fatal(err)
	}
	client := "HostName=" + info.Host + ";DeviceId=" + id.Device + ";SharedAccessKey=" + i.Auth.PrimaryKey
	if id.Module != "" {
		client += ";ModuleId=" + id.Module
	}
	trust := []string{"NODE_EXTRA_CA_CERTS=" + info.CAFile}
	return node(t, trust, "hub-service-client.js", append([]string{verb, info.OwnerConnectionString, client}, args...)...)
}

var (
	pumpID  = registry.ID{Device: "pump-1"}
	valveID = registry.ID{Device: "pump-1", Module: "valve"}
)

// pumpHub is a hub with the device pump-1 and its module valve.
func pumpHub(t *testing.T) *hubsim.Hub {
	t.Helper()
	h := benchHub(t, hubsim.Config{Devices: map[string]string{"pump-1": ""}})
	if _, err := h.Domain().Registry.Create(registry.Identity{ID: valveID}); err != nil {
		t.Fatal(err)
	}
	return h
}

// with returns the objects that have a member.
func with(list []map[string]any, member string) []map[string]any {
	return slices.DeleteFunc(slices.Clone(list), func(o map[string]any) bool { return o[member] == nil })
}

// step is one command of a plan: what the sender wants to hear of, what the
// device does, and what the sender hears.
type step struct {
	ID  string `json:"id"`
	Ack string `json:"ack"`
	Do  string `json:"do"`
	TTL int    `json:"ttl,omitempty"` // milliseconds

	feedback   string // "" for none
	deliveries int    // how often the device gets it
}

// Whatever a device can do to a command, the sender hears exactly what it asked
// to hear. Over MQTT a device can only complete (section 2.3).
func TestServiceCommands(t *testing.T) {
	completed := []step{
		{ID: "plain", Ack: "none", Do: "complete", deliveries: 1},
		{ID: "positive", Ack: "positive", Do: "complete", feedback: "Success", deliveries: 1},
		{ID: "negative", Ack: "negative", Do: "complete", deliveries: 1},
		{ID: "full", Ack: "full", Do: "complete", feedback: "Success", deliveries: 1},
	}
	others := []step{
		{ID: "rejected", Ack: "negative", Do: "reject", feedback: "Rejected", deliveries: 1},
		{ID: "rejected unheard", Ack: "positive", Do: "reject", deliveries: 1},
		{ID: "abandoned", Ack: "full", Do: "abandon", feedback: "DeliveryCountExceeded", deliveries: 10},
		{ID: "ignored", Ack: "full", Do: "ignore", TTL: 5000, feedback: "Expired", deliveries: 1},
	}
	for transport, plan := range map[string][]step{
		"mqtt": completed, "mqtt-ws": completed,
		"amqp": slices.Concat(completed, others), "amqp-ws": slices.Concat(completed, others),
	} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel() // a command takes 5 s to expire
			text, err := json.Marshal(plan)
			if err != nil {
				t.Fatal(err)
			}
			want := make(map[string]string)
			deliveries := make(map[string]int)
			for _, s := range plan {
				deliveries[s.ID] = s.deliveries
				if s.feedback != "" {
					want[s.ID] = s.feedback
				}
			}
			h := pumpHub(t)
			h.Domain().Feedback.SetDelay(time.Second)
			got := serviceClient(t, h, pumpID, "commands", transport, string(text), fmt.Sprint(len(want)))
			checkReceived(t, with(got, "received"), deliveries)
			checkFeedback(t, with(got, "feedback"), want)
			abandoned, completed := with(got, "abandoned"), with(got, "completed")
			again := func(o map[string]any) bool { return o["completed"] == abandoned[0]["abandoned"] }
			if len(abandoned) != 1 || !slices.ContainsFunc(completed, again) {
				t.Errorf("abandoned %v, completed %v: want the former among the latter", abandoned, completed)
			}
			if failed := with(got, "failed"); len(failed) > 0 {
				t.Errorf("the device could not settle: %v", failed)
			}
		})
	}
}

// checkReceived looks at commands as the device got them.
func checkReceived(t *testing.T, received []map[string]any, deliveries map[string]int) {
	t.Helper()
	times := make(map[string]int)
	for _, r := range received {
		id := r["received"].(string)
		times[id]++
		for member, want := range map[string]any{
			"correlationId": "of-the-test", "body": "body of " + id, "contentType": "text/plain", "property": "grün & blue",
		} {
			if r[member] != want {
				t.Errorf("%s has %s %v, want %v", id, member, r[member], want)
			}
		}
		// MQTT writes deviceBound (section 2.3).
		if to, _ := r["to"].(string); !strings.EqualFold(to, "/devices/pump-1/messages/devicebound") {
			t.Errorf("%s is to %s", id, to)
		}
	}
	if !reflect.DeepEqual(times, deliveries) {
		t.Errorf("the device got %v, want %v", times, deliveries)
	}
}

// checkFeedback looks at the records, which must be these in any order.
func checkFeedback(t *testing.T, records []map[string]any, want map[string]string) {
	t.Helper()
	got := make(map[string]string)
	for _, r := range records {
		id, status := r["feedback"].(string), r["statusCode"].(string)
		if got[id] != "" {
			t.Errorf("there are two records of %s", id)
		}
		got[id] = status
		if r["description"] != status || r["deviceId"] != "pump-1" || r["deviceGenerationId"] == "" ||
			r["contentType"] != "application/vnd.microsoft.iothub.feedback.json" {
			t.Errorf("the record of %s is %v", id, r)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("feedback %v, want %v", got, want)
	}
}

// A device that is away: its queue fills up, is purged, and the sender hears of
// it, all in the SDK's words for the hub's errors. The device's id has the
// characters that addresses must escape (trap 9.40).
func TestServiceQueue(t *testing.T) {
	t.Parallel() // feedback is gathered for 15 s
	h := pumpHub(t)
	odd := registry.ID{Device: "50%#1?+x"}
	if _, err := h.Domain().Registry.Create(registry.Identity{ID: odd}); err != nil {
		t.Fatal(err)
	}
	got := serviceClient(t, h, odd, "queue")
	if n := len(with(got, "sent")); n != 50 {
		t.Errorf("%d commands were taken, want 50", n)
	}
	refused := with(got, "refused")
	if len(refused) != 2 || refused[0]["name"] != "DeviceMaximumQueueDepthExceededError" || refused[1]["name"] != "DeviceNotFoundError" {
		t.Errorf("refused were %v", refused)
	}
	purged := map[string]any{"deviceId": odd.Device, "moduleId": nil, "totalMessagesPurged": 50.0}
	if p := with(got, "purged"); len(p) != 1 || !reflect.DeepEqual(p[0]["purged"], purged) {
		t.Errorf("purged %v, want %v", p, purged)
	}
	if n := with(got, "nothing"); len(n) != 1 || n[0]["nothing"] != 204.0 {
		t.Errorf("an empty receive gets %v, want 204", n)
	}
	for i, r := range with(got, "records") {
		list := r["records"].([]any)
		if len(list) != 50 || list[0] != "m-1 Purged" || list[49] != "m-50 Purged" || r["count"] != fmt.Sprint(i) {
			t.Errorf("receive %d gets %v", i, r)
		}
	}
	if l := with(got, "lost"); len(l) != 1 || l[0]["lost"] != 412.0 {
		t.Errorf("a second completion gets %v, want 412", l)
	}
}

// A device and its module, whose ids have every character that ids may have
// except those that the SDKs cannot carry (; and = end words of connection
// strings, + and # are patterns to its MQTT library), do all that others do, over
// each transport (trap 9.40).
func TestServiceOddIdentity(t *testing.T) {
	plan := []step{{ID: "full", Ack: "full", Do: "complete", feedback: "Success", deliveries: 1}}
	text, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	for transport, more := range map[string]string{"mqtt": "", "mqtt-ws": "", "amqp": "+#", "amqp-ws": "+#"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel() // an answer that does not come takes 5 s
			device := registry.ID{Device: "a-:.%_*?!(),@$'b%2Fc" + more}
			module := registry.ID{Device: device.Device, Module: "m-:.%_*?!(),@$'n" + more}
			h := pumpHub(t)
			for _, id := range []registry.ID{device, module} {
				if _, err := h.Domain().Registry.Create(registry.Identity{ID: id}); err != nil {
					t.Fatal(err)
				}
			}
			h.Domain().Feedback.SetDelay(time.Second)
			got := serviceClient(t, h, device, "commands", transport, string(text), "1")
			received, feedback := with(got, "received"), with(got, "feedback")
			if len(received) != 1 || received[0]["body"] != "body of full" {
				t.Errorf("the device got %v", received)
			}
			if len(feedback) != 1 || feedback[0]["deviceId"] != device.Device || feedback[0]["statusCode"] != "Success" {
				t.Errorf("the service got %v", feedback)
			}
			for _, id := range []registry.ID{device, module} {
				calls := serviceClient(t, h, id, "methods", transport)
				if answers := with(calls, "payload"); len(answers) < 10 {
					t.Errorf("%s: only %v were answered", id, answers)
				}
			}
		})
	}
}

// Direct methods as the service SDK sees them, over each transport of the device.
func TestServiceMethods(t *testing.T) {
	echoed := func(payload any) map[string]any {
		return map[string]any{"status": 207.0, "payload": map[string]any{"name": "echo", "payload": payload}}
	}
	failed := func(name string, status float64) map[string]any {
		return map[string]any{"name": name, "status": status}
	}
	want := map[string]map[string]any{
		"offline":     failed("Error", 404), // the SDK has no name for DeviceNotOnline
		"waited for":  echoed("patience"),
		"object":      echoed(map[string]any{"a": []any{1.0, "grün"}}),
		"number":      echoed(5.0),
		"none":        echoed(nil),
		"bare":        {"status": 204.0, "payload": nil},
		"bad name":    failed("ArgumentError", 400),
		"bad timeout": failed("ArgumentError", 400),
		"no answer":   failed("GatewayTimeoutError", 504),
	}
	for _, c := range []struct {
		id        registry.ID
		transport string
	}{
		{pumpID, "mqtt"},
		{pumpID, "mqtt-ws"},
		{pumpID, "amqp"},
		{pumpID, "amqp-ws"},
		{valveID, "mqtt"},
		{valveID, "amqp"},
	} {
		t.Run(strings.TrimSpace(c.transport+" "+c.id.Module), func(t *testing.T) {
			t.Parallel() // an answer that does not come takes 5 s
			calls := serviceClient(t, pumpHub(t), c.id, "methods", c.transport)
			checkCalls(t, calls, want)
		})
	}
}

// checkCalls looks at what calls returned. Those made together are ten, with the
// numbers 0 to 9.
func checkCalls(t *testing.T, calls []map[string]any, want map[string]map[string]any) {
	t.Helper()
	alone := 0
	var together []string
	for _, c := range calls {
		label := c["call"].(string)
		delete(c, "call")
		if label == "together" {
			together = append(together, fmt.Sprint(c["payload"]))
			continue
		}
		alone++
		if !reflect.DeepEqual(c, want[label]) {
			t.Errorf("%s: got %v, want %v", label, c, want[label])
		}
	}
	if alone != len(want) {
		t.Errorf("%d calls returned, want %d", alone, len(want))
	}
	var numbered []string
	for n := range 10 {
		numbered = append(numbered, fmt.Sprintf("map[name:echo payload:%d]", n))
	}
	slices.Sort(together)
	if !slices.Equal(together, numbered) {
		t.Errorf("calls made together returned %q", together)
	}
}
