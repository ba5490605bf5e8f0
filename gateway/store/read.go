package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fieldgate/fieldgate/gateway"
)

// damagedBlocksKept bounds how many damaged blocks are kept for diagnosis.
const damagedBlocksKept = 32

// read implements Store.Read: a forward scan over the segments that have unread
// messages.
func (l *lane) read(most, maxBytes int, park func(leaf string) bool) (list []gateway.Stored, err error) {
	l.reader.Lock()
	defer l.reader.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.unreadable = err
		if err != nil {
			l.store.errors.Add(1)
		}
	}()
	out := batch{most: max(most, 1), maxBytes: maxBytes, park: park}
	for !out.full() {
		s, block := l.nextUnread()
		if s == nil {
			break
		}
		if err := l.readBlock(s, block, &out); err != nil {
			if len(out.stored) > 0 {
				break // what was marked Out must reach the caller
			}
			return nil, err
		}
	}
	return out.stored, nil
}

// batch gathers what one Read returns.
type batch struct {
	most, maxBytes int
	park           func(leaf string) bool
	stored         []gateway.Stored
	bytes          int
}

func (b *batch) full() bool {
	return len(b.stored) >= b.most || len(b.stored) > 0 && b.bytes >= b.maxBytes
}

// nextUnread returns the first block of the lane that has unread messages.
func (l *lane) nextUnread() (*segment, uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segments {
		if block, ok := s.nextUnread(); ok {
			return s, block
		}
	}
	return nil, 0
}

// found is what was found of one message of a block.
type found struct {
	index   int
	message *gateway.Message
	parked  bool
	err     error // errThinned, or why it is damaged
}

// readBlock adds the unread messages of a block to out and changes their states.
// A block that yields nothing is settled by that, so that reading goes on.
func (l *lane) readBlock(s *segment, block uint32, out *batch) error {
	if err := l.switchReading(s); err != nil {
		return err
	}
	s.io.Lock()
	defer s.io.Unlock()
	l.mu.Lock()
	if s.unread == 0 { // dropped meanwhile
		l.mu.Unlock()
		return nil
	}
	count := s.count(block)
	unread := make([]bool, count)
	for i := range unread {
		unread[i] = s.state(block, i) == gateway.Unread
	}
	l.mu.Unlock()

	if err := l.openReading(s); err != nil {
		return err
	}
	results, raw, err := l.fetch(s, s.address(block), count, unread, out)
	if err != nil {
		return err
	}
	if raw != nil {
		l.keepDamaged(s, block, raw)
	}
	l.take(s, block, results, out)
	return nil
}

// fetch reads the wanted messages of a block, as many as out has room for. raw is
// a copy of the block when something in it is damaged.
func (l *lane) fetch(s *segment, a address, count int, wanted []bool, out *batch) (results []found, raw []byte, err error) {
	n, bytes := len(out.stored), out.bytes
	var bad error // all of the block
	use := func(data []byte) {
		f, ferr := parseFrameAt(data, a, count)
		if ferr != nil {
			bad, raw = ferr, append([]byte(nil), data...)
			return
		}
		f.each(func(i int) bool { return wanted[i] }, func(i int, data []byte, err error) bool {
			r := found{index: i, err: err}
			if err == nil {
				r.message, r.err = decodeMessage(data)
			}
			if r.err == nil {
				r.parked = out.park != nil && out.park(r.message.Leaf)
				if !r.parked {
					n++
					bytes += r.message.Size()
				}
			}
			results = append(results, r)
			return n < out.most && (n == 0 || bytes < out.maxBytes)
		})
		for _, r := range results {
			if r.err != nil && !errors.Is(r.err, errThinned) {
				raw = append([]byte(nil), data...)
				return
			}
		}
	}
	hit, err := s.db.get(a.block, use)
	if err != nil && passing(err) {
		return nil, nil, fmt.Errorf("%w: cannot read: %w", gateway.ErrStoreFailed, err)
	}
	if err == nil && !hit {
		err = errors.New("block is missing")
	}
	if err == nil && bad == nil {
		return results, raw, nil
	}
	// Badger does not find it, or not where it is; it may be there all the same.
	data, serr := l.salvageBlock(s, a.block)
	if serr != nil {
		return nil, nil, fmt.Errorf("%w: cannot read: %w", gateway.ErrStoreFailed, serr)
	}
	if data != nil {
		results, bad = nil, nil
		use(data)
	}
	if results == nil || bad != nil {
		return allDamaged(wanted, errors.Join(err, bad)), append([]byte{}, raw...), nil
	}
	return results, raw, nil
}

