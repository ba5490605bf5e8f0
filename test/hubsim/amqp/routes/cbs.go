package routes

import (
	"errors"
	"fmt"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
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
		d.Settle(amqp.State{Outcome: amqp.Accepted})
		status, reason := c.putToken(request)
		c.reply(l, request, &amqp.Message{
			Application: amqp.Map{
				{Key: "status-code", Value: int32(status)},
				{Key: "status-description", Value: reason},
			},
			HasValue: true,
		})
	}}
}

// putToken judges a request and returns the status of the answer.
func (c *connection) putToken(request *amqp.Message) (status int, reason string) {
	if request.Application.Text("operation") != "put-token" || request.Application.Text("name") == "" {
		return 400, "400004 ArgumentInvalid: operation must be put-token and name must not be empty"
	}
	text, ok := request.Value.(string)
	if !ok {
		return 400, "400004 ArgumentInvalid: the body must be a token as text"
	}
	if c.hub.Faults.Throttled() {
		return 429, "429001 ThrottlingException"
	}
	grant, err := c.hub.Registry.Authenticate(text, time.Now())
	if refused, ok := errors.AsType[*registry.Refusal](err); ok {
		return refused.Status, refused.Error()
	}
	if c.hub.Faults.TokenRefused(grant.Device) {
		return 401, "401003 IotHubUnauthorized: refused by a fault"
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
	to.Send(answer.Append(nil), false)
}

func (c *connection) replyLink(from *server.Link, replyTo string) *server.Link {
	c.mu.Lock()
	defer c.mu.Unlock()
	var other *server.Link
	for l := range c.links {
		if !l.Receives || l.Address() != from.Address() {
			continue
		}
		if replyTo != "" && (l.Name == replyTo || (l.Target != nil && l.Target.Address == replyTo)) {
			return l
		}
		if other == nil || l.SameSession(from) {
			other = l
		}
	}
	return other
}

// malformed refuses a message that is not one.
func malformed(err error) amqp.State {
	return amqp.State{Outcome: amqp.Rejected, Error: &amqp.Error{
		Condition: amqp.CondDecodeError, Description: fmt.Sprintf("message not understood: %v", err),
	}}
}
