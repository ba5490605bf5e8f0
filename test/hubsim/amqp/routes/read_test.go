package routes_test

import (
	"testing"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim/events"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
)

// Consumer groups must exist; each reads everything.
func TestConsumerGroups(t *testing.T) {
	b := newBench(t)
	device := b.device(pump)
	device.send(device.sender(telemetryAddress, nil), text("x"))
	c := b.dial()
	c.login(b.policyToken("service", "sb://"+hostName+"/messages/events"))
	address := func(group string) string { return "messages/events/ConsumerGroups/" + group + "/Partitions/0" }
	if _, got := c.refused(address("night-shift")); got != "amqp:not-found" {
		t.Errorf("before it exists: got %q, want amqp:not-found", got)
	}
	b.hub.Events.AddGroup("night-shift")
	for _, group := range []string{"$Default", "$default", "Night-Shift"} {
		if got := c.next(c.receiver(address(group), nil)); string(got.GetData()) != "x" {
			t.Errorf("%s: got %s", group, got.GetData())
		}
	}
	b.hub.Events.RemoveGroup("night-shift")
	if _, got := c.refused(address("night-shift")); got != "amqp:not-found" {
		t.Errorf("after it is gone: got %q, want amqp:not-found", got)
	}
}

// An epoch is fought for within a consumer group.
func TestEpochsPerGroup(t *testing.T) {
	b := newBench(t)
	b.hub.Events.AddGroup("other")
	c := b.service()
	reader := func(group string, epoch int64) *goamqp.Receiver {
		t.Helper()
		return c.receiver("messages/events/ConsumerGroups/"+group+"/Partitions/0",
			&goamqp.ReceiverOptions{Properties: map[string]any{"com.microsoft:epoch": epoch}})
	}
	first, neighbour := reader("$Default", 1), reader("other", 1)
	reader("$Default", 2)
	if got := c.ended(first); got != "amqp:link:stolen" {
		t.Errorf("lower epoch: got %q, want amqp:link:stolen", got)
	}
	device := b.device(pump)
	device.send(device.sender(telemetryAddress, nil), text("x"))
	c.next(neighbour)
}

// Readers see who sent an event, and which events the hub wrote itself.
func TestEventAnnotations(t *testing.T) {
	b := newBench(t)
	c := b.device(module)
	sent := text("from the module")
	sent.Annotations = goamqp.Annotations{"dt-subject": "thermostat", "mine": "dropped"}
	c.send(c.sender("/devices/pump-1/modules/valve/messages/events", nil), sent)
	own := (&message.Message{Body: []byte("{}")}).AMQP().Append(nil)
	b.hub.Events.Append(events.Event{Device: "pump-1", Kind: "deviceLifecycleEvents", Message: own})

	r := b.service().receiver("messages/events/ConsumerGroups/$Default/Partitions/0", nil)
	for _, want := range []map[any]any{
		{"iothub-connection-module-id": "valve", "iothub-message-source": "Telemetry", "dt-subject": "thermostat", "mine": nil},
		{"iothub-connection-module-id": nil, "iothub-message-source": "deviceLifecycleEvents"},
	} {
		got := c.next(r)
		want["iothub-connection-device-id"] = "pump-1"
		for name, value := range want {
			if got.Annotations[name] != value {
				t.Errorf("%v of %s: got %v, want %v", name, got.GetData(), got.Annotations[name], value)
			}
		}
	}
}
