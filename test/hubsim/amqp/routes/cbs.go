package routes

import (
	"fmt"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// cbs is the node that takes tokens (section 1.8). Who is meant stands in the
// token, so the name in the request does not matter as long as there is one.
func (c *connection) cbs(l *server.Link) server.Endpoint {
	if l.Receives {
		return server.Endpoint{}
	}
	return server.Endpoint{Take: func(d server.Delivery) {
		request, err := amqp.ParseMessage(d.Payload)
		if err != nil {
			d.Settle(malformed(err))
			return
		}
		d.Settle(accepted)
		status, reason := 200, "OK"
		if err := c.putToken(request); err != nil {
			e := refusal.Of(err)
			status, reason = e.Status(), fmt.Sprintf("%d %s", e.Code, e.Error())
		}
		c.reply(l, request, &amqp.Message{
			Application: amqp.Map{
				{Key: "status-code", Value: int32(status)},
				{Key: "status-description", Value: reason},
			},
			HasValue: true,
		})
	}}
}

// putToken judges a request.
func (c *connection) putToken(request *amqp.Message) error {
	if request.Application.Text("operation") != "put-token" || request.Application.Text("name") == "" {
		return refusal.New(400004, "operation must be put-token and name must not be empty")
	}
	text, ok := request.Value.(string)
	if !ok {
		return refusal.New(400004, "the body must be a token as text")
	}
	grant, err := c.authenticate(text)
	if err != nil {
		return err
	}
	return c.admit(grant)
}

// reply sends the answer to a request that came on link from. The link it goes
// to is the one whose name or target the request gives as reply-to; device
// clients give neither, and mean the one there is (trap 9.38).
func (c *connection) reply(from *server.Link, request, answer *amqp.Message) {
	answer.Properties = &amqp.Properties{}
	replyTo := ""
	if p := request.Properties; p != nil {
		answer.Properties.CorrelationID = p.MessageID // the same type (trap 9.6)
		replyTo = p.ReplyTo
	}
	to := c.replyLink(from, replyTo)
	if to == nil {
		c.hub.Log.Debug("no link for an answer", "address", from.Address(), "reply_to", replyTo)
		return
	}
	post(to, answer)
}

// post sends an answer. A client that asks and never takes the answers loses the
// link.
func post(l *server.Link, m *amqp.Message) {
	if !l.Send(m.Append(nil), false) {
		l.Detach(&amqp.Error{Condition: amqp.CondResourceLimit, Description: "messages without credit"})
	}
}

func (c *connection) replyLink(from *server.Link, replyTo string) *server.Link {
	var other *server.Link
	for _, l := range c.linksWhere(func(l *server.Link, _ owner) bool {
		return l.Receives && l.Address() == from.Address()
	}) {
		if replyTo != "" && (l.Name == replyTo || (l.Target != nil && l.Target.Address == replyTo)) {
			return l
		}
		if other == nil || l.SameSession(from) {
			other = l
		}
	}
	return other
}
