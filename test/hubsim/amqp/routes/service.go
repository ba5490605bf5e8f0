package routes

import (
	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/commands"
	"github.com/fieldgate/fieldgate/test/hubsim/limits"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// mayServe asks for a token of the whole hub with the right ServiceConnect.
func mayServe(g registry.Grant) bool { return g.Whole && g.Rights&registry.ServiceConnect != 0 }

// mayRead asks for the same right, but the token may be about the event
// endpoint alone.
func mayRead(g registry.Grant) bool {
	return g.ID == registry.ID{} && g.Rights&registry.ServiceConnect != 0
}

// attachService lets in a back end that has put a token that satisfies may.
func (c *connection) attachService(l *server.Link, may func(registry.Grant) bool, e server.Endpoint) (server.Endpoint, *amqp.Error) {
	t := c.find(may)
	if t == nil {
		return server.Endpoint{}, wireError(refusal.New(401002, "no token with the right ServiceConnect on this connection"))
	}
	return c.attached(l, owner{purpose: forService, token: t.grant.Identity}, e), nil
}

// commandSender takes commands from the back end for the identities that their
// property to names (section 5.8).
func (c *connection) commandSender() server.Endpoint {
	return server.Endpoint{Take: func(d server.Delivery) {
		m, err := amqp.ParseMessage(d.Payload)
		if err != nil {
			d.Settle(malformed(err))
			return
		}
		d.Settle(rejected(c.sendCommand(m, len(d.Payload))))
	}}
}

// sendCommand queues one command of so many bytes.
func (c *connection) sendCommand(m *amqp.Message, size int) error {
	to := ""
	if m.Properties != nil {
		to = m.Properties.To
	}
	path, _ := parseAddress(to)
	id, rest, ok := splitIdentity(path)
	if !ok || !matches(rest, "messages", "devicebound") {
		return refusal.New(400004, "the property to names no device: "+to)
	}
	if err := c.hub.Callable(id); err != nil {
		return err
	}
	if err := c.hub.Limits.Take(limits.CommandSend, size); err != nil {
		return err
	}
	return c.hub.Commands.Send(id, message.FromAMQP(m))
}

// The media types of notices.
const (
	feedbackType   = "application/vnd.microsoft.iothub.feedback.json"
	fileNoticeType = "application/json"
)

// feedback hands the back end what became of its commands.
func (c *connection) feedback(l *server.Link) server.Endpoint {
	return c.lockedEndpoint(l, c.hub.Feedback, c.renderNotice(feedbackType))
}

// fileNotices tells the back end of uploaded files.
func (c *connection) fileNotices(l *server.Link) server.Endpoint {
	return c.lockedEndpoint(l, c.hub.FileNotices, c.renderNotice(fileNoticeType))
}

func (c *connection) renderNotice(mediaType string) func(commands.Delivery) *amqp.Message {
	return func(d commands.Delivery) *amqp.Message {
		m := d.Message.AMQP()
		m.Properties.ContentType = amqp.Symbol(mediaType)
		m.Properties.UserID = []byte(c.hub.Name)
		m.Annotations = append(m.Annotations, lockAnnotations(d)...)
		return m
	}
}
