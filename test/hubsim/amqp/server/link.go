package server

import (
	"cmp"
	"context"
	"fmt"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
)

// maxQueue is how many messages wait on a link for the client's credit. After
// that Send refuses more.
const maxQueue = 4096

// Link is one link. The fields that start with a capital letter do not change;
// its methods are safe for concurrent use.
type Link struct {
	Conn     *Conn
	Name     string
	Receives bool           // the client receives, we send
	Source   *amqp.Terminus // as the client asked; nil for none
	Target   *amqp.Terminus // as the client asked; nil for none

	Properties   amqp.Map // the client's
	SenderMode   uint8
	ReceiverMode uint8

	s         *session
	handle    uint32
	endpoint  Endpoint
	up        bool        // our ATTACH is sent
	early     *amqp.Error // why the link must go as soon as it is up
	detaching bool        // DETACH is sent, the peer's is awaited
	dropped   bool
	ctx       context.Context // ends with the link
	cancel    context.CancelFunc

	credit      uint32 // deliveries the sending side may still start
	count       uint32 // the sending side's delivery-count
	outstanding uint32 // deliveries taken and not settled by us
	toppingUp   bool
	partial     *Delivery // a delivery of which more is to come
	drain       bool      // the client wants its credit used up or given back
	idle        bool      // the pump has nothing to send
	queue       []queued  // messages that wait for credit or window
}

// queued is one message on its way out.
type queued struct {
	message []byte
	tag     []byte // nil for one made of the delivery id
	settled bool
	outcome func(amqp.State) // nil when nobody cares
	started bool             // its first frame is out
}

// Delivery is one message of a client.
type Delivery struct {
	Format  uint32 // message format, 0 or amqp.FormatBatch
	Settled bool   // the client wants no settlement
	Payload []byte // the encoded message; never written again, so it may be kept
	link    *Link
	id      uint32
}

// Address is the address that the link is about: what the client sends to, or
// receives from.
func (l *Link) Address() string {
	t := l.Target
	if l.Receives {
		t = l.Source
	}
	if t == nil {
		return ""
	}
	return t.Address
}

// Done is closed when the link has ended.
func (l *Link) Done() <-chan struct{} { return l.ctx.Done() }

// Context ends with the link.
func (l *Link) Context() context.Context { return l.ctx }

// attach answers the client's wish for a link.
func (c *Conn) attach(channel uint16, p *amqp.Attach) {
	l := c.newLink(channel, p)
	if l == nil {
		return
	}
	endpoint, refusal := c.routes.Attach(l)
	c.mu.Lock()
	defer c.unlock()
	if l.s.ending || c.closing {
		if endpoint.Gone != nil && refusal == nil {
			c.later = append(c.later, endpoint.Gone)
		}
		return
	}
	l.up = true
	l.s.links[l.handle] = l
	if refusal == nil {
		l.endpoint, refusal = endpoint, l.early
	}
	if refusal != nil {
		l.refuse(refusal)
		return
	}
	c.send(channel, l.answer(), nil)
	if !l.Receives {
		l.credit = c.cfg.Credit
		l.sendCredit()
	}
	if endpoint.Pump != nil {
		c.parts.Go(endpoint.Pump)
	}
}

