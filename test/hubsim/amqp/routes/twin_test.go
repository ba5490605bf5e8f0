package routes_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// twinClient is a pair of twin links.
type twinClient struct {
	*client
	requests *goamqp.Sender
	answers  *goamqp.Receiver
}

// twin attaches both links of a pair.
func (c *client) twin(id registry.ID, pairing string) *twinClient {
	c.t.Helper()
	properties := map[string]any{"com.microsoft:channel-correlation-id": "twin:" + pairing, "com.microsoft:api-version": "2021-04-12"}
	return &twinClient{
		client: c,
		requests: c.sender("/"+id.Path()+"/twin", &goamqp.SenderOptions{
			Properties: properties, SettlementMode: goamqp.SenderSettleModeSettled.Ptr(),
		}),
		answers: c.receiver("/"+id.Path()+"/twin", &goamqp.ReceiverOptions{
			Properties: properties, RequestedSenderSettleMode: goamqp.SenderSettleModeSettled.Ptr(), Credit: 10,
		}),
	}
}

// ask sends a request and returns its answer.
func (c *twinClient) ask(operation, resource, body string) *goamqp.Message {
	c.t.Helper()
	c.request(operation, resource, body, "ask")
	return c.next(c.answers)
}

func (c *twinClient) request(operation, resource, body string, correlation any) {
	c.t.Helper()
	m := text(body)
	m.Annotations = goamqp.Annotations{"operation": operation}
	if resource != "" {
		m.Annotations["resource"] = resource
	}
	m.Properties = &goamqp.MessageProperties{CorrelationID: correlation}
	c.send(c.requests, m)
}

const (
	reported      = "/properties/reported"
	notifications = "/notifications/twin/properties/desired"
)

// decodeJSON reads the body of a message.
func decodeJSON(t *testing.T, m *goamqp.Message) (v map[string]any) {
	t.Helper()
	if err := json.Unmarshal(m.GetData(), &v); err != nil {
		t.Fatalf("body %q: %v", m.GetData(), err)
	}
	return v
}

func TestTwin(t *testing.T) {
	b := newBench(t)
	twin := b.device(pump).twin(pump, "one")
	// Ids come back in their own type; a body of one space counts as none.
	for _, id := range []any{"text", goamqp.UUID{1, 2, 3}} {
		twin.request("GET", "", " ", id)
		got := twin.next(twin.answers)
		if got.Properties.CorrelationID != id || got.Annotations["status"] != int32(200) {
			t.Errorf("got %#v with %v, want %#v with status 200", got.Properties.CorrelationID, got.Annotations, id)
		}
		if body := decodeJSON(t, got); body["desired"] == nil || body["reported"] == nil || len(body) != 2 {
			t.Errorf("twin: got %v, want desired and reported", body)
		}
	}
	got := twin.ask("PATCH", reported, `{"speed":7}`)
	if got.Annotations["status"] != int32(204) || got.Annotations["version"] != int64(2) || len(got.Data) != 1 {
		t.Errorf("patch: got %v with %d data sections, want 204, version 2 and an empty one", got.Annotations, len(got.Data))
	}
	state := decodeJSON(t, twin.ask("GET", "", ""))["reported"].(map[string]any)
	if state["speed"] != 7.0 || state["$version"] != 2.0 {
		t.Errorf("reported: got %v", state)
	}
}

// Errors are JSON with a status, and cost nothing else.
func TestTwinErrors(t *testing.T) {
	b := newBench(t)
	twin := b.device(pump).twin(pump, "one")
	for _, c := range []struct{ operation, resource, body string }{
		{"PATCH", reported, `{`},
		{"PATCH", reported, `{"$version":1}`},
		{"PATCH", "/properties/desired", `{"a":1}`},
		{"POST", "", ""},
	} {
		got := twin.ask(c.operation, c.resource, c.body)
		body := decodeJSON(t, got)
		if got.Annotations["status"] != int32(400) || body["errorCode"] == nil || body["trackingId"] == nil {
			t.Errorf("%v: got %v with %v, want status 400 with an error code", c, got.Annotations, body)
		}
	}
	twin.ask("GET", "", "")
}

