package routes

import (
	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/faults"
	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// telemetry takes an identity's messages to the event endpoint (section 3.5).
func (g *guest) telemetry() server.Endpoint { return server.Endpoint{Take: g.takeTelemetry} }

// takeTelemetry stores what one transfer brings, and only then accepts it.
func (g *guest) takeTelemetry(d server.Delivery) {
	how := g.c.hub.Faults.Settling() // before anyone can see that the message has arrived
	g.visit.session.Touch()
	in, state := readTelemetry(d)
	if state.Outcome == amqp.Accepted && len(in.messages) > 0 {
		state = rejected(g.store(in.messages))
	}
	g.c.settle(d, state, how)
	if state.Outcome == amqp.Accepted {
		g.obey(in.orders)
	}
}

func (g *guest) store(messages [][]byte) error {
	if err := g.c.all.ordered.Refusal(g.source.ID.Device); err != nil {
		return err
	}
	return g.c.hub.Telemetry(g.source, messages...)
}

// intake is what one transfer brings.
type intake struct {
	messages [][]byte // encoded, as they came
	orders   []faults.Order
}

// readTelemetry takes a transfer apart. All its messages must be good.
func readTelemetry(d server.Delivery) (in intake, state amqp.State) {
	if len(d.Payload) > hub.MaxTelemetry {
		return intake{}, rejected(refusal.New(413001, "a message and a batch may have 256 KiB"))
	}
	m, err := amqp.ParseMessage(d.Payload)
	if err != nil {
		return intake{}, malformed(err)
	}
	if d.Format != amqp.FormatBatch {
		in.add(m, d.Payload)
		return in, accepted
	}
	in.messages = make([][]byte, 0, len(m.Data))
	for _, encoded := range m.Data {
		m, err := amqp.ParseMessage(encoded)
		if err != nil {
			return intake{}, malformed(err)
		}
		in.add(m, encoded)
	}
	return in, accepted
}

// add tells messages from orders to misbehave, which are not stored.
func (in *intake) add(m *amqp.Message, encoded []byte) {
	if order, ok := readOrder(m); ok {
		in.orders = append(in.orders, order)
		return
	}
	in.messages = append(in.messages, encoded)
}
