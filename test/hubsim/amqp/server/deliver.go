package server

import (
	"encoding/binary"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
)

// transferOverhead bounds what a TRANSFER takes in a frame besides the payload,
// in bytes: frame header, list head and all fields that we write.
const transferOverhead = 64

// Send puts one encoded message on the link, on which the client receives. It
// goes out when the client's credit allows. settled says that no answer is
// wanted; what the client asked for in ATTACH goes first. Send returns false,
// and sends nothing, when the link has ended or too much waits for credit
// already. The message must not be changed afterwards.
func (l *Link) Send(message []byte, settled bool) bool {
	l.Conn.mu.Lock()
	defer l.Conn.unlock()
	if l.detaching || l.dropped || len(l.queue) >= maxQueue {
		return false
	}
	switch l.SenderMode {
	case amqp.SenderSettled:
		settled = true
	case amqp.SenderUnsettled:
		settled = false
	}
	l.queue = append(l.queue, queued{message: message, settled: settled})
	l.sendQueued()
	return true
}

// Deliver sends one encoded message at once, or returns false when that cannot
// be. outcome is told how the client settles it, without locks held; a client
// that asked for settled deliveries has accepted it with this. When the link
// ends before, outcome is not called. The message must not be changed
// afterwards.
func (l *Link) Deliver(message, tag []byte, outcome func(amqp.State)) bool {
	l.Conn.mu.Lock()
	defer l.Conn.unlock()
	if l.detaching || l.dropped || !l.clear() {
		return false
	}
	settled := l.SenderMode == amqp.SenderSettled
	l.queue = append(l.queue, queued{message: message, tag: tag, settled: settled, outcome: outcome})
	l.sendQueued()
	if settled {
		l.Conn.later = append(l.Conn.later, func() { outcome(amqp.State{Outcome: amqp.Accepted}) })
	}
	return true
}

// clear says that nothing is in the way of the next message.
func (l *Link) clear() bool { return len(l.queue) == 0 && l.credit > 0 && l.s.peerWindow > 0 }

// Ready waits until a message sent now would go out at once. It returns false
// when the link has ended. It is for pumps.
func (l *Link) Ready() bool {
	l.Conn.mu.Lock()
	defer l.Conn.mu.Unlock()
	l.idle = false
	for !l.dropped && !l.Conn.ended {
		if l.clear() && len(l.Conn.out) < pumpLimit {
			return true
		}
		l.Conn.room.Wait()
	}
	return false
}

// Idle says that the pump has nothing to send for now, so that a client that
// drains its credit gets the rest of it back.
func (l *Link) Idle() {
	l.Conn.mu.Lock()
	defer l.Conn.mu.Unlock()
	l.idle = true
	l.giveBack()
}

// flow takes the client's credit, or the count of what it has sent.
func (l *Link) flow(p *amqp.Flow) {
	if !l.Receives {
		if p.Echo {
			l.sendCredit()
		}
		return
	}
	seen := uint32(0) // the client has not seen our ATTACH
	if p.HasDeliveryCount {
		seen = p.DeliveryCount
	}
	onTheWay := l.count - seen
	l.credit = p.LinkCredit - min(p.LinkCredit, onTheWay)
	l.drain = p.Drain
	l.sendQueued()
	l.giveBack()
	l.Conn.room.Broadcast()
	if p.Echo {
		l.sendState()
	}
}

// giveBack ends a drain when nothing is left to send (part 2, section 2.6.7).
func (l *Link) giveBack() {
	waiting := l.endpoint.Pump != nil && !l.idle
	if !l.drain || l.dropped || len(l.queue) > 0 || (waiting && l.credit > 0) {
		return
	}
	l.count += l.credit
	l.credit = 0
	l.sendState()
	l.drain = false
}

// sendState tells the client where a link on which we send stands.
func (l *Link) sendState() {
	l.s.sendFlow(amqp.Flow{
		HasHandle: true, Handle: l.handle,
		HasDeliveryCount: true, DeliveryCount: l.count, LinkCredit: l.credit, Drain: l.drain,
	})
}

// sendQueued sends as much of the queue as credit and window allow.
func (l *Link) sendQueued() {
	for len(l.queue) > 0 && (l.credit > 0 || l.queue[0].started) {
		if !l.sendNext(&l.queue[0]) {
			l.s.waiting[l] = true
			return
		}
		l.queue[0] = queued{}
		l.queue = l.queue[1:]
	}
	delete(l.s.waiting, l)
	if len(l.queue) == 0 {
		l.queue = nil
	}
}

// sendNext sends the frames of one message; false when the peer's window ended
// before the message did.
func (l *Link) sendNext(q *queued) bool {
	room := int(l.Conn.peerFrame) - transferOverhead
	for l.s.peerWindow > 0 {
		t := amqp.Transfer{Handle: l.handle}
		if !q.started {
			l.start(q, &t)
		}
		part := q.message[:min(len(q.message), room)]
		q.message = q.message[len(part):]
		t.More = len(q.message) > 0
		t.Settled = q.settled
		l.Conn.send(l.s.channel, &t, part)
		l.s.nextOutgoing++
		l.s.peerWindow--
		if !t.More {
			return true
		}
	}
	return false
}

// start gives the message its delivery id and tag.
func (l *Link) start(q *queued, t *amqp.Transfer) {
	q.started = true
	id := l.s.nextDelivery
	l.s.nextDelivery++
	l.credit--
	l.count++
	if !q.settled {
		l.s.unsettled[id] = sent{l, q.outcome}
	}
	t.HasDeliveryID = true
	t.DeliveryID = id
	t.DeliveryTag = q.tag
	if q.tag == nil {
		t.DeliveryTag = binary.BigEndian.AppendUint32(nil, id)
	}
}
