package store

import (
	"slices"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// settled is the fourth state of a stored message; the other three are the
// path's business, this one is ours.
const settled gateway.StoredState = 3

// segment is what is remembered about one small database: a table of its blocks
// and two bits for each message. One million messages cost 250 kB of states and,
// when each came alone, 8 MB of table.
type segment struct {
	lane   gateway.Lane
	number uint64 // grows within the lane
	dir    string

	// io is held while the files are used: read, closed, moved or removed. It is
	// taken before the lane's lock, never while holding that. The committer alone
	// writes to db, without io, until it has handed the segment over for sealing.
	io     sync.Mutex
	db     *database        // nil when closed; guarded by io
	places map[uint32]place // where its frames are, when it had to be searched while open; guarded by io

	// The rest is guarded by the lane's lock.
	sealed    bool      // complete and closed; index is on disk
	closing   bool      // handed over for sealing
	finishing bool      // being sealed right now
	closeAt   time.Time // when sealing failed: not before it again
	gone      bool      // files dropped at the bound; only messages that are Out remain
	thinned   bool      // every second message was given up already
	disk      int64
	reserved  int64 // counted instead of disk until sealed
	written   int64 // bytes that blocks took, until sealed

	table     []blockEntry
	states    []byte // two bits for each message
	messages  uint32
	unread    int
	parked    int
	unsettled int
	next      uint32 // no block before it has unread messages

	first, last gateway.Instant // capture times of the first and last message
	maxStart    uint32          // highest gateway start that numbered a message

	hindered error     // why the keeper cannot seal, write or remove it; nil when it can
	retryAt  time.Time // the keeper leaves it alone until then

	unwritten map[uint32]struct{} // blocks with settled messages not in the journal
	fresh     int                 // how many messages those are
	journaled time.Time           // when the journal was last written
	synced    time.Time           // when it was last synced
	unsynced  bool                // something was written since
	torn      bool                // writing has failed: there may be half a record
}

// blockEntry is the part of the table for one block.
type blockEntry struct {
	first  uint32 // number of its first message within the segment
	unread uint16
}

func newSegment(lane gateway.Lane, number uint64, dir string) *segment {
	return &segment{lane: lane, number: number, dir: dir, unwritten: map[uint32]struct{}{}}
}

// add enters the next block, with count messages that are all in the same state.
func (s *segment) add(count int, state gateway.StoredState) {
	block := uint32(len(s.table))
	s.table = append(s.table, blockEntry{first: s.messages})
	s.messages += uint32(count)
	// A new message's bits are zero, which is Unread.
	if need := int(s.messages+3) / 4; need > len(s.states) {
		s.states = append(s.states, make([]byte, need-len(s.states))...)
	}
	s.table[block].unread = uint16(count)
	s.unread += count
	s.unsettled += count
	if state != gateway.Unread {
		for i := range count {
			s.set(block, i, state)
		}
	}
}

// count returns how many messages a block has.
func (s *segment) count(block uint32) int {
	end := s.messages
	if int(block)+1 < len(s.table) {
		end = s.table[block+1].first
	}
	return int(end - s.table[block].first)
}

// has says whether the position exists.
func (s *segment) has(block uint32, index int) bool {
	return int(block) < len(s.table) && index < s.count(block)
}

func (s *segment) state(block uint32, index int) gateway.StoredState {
	i := s.table[block].first + uint32(index)
	return gateway.StoredState(s.states[i/4] >> (i % 4 * 2) & 3)
}

// set changes the state of a message and keeps the counts. A settled message
// stays settled.
func (s *segment) set(block uint32, index int, state gateway.StoredState) {
	old := s.state(block, index)
	if old == state || old == settled {
		return
	}
	switch old {
	case gateway.Unread:
		s.unread--
		s.table[block].unread--
	case gateway.Parked:
		s.parked--
	}
	switch state {
	case gateway.Unread:
		s.unread++
		s.table[block].unread++
		s.next = min(s.next, block)
	case gateway.Parked:
		s.parked++
	case settled:
		s.unsettled--
		s.unwritten[block] = struct{}{}
		s.fresh++
	}
	i := s.table[block].first + uint32(index)
	shift := i % 4 * 2
	s.states[i/4] = s.states[i/4]&^(3<<shift) | byte(state)<<shift
}

// nextUnread returns the first block that has unread messages.
func (s *segment) nextUnread() (block uint32, ok bool) {
	if s.unread == 0 {
		return 0, false
	}
	for int(s.next) < len(s.table) && s.table[s.next].unread == 0 {
		s.next++
	}
	return s.next, int(s.next) < len(s.table)
}

// each calls use for every message of the segment.
func (s *segment) each(use func(block uint32, index int, state gateway.StoredState)) {
	for block := range uint32(len(s.table)) {
		for i := range s.count(block) {
			use(block, i, s.state(block, i))
		}
	}
}

// giveUp settles every message that is not Out and returns how many those were.
func (s *segment) giveUp() (dropped int) {
	s.each(func(block uint32, index int, state gateway.StoredState) {
		if state == gateway.Unread || state == gateway.Parked {
			s.set(block, index, settled)
			dropped++
		}
	})
	return dropped
}

// saw notes the capture time and start of a message that was added.
func (s *segment) saw(m *gateway.Message) {
	if s.first == (gateway.Instant{}) {
		s.first = m.Captured
	}
	s.last = m.Captured
	s.maxStart = max(s.maxStart, m.Start)
}

// trim gives back what the table and the states have as spare room.
func (s *segment) trim() {
	s.table = slices.Clip(slices.Clone(s.table))
	s.states = slices.Clip(slices.Clone(s.states))
}

func (s *segment) address(block uint32) address {
	return address{lane: s.lane, segment: s.number, block: block}
}

// occupies is what the segment counts for in the lane's bound, in bytes.
func (s *segment) occupies() int64 {
	switch {
	case s.gone:
		return 0
	case s.sealed:
		return s.disk
	}
	return s.reserved
}

// used is an estimate of how many bytes its unsettled messages take.
func (s *segment) used() int64 {
	if s.messages == 0 || s.gone {
		return 0
	}
	bytes := s.disk
	if !s.sealed {
		bytes = s.written
	}
	return bytes * int64(s.unsettled) / int64(s.messages)
}
