package routes

import (
	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// Twins and methods take two links each, one per direction, which the client
// joins by giving both the same text in a link property (section 3.3).

// pairing returns the text that joins a link with its other half; "" when the
// client gives none, which joins it with another that has none.
func pairing(l *server.Link) string {
	return l.Properties.Text("com.microsoft:channel-correlation-id")
}

// uncontested refuses a link whose place in its pair is taken. The lock is held.
func (c *connection) uncontested(l *server.Link, o owner) error {
	paired := o.purpose == forTwin || o.purpose == forMethods
	if !paired || c.half(o, l.Receives) == nil {
		return nil
	}
	e := refusal.New(409002, "another link has the channel-correlation-id "+o.pairing)
	e.Condition = string(amqp.CondNotAllowed) // nothing is stolen
	return e
}

// partner returns the other half of the guest's link; nil while there is none.
func (g *guest) partner() *server.Link {
	c := g.c
	c.mu.Lock()
	defer c.mu.Unlock()
	o, ok := c.links[g.link]
	if !ok {
		return nil
	}
	return c.half(o, !g.link.Receives)
}

// half returns the link of one direction of the pair that o is about; nil when
// there is none. A link that the hub has ended counts no more, though its end may
// not be noted yet: the client may be quick to attach it again. The lock is held.
func (c *connection) half(o owner, receives bool) *server.Link {
	for l := range o.visit.links {
		other := c.links[l]
		if l.Receives == receives && other.purpose == o.purpose && other.pairing == o.pairing && l.Context().Err() == nil {
			return l
		}
	}
	return nil
}
