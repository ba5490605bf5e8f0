package gateway

import (
	"errors"
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	"github.com/fieldgate/fieldgate/gateway/failpoint"
)

// sender is what custody knows of one leaf. All fields are guarded by Path.mu.
type sender struct {
	leaf string
	// flows has two places for each lane, the second for what comes back from
	// flash in a lane with LiveFirst; nil until the first message. The order is
	// that of sending.
	flows [2 * Lanes]*flow
	share [Lanes]int // with LiveFirst: percent of a message that the backlog is owed
	place place
	until time.Time // with place paused: when it ends
	// parked leaves are passed over: their messages wait on flash and nothing of
	// them is kept in memory, except what is on its way.
	parked   bool
	stalled  bool       // parked by the stall watch, not by the uplink
	parking  uint32     // counts how often it was unparked
	flying   [Lanes]int // messages in commits under way that will be parked
	held     int64      // bytes of its entries in memory
	progress time.Time  // when the hub last settled something, or the first message came
}

// place is where a sender stands in the outbox.
type place uint8

const (
	idle   place = iota // has nothing to send
	queued              // is in Path.ready
	taken               // an uplink worker has it
	paused              // its link failed; not before until
)

// flow is the messages of one leaf in one lane: what order is promised for.
//
// Seen along its order, a flow is: stored messages in memory, then staged ones
// in memory; or stored ones in memory, then stored ones on flash only. Nothing
// is staged behind a message that is on flash only. In a lane with LiveFirst that
// is two flows: the live one, which new messages enter whatever is on flash, and
// the backlog, which has only what was read back.
type flow struct {
	sender   *sender
	lane     Lane
	live     *flow    // of a backlog: where its numbers come from; nil for others
	entries  []*entry // in memory, in order; those with gone set are removed at the front
	next     int      // index of the first entry that is not sent
	crowded  int      // with so many entries, those that are gone are taken out behind the front too
	seq      uint64   // of the last message
	idPrefix string   // of message ids, when one was given
	gaps     []*gaps  // by start, the earliest first; see gaps.go
	// When the store refuses a message, those that the leaf had handed over
	// behind it are refused as well, even if they are on flash by now: the leaf
	// begins again with the first, and its order must not change.
	refused uint64 // the last number given when a message was refused
	refusal error  // why
}

// entry is one message in memory.
type entry struct {
	m       *Message
	done    Done // nil when called
	flow    *flow
	seq     uint64
	size    int
	since   time.Time // when its spill time began
	storage storage
	pos     Position // with storage stored
	after   afterCommit
	parking uint32 // with after park: sender.parking at that time
	back    bool   // was read back from flash
	sent    bool
	gone    bool   // settled, refused or no longer in memory
	turn    uint32 // counts how often it was taken: a late word on an earlier turn is ignored
}

// storage says where a message is besides memory.
type storage uint8

const (
	staged  storage = iota // nowhere else: not acknowledged yet
	storing                // in a commit under way
	stored                 // synced to flash, acknowledged
)

// afterCommit says what becomes of an entry that is kept in memory (Out), when
// the commit under way is done.
type afterCommit uint8

const (
	keep    afterCommit = iota // stays in memory
	release                    // was recalled meanwhile: Unread
	park                       // was recalled meanwhile, leaf parked
)

// answers are calls of done that wait for the lock to be released.
type answers []func()

func (a *answers) add(done Done, err error) {
	if done != nil {
		*a = append(*a, func() { done(err) })
	}
}

func (a answers) call() {
	for _, f := range a {
		f()
	}
}

func (p *Path) senderLocked(leaf string) *sender {
	s := p.senders[leaf]
	if s == nil {
		s = &sender{leaf: leaf, progress: time.Now()}
		p.senders[leaf] = s
	}
	return s
}

func (p *Path) flowLocked(leaf string, l Lane) *flow {
	s := p.senderLocked(leaf)
	if s.flows[2*l] == nil {
		s.flows[2*l] = &flow{sender: s, lane: l}
	}
	return s.flows[2*l]
}

