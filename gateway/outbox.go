package gateway

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/gateway/failpoint"
)

// Outcome is the hub's word on one message.
type Outcome uint8

// The outcomes of a delivery.
const (
	Accepted Outcome = iota // the hub has it: it leaves custody
	Refused                 // the hub will never take it: dead-letter shelf
	Expired                 // its time ran out before it was sent
)

// Delivery is one message on its way to the hub, from Take to Settle or Recall.
type Delivery struct {
	*Message
	// Backlog says that the message was read back from flash, and so may come
	// after younger ones of its leaf in a lane with LiveFirst.
	Backlog bool
	e       *entry
	turn    uint32
}

// Outbox is the sending side of custody, as the uplink sees it. Safe for
// concurrent use.
//
// An uplink that is connected calls LinkUp, then takes the ids of leaves that
// have something to send from NextLeaf, and for each of them calls Take until
// it returns nothing. It sends what it took in that order and settles each
// delivery with the hub's word. When a leaf's link is lost it calls Recall, and
// when the connection is lost LinkDown: what was not settled is sent again
// later, with the same message id.
type Outbox interface {
	// LinkUp says that the connection stands and messages are welcome.
	LinkUp()

	// LinkDown says that the connection is lost. It recalls everything taken:
	// deliveries of before must not be settled any more (if they are, it has no
	// effect). What was only staged goes to flash.
	LinkDown()

	// NextLeaf waits until a leaf has something to send and returns its id. The
	// leaf is then the caller's until a Take for it returns nothing, or Recall.
	// The error is that of ctx.
	NextLeaf(ctx context.Context) (leaf string, err error)

	// Take returns the next messages of the leaf, at most max (at least 1), the
	// lane with priority first, each lane in its order. Nothing means that there
	// is none now and gives the leaf back: NextLeaf returns it when there is.
	Take(leaf string, max int) []*Delivery

	// Settle ends a delivery. reason is the hub's text for Refused. An error means
	// that it did not end, as what the hub refused could not be kept: nothing behind
	// it may be settled, and the leaf is to be recalled.
	Settle(d *Delivery, o Outcome, reason string) error

	// Recall says that the leaf's own link is lost: its unsettled deliveries
	// are to be sent again, and the leaf is given back. NextLeaf returns it
	// after pause at the earliest. refused is true when the hub refuses the
	// leaf's identity, not just this link: its messages then wait on flash
	// instead of in memory, and others pass them.
	Recall(leaf string, pause time.Duration, refused bool)
}

// LinkUp is described at Outbox.
func (p *Path) LinkUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return
	}
	p.linkUp = true
	p.epoch++
	for _, s := range p.senders {
		s.progress = time.Now()
		p.offerLocked(s)
	}
	signal(p.feedC)
}

// LinkDown is described at Outbox.
func (p *Path) LinkDown() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.linkDownLocked()
}

func (p *Path) linkDownLocked() {
	if !p.linkUp {
		return
	}
	failpoint.Hit(failpoint.CustodyDown)
	p.linkUp = false
	p.epoch++
	p.ready = nil
	for _, s := range p.senders {
		if s.place != paused {
			s.place = idle
		}
		p.unstallLocked(s)
		state := Unread
		if s.parked {
			state = Parked
		}
		for _, f := range s.flows {
			if f != nil {
				p.evictLocked(f, 0, state)
			}
		}
	}
	p.roomLocked()
}

// offerLocked puts the sender in line for the uplink if it has something to send.
func (p *Path) offerLocked(s *sender) {
	if s.place != idle || !p.linkUp {
		return
	}
	for _, f := range s.flows {
		if f == nil || p.nextLocked(f) == nil {
			continue
		}
		s.place = queued
		if f.lane == LaneAlarm { // the lane with priority does not stand in line
			p.ready = append([]*sender{s}, p.ready...)
		} else {
			p.ready = append(p.ready, s)
		}
		signal(p.readyC)
		return
	}
}

// nextLocked returns the first entry of the flow that is to be sent, or nil. A
// lane with custody on disk sends only what is on disk.
func (p *Path) nextLocked(f *flow) *entry {
	for f.next < len(f.entries) {
		e := f.entries[f.next]
		if !e.gone {
			if e.storage != stored && p.cfg.Load().Lanes[f.lane].Custody == CustodyDisk {
				return nil
			}
			return e
		}
		f.next++
	}
	return nil
}