// Desired properties are notified from the PUT to the DELETE, without any
// correlation id.
func TestDesired(t *testing.T) {
	b := newBench(t)
	twin := b.device(pump).twin(pump, "one")
	change := func(n int) {
		t.Helper()
		patch := fmt.Appendf(nil, `{"properties":{"desired":{"n":%d}}}`, n)
		if _, err := b.hub.Twins.Update(pump, patch, false, ""); err != nil {
			t.Fatal(err)
		}
	}
	change(1) // nobody has asked yet
	if got := twin.ask("PUT", notifications, " "); got.Annotations["status"] != int32(200) || len(got.Data) != 1 {
		t.Errorf("PUT: got %v with %d data sections", got.Annotations, len(got.Data))
	}
	change(2)
	got := twin.next(twin.answers)
	if body := decodeJSON(t, got); body["n"] != 2.0 || body["$version"] != 3.0 {
		t.Errorf("notification: got %v", body)
	}
	if got.Properties != nil && got.Properties.CorrelationID != nil {
		t.Errorf("correlation id: got %v, want none", got.Properties.CorrelationID)
	}
	if got.Annotations["resource"] != "/properties/desired" || got.Annotations["version"] != int64(3) {
		t.Errorf("annotations: got %v", got.Annotations)
	}
	if got := twin.ask("DELETE", notifications, ""); got.Annotations["status"] != int32(200) {
		t.Errorf("DELETE: got %v", got.Annotations)
	}
	change(3)
	if body := decodeJSON(t, twin.ask("GET", "", "")); body["desired"] == nil {
		t.Errorf("got %v, want the answer to GET and no notification before it", body)
	}
}

// Each pair gets the answers to its own requests; one name cannot stand for two
// pairs.
func TestTwinPairs(t *testing.T) {
	b := newBench(t)
	c := b.device(pump)
	c.login(b.token(other, time.Hour))
	one, two := c.twin(pump, "one"), c.twin(other, "one")
	two.ask("PATCH", reported, `{"who":"two"}`)
	one.ask("PATCH", reported, `{"who":"one"}`)
	for who, twin := range map[string]*twinClient{"one": one, "two": two} {
		if got := decodeJSON(t, twin.ask("GET", "", ""))["reported"].(map[string]any)["who"]; got != who {
			t.Errorf("reported by %s: got %v", who, got)
		}
	}
	_, err := c.session.NewSender(within(t), "/devices/pump-1/twin", &goamqp.SenderOptions{
		Properties: map[string]any{"com.microsoft:channel-correlation-id": "twin:one"},
	})
	if got := condition(err); got != "amqp:not-allowed" {
		t.Errorf("a second pair of the same name: got %q, want amqp:not-allowed", got)
	}
	if err := one.requests.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	one.requests = c.sender("/devices/pump-1/twin", &goamqp.SenderOptions{
		Properties: map[string]any{"com.microsoft:channel-correlation-id": "twin:one"},
	})
	one.ask("GET", "", "")
}

// A request without a link for its answer is refused.
func TestTwinWithoutAnswers(t *testing.T) {
	b := newBench(t)
	c := b.device(pump)
	s := c.sender("/devices/pump-1/twin", nil)
	m := text(" ")
	m.Annotations = goamqp.Annotations{"operation": "GET"}
	if got := condition(s.Send(within(t), m, nil)); got != "amqp:not-allowed" {
		t.Errorf("got %q, want amqp:not-allowed", got)
	}
}

// A client that asks and never takes the answers loses the link that they were
// to go out on, and nothing else.
func TestAnswersNotTaken(t *testing.T) {
	b := newBench(t)
	c := b.device(pump)
	answers := c.receiver("/devices/pump-1/twin", &goamqp.ReceiverOptions{Credit: -1})
	requests := c.sender("/devices/pump-1/twin", nil)
	get := text(" ")
	get.Annotations = goamqp.Annotations{"operation": "GET"}
	b.eventually("the hub has had enough", func() bool {
		err := requests.Send(within(t), get, nil)
		if err != nil && condition(err) != "amqp:not-allowed" { // no link for the answer any more
			t.Fatal(err)
		}
		return err != nil
	})
	if got := c.ended(answers); got != "amqp:resource-limit-exceeded" {
		t.Errorf("got %q, want amqp:resource-limit-exceeded", got)
	}
	c.send(c.sender(telemetryAddress, nil), text("goes on"))
}

func TestModuleTwin(t *testing.T) {
	b := newBench(t)
	b.device(module).twin(module, "m").ask("PATCH", reported, `{"of":"module"}`)
	for id, want := range map[registry.ID]string{module: "module", pump: ""} {
		raw, err := b.hub.Twins.ForDevice(id)
		if err != nil {
			t.Fatal(err)
		}
		var twin struct{ Reported struct{ Of string } }
		if err := json.Unmarshal(raw, &twin); err != nil {
			t.Fatal(err)
		}
		if twin.Reported.Of != want {
			t.Errorf("%s: got %s, want %q", id, raw, want)
		}
	}
}
