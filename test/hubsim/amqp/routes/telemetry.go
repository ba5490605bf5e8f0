package routes

import (
	"fmt"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/events"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// MaxTelemetry is the largest telemetry message, or batch of them, in bytes
// (section 6.2).
const MaxTelemetry = 256 << 10

// telemetry is a device's link to its events.
type telemetry struct {
	c      *connection
	device registry.Device
	auth   string
}

// attachTelemetry lets a device send, when a token for it is on the connection.
func (c *connection) attachTelemetry(l *server.Link, id string) (server.Endpoint, *amqp.Error) {
	device, found := c.hub.Registry.Device(id)
	if !found {
		return server.Endpoint{}, refusal(amqp.CondNotFound, 404001, "DeviceNotFound: "+id)
	}
	var scope string
	identity, ok := c.allowed(func(g registry.Grant) bool {
		scope = "device"
		if g.Rights != 0 {
			scope = "hub"
		}
		return g.Covers(id)
	})
	if !ok || device.Disabled {
		return server.Endpoint{}, unauthorized("no token for device " + id + " on this connection")
	}
	t := &telemetry{c: c, device: device, auth: fmt.Sprintf(`{"scope":%q,"type":"sas","issuer":"iothub"}`, scope)}
	return c.attached(l, owner{identity: identity, device: id}, server.Endpoint{Take: t.take}), nil
}

// take stores what one transfer brings, and only then accepts it.
func (t *telemetry) take(d server.Delivery) {
	faults := t.c.hub.Faults
	how := faults.settling() // before anyone can see that the message has arrived
	if e := faults.refusal(t.device.ID); e != nil {
		t.c.settle(d, amqp.State{Outcome: amqp.Rejected, Error: e}, how)
		return
	}
	list, state := t.read(d)
	if state.Outcome == amqp.Accepted {
		t.c.hub.Events.AppendAll(list)
	}
	t.c.settle(d, state, how)
}

// read takes a transfer apart into events, all of which must be good.
func (t *telemetry) read(d server.Delivery) ([]events.Event, amqp.State) {
	if len(d.Payload) > MaxTelemetry {
		return nil, amqp.State{Outcome: amqp.Rejected, Error: refusal(amqp.CondMessageSize, 413001, "MessageTooLarge")}
	}
	m, err := amqp.ParseMessage(d.Payload)
	if err != nil {
		return nil, malformed(err)
	}
	if d.Format != amqp.FormatBatch {
		return []events.Event{t.event(d.Payload)}, amqp.State{Outcome: amqp.Accepted}
	}
	list := make([]events.Event, 0, len(m.Data))
	for _, inner := range m.Data {
		if _, err := amqp.ParseMessage(inner); err != nil {
			return nil, malformed(err)
		}
		list = append(list, t.event(inner))
	}
	return list, amqp.State{Outcome: amqp.Accepted}
}

func (t *telemetry) event(message []byte) events.Event {
	return events.Event{
		Device:     t.device.ID,
		Generation: t.device.Generation,
		Auth:       t.auth,
		Connection: t.c.number,
		Message:    message,
	}
}