// backlogFlowLocked returns the flow for what is read back from flash.
func (p *Path) backlogFlowLocked(leaf string, l Lane) *flow {
	live := p.flowLocked(leaf, l)
	if !p.cfg.Load().Lanes[l].LiveFirst {
		return live
	}
	s := live.sender
	if s.flows[2*l+1] == nil {
		s.flows[2*l+1] = &flow{sender: s, lane: l, live: live}
	}
	return s.flows[2*l+1]
}

// number gives the message its place in the flow and, where the leaf gave none,
// its message id. Numbers start again with each start of the gateway, and the
// start number grows: together they sort.
func (p *Path) number(e *entry) {
	f, m := e.flow, e.m
	f.seq++
	e.seq = f.seq
	m.Start, m.Seq = p.start, f.seq
	m.Dropped = f.dropped(m)
	if m.System.MessageID == "" {
		m.System.MessageID = f.messageID(p.lanes[f.lane].idPrefix)
	}
}

// messageID makes the id of the message with the last number. Leaves number alike,
// and some are one device to the hub (those under the gateway's own identity): the
// id tells them apart by 40 bits of a hash, as it must stay short on a bad link.
func (f *flow) messageID(prefix string) string {
	if f.idPrefix == "" {
		h := fnv.New64a()
		h.Write([]byte(f.sender.leaf))
		f.idPrefix = prefix + strconv.FormatUint(h.Sum64()>>24, 36) + "-"
	}
	var room [64]byte
	return string(strconv.AppendUint(append(room[:0], f.idPrefix...), f.seq, 10))
}

// stageLocked keeps a message in memory for the hub. It goes to flash when the
// hub does not settle it in time.
func (p *Path) stageLocked(e *entry) {
	p.holdLocked(e)
	p.waitLocked(e)
	p.offerLocked(e.flow.sender)
}

// holdLocked puts an entry at the end of its flow in memory.
func (p *Path) holdLocked(e *entry) {
	s := e.flow.sender
	if s.held == 0 {
		s.progress = time.Now()
	}
	s.held += int64(e.size)
	if len(e.flow.entries) >= e.flow.crowded {
		e.flow.compact()
	}
	p.heldBackLocked(e, +1)
	e.flow.entries = append(e.flow.entries, e)
}

// heldBackLocked counts the memory that a lane's backlog has beside live messages.
func (p *Path) heldBackLocked(e *entry, sign int64) {
	if e.flow.live != nil {
		p.lanes[e.flow.lane].heldBack += sign * int64(e.size)
	}
}

// waitLocked starts the spill time of a staged entry. Its deadline is not before
// those of its lane that wait already.
func (p *Path) waitLocked(e *entry) {
	l := &p.lanes[e.flow.lane]
	l.waiting = append(l.waiting, e)
	if len(l.waiting) == 1 {
		signal(p.timeC)
	}
}

// spillLocked hands all entries of the flow that are only in memory to the store.
// With state Out they stay in memory as well, on their way to the hub.
func (p *Path) spillLocked(f *flow, state StoredState) {
	var es []*entry
	for _, e := range f.entries {
		if e.storage == staged && !e.gone {
			es = append(es, e)
		}
	}
	p.commitLocked(f, es, state)
}

// commitLocked hands entries of one flow to the store, in order. Entries with
// state Out are in the flow; with another state they leave memory now, and their
// bytes are counted until they are on flash.
func (p *Path) commitLocked(f *flow, es []*entry, state StoredState) {
	if len(es) == 0 {
		return
	}
	failpoint.Hit(failpoint.CustodySpill)
	ms := make([]*Message, len(es))
	for i, e := range es {
		ms[i] = e.m
		e.storage = storing
		e.after = keep
	}
	switch state {
	case Unread:
		p.lanes[f.lane].pending += len(es)
	case Parked:
		f.sender.flying[f.lane] += len(es)
	}
	p.flying++
	parking := f.sender.parking
	p.store.Append(f.lane, ms, state, func(ps []Position, err error) {
		p.committed(f, es, state, parking, ps, err)
	})
}