// newLink checks that the link can be, and replaces one of the same name.
func (c *Conn) newLink(channel uint16, p *amqp.Attach) *Link {
	c.mu.Lock()
	defer c.unlock()
	s := c.sessions[channel]
	switch {
	case c.closing:
		return nil
	case s == nil:
		c.closeLocked(&amqp.Error{Condition: amqp.CondFraming, Description: fmt.Sprintf("no session on channel %d", channel)})
		return nil
	case s.ending:
		return nil
	case s.links[p.Handle] != nil:
		s.end(&amqp.Error{Condition: amqp.CondHandleInUse, Description: fmt.Sprintf("handle %d", p.Handle)})
		return nil
	case p.Handle > c.cfg.HandleMax:
		c.closeLocked(&amqp.Error{Condition: amqp.CondFraming, Description: fmt.Sprintf("handle %d", p.Handle)})
		return nil
	}
	for _, old := range s.links {
		if old.Name == p.Name && old.Receives == p.Receiver && !old.detaching {
			old.detach(&amqp.Error{Condition: amqp.CondStolen, Description: "another link of this name was attached"})
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Link{
		Conn: c, ctx: ctx, cancel: cancel, Name: p.Name, Receives: p.Receiver, Source: p.Source, Target: p.Target,
		Properties: p.Properties, SenderMode: p.SenderMode, ReceiverMode: p.ReceiverMode,
		s: s, handle: p.Handle, count: p.InitialDeliveryCount,
	}
}

// answer is the ATTACH that mirrors the client's: modes and termini echoed
// (wire contract, sections 3.2 and 3.4).
func (l *Link) answer() *amqp.Attach {
	a := &amqp.Attach{
		Name: l.Name, Handle: l.handle, Receiver: !l.Receives,
		SenderMode: l.SenderMode, ReceiverMode: l.ReceiverMode,
		Source: l.Source, Target: l.Target,
		MaxMessageSize: l.Conn.cfg.MaxMessage,
	}
	if l.Receives {
		l.count = 0 // ours from here on
	}
	return a
}

// refuse attaches without our terminus, which announces the DETACH that follows
// (part 2, section 2.6.3).
func (l *Link) refuse(e *amqp.Error) {
	a := l.answer()
	if l.Receives {
		a.Source = nil
	} else {
		a.Target = nil
	}
	l.Conn.send(l.s.channel, a, nil)
	l.detach(e)
}

// Detach ends the link, giving e as the reason; nil for none.
func (l *Link) Detach(e *amqp.Error) {
	l.Conn.mu.Lock()
	l.detach(e)
	l.Conn.unlock()
}

// EndSession ends the session that the link is in, with all of its links.
func (l *Link) EndSession(e *amqp.Error) {
	l.Conn.mu.Lock()
	l.s.end(e)
	l.Conn.unlock()
}

func (l *Link) detach(e *amqp.Error) {
	if l.detaching || l.dropped || l.s.ending {
		return
	}
	if !l.up { // the routes know the link already, the client not yet
		l.early = cmp.Or(e, &amqp.Error{Condition: amqp.CondDetachForced})
		return
	}
	// A settlement after the DETACH would name a link that is no more.
	l.s.flush()
	l.Conn.send(l.s.channel, &amqp.Detach{Handle: l.handle, Closed: true, Error: e}, nil)
	l.detaching = true
	l.drop()
}

// detached takes the peer's DETACH, the first one or the answer to ours.
func (s *session) detached(p *amqp.Detach) {
	l := s.link(p.Handle)
	if l == nil {
		return
	}
	if !l.detaching {
		if s.c.given != nil {
			s.c.given.Links.Add(1)
		}
		s.flush()
		s.c.send(s.channel, &amqp.Detach{Handle: l.handle, Closed: p.Closed}, nil)
		l.drop()
	}
	delete(s.links, p.Handle)
}

// drop forgets everything under way. The handle stays taken until the peer has
// detached too.
func (l *Link) drop() {
	if l.dropped {
		return
	}
	l.dropped = true
	l.partial, l.queue = nil, nil
	for id, of := range l.s.unsettled {
		if of.link == l {
			delete(l.s.unsettled, id)
		}
	}
	delete(l.s.waiting, l)
	l.cancel()
	l.Conn.room.Broadcast()
	if l.endpoint.Gone != nil {
		l.Conn.later = append(l.Conn.later, l.endpoint.Gone)
	}
}

// SameSession says whether both links are in one session.
func (l *Link) SameSession(other *Link) bool { return l.s == other.s }
