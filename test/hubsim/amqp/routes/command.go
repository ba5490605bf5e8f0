package routes

import (
	"context"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/commands"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// commands hands an identity its cloud-to-device messages. A newer link takes
// them over from an older one.
func (g *guest) commands() server.Endpoint {
	older := g.c.linksWhere(func(l *server.Link, o owner) bool {
		return o.purpose == forCommands && o.id == g.source.ID && l != g.link
	})
	for _, l := range older {
		l.Detach(wireError(refusal.New(409002, "a newer link of "+g.source.ID.String()+" has come")))
	}
	return g.c.lockedEndpoint(g.link, mailbox{g.c.hub.Commands, g.source.ID}, renderCommand)
}

// mailbox is the queue of one identity.
type mailbox struct {
	queues *commands.Queues
	id     registry.ID
}

func (m mailbox) Receive() (commands.Delivery, bool) { return m.queues.Receive(m.id) }
func (m mailbox) Next(ctx context.Context) (commands.Delivery, error) {
	return m.queues.Next(ctx, m.id)
}
func (m mailbox) Complete(lock string) error { return m.queues.Complete(m.id, lock) }
func (m mailbox) Reject(lock string) error   { return m.queues.Reject(m.id, lock) }
func (m mailbox) Abandon(lock string) error  { return m.queues.Abandon(m.id, lock) }
func (m mailbox) Unlock(lock string)         { m.queues.Unlock(m.id, lock) }

// renderCommand writes a message as a device gets it (section 3.6).
func renderCommand(d commands.Delivery) *amqp.Message {
	m := d.Message.AMQP()
	m.Annotations = append(m.Annotations, lockAnnotations(d)...)
	return m
}

// lockAnnotations tell about the message's stay in its queue.
func lockAnnotations(d commands.Delivery) amqp.Map {
	return amqp.Map{
		{Key: amqp.Symbol("x-opt-lock-token"), Value: d.LockToken},
		{Key: amqp.Symbol("x-opt-sequence-number"), Value: d.Sequence},
		{Key: amqp.Symbol("iothub-enqueuedtime"), Value: d.Enqueued},
		{Key: amqp.Symbol("iothub-deliverycount"), Value: uint8(min(d.Count, 255))},
	}
}
