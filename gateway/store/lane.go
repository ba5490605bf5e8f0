package store

import (
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// lane is one queue: its segments in order, and who works on them. The committer
// (commit.go) writes the head, readers (read.go) read forward, the keeper
// (keeper.go) seals and removes what is behind.
type lane struct {
	store *Store
	id    gateway.Lane
	cfg   atomic.Pointer[LaneConfig] // see Store.ConfigureLanes
	dir   string
	log   *slog.Logger

	committer committer

	reader  sync.Mutex // one Read at a time
	reading *segment   // the sealed segment that is open; guarded by reader

	mu       sync.Mutex // guards the rest, and the segments' tables
	segments []*segment // in the order of their numbers
	queue    []*handover
	queued   int // messages in queue
	bytes    int // their size
	closed   bool
	dropped  map[gateway.DropReason]int64
	failing  error     // why nothing can be written at the moment
	failures int       // how often that was said since it began
	retryAt  time.Time // before it no new segment is tried
	last     uint64    // the highest number given to a segment

	// Segments without messages whose folders could not be removed yet.
	unused []*segment
	// unreadable is why Read failed the last time, nil if it did not.
	unreadable error
}

func newLane(s *Store, id gateway.Lane) *lane {
	l := &lane{
		store: s, id: id,
		dir:     filepath.Join(s.dir, queueName, id.String()),
		log:     s.log.With("lane", id.String()),
		dropped: map[gateway.DropReason]int64{},
	}
	l.cfg.Store(&s.cfg.Lanes[id])
	l.committer = committer{lane: l, wake: make(chan struct{}, 1), ahead: make(chan prepared, 1)}
	return l
}

// ConfigureLanes changes the bounds of the lanes; they must be valid. Above a
// smaller one nothing is dropped before the lane needs its next segment.
func (s *Store) ConfigureLanes(lanes [gateway.Lanes]LaneConfig) {
	for i, l := range s.lanes {
		l.cfg.Store(&lanes[i])
	}
}

// find returns the segment with that number.
func (l *lane) findLocked(number uint64) *segment {
	i, ok := slices.BinarySearchFunc(l.segments, number, func(s *segment, n uint64) int {
		switch {
		case s.number < n:
			return -1
		case s.number > n:
			return 1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return l.segments[i]
}

func (l *lane) removeLocked(s *segment) {
	l.segments = slices.DeleteFunc(l.segments, func(other *segment) bool { return other == s })
}

// settle marks messages as done with. The journal and the removal of drained
// segments follow in the keeper.
func (l *lane) settle(ps []gateway.Position) {
	l.mu.Lock()
	wake := false
	for _, p := range ps {
		s := l.findLocked(p.Segment)
		if s == nil || !s.has(p.Block, int(p.Index)) {
			continue
		}
		fresh := s.fresh
		s.set(p.Block, int(p.Index), settled)
		wake = wake || s.fresh != fresh && (fresh == 0 || s.fresh == journalBatch || s.unsettled == 0)
	}
	l.mu.Unlock()
	if wake {
		l.store.wakeKeeper()
	}
}

// release makes messages that are Out unread or parked. Where the bound has
// dropped the segment meanwhile there is nothing to return to: they are counted,
// and their number is returned.
func (l *lane) release(park bool, ps []gateway.Position) (dropped int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	state := gateway.Unread
	if park {
		state = gateway.Parked
	}
	for _, p := range ps {
		s := l.findLocked(p.Segment)
		switch {
		case s == nil || !s.has(p.Block, int(p.Index)) || s.state(p.Block, int(p.Index)) != gateway.Out:
		case s.gone:
			s.set(p.Block, int(p.Index), settled)
			l.dropped[gateway.DropQuota]++
			dropped++
			l.store.wakeKeeper()
		default:
			s.set(p.Block, int(p.Index), state)
		}
	}
	return dropped
}

func (l *lane) unpark() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segments {
		if s.parked == 0 {
			continue
		}
		s.each(func(block uint32, index int, state gateway.StoredState) {
			if state == gateway.Parked {
				s.set(block, index, gateway.Unread)
			}
		})
	}
}

func (l *lane) countUnread() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, s := range l.segments {
		n += s.unread
	}
	return n
}

// snapshot is the lane's part of Store.State.
func (l *lane) snapshot() (state gateway.LaneState, onDisk int64, failing, hindered error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	hindered = l.unreadable
	for _, s := range slices.Concat(l.segments, l.unused) {
		if hindered == nil {
			hindered = s.hindered
		}
	}
	state.Limit = int64(l.cfg.Load().MaxBytes)
	state.Dropped = maps.Clone(l.dropped)
	for _, s := range l.segments {
		if s.unsettled > 0 && state.Messages == 0 {
			state.Oldest = s.first
		}
		state.Messages += s.unsettled
		state.Bytes += s.used()
		onDisk += s.occupies()
	}
	return state, onDisk, l.failing, hindered
}

// segmentName spells a segment's number so that folders sort in order.
func segmentName(number uint64) string {
	const width = 16
	text := strconv.FormatUint(number, 16)
	return "0000000000000000"[:width-len(text)] + text
}

// parseSegmentName is the inverse of segmentName.
func parseSegmentName(name string) (uint64, bool) {
	number, err := strconv.ParseUint(name, 16, 64)
	return number, err == nil && segmentName(number) == name
}
