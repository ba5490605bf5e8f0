package routes

import (
	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/faults"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// readOrder reads a message that orders the hub to misbehave (section 10.3);
// false when it is an ordinary one.
func readOrder(m *amqp.Message) (faults.Order, bool) {
	if len(m.Application) == 0 {
		return faults.Order{}, false
	}
	return faults.ParseOrder(func(name string) (string, bool) {
		v := m.Application.Get(name)
		return message.Text(v), v != nil
	})
}

// obey has orders carried out when their time has come.
func (g *guest) obey(orders []faults.Order) {
	if len(orders) == 0 {
		return
	}
	g.c.mu.Lock()
	defer g.c.mu.Unlock()
	for _, order := range orders {
		g.c.after(order.Delay, func() { g.carryOut(order) })
	}
}

// linkFaults says which links of the device an order ends: what they are for,
// and whether the client receives on them.
var linkFaults = map[string]struct {
	purpose  purpose
	receives bool
}{
	"KillAmqpCBSLinkReq":     {forTokens, false},
	"KillAmqpCBSLinkResp":    {forTokens, true},
	"KillAmqpD2CLink":        {forTelemetry, false},
	"KillAmqpC2DLink":        {forCommands, true},
	"KillAmqpTwinLinkReq":    {forTwin, false},
	"KillAmqpTwinLinkResp":   {forTwin, true},
	"KillAmqpMethodReqLink":  {forMethods, true},
	"KillAmqpMethodRespLink": {forMethods, false},
}

// refusalFaults are the errors that an order has the hub answer for a while.
var refusalFaults = map[string]*refusal.Error{
	"InvokeThrottling":      refusal.New(429001, "ordered by the device"),
	"InvokeMaxMessageQuota": refusal.New(403002, "ordered by the device"),
	"InvokeAuthError":       refusal.New(401003, "ordered by the device"),
}

// carryOut does what an order says. What ends is ended once: only ordered errors
// have a duration. An order that is not about AMQP means nothing here.
func (g *guest) carryOut(order faults.Order) {
	forced := &amqp.Error{Condition: amqp.CondConnectionForced, Description: order.Reason}
	if f, ok := linkFaults[order.Operation]; ok {
		g.detachWhere(f.purpose, f.receives, &amqp.Error{Condition: amqp.CondDetachForced, Description: order.Reason})
		return
	}
	if e, ok := refusalFaults[order.Operation]; ok {
		g.c.all.ordered.Set(g.source.ID.Device, e, order.Duration)
		return
	}
	switch order.Operation {
	case "KillTcp":
		g.c.conn.Abort()
	case "KillAmqpConnection":
		g.c.conn.Close(forced)
	case "ShutDownAmqp":
		g.c.conn.Close(nil)
	case "KillAmqpSession":
		g.link.EndSession(&amqp.Error{Condition: amqp.CondInternalError, Description: order.Reason})
	}
}

// detachWhere ends the links of the guest's device on its connection that are
// for one purpose. The token links belong to all devices of the connection.
func (g *guest) detachWhere(p purpose, receives bool, e *amqp.Error) {
	for _, l := range g.c.linksWhere(func(l *server.Link, o owner) bool {
		return o.purpose == p && l.Receives == receives && (p == forTokens || o.id == g.source.ID)
	}) {
		l.Detach(e)
	}
}

// tokenRefusal returns why a token of the device is refused now; nil when it is
// not. Only InvokeAuthError goes that far.
func tokenRefusal(ordered *faults.Ordered, device string) error {
	if err := ordered.Refusal(device); refusal.Is(err, 401003) {
		return err
	}
	return nil
}
