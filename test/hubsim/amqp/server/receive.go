package server

import (
	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
)

// transfer takes one frame of a message. The last frame of a message hands it
// to the link's endpoint, without the lock.
func (c *Conn) transfer(channel uint16, t *amqp.Transfer, payload []byte) {
	c.mu.Lock()
	d, take := c.assemble(channel, t, payload)
	c.unlock()
	if take != nil {
		take(d)
	}
}

func (c *Conn) assemble(channel uint16, t *amqp.Transfer, payload []byte) (Delivery, func(Delivery)) {
	s := c.sessions[channel]
	switch {
	case c.closing || (s != nil && s.ending):
		return Delivery{}, nil
	case s == nil:
		c.closeLocked(&amqp.Error{Condition: amqp.CondFraming, Description: "transfer without session"})
		return Delivery{}, nil
	case s.window == 0:
		s.end(&amqp.Error{Condition: amqp.CondWindowViolation, Description: "transfer beyond the session window"})
		return Delivery{}, nil
	}
	s.nextIncoming++
	s.window--
	if s.window <= c.cfg.Window/2 {
		s.touch()
	}
	l := s.link(t.Handle)
	if l == nil || l.detaching {
		return Delivery{}, nil
	}
	if l.Receives {
		l.detach(&amqp.Error{Condition: amqp.CondNotAllowed, Description: "transfer on a link that only receives"})
		return Delivery{}, nil
	}
	return l.take(t, payload)
}

// take adds a frame to the delivery under way and returns the delivery when it
// is whole.
func (l *Link) take(t *amqp.Transfer, payload []byte) (Delivery, func(Delivery)) {
	d := l.partial
	if d == nil {
		if l.credit == 0 {
			l.detach(&amqp.Error{Condition: amqp.CondTransferLimit, Description: "transfer without credit"})
			return Delivery{}, nil
		}
		l.credit--
		l.count++
		d = &Delivery{link: l, id: t.DeliveryID, Format: t.Format, Payload: payload, Settled: t.Settled}
	} else {
		d.Payload = append(d.Payload, payload...)
		d.Settled = d.Settled || t.Settled
	}
	if uint64(len(d.Payload)) > l.Conn.cfg.MaxMessage {
		l.detach(&amqp.Error{Condition: amqp.CondMessageSize, Description: "message too large"})
		return Delivery{}, nil
	}
	if t.More && !t.Aborted {
		if l.partial == nil {
			// The frames that follow are appended: leave the input chunk alone.
			d.Payload = append(make([]byte, 0, 2*len(payload)), payload...)
		}
		l.partial = d
		return Delivery{}, nil
	}
	l.partial = nil
	if !t.Aborted && !d.Settled {
		l.outstanding++
	}
	l.checkCredit()
	if t.Aborted || l.endpoint.Take == nil {
		return Delivery{}, nil
	}
	return *d, l.endpoint.Take
}

// checkCredit notes that the credit wants topping up. The window of a link is
// what is on the way plus what is not settled, so that a hub that settles
// slowly holds its clients back. It is refreshed at half; when unsettled
// deliveries take the other half, in steps of an eighth.
func (l *Link) checkCredit() {
	window := l.Conn.cfg.Credit
	used := l.credit + l.outstanding
	if l.toppingUp || l.credit > window/2 || used >= window || window-used < max(window/8, 1) {
		return
	}
	l.toppingUp = true
	l.s.topUp = append(l.s.topUp, l)
	l.s.touch()
}

// sendCredit tells the client what it may send.
func (l *Link) sendCredit() {
	l.toppingUp = false
	if l.detaching || l.dropped {
		return
	}
	if used := l.credit + l.outstanding; used < l.Conn.cfg.Credit {
		l.credit += l.Conn.cfg.Credit - used
	}
	l.s.sendFlow(amqp.Flow{
		HasHandle: true, Handle: l.handle,
		HasDeliveryCount: true, DeliveryCount: l.count, LinkCredit: l.credit,
	})
}

// Settle tells the client how the delivery ended. It may be called from any
// goroutine, once; after the end of the link it does nothing.
func (d Delivery) Settle(state amqp.State) {
	if d.Settled {
		return
	}
	l := d.link
	l.Conn.mu.Lock()
	defer l.Conn.unlock()
	if l.dropped {
		return
	}
	l.outstanding--
	l.s.settle(d.id, state, l.ReceiverMode == amqp.ReceiverFirst)
	l.checkCredit()
}

// Repeat tells the client once more how the delivery ended, which a hub that
// works never does. It is for faults.
func (d Delivery) Repeat(state amqp.State) {
	l := d.link
	l.Conn.mu.Lock()
	defer l.Conn.unlock()
	if !d.Settled && !l.dropped {
		l.s.settle(d.id, state, l.ReceiverMode == amqp.ReceiverFirst)
	}
}

// Link is the link that the delivery came on.
func (d Delivery) Link() *Link { return d.link }
