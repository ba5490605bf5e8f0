package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

var _ gateway.Backlog = (*Store)(nil)

// Look implements gateway.Backlog.
func (s *Store) Look(ctx context.Context, lane gateway.Lane, use func(gateway.Waiting) bool) error {
	l := s.lanes[lane]
	err := l.walk(ctx, func(v view) error {
		for _, r := range v.results {
			if r.err != nil {
				continue
			}
			w := gateway.Waiting{State: v.states[r.index]}
			w.Position, w.Message = v.position(l, r.index), r.message
			if !use(w) {
				return errEnough
			}
		}
		return nil
	}, nil)
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// Purge implements gateway.Backlog.
func (s *Store) Purge(ctx context.Context, lane gateway.Lane, match func(*gateway.Message) bool) (sum gateway.Purged, err error) {
	l := s.lanes[lane]
	names, before := roll{why: gateway.DropPurged}, 0
	var unrecorded []*segment
	err = l.walk(ctx, func(v view) error {
		v.results = slices.DeleteFunc(v.results, func(r found) bool { return r.err != nil || !match(r.message) })
		l.giveUp(v, &names, &sum)
		return nil
	}, func(seg *segment) error {
		// Also what a purge before it could not record.
		if l.recordPurge(seg) != nil {
			unrecorded = append(unrecorded, seg)
		}
		if sum.Messages > before {
			before = sum.Messages
			l.tellGivenUp(names.runs)
			names = roll{why: gateway.DropPurged}
			s.wakeKeeper()
		}
		return nil
	})
	// Segments that were drained later may have given room for it.
	for _, seg := range unrecorded {
		if rerr := l.recordPurge(seg); err == nil {
			err = rerr
		}
	}
	return sum, err
}

// giveUp settles the messages of a view that are still neither settled nor Out.
func (l *lane) giveUp(v view, names *roll, sum *gateway.Purged) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range v.results {
		if !v.segment.has(v.block, r.index) {
			continue
		}
		switch v.segment.state(v.block, r.index) {
		case gateway.Out:
			sum.Under++
		case gateway.Unread, gateway.Parked:
			v.segment.set(v.block, r.index, settled)
			l.dropped[gateway.DropPurged]++
			names.add(r.message)
			sum.Messages++
		}
	}
}

// recordPurge syncs to flash what was given up of a segment. On a full disk a drained
// one can be removed all the same.
func (l *lane) recordPurge(s *segment) error {
	err := l.journalNow(s)
	if err == nil {
		return nil
	}
	l.mu.Lock()
	drained := s.unsettled == 0 && s.sealed
	l.mu.Unlock()
	if drained && !l.remove(s) {
		return nil
	}
	return fmt.Errorf("%w: the purge cannot be recorded; after a crash messages of it may be there again: %w", gateway.ErrStoreFailed, err)
}

func (l *lane) journalNow(s *segment) error {
	s.io.Lock()
	defer s.io.Unlock()
	l.mu.Lock()
	there := l.findLocked(s.number) == s
	l.mu.Unlock()
	if !there { // the keeper has removed it already
		return nil
	}
	return l.writeJournal(s, true)
}

// Verify implements gateway.Backlog.
func (s *Store) Verify(ctx context.Context, lane gateway.Lane) (sum gateway.Verified, err error) {
	l := s.lanes[lane]
	begin := time.Now()
	err = l.walk(ctx, func(v view) error {
		for _, r := range v.results {
			switch {
			case errors.Is(r.err, errThinned):
			case r.err == nil:
				sum.Messages++
				sum.Bytes += int64(r.message.Size())
			default:
				sum.Damaged++
				addSpan(&sum, v.position(l, r.index), v.from, v.to, r.err)
			}
		}
		// Half of the disk's time is for those who take messages and send them.
		select {
		case <-time.After(time.Since(begin)):
		case <-ctx.Done():
		}
		begin = time.Now()
		return nil
	}, nil)
	return sum, err
}

