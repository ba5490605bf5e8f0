package server

import (
	"fmt"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
)

// session is one session. All of it is guarded by the connection's lock.
type session struct {
	c       *Conn
	channel uint16 // the same number both ways
	links   map[uint32]*Link
	ending  bool // END is sent, the peer's is awaited

	nextIncoming uint32 // transfer id of the peer's next frame
	window       uint32 // transfer frames that the peer may still send
	nextOutgoing uint32 // transfer id of our next frame
	peerWindow   uint32 // transfer frames that we may still send
	nextDelivery uint32 // id of our next delivery
	unsettled    map[uint32]sent

	dirty   bool
	settled []span         // settlements not sent yet
	topUp   []*Link        // links whose credit has run low
	waiting map[*Link]bool // links with messages that the peer's window holds up
}

// sent is a delivery of ours that the peer has not settled.
type sent struct {
	link    *Link
	outcome func(amqp.State) // nil when nobody cares
}

// span is a run of deliveries of the peer that ended alike.
type span struct {
	first, last uint32
	state       amqp.State
	settled     bool // false when the link settles in two steps
}

func (c *Conn) begin(channel uint16, p *amqp.Begin) error {
	if c.closing {
		return nil
	}
	if c.sessions[channel] != nil || channel > c.cfg.ChannelMax {
		e := &amqp.Error{Condition: amqp.CondFraming, Description: fmt.Sprintf("no session can begin on channel %d", channel)}
		c.closeLocked(e)
		return e
	}
	s := &session{
		c:            c,
		channel:      channel,
		links:        make(map[uint32]*Link),
		nextIncoming: p.NextOutgoingID,
		window:       c.cfg.Window,
		peerWindow:   p.IncomingWindow,
		unsettled:    make(map[uint32]sent),
		waiting:      make(map[*Link]bool),
	}
	c.sessions[channel] = s
	c.send(channel, &amqp.Begin{
		Remote:         true,
		RemoteChannel:  channel,
		IncomingWindow: c.cfg.Window,
		OutgoingWindow: c.cfg.Window,
		HandleMax:      c.cfg.HandleMax,
	}, nil)
	return nil
}

// handle does what a performative of the session asks for, attach and transfer
// excepted.
func (s *session) handle(p any) {
	if end, ok := p.(*amqp.End); ok {
		s.peerEnded(end)
		return
	}
	if s.ending {
		return // sent before the peer saw our END
	}
	switch p := p.(type) {
	case *amqp.Flow:
		s.flow(p)
	case *amqp.Disposition:
		s.disposition(p)
	case *amqp.Detach:
		s.detached(p)
	}
}

func (s *session) peerEnded(*amqp.End) {
	if !s.ending {
		if s.c.given != nil {
			s.c.given.Sessions.Add(1)
		}
		s.flush()
		s.c.send(s.channel, &amqp.End{}, nil)
		s.ending = true // whoever still has a link of it can do nothing with it
	}
	s.drop()
	delete(s.c.sessions, s.channel)
}

// end ends the session from our side.
func (s *session) end(e *amqp.Error) {
	if s.ending || s.c.closing {
		return
	}
	s.flush()
	s.c.send(s.channel, &amqp.End{Error: e}, nil)
	s.ending = true
	s.drop()
}

// drop forgets all links.
func (s *session) drop() {
	for _, l := range s.links {
		l.drop()
	}
	clear(s.links)
	clear(s.unsettled)
	clear(s.waiting)
	s.settled, s.topUp = nil, nil
}

// touch has the session asked at the next flush; at once when no flush is due.
func (s *session) touch() {
	if !s.c.batching {
		s.flush()
		return
	}
	if !s.dirty {
		s.dirty = true
		s.c.dirty = append(s.c.dirty, s)
	}
}