// NextLeaf is described at Outbox.
func (p *Path) NextLeaf(ctx context.Context) (string, error) {
	for {
		p.mu.Lock()
		if len(p.ready) > 0 {
			s := p.ready[0]
			p.ready[0] = nil
			p.ready = p.ready[1:]
			s.place = taken
			if len(p.ready) > 0 {
				signal(p.readyC)
			}
			p.mu.Unlock()
			return s.leaf, nil
		}
		p.mu.Unlock()
		select {
		case <-p.readyC:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// Take is described at Outbox.
func (p *Path) Take(leaf string, max int) []*Delivery {
	var out answers
	defer func() { out.call() }()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.senders[leaf]
	if s == nil || s.place != taken {
		return nil
	}
	now := p.clock()
	var ds []*Delivery
	for l := Lane(0); l < Lanes; {
		e := p.chooseLocked(s, l)
		if e == nil {
			l++
			continue
		}
		if len(ds) == max {
			break
		}
		f := e.flow
		f.next++
		if p.expired(e.m, now) {
			p.countDropLocked(f, e.m, DropTTL)
			p.endLocked(e, &out)
			p.roomLocked()
			continue
		}
		p.shareLocked(s, l, f)
		e.sent = true
		e.turn++
		ds = append(ds, &Delivery{Message: stamped(e.m, now, f.dropped(e.m)), Backlog: e.back, e: e, turn: e.turn})
	}
	if len(ds) == 0 {
		s.place = idle
		p.offerLocked(s) // all that was next may have expired, more may have come
	}
	return ds
}

// chooseLocked returns the lane's next message of the sender, nil for none: a live
// one, unless the backlog is owed its share or nothing is live.
func (p *Path) chooseLocked(s *sender, l Lane) *entry {
	live, back := s.flows[2*l], s.flows[2*l+1]
	var e, old *entry
	if live != nil {
		e = p.nextLocked(live)
	}
	if back != nil {
		old = p.nextLocked(back)
	}
	if old != nil && (e == nil || s.share[l] >= 100) {
		return old
	}
	return e
}

// shareLocked books one message of the flow f. A backlog that has nothing to send
// saves up no share, and one that has the link to itself owes none.
func (p *Path) shareLocked(s *sender, l Lane, f *flow) {
	back := s.flows[2*l+1]
	switch {
	case f.live != nil:
		s.share[l] = max(0, s.share[l]+p.cfg.Load().Lanes[l].BackfillShare-100)
	case back == nil || p.nextLocked(back) == nil:
		s.share[l] = 0
	default:
		s.share[l] += p.cfg.Load().Lanes[l].BackfillShare
	}
}

// expired says that the message is older than its lane or it itself allows. No
// wall clock that nothing steers expires anything, whatever it shows.
func (p *Path) expired(m *Message, now Instant) bool {
	if now.Quality == Synced && !m.System.Expiry.IsZero() && now.Wall.After(m.System.Expiry) {
		return true
	}
	ttl := p.cfg.Load().Lanes[m.Lane].TTL.D()
	if ttl == 0 {
		return false
	}
	age, known := m.Captured.Age(now)
	return known && age > ttl
}

// stamped returns m, or a copy with a better capture time and with what is known
// by now of those before it.
func stamped(m *Message, now Instant, dropped uint64) *Message {
	captured := m.Captured.Repair(now)
	if captured == m.Captured && dropped == m.Dropped {
		return m
	}
	c := *m
	c.Captured, c.Dropped = captured, dropped
	return &c
}

// Settle is described at Outbox.
func (p *Path) Settle(d *Delivery, o Outcome, reason string) error {
	if o == Refused {
		if !p.current(d) {
			return nil // recalled meanwhile: it is sent and refused again
		}
		if err := p.store.DeadLetter(d.Message, reason); err != nil {
			// Not shelved, so not dropped either: it is tried again later.
			p.log.Error("cannot shelve a message that the hub refused", "leaf", d.Leaf, "reason", reason, "err", err)
			return fmt.Errorf("cannot shelve what the hub refused: %w", err)
		}
		p.log.Warn("hub refused a message, it is on the dead-letter shelf",
			"leaf", d.Leaf, "lane", d.Lane.String(), "message_id", d.System.MessageID, "reason", reason)
	}
	var out answers
	p.mu.Lock()
	if e := d.e; d.currentLocked() {
		e.flow.sender.progress = time.Now()
		p.endLocked(e, &out)
		switch o {
		case Accepted:
			p.counts.sent[e.flow.lane]++
		case Refused:
			p.countDropLocked(e.flow, d.Message, DropPoison)
		case Expired:
			p.countDropLocked(e.flow, d.Message, DropTTL)
		}
		p.unstallLocked(e.flow.sender)
		p.roomLocked()
	}
	p.mu.Unlock()
	out.call()
	return nil
}

// current says that the delivery was not recalled.
func (p *Path) current(d *Delivery) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return d.currentLocked()
}

func (d *Delivery) currentLocked() bool { return !d.e.gone && d.e.turn == d.turn }

// endLocked: nobody needs the message any more, here and on flash.
func (p *Path) endLocked(e *entry, out *answers) {
	p.dropLocked(e)
	if e.storage == stored {
		p.store.Settle(e.pos)
	}
	out.add(e.done, nil)
	e.done = nil
}

func (p *Path) countDropLocked(f *flow, m *Message, why DropReason) {
	f.giveUp(m.Start, m.Seq, m.Seq, m.Dropped)
	p.counts.dropped[why]++
}

// parkPause is the pause from which on a leaf's messages do not wait in memory:
// long against the way to flash, short against a budget that others need.
const parkPause = time.Second

// EndPauses ends the pauses for which Recall has asked, of all leaves: what kept the
// hub from taking them may have changed.
func (p *Path) EndPauses() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.senders {
		p.endPauseLocked(s)
	}
}

// EndPause is EndPauses of one leaf: there may be nothing left that waits.
func (p *Path) EndPause(leaf string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.senders[leaf]; s != nil {
		p.endPauseLocked(s)
	}
}

func (p *Path) endPauseLocked(s *sender) {
	if s.place == paused {
		s.place = idle
		p.unparkLocked(s)
		p.offerLocked(s)
	}
}

// Recall is described at Outbox.
func (p *Path) Recall(leaf string, pause time.Duration, refused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.senders[leaf]
	if s == nil || !p.linkUp {
		return // LinkDown has recalled it already
	}
	failpoint.Hit(failpoint.CustodyRecall)
	p.unqueueLocked(s)
	p.unparkLocked(s) // this call's word on the leaf replaces the last
	s.place = idle
	for _, f := range s.flows {
		if f == nil {
			continue
		}
		for _, e := range f.entries {
			e.sent = false
			e.turn++
		}
		f.next = 0
	}
	if pause > 0 {
		s.place, s.until = paused, time.Now().Add(pause)
		signal(p.timeC)
		if refused || pause >= parkPause {
			p.parkLocked(s, false)
		}
	}
	p.offerLocked(s)
}

func (p *Path) unqueueLocked(s *sender) {
	if s.place == queued {
		p.ready = slices.DeleteFunc(p.ready, func(x *sender) bool { return x == s })
	}
}

// parkLocked lets others pass the sender: what it has in memory moves to flash,
// and what it gets goes there. With unsentOnly, what is on its way to the hub
// stays.
func (p *Path) parkLocked(s *sender, unsentOnly bool) {
	s.parked = true
	p.epoch++
	for _, f := range s.flows {
		if f == nil {
			continue
		}
		from := 0
		if unsentOnly {
			from = min(f.next, len(f.entries))
		}
		p.evictLocked(f, from, Parked)
	}
	p.roomLocked()
}

// unparkLocked makes the sender's messages on flash readable again. Those on
// their way there hold up the lane until they have arrived: they come first.
func (p *Path) unparkLocked(s *sender) {
	if !s.parked {
		return
	}
	s.parked, s.stalled = false, false
	s.parking++
	p.epoch++
	for l := range p.lanes {
		p.lanes[l].holdup += s.flying[l]
		s.flying[l] = 0
		p.store.Unpark(Lane(l))
	}
	for i := range p.toFree {
		if x := &p.toFree[i]; x.sender == s && x.park {
			x.park = false
			p.lanes[x.pos.Lane].holdup++
		}
	}
	signal(p.feedC)
}

// unstallLocked ends what stallLocked (run.go) began.
func (p *Path) unstallLocked(s *sender) {
	if s.stalled {
		p.unparkLocked(s)
	}
}
