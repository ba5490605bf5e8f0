package routes

import (
	"errors"

	"github.com/fieldgate/fieldgate/test/hubsim/faults"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// refusalFaults are the errors that an order has the hub give for a while
// (section 10.3).
var refusalFaults = map[string]*refusal.Error{
	"InvokeThrottling":      refusal.New(429001, "ordered by the device"),
	"InvokeMaxMessageQuota": refusal.New(403002, "ordered by the device"),
	"InvokeAuthError":       refusal.New(401003, "ordered by the device"),
}

// obey does what a message orders, when its time has come. The orders about AMQP
// mean nothing here.
func (c *connection) obey(order faults.Order) {
	c.hub.Log.Info("fault ordered", "device", c.source.ID, "operation", order.Operation)
	c.clocks.after(order.Delay, func() {
		e := refusalFaults[order.Operation]
		if e != nil {
			c.server.ordered.Set(c.source.ID.Device, e, order.Duration)
		}
		switch order.Operation {
		case "KillTcp":
			c.conn.Abort()
		case "ShutDownMqtt":
			c.conn.Close(errors.New("ordered by the device: " + order.Reason))
		case "InvokeAuthError":
			c.conn.Close(e) // the only way to tell
		}
	})
}

// loginRefusal returns why the device may not connect now; nil when it may. A
// device without quota may.
func loginRefusal(ordered *faults.Ordered, device string) error {
	err := ordered.Refusal(device)
	if refusal.Is(err, 403002) {
		return nil
	}
	return err
}