// flush sends settlements first and credit second, so that a client never has
// more unsettled deliveries than it can have credit for.
func (s *session) flush() {
	s.dirty = false
	if s.ending {
		return
	}
	for i := range s.settled {
		r := &s.settled[i]
		s.c.send(s.channel, &amqp.Disposition{
			Receiver: true, First: r.first, Last: r.last, Settled: r.settled, State: &r.state,
		}, nil)
	}
	s.settled = s.settled[:0]
	for _, l := range s.topUp {
		l.sendCredit()
	}
	s.topUp = s.topUp[:0]
	if s.window <= s.c.cfg.Window/2 {
		s.sendFlow(amqp.Flow{})
	}
}

// sendFlow sends f with the session's state filled in. Each flow opens the
// window fully again: what the peer sends is taken as fast as it can be read.
func (s *session) sendFlow(f amqp.Flow) {
	s.window = s.c.cfg.Window
	f.HasNextIncoming = true
	f.NextIncomingID = s.nextIncoming
	f.IncomingWindow = s.window
	f.NextOutgoingID = s.nextOutgoing
	f.OutgoingWindow = s.c.cfg.Window
	s.c.send(s.channel, &f, nil)
}

// flow takes the peer's windows and credit.
func (s *session) flow(p *amqp.Flow) {
	seen := uint32(0) // the peer has not seen our BEGIN: our first id
	if p.HasNextIncoming {
		seen = p.NextIncomingID
	}
	// Frames on their way count against the window; more of them than the
	// window holds leave none of it (part 2, section 2.5.6).
	onTheWay := s.nextOutgoing - seen
	s.peerWindow = p.IncomingWindow - min(p.IncomingWindow, onTheWay)
	for l := range s.waiting {
		l.sendQueued()
	}
	s.c.room.Broadcast()
	if !p.HasHandle {
		if p.Echo {
			s.sendFlow(amqp.Flow{})
		}
		return
	}
	l := s.link(p.Handle)
	if l == nil || l.detaching {
		return
	}
	l.flow(p)
}

// link returns the link with the peer's handle. A handle that means nothing
// ends the session (part 2, section 2.8.17).
func (s *session) link(handle uint32) *Link {
	l := s.links[handle]
	if l == nil {
		s.end(&amqp.Error{Condition: amqp.CondUnattachedHandle, Description: fmt.Sprintf("handle %d", handle)})
	}
	return l
}

// disposition takes the peer's settlement of our deliveries. What it says about
// its own deliveries is the second half of a settlement in two steps: nothing
// is left to do then.
func (s *session) disposition(p *amqp.Disposition) {
	if !p.Receiver {
		return
	}
	if uint32(len(s.unsettled)) < p.Last-p.First {
		for id := range s.unsettled {
			if id-p.First <= p.Last-p.First {
				s.outcome(id, p)
			}
		}
	} else {
		for id := p.First; ; id++ {
			s.outcome(id, p)
			if id == p.Last {
				break
			}
		}
	}
	if !p.Settled && p.State != nil && p.State.Outcome != amqp.Received {
		s.c.send(s.channel, &amqp.Disposition{First: p.First, Last: p.Last, Settled: true, State: p.State}, nil)
	}
}

func (s *session) outcome(id uint32, p *amqp.Disposition) {
	d, ok := s.unsettled[id]
	if !ok || (!p.Settled && (p.State == nil || p.State.Outcome == amqp.Received)) {
		return
	}
	delete(s.unsettled, id)
	state := amqp.State{Outcome: amqp.Released} // settled without a word
	if p.State != nil {
		state = *p.State
	}
	if d.outcome != nil {
		s.c.later = append(s.c.later, func() { d.outcome(state) })
	}
}

// settle notes how a delivery of the peer ended.
func (s *session) settle(id uint32, state amqp.State, settled bool) {
	if n := len(s.settled); n > 0 {
		r := &s.settled[n-1]
		if r.last+1 == id && r.state == state && r.settled == settled {
			r.last = id
			s.touch()
			return
		}
	}
	s.settled = append(s.settled, span{id, id, state, settled})
	s.touch()
}