// committed is called by the store when a commit is synced to flash or failed.
// parking is the sender's as the commit began.
func (p *Path) committed(f *flow, es []*entry, state StoredState, parking uint32, ps []Position, err error) {
	var out answers
	p.mu.Lock()
	if err != nil {
		for _, e := range es {
			e.storage = staged // so that none is taken for stored by the others
		}
	}
	for i, e := range es {
		switch {
		case err != nil:
			p.notStoredLocked(e, state, err, &out)
		case e.done != nil && e.seq <= f.refused:
			p.store.Settle(ps[i])
			p.notStoredLocked(e, state, f.refusal, &out)
		default:
			p.storedLocked(e, state, ps[i], &out)
		}
	}
	switch {
	case state == Unread:
		p.lanes[f.lane].pending -= len(es)
		signal(p.feedC)
	case state == Parked && parking == f.sender.parking:
		f.sender.flying[f.lane] -= len(es)
	case state == Parked: // unparked meanwhile, so the store must hear it again
		p.lanes[f.lane].toUnpark += len(es)
		signal(p.feedC)
	}
	p.offerLocked(f.sender)
	p.roomLocked()
	p.mu.Unlock()
	failpoint.Hit(failpoint.CustodyAnswer)
	out.call()
	p.landed()
}

// landed notes that a commit and everything it led to is done.
func (p *Path) landed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flying--; p.flying == 0 {
		signal(p.idleC)
	}
}

// storedLocked: the message is safe, the leaf is told.
func (p *Path) storedLocked(e *entry, state StoredState, pos Position, out *answers) {
	e.storage, e.pos = stored, pos
	out.add(e.done, nil)
	e.done = nil
	switch {
	case state != Out:
		p.held -= int64(e.size)
	case e.after != keep:
		p.held -= int64(e.size)
		p.freeLocked(e)
	case e.gone: // settled while the commit was under way
		p.store.Settle(pos)
	}
}

// notStoredLocked: the store could not take the message. Where the hub may still
// take it from memory it stays there and is tried again; else the leaf is
// refused, and still has it.
func (p *Path) notStoredLocked(e *entry, state StoredState, err error, out *answers) {
	m := e.m
	switch {
	case e.gone && state == Out && e.after == keep:
		return // settled meanwhile
	case state == Out && e.after == keep && p.mayStageLocked(e):
		e.storage = staged
		e.since = time.Now().Add(time.Second)
		p.waitLocked(e)
		return
	case state == Out && e.after != keep:
		if e.after == park && e.parking == e.flow.sender.parking {
			e.flow.sender.flying[e.flow.lane]--
		} else {
			p.lanes[e.flow.lane].holdup--
		}
		p.held -= int64(e.size)
	case state == Out:
		p.dropLocked(e)
	default:
		p.held -= int64(e.size)
	}
	e.flow.giveUp(m.Start, m.Seq, m.Seq, m.Dropped)
	e.flow.refused, e.flow.refusal = e.flow.seq, err
	m.refuseStreamLocked(err)
	p.counts.rejected[rejectReason(err)]++
	out.add(e.done, err)
	e.done = nil
	p.refuseBehindLocked(e, err, out)
}

// refuseBehindLocked refuses what is only in memory behind a refused message.
// What is in a commit is judged when that is done. What the uplink has already
// taken is refused too: should the link break, it would be sent again alone, and
// arrive before what the leaf repeats.
func (p *Path) refuseBehindLocked(e *entry, err error, out *answers) {
	for _, x := range slices.Clone(e.flow.entries) {
		if x.seq <= e.seq || x.storage != staged || x.gone || x.done == nil {
			continue
		}
		x.m.refuseStreamLocked(err)
		x.flow.giveUp(x.m.Start, x.m.Seq, x.m.Seq, x.m.Dropped)
		p.dropLocked(x)
		p.counts.rejected[rejectReason(err)]++
		out.add(x.done, err)
		x.done = nil
	}
}

