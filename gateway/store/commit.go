package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/failpoint"
)

const (
	// The committer does not wait for the window to end when it has as much as
	// this, in Message.Size: a bigger block makes a sync no cheaper per message.
	eagerBytes    = 64 << 10
	eagerMessages = maxBlockMessages

	// commitBytes bounds one transaction, of several blocks, in Message.Size.
	commitBytes = 512 << 10

	// maxUnsealed bounds how many segments of a lane are open for writing or wait
	// for being sealed.
	maxUnsealed = 4
)

var errClosed = fmt.Errorf("%w: store is closed", gateway.ErrStoreFailed)

// handover is one Append call on its way through the committer.
type handover struct {
	messages  []*gateway.Message
	state     gateway.StoredState
	done      func([]gateway.Position, error)
	next      int // messages before it are in a commit
	positions []gateway.Position
	err       error
}

// handOver queues messages for the committer.
func (l *lane) handOver(ms []*gateway.Message, state gateway.StoredState, done func([]gateway.Position, error)) {
	h := &handover{messages: ms, state: state, done: done}
	bytes := 0
	for _, m := range ms {
		bytes += m.Size()
		if m.Size() > maxMessage {
			h.err = fmt.Errorf("%w: %w: %d bytes", gateway.ErrStoreFailed, gateway.ErrTooLarge, m.Size())
		}
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		go done(nil, errClosed) // the caller may hold what done wants, and no committer is left
		return
	}
	before := l.eagerLocked()
	first := len(l.queue) == 0
	l.queue = append(l.queue, h)
	l.queued += len(ms)
	l.bytes += bytes
	wake := first || !before && l.eagerLocked()
	l.mu.Unlock()
	if wake {
		l.committer.poke()
	}
}

// eagerLocked says that there is enough for a commit.
func (l *lane) eagerLocked() bool { return l.queued >= eagerMessages || l.bytes >= eagerBytes }

// close lets the committer end when it has committed what is queued.
func (l *lane) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.committer.poke()
}

// committer is the one goroutine that writes a lane.
type committer struct {
	lane     *lane
	wake     chan struct{} // has one element when there may be something to do
	head     *segment      // being written; nil before the first message
	lastDone time.Time     // when the last commit ended
	lone     string        // the leaf of the one message that the last commit was made of; "" for several

	ahead     chan prepared // the next segment, opened before it is needed
	preparing bool          // ahead will yield exactly one result
	askedFor  uint64        // the head for which ahead was asked

	frames []byte // scratch of commits
}

func (c *committer) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run commits until the lane is closed and its queue is empty.
func (c *committer) run() {
	for {
		todo, more := c.gather()
		for len(todo) > 0 {
			var b commit
			todo = b.fill(todo)
			c.commit(&b)
			b.answer()
		}
		if !more {
			break
		}
	}
	c.retire()
	c.discardAhead()
	c.lane.store.wakeKeeper()
}

// gather waits for messages and for the window to end, and takes what is queued.
// more is false when nothing will come any more.
func (c *committer) gather() (todo []*handover, more bool) {
	l := c.lane
	for {
		l.mu.Lock()
		empty, eager, closed := len(l.queue) == 0, l.eagerLocked(), l.closed
		wait := l.store.cfg.CommitWindow.D() - time.Since(c.lastDone)
		if closed || !empty && (eager || wait <= 0 || c.aloneLocked()) {
			c.lone = ""
			if l.queued == 1 && len(l.queue[0].messages) == 1 {
				c.lone = l.queue[0].messages[0].Leaf
			}
			todo, l.queue = l.queue, nil
			l.queued, l.bytes = 0, 0
			l.mu.Unlock()
			return todo, !closed
		}
		l.mu.Unlock()
		switch {
		case !empty:
			c.sleep(wait)
		case c.head == nil:
			<-c.wake
		case !c.sleep(l.store.tuning.idleAfter):
			c.giveUpIdle()
		}
	}
}

// aloneLocked says that waiting gathers nothing: the only message is of the leaf
// whose only message was committed last. It waits for each acknowledgement before
// it sends the next one.
func (c *committer) aloneLocked() bool {
	q := c.lane.queue
	return c.lane.queued == 1 && len(q[0].messages) == 1 && q[0].messages[0].Leaf == c.lone
}

