package gateway

import (
	"context"
	"time"

	"github.com/fieldgate/fieldgate/gateway/failpoint"
)

// What is on flash only comes back into memory here, as the uplink makes room:
// in the order of the lane, the lane with priority first, parked leaves passed
// over.
//
// Order hangs on one rule: nothing is read while an older message is still on
// its way to where it can be read. Such messages were in a commit under way
// when their link went (they were Out and must become Unread) or when their
// leaf was unparked (they are stored as Parked). They count as the lane's
// holdup until the store has been told.

// freed is a stored message that custody no longer holds in memory.
type freed struct {
	pos    Position
	m      *Message
	flow   *flow
	sender *sender
	park   bool // the sender is parked, and the message does not count as holdup
}

// freeLocked notes that an entry whose commit is done was recalled meanwhile.
func (p *Path) freeLocked(e *entry) {
	s := e.flow.sender
	x := freed{pos: e.pos, m: e.m, flow: e.flow, sender: s}
	if e.after == park && e.parking == s.parking {
		s.flying[e.flow.lane]--
		x.park = true
	}
	p.toFree = append(p.toFree, x)
	signal(p.feedC)
}

// releaseLocked gives a message back to the store, which may have given it up at
// its bound meanwhile.
func (p *Path) releaseLocked(f *flow, m *Message, park bool, pos Position) {
	if p.store.Release(park, pos) > 0 {
		f.giveUp(m.Start, m.Seq, m.Seq, m.Dropped)
	}
}

// giveBackLocked tells the store what could not be told from within its own
// calls.
func (p *Path) giveBackLocked() {
	for _, x := range p.toFree {
		p.releaseLocked(x.flow, x.m, x.park, x.pos)
		if !x.park {
			p.lanes[x.pos.Lane].holdup--
		}
	}
	p.toFree = nil
	for l := range p.lanes {
		if n := p.lanes[l].toUnpark; n > 0 {
			p.store.Unpark(Lane(l))
			p.lanes[l].holdup -= n
			p.lanes[l].toUnpark = 0
		}
	}
}

// readAgain is how long a lane that could not be read is left alone.
const readAgain = time.Second

// feed reads the backlog whenever there is room for it, until ctx ends.
func (p *Path) feed(ctx context.Context) {
	retry := time.NewTimer(readAgain)
	defer retry.Stop()
	var resume [Lanes]time.Time // when a lane that could not be read is tried again
	for {
		select {
		case <-p.feedC:
		case <-retry.C:
		case <-ctx.Done():
			return
		}
		if !p.feedLanes(&resume) {
			retry.Reset(readAgain)
		}
	}
}

// feedLanes reads what there is room for, the lane with priority first. ok is
// false when a lane could not be read just now; it holds up no other.
func (p *Path) feedLanes(resume *[Lanes]time.Time) (ok bool) {
	ok = true
	for l := Lane(0); l < Lanes; {
		if time.Now().Before(resume[l]) {
			l++
			continue
		}
		switch more, err := p.feedLane(l); {
		case err == errBudget:
			ok = false
			l++
		case err != nil:
			p.log.Error("cannot read the backlog", "lane", l.String(), "err", err)
			resume[l], ok = time.Now().Add(readAgain), false
		case more:
			l = 0 // the lane with priority may have more again
		default:
			l++
		}
	}
	return ok
}

// feedLane reads one portion of a lane's backlog into memory. more is false when
// there is none, or no room.
func (p *Path) feedLane(l Lane) (more bool, err error) {
	lane := &p.lanes[l]
	waiting := p.store.Unread(l) > 0
	var count, size int
	if waiting {
		p.budget.cfg = p.cfg.Load()
		count, size = p.budget.left(p.clock(), time.Now())
	}
	p.mu.Lock()
	p.giveBackLocked()
	// Half of the staging bound is left for the lanes with priority and for
	// live messages of lanes without a backlog.
	room := int64(p.cfg.Load().StagedBytes)/2 - p.held
	if l == LaneAlarm {
		room = int64(p.cfg.Load().StagedBytes) - p.held
	}
	if c := &p.cfg.Load().Lanes[l]; c.LiveFirst { // its share of memory, however much is live
		room = max(room, int64(p.cfg.Load().StagedBytes)/2*int64(c.BackfillShare)/100-lane.heldBack)
	}
	if !p.linkUp || lane.holdup > 0 || room <= 0 || p.store.Unread(l) == 0 {
		p.mu.Unlock()
		return false, nil
	}
	if !waiting { // the first has come just now
		p.mu.Unlock()
		return true, nil
	}
	if count == 0 {
		p.mu.Unlock()
		return false, errBudget
	}
	lane.reading = true
	epoch := p.epoch
	parked := make(map[string]bool)
	for id, s := range p.senders {
		if s.parked {
			parked[id] = true
		}
	}
	p.mu.Unlock()

	failpoint.Hit(failpoint.BacklogRead)
	got, err := p.store.Read(l, min(256, count), int(min(room, int64(size))), func(leaf string) bool { return parked[leaf] })

	failpoint.Hit(failpoint.BacklogHave)
	p.mu.Lock()
	defer p.mu.Unlock()
	lane.reading = false
	if p.epoch != epoch {
		// The link or the set of parked leaves changed while we read.
		for _, g := range got {
			p.releaseLocked(p.flowLocked(g.Message.Leaf, l), g.Message, false, g.Position)
		}
		p.store.Unpark(l)
		return true, err
	}
	for _, g := range got {
		f := p.backlogFlowLocked(g.Message.Leaf, l)
		e := &entry{m: g.Message, flow: f, size: g.Message.Size(), storage: stored, pos: g.Position, back: true}
		p.budget.spend(e.size)
		p.held += int64(e.size)
		p.holdLocked(e)
		p.offerLocked(f.sender)
	}
	return len(got) > 0, err
}
