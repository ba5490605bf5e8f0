package routes

import (
	"github.com/fieldgate/fieldgate/test/hubsim/faults"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
)

// telemetry stores a message and only then acknowledges it. MQTT has no other
// way to refuse one than to close the connection (trap 9.19).
func (c *connection) telemetry(bag string, p mqtt.Publish, done func(error)) {
	m, err := decodeMessage(bag, p)
	if err != nil {
		done(err)
		return
	}
	if order, ok := faults.ParseOrder(m.Property); ok {
		c.obey(order)
		done(nil)
		return
	}
	how := c.hub.Faults.Settling() // before anyone can see that the message has arrived
	if err = c.server.ordered.Refusal(c.source.ID.Device); err == nil {
		err = c.hub.Message(c.source, m)
	}
	if err != nil {
		done(err)
		return
	}
	c.settle(done, how)
}

// decodeMessage makes a message of what was published. A retained one is not
// retained but marked, and so is a repeated one (section 2.2).
func decodeMessage(bag string, p mqtt.Publish) (*message.Message, error) {
	m, err := decodeBag(bag)
	if err != nil {
		return nil, err
	}
	m.Body = p.Body
	for _, mark := range []struct {
		name string
		set  bool
	}{{"mqtt-retain", p.Retain}, {"mqtt-dup", p.Duplicate}} {
		if mark.set {
			m.Properties = append(m.Properties, message.Property{Name: mark.name, Value: "true"})
		}
	}
	return m, nil
}

// settle acknowledges a message the way the faults want it. The connection keeps
// the order of the acknowledgements, whatever the delays.
func (c *connection) settle(done func(error), how faults.Settling) {
	acknowledge := func() {
		done(nil)
		if how.Twice {
			done(nil)
		}
	}
	switch {
	case how.Never:
		done(mqtt.ErrUnanswered)
	case how.Delay > 0:
		c.clocks.after(how.Delay, acknowledge)
	default:
		acknowledge()
	}
}

// publishWill stores the will of a client that has gone without a word (section
// 2.7).
func (c *connection) publishWill() {
	bag, ok := eventBag(c.source.ID, c.will.Topic)
	if !ok {
		c.hub.Log.Info("a will is not for the topic of telemetry", "device", c.source.ID, "topic", c.will.Topic)
		return
	}
	m, err := decodeMessage(bag, *c.will)
	if err == nil {
		m.Properties = append(m.Properties, message.Property{Name: "iothub-MessageType", Value: "Will"})
		err = c.hub.Message(c.source, m)
	}
	if err != nil {
		c.hub.Log.Info("a will is refused", "device", c.source.ID, "error", err)
	}
}