// sleep waits until the committer is woken, at most for d. It reports whether it
// was woken.
func (c *committer) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c.wake:
		return true
	case <-timer.C:
		return false
	}
}

// giveUpIdle retires the head of a lane that has been drained, so that the room
// reserved for it is free again.
func (c *committer) giveUpIdle() {
	c.lane.mu.Lock()
	drained := c.head.unsettled == 0
	c.lane.mu.Unlock()
	if drained {
		c.retire()
		c.discardAhead()
		c.lane.store.wakeKeeper()
	}
}

// commit is what one transaction writes.
type commit struct {
	blocks   []draft
	size     int
	finished []*handover // complete with this commit, in order
}

// draft is a block before it has an address.
type draft struct {
	messages []*gateway.Message
	owners   []*handover // of each message
	size     int         // in Message.Size, an upper bound of what is encoded
}

// fill moves messages from the front of todo into the commit and returns what
// has not found room. A handover may be spread over several commits.
func (b *commit) fill(todo []*handover) []*handover {
	for len(todo) > 0 {
		h := todo[0]
		for h.err == nil && h.next < len(h.messages) {
			m := h.messages[h.next]
			if b.size > 0 && b.size+m.Size() > commitBytes {
				return todo
			}
			b.add(h, m)
			h.next++
		}
		b.finished = append(b.finished, h)
		todo = todo[1:]
	}
	return nil
}

func (b *commit) add(h *handover, m *gateway.Message) {
	last := len(b.blocks) - 1
	if last < 0 || len(b.blocks[last].messages) == maxBlockMessages || b.blocks[last].size+m.Size() > maxBlockBytes {
		b.blocks = append(b.blocks, draft{})
		last++
	}
	d := &b.blocks[last]
	d.messages = append(d.messages, m)
	d.owners = append(d.owners, h)
	d.size += m.Size()
	b.size += m.Size()
}

// cost is an upper bound of what the commit adds to value log and write-ahead log.
func (b *commit) cost() (values, wal int64) {
	for i := range b.blocks {
		size := frameSize(len(b.blocks[i].messages), b.blocks[i].size)
		v, w := blockCost(size, valueThreshold)
		values += v
		wal += max(w, min(int64(size), valueThreshold)+entryCost)
	}
	return values, wal
}

// fail gives the owners of all messages in the commit an error.
func (b *commit) fail(err error) {
	for i := range b.blocks {
		for _, h := range b.blocks[i].owners {
			h.err = err
		}
	}
}

// answer tells the finished handovers their fate, in order.
func (b *commit) answer() {
	for _, h := range b.finished {
		if h.err != nil {
			h.done(nil, h.err)
			continue
		}
		h.done(h.positions, nil)
	}
}

// commit writes the blocks, synced, and enters them in the head's table. When it
// cannot, the owners of the messages get the error, and what earlier commits
// stored for them is settled again.
func (c *committer) commit(b *commit) {
	if len(b.blocks) == 0 {
		return
	}
	err := c.write(b)
	c.lastDone = time.Now()
	c.lane.note(err)
	if err != nil {
		b.fail(err)
		for i := range b.blocks {
			for _, h := range b.blocks[i].owners {
				c.lane.settle(h.positions)
				h.positions = nil
			}
		}
		return
	}
	c.enter(b)
	c.prepare()
}

func (c *committer) write(b *commit) error {
	values, wal := b.cost()
	if err := c.needHead(values, wal); err != nil {
		return err
	}
	blocks, frames := b.encode(c.head, c.frames[:0])
	c.frames = frames
	failpoint.Hit(failpoint.StoreCommit)
	begin := time.Now()
	err := c.head.db.put(blocks)
	c.lane.store.synced(begin)
	if err != nil {
		// Nobody knows what of it is on disk: this segment takes nothing more.
		c.retire()
		return fmt.Errorf("%w: %w", gateway.ErrStoreFailed, err)
	}
	failpoint.Hit(failpoint.StoreCommitted)
	c.lane.store.commits.Add(1)
	c.lane.store.written.Add(int64(len(frames)))
	return nil
}