// addSpan enters a damaged message: it goes on with the last span, or begins one.
func addSpan(sum *gateway.Verified, p gateway.Position, from, to gateway.Instant, err error) {
	if n := len(sum.Spans); n > 0 {
		last := &sum.Spans[n-1]
		next := last.First
		next.Index += uint16(last.Messages)
		if next == p {
			last.Messages++
			return
		}
	}
	if len(sum.Spans) < gateway.MaxDamagedSpans {
		sum.Spans = append(sum.Spans, gateway.DamagedSpan{First: p, Messages: 1, From: from, To: to, Err: err})
	}
}

// errEnough ends a walk early.
var errEnough = errors.New("enough")

// view is what was found in a block, with the states at that time.
type view struct {
	segment  *segment
	block    uint32
	results  []found
	states   []gateway.StoredState
	from, to gateway.Instant // the segment's
}

func (v view) position(l *lane, index int) gateway.Position {
	return gateway.Position{Lane: l.id, Segment: v.segment.number, Block: v.block, Index: uint16(index)}
}

// walk calls visit, without any lock, for each block of the lane that has unsettled
// messages, and leave, unless it is nil, when a segment is done or the walk ends in it.
// Blocks written after the call began are not visited.
func (l *lane) walk(ctx context.Context, visit func(view) error, leave func(*segment) error) error {
	type stretch struct {
		segment *segment
		blocks  uint32
	}
	var way []stretch
	l.mu.Lock()
	for _, s := range l.segments {
		if s.unsettled > 0 && !s.gone {
			way = append(way, stretch{s, uint32(len(s.table))})
		}
	}
	l.mu.Unlock()
	for _, x := range way {
		err := l.walkSegment(ctx, x.segment, x.blocks, visit)
		if leave != nil {
			err = errors.Join(err, leave(x.segment))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *lane) walkSegment(ctx context.Context, s *segment, blocks uint32, visit func(view) error) error {
	defer l.leave(s)
	for block := range blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		v, err := l.view(s, block)
		if err != nil {
			return err
		}
		if len(v.results) == 0 {
			continue
		}
		if err := visit(v); err != nil {
			return err
		}
	}
	return nil
}

// view reads the unsettled messages of a block and changes nothing. A segment that does
// not open is damaged as a whole, until reading for the hub recovers it.
func (l *lane) view(s *segment, block uint32) (view, error) {
	v := view{segment: s, block: block}
	l.store.looking.RLock()
	defer l.store.looking.RUnlock()
	if l.store.closed.Load() {
		return v, fmt.Errorf("%w: store is closed", gateway.ErrStoreFailed)
	}
	s.io.Lock()
	defer s.io.Unlock()
	l.mu.Lock()
	waits := 0
	var wanted []bool
	if s.unsettled > 0 && !s.gone && int(block) < len(s.table) {
		wanted = make([]bool, s.count(block))
		v.states = make([]gateway.StoredState, len(wanted))
		for i := range wanted {
			v.states[i] = s.state(block, i)
			if wanted[i] = v.states[i] != settled; wanted[i] {
				waits++
			}
		}
	}
	v.from, v.to = s.first, s.last
	l.mu.Unlock()
	if waits == 0 {
		return v, nil
	}
	if s.db == nil {
		if err := finishRewrite(s.dir); err != nil {
			return v, fmt.Errorf("%w: cannot finish rewriting a segment: %w", gateway.ErrStoreFailed, err)
		}
		if err := l.openFiles(s); err != nil {
			if passing(err) {
				return v, fmt.Errorf("%w: cannot open segment: %w", gateway.ErrStoreFailed, err)
			}
			v.results = allDamaged(wanted, err)
			return v, nil
		}
	}
	var err error
	v.results, _, err = l.fetch(s, s.address(block), len(wanted), wanted, &batch{most: math.MaxInt, maxBytes: math.MaxInt})
	return v, err
}

// leave closes a segment that was looked at, unless it is read for the hub as well.
func (l *lane) leave(s *segment) {
	l.reader.Lock()
	defer l.reader.Unlock()
	if l.reading == s {
		return
	}
	if err := l.closeSealed(s); err != nil {
		l.log.Warn("cannot close segment", "error", err)
	}
}

// closeLooking closes what is open for those who look at the lane, at the end.
func (l *lane) closeLooking() {
	l.mu.Lock()
	all := slices.Clone(l.segments)
	l.mu.Unlock()
	for _, s := range all {
		l.leave(s)
	}
}