// mayStageLocked says that an entry whose commit failed can wait in memory
// without losing its place: the lane acknowledges what the hub settles, and
// nothing behind the entry is on flash already.
func (p *Path) mayStageLocked(e *entry) bool {
	if !p.linkUp || p.closing || e.flow.sender.parked || e.seq <= e.flow.refused ||
		p.cfg.Load().Lanes[e.flow.lane].Custody == CustodyDisk || p.mustQueueLocked(e.flow.lane) {
		return false
	}
	i := slices.Index(e.flow.entries, e)
	return i >= 0 && !slices.ContainsFunc(e.flow.entries[i+1:], func(x *entry) bool {
		return !x.gone && x.storage != staged
	})
}

// dropLocked takes an entry out of memory.
func (p *Path) dropLocked(e *entry) {
	if e.gone {
		return
	}
	e.gone, e.m = true, nil
	e.turn++
	p.held -= int64(e.size)
	e.flow.sender.held -= int64(e.size)
	p.heldBackLocked(e, -1)
	e.flow.trim()
}

// trim removes entries at the front that are gone.
func (f *flow) trim() {
	for len(f.entries) > 0 && f.entries[0].gone {
		f.entries[0] = nil
		f.entries = f.entries[1:]
		f.next = max(f.next-1, 0)
	}
	if len(f.entries) == 0 {
		f.entries = nil
	}
}

// compact removes entries that are gone behind one that is not: the hub may
// never settle that. Twice as many as are left are let in before it is done again.
func (f *flow) compact() {
	next := f.next
	for _, e := range f.entries[:f.next] {
		if e.gone {
			next--
		}
	}
	f.entries = slices.DeleteFunc(f.entries, func(e *entry) bool { return e.gone })
	f.next = next
	f.crowded = max(minCrowd, 2*len(f.entries))
}

// minCrowd is from how many entries on it is worth looking for those that are
// gone: more than an uplink has under way for a leaf.
const minCrowd = 256

// evictLocked takes entries of the flow from index from on out of memory, the
// leaf's order kept: what is only in memory goes to flash, what is on flash
// is given back to the store. state is Unread or Parked.
func (p *Path) evictLocked(f *flow, from int, state StoredState) {
	var es []*entry
	for _, e := range f.entries[from:] {
		if e.gone {
			continue
		}
		e.gone, e.sent = true, false
		e.turn++
		f.sender.held -= int64(e.size)
		p.heldBackLocked(e, -1)
		switch e.storage {
		case stored:
			p.held -= int64(e.size)
			p.releaseLocked(f, e.m, state == Parked, e.pos)
		case storing:
			if state == Parked {
				e.after, e.parking = park, f.sender.parking
				f.sender.flying[f.lane]++
			} else {
				e.after = release
				p.lanes[f.lane].holdup++
			}
		case staged:
			es = append(es, e)
		}
	}
	f.entries = f.entries[:from:from]
	f.next = min(f.next, from)
	f.trim()
	p.spillLocked(f, Out) // what stays in memory is older, so it goes to flash first
	p.commitLocked(f, es, state)
}

// roomLocked wakes those whom the bound keeps waiting.
func (p *Path) roomLocked() {
	if p.held <= 2*int64(p.cfg.Load().StagedBytes) {
		p.room.Broadcast()
	}
	if p.held <= int64(p.cfg.Load().StagedBytes) { // the alarm lane's backlog may use all of it
		signal(p.feedC)
	}
}

// rejectReason is the label under which a refusal is counted.
func rejectReason(err error) string {
	switch {
	case errors.Is(err, ErrStoreFull):
		return "full"
	case errors.Is(err, ErrStoreFailed):
		return "failed"
	case errors.Is(err, ErrTooLarge):
		return "oversize"
	case errors.Is(err, ErrUnknownLeaf):
		return "leaf"
	case errors.Is(err, ErrShuttingDown):
		return "shutdown"
	}
	return "other"
}

// signal wakes the one reader of a channel of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