// encode frames the blocks with the addresses that they get in the head.
func (b *commit) encode(head *segment, frames []byte) (blocks []encodedBlock, scratch []byte) {
	payload := make([]byte, 0, b.size)
	var ends []int
	offsets := make([]int, 0, len(b.blocks)+1)
	first := uint32(len(head.table))
	for i := range b.blocks {
		payload, ends = payload[:0], ends[:0]
		for _, m := range b.blocks[i].messages {
			payload = appendMessage(payload, m)
			ends = append(ends, len(payload))
		}
		offsets = append(offsets, len(frames))
		frames = appendFrame(frames, head.address(first+uint32(i)), i, payload, ends)
	}
	offsets = append(offsets, len(frames))
	for i := range b.blocks {
		blocks = append(blocks, encodedBlock{first + uint32(i), frames[offsets[i]:offsets[i+1]]})
	}
	return blocks, frames
}

// enter puts the committed blocks into the head's table, from where Read sees
// them, and gives the owners their positions.
func (c *committer) enter(b *commit) {
	l := c.lane
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range b.blocks {
		d := &b.blocks[i]
		block := uint32(len(c.head.table))
		c.head.add(len(d.messages), gateway.Unread)
		for j, m := range d.messages {
			h := d.owners[j]
			c.head.set(block, j, h.state)
			c.head.saw(m)
			h.positions = append(h.positions, gateway.Position{
				Lane: l.id, Segment: c.head.number, Block: block, Index: uint16(j),
			})
		}
	}
	c.head.written = c.head.db.values + c.head.db.wal
}

// note remembers whether the lane can be written, and logs when that changes.
func (l *lane) note(err error) {
	l.mu.Lock()
	was, count := l.failing, l.failures
	l.failing = err
	if err != nil {
		l.failures++
		if !errors.Is(err, gateway.ErrStoreFull) {
			l.store.errors.Add(1)
		}
	} else {
		l.failures = 0
	}
	l.mu.Unlock()
	switch {
	case err != nil && was == nil && errors.Is(err, gateway.ErrStoreFull):
		l.log.Warn("store takes no more messages", "event", "store-full", "error", err)
	case err != nil && was == nil:
		l.log.Error("store cannot write", "event", "store-failed", "error", err)
	case err == nil && was != nil:
		l.log.Info("store takes messages again", "event", "store-well", "refused_commits", count)
	}
}

// roomAgain says that a lane which was full would take messages now: after the hub
// has taken everything it may be long until somebody writes and finds out. It only
// looks. If it ended the wait for the next attempt as well, what a leaf has under way
// behind a refused message could be taken before that comes again.
func (l *lane) roomAgain() bool {
	l.mu.Lock()
	was, wait := l.failing, time.Until(l.retryAt)
	l.mu.Unlock()
	return wait <= 0 && errors.Is(was, gateway.ErrStoreFull) && l.fits() && l.needSegmentRoom() == nil
}

// needSegmentRoom returns an error wrapping gateway.ErrStoreFull unless the disk has
// room for one more segment above the floor.
func (l *lane) needSegmentRoom() error {
	return needRoom(l.store.dir, int64(l.store.cfg.MinFree)+reservation(int64(l.store.cfg.SegmentSize)))
}

// needHead makes sure that the head has room for a commit of that cost, and
// starts a new segment where it has not. While that fails, a new attempt is made
// only once in a while.
func (c *committer) needHead(values, wal int64) error {
	l := c.lane
	l.mu.Lock()
	stuck, wait := l.failing, time.Until(l.retryAt)
	l.mu.Unlock()
	if stuck != nil && wait > 0 {
		return stuck // a small commit that would still fit must not overtake
	}
	if c.head != nil && c.head.db.fits(values, wal, int64(l.store.cfg.SegmentSize)) {
		return nil
	}
	next, err := c.nextSegment()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && l.unsealedLocked() > maxUnsealed {
		// The disk refuses to close them: more would only cost memory.
		l.store.sealers.Go(func() { l.discard(next) })
		err = fmt.Errorf("%w: %d segments do not close", gateway.ErrStoreFailed, maxUnsealed)
	}
	if err != nil {
		l.retryAt = time.Now().Add(l.store.tuning.retryAfter)
		return err
	}
	c.retireLocked()
	c.head = next
	l.segments = append(l.segments, next)
	return nil
}

// unsealedLocked counts the segments that are written or wait for being sealed.
func (l *lane) unsealedLocked() (n int) {
	for _, s := range l.segments {
		if !s.sealed && !s.gone {
			n++
		}
	}
	return n
}