func allDamaged(wanted []bool, err error) (results []found) {
	for i, w := range wanted {
		if w {
			results = append(results, found{index: i, err: err})
		}
	}
	return results
}

// take changes the states of what was found and adds the intact messages to out.
func (l *lane) take(s *segment, block uint32, results []found, out *batch) {
	l.mu.Lock()
	unsettled, damaged := s.unsettled, 0
	var cause error
	for _, r := range results {
		if s.state(block, r.index) != gateway.Unread {
			continue
		}
		switch {
		case errors.Is(r.err, errThinned): // counted when it was thinned out
			s.set(block, r.index, settled)
		case r.err != nil:
			s.set(block, r.index, settled)
			damaged++
			cause = r.err
		case r.parked:
			s.set(block, r.index, gateway.Parked)
		default:
			s.set(block, r.index, gateway.Out)
			out.stored = append(out.stored, gateway.Stored{
				Position: gateway.Position{Lane: l.id, Segment: s.number, Block: block, Index: uint16(r.index)},
				Message:  r.message,
			})
			out.bytes += r.message.Size()
		}
	}
	if damaged > 0 {
		l.dropped[gateway.DropDamaged] += int64(damaged)
	}
	wake := s.unsettled < unsettled
	l.mu.Unlock()
	if wake {
		l.store.wakeKeeper()
	}
	if damaged > 0 {
		l.store.damage.add(damaged, 0, s)
		l.log.Error("messages are damaged on flash and set aside", "messages", damaged, "error", cause,
			"segment", segmentName(s.number), "block", block,
			"captured_from", s.first.Wall, "captured_to", s.last.Wall)
	}
}

// keepDamaged keeps a damaged block for diagnosis.
func (l *lane) keepDamaged(s *segment, block uint32, raw []byte) {
	dir := filepath.Join(l.store.dir, damagedName)
	if len(raw) == 0 || makeFolder(dir) != nil {
		return
	}
	kept, err := filepath.Glob(filepath.Join(dir, "*.block"))
	if err != nil || len(kept) >= damagedBlocksKept {
		return
	}
	name := fmt.Sprintf("%s-%s-%d.block", l.id, segmentName(s.number), block)
	if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
		l.log.Warn("cannot keep damaged block", "error", err)
	}
}

// switchReading makes s the segment that is open for reading, and closes the one
// before it: an open database costs memory and goroutines.
func (l *lane) switchReading(s *segment) error {
	before := l.reading
	if before == s {
		return nil
	}
	l.reading = s
	if before == nil {
		return nil
	}
	return l.closeSealed(before)
}

// closeReading closes the segment that is open for reading.
func (l *lane) closeReading() {
	l.reader.Lock()
	defer l.reader.Unlock()
	if l.reading == nil {
		return
	}
	if err := l.closeSealed(l.reading); err != nil {
		l.log.Warn("cannot close segment", "error", err)
	}
	l.reading = nil
}

func (l *lane) closeSealed(s *segment) error {
	s.io.Lock()
	defer s.io.Unlock()
	l.mu.Lock()
	sealed := s.sealed
	l.mu.Unlock()
	if !sealed || s.db == nil {
		return nil
	}
	db := s.db
	s.db, s.places = nil, nil
	return db.shut()
}

// openReading opens a sealed segment if it is not open. One that cannot be opened
// is recovered, as at the start. The caller holds s.io.
func (l *lane) openReading(s *segment) error {
	if s.db != nil {
		return nil
	}
	if err := finishRewrite(s.dir); err != nil {
		return fmt.Errorf("%w: cannot finish rewriting a segment: %w", gateway.ErrStoreFailed, err)
	}
	err := l.openFiles(s)
	if err != nil && !passing(err) {
		l.log.Warn("segment does not open and is recovered", "folder", s.dir, "error", err)
		if err = l.recoverSealed(s); err == nil {
			err = l.openFiles(s)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: cannot open segment for reading: %w", gateway.ErrStoreFailed, err)
	}
	return nil
}

// openFiles opens a sealed segment for reading as it is. The caller holds s.io.
func (l *lane) openFiles(s *segment) error {
	db, err := readSegment(s.dir, int64(l.store.cfg.SegmentSize), l.log)
	if err == nil {
		s.db = db
	}
	return err
}