// nextSegment returns the segment that was opened ahead, or opens one now,
// after the lane's policy has made room for it.
func (c *committer) nextSegment() (*segment, error) {
	if c.preparing {
		c.preparing = false
		if p := <-c.ahead; p.err == nil {
			return p.segment, nil
		}
	}
	if err := c.lane.makeRoom(); err != nil {
		return nil, err
	}
	return c.lane.create(c.lane.nextNumber())
}

// retire hands the head over to the keeper, who seals it, or removes it when it
// is already settled.
func (c *committer) retire() {
	c.lane.mu.Lock()
	defer c.lane.mu.Unlock()
	c.retireLocked()
}

func (c *committer) retireLocked() {
	if c.head == nil {
		return
	}
	c.head.closing = true
	c.head = nil
	c.lane.store.wakeKeeper()
}

// prepared is a segment that was opened ahead of need.
type prepared struct {
	segment *segment
	err     error
}

// prepare opens the next segment in the background when the head is half full,
// because that takes longer than a commit. It never drops anything for it.
func (c *committer) prepare() {
	l, size := c.lane, int64(c.lane.store.cfg.SegmentSize)
	if c.preparing || c.askedFor == c.head.number || c.head.db.fits(size/2, segmentMemtable/2, size) {
		return
	}
	c.askedFor = c.head.number
	if !l.fits() {
		return
	}
	c.preparing = true
	number := l.nextNumber()
	l.store.sealers.Go(func() {
		s, err := l.create(number)
		c.ahead <- prepared{s, err}
	})
}

// discardAhead removes the segment that was opened ahead, which is empty.
func (c *committer) discardAhead() {
	if !c.preparing {
		return
	}
	c.preparing = false
	if p := <-c.ahead; p.err == nil {
		c.lane.discard(p.segment)
	}
}

// create makes a segment and reserves its room. Errors wrap
// gateway.ErrStoreFull or gateway.ErrStoreFailed.
func (l *lane) create(number uint64) (*segment, error) {
	size := int64(l.store.cfg.SegmentSize)
	s := newSegment(l.id, number, l.path(number))
	s.reserved = reservation(size)
	if err := l.needSegmentRoom(); err != nil {
		return nil, err
	}
	err := l.open(s, size)
	failpoint.Hit(failpoint.SegmentMade)
	if err != nil {
		l.discard(s)
		if passing(err) && needRoom(l.store.dir, int64(l.store.cfg.MinFree)) != nil {
			return nil, fmt.Errorf("%w: %w", gateway.ErrStoreFull, err)
		}
		return nil, fmt.Errorf("%w: cannot make segment: %w", gateway.ErrStoreFailed, err)
	}
	return s, nil
}

func (l *lane) open(s *segment, size int64) error { return l.openWith(s, size, openSegment) }

func (l *lane) openWith(s *segment, size int64, open func(string, int64, *slog.Logger) (*database, error)) (err error) {
	if err := makeFolder(l.dir); err != nil {
		return err
	}
	if s.db, err = open(s.dir, size, l.log); err != nil {
		return err
	}
	failpoint.Hit(failpoint.SegmentMake)
	if err := s.db.reserve(size); err != nil {
		return err
	}
	// Badger leaves the names of the logs to the file system's mercy.
	return errors.Join(promiseFullLogs(s.dir), appendJournal(s.dir, nil, true), syncFolder(s.dir), syncFolder(l.dir))
}

// discard closes and removes a segment that is in no list and has no messages.
func (l *lane) discard(s *segment) {
	l.closeUnused(s)
	if err := l.store.trash(s.dir); err != nil {
		l.noteWork(s, fmt.Errorf("cannot remove unused segment: %w", err))
		l.mu.Lock()
		l.unused = append(l.unused, s)
		l.mu.Unlock()
		l.store.wakeKeeper()
	}
}

func (l *lane) closeUnused(s *segment) {
	if s.db != nil {
		if err := s.db.drop(); err != nil {
			l.log.Debug("cannot close unused segment", "error", err)
		}
		s.db = nil
	}
}

// nextNumber gives out numbers for segments.
func (l *lane) nextNumber() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	return l.last
}

// run is the life of a store's background work, for Open.
func (s *Store) run() {
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.keeper.Go(s.keep)
	for _, l := range s.lanes {
		s.committers.Go(l.committer.run)
	}
}
