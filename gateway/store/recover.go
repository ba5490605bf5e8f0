package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/gateway"
)

const (
	// rewriteSuffix marks the folder of a segment that is being rewritten.
	rewriteSuffix = ".new"
	// damagedKept bounds how many damaged segments are kept for diagnosis; the
	// oldest give way.
	damagedKept = 2
	// rewriteBatch is how many bytes go into one transaction of a rewrite.
	rewriteBatch = 512 << 10
)

// load builds the lane's segments from its folders. Sealed ones are not opened:
// their index says what is in them. One without index was being written when the
// process or the power went; it is recovered.
func (l *lane) load() error {
	numbers, err := l.folders()
	if err != nil {
		return err
	}
	for _, number := range numbers {
		s := newSegment(l.id, number, l.path(number))
		err := readIndex(s)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				l.log.Warn("segment is scanned", "folder", s.dir, "error", err)
			}
			s, err = l.recoverUnsealed(number)
		}
		if err != nil {
			return fmt.Errorf("cannot open segment %s: %w", segmentName(number), err)
		}
		if s != nil {
			l.adopt(s)
		}
		l.last = max(l.last, number)
	}
	return nil
}

// adopt enters a sealed segment that was found at the start.
func (l *lane) adopt(s *segment) {
	if err := replayJournal(s); err != nil {
		l.log.Warn("cannot read journal: messages may be sent twice", "folder", s.dir, "error", err)
	}
	s.sealed = true
	s.disk = diskUse(s.dir)
	l.segments = append(l.segments, s)
}

// folders lists the numbers of the lane's segments in order. A rewrite that was
// cut short is finished when the old folder has gone already, else undone.
func (l *lane) folders() ([]uint64, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	found := map[uint64]bool{}
	for _, e := range entries {
		if number, ok := parseSegmentName(e.Name()); ok {
			found[number] = true
		}
	}
	for _, e := range entries {
		name, isRewrite := strings.CutSuffix(e.Name(), rewriteSuffix)
		number, ok := parseSegmentName(name)
		switch {
		case !isRewrite || !ok:
		case found[number]:
			if err := l.store.trash(l.path(number) + rewriteSuffix); err != nil {
				return nil, err
			}
		default:
			if err := os.Rename(l.path(number)+rewriteSuffix, l.path(number)); err != nil {
				return nil, err
			}
			found[number] = true
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// recoverUnsealed opens a segment that was not closed, as Badger recovers it, and
// seals it. Badger stops at the first damage in its logs and cuts off what is
// behind it; what it would lose is found by the frames of the blocks and
// written anew. It returns nil when the segment holds nothing.
func (l *lane) recoverUnsealed(number uint64) (*segment, error) {
	s := newSegment(l.id, number, l.path(number))
	frames := salvage(s)
	blocks, err := l.replay(s)
	if err != nil && passing(err) {
		return nil, err
	}
	for block := range frames {
		if blocks[block] == nil && err == nil {
			err = fmt.Errorf("block %d is cut off", block)
		}
	}
	if err != nil {
		l.log.Error("segment is damaged: what is intact is written anew", "folder", s.dir, "error", err, "blocks", len(frames))
		blocks = frames
	}
	if len(blocks) == 0 {
		if err != nil {
			l.log.Error("nothing in the segment can be read", "folder", s.dir)
			return nil, l.store.setAside(s.dir)
		}
		return nil, l.store.trash(s.dir)
	}
	s.rebuild(blocks)
	if err != nil {
		return s, l.rewrite(s, l.store.setAside, feedFrames(frames))
	}
	_ = os.Remove(filepath.Join(s.dir, "DISCARD"))
	return s, writeIndex(s.dir, s)
}

// recoverSealed rewrites a sealed segment that does not open, with what can be
// found of its blocks. What is missing is counted. The caller holds s.io.
func (l *lane) recoverSealed(s *segment) error {
	frames := salvage(s)
	maps.DeleteFunc(frames, func(block uint32, data []byte) bool {
		f, err := parseFrame(data)
		return err != nil || int(block) >= len(s.table) || s.count(block) != f.count
	})
	if err := l.rewrite(s, l.store.setAside, feedFrames(frames)); err != nil {
		return err
	}
	l.mu.Lock()
	lost := 0
	s.each(func(block uint32, index int, state gateway.StoredState) {
		if _, ok := frames[block]; !ok && (state == gateway.Unread || state == gateway.Parked) {
			s.set(block, index, settled)
			lost++
		}
	})
	l.dropped[gateway.DropDamaged] += int64(lost)
	l.mu.Unlock()
	if lost > 0 {
		l.log.Error("messages are damaged on flash and set aside", "messages", lost, "segment", segmentName(s.number),
			"captured_from", s.first.Wall, "captured_to", s.last.Wall)
	}
	return nil
}

// replay lets Badger recover a segment's database and closes it. It returns a
// copy of each block's frame, nil where that cannot be read.
func (l *lane) replay(s *segment) (blocks map[uint32][]byte, err error) {
	if err := heal(s.dir, l.log.Warn); err != nil {
		return nil, err
	}
	size := int64(l.store.cfg.SegmentSize)
	db, err := openSegment(s.dir, size, l.log)
	if err != nil && !passing(err) {
		db, err = openSegment(s.dir, size, l.log)
	}
	if err != nil {
		return nil, err
	}
	blocks = map[uint32][]byte{}
	err = db.scan(func(block uint32, data []byte) {
		f, ferr := parseFrame(data)
		if ferr != nil || f.address != s.address(block) {
			blocks[block] = nil
			return
		}
		blocks[block] = bytes.Clone(data)
	})
	return blocks, errors.Join(err, db.Close())
}

// heal removes the empty log files that a power cut leaves and on which Badger
// fails (badger issue 2207). Nothing is in them.
func heal(dir string, say func(string, ...any)) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".mem") && !strings.HasSuffix(e.Name(), ".vlog") {
			continue
		}
		info, err := e.Info()
		if err != nil || info.Size() > 0 {
			continue
		}
		path := filepath.Join(dir, e.Name())
		say("empty log file removed", "file", path)
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	// Only statistics, made anew when missing.
	if err := os.Remove(filepath.Join(dir, "DISCARD")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// salvage finds the frames of a segment's blocks in the raw files, whatever state
// the database is in.
func salvage(s *segment) map[uint32][]byte {
	frames := map[uint32][]byte{}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return frames
	}
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".vlog", ".mem", ".sst":
			_ = withMapped(filepath.Join(s.dir, e.Name()), func(data []byte) { findFrames(data, s, frames) })
		}
	}
	return frames
}

func findFrames(data []byte, s *segment, frames map[uint32][]byte) {
	for {
		i := bytes.Index(data, []byte(frameMagic))
		if i < 0 {
			return
		}
		data = data[i:]
		f, err := parseFrame(data)
		if err != nil || f.lane != s.lane || f.segment != s.number || f.size > len(data) {
			data = data[1:]
			continue
		}
		if _, ok := frames[f.block]; !ok {
			frames[f.block] = bytes.Clone(data[:f.size])
		}
		data = data[f.size:]
	}
}

// withMapped calls use with the contents of a file, valid during the call.
func withMapped(path string, use func(data []byte)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	use(data)
	return unix.Munmap(data)
}

// rebuild fills a new segment's table from the frames of its blocks. A block that
// is missing keeps its number and has no messages.
func (s *segment) rebuild(blocks map[uint32][]byte) {
	for _, block := range slices.Sorted(maps.Keys(blocks)) {
		f, err := parseFrame(blocks[block])
		if err != nil {
			continue
		}
		for uint32(len(s.table)) < block {
			s.add(0, gateway.Unread)
		}
		s.add(f.count, gateway.Unread)
		ends := func(i int) bool { return i == 0 || i == f.count-1 }
		f.each(ends, func(_ int, data []byte, err error) bool {
			if err == nil {
				if m, err := decodeMessage(data); err == nil {
					s.saw(m)
				}
			}
			return true
		})
	}
	s.trim()
}

// feedFrames makes the feed of a rewrite from frames.
func feedFrames(frames map[uint32][]byte) func(put func(uint32, []byte) error) error {
	return func(put func(uint32, []byte) error) error {
		for _, block := range slices.Sorted(maps.Keys(frames)) {
			if err := put(block, frames[block]); err != nil {
				return err
			}
		}
		return nil
	}
}

// rewrite replaces the files of a sealed segment by new ones with the blocks that
// feed puts. putAway takes the old folder. A crash leaves either the old or the
// new one. The caller holds s.io.
func (l *lane) rewrite(s *segment, putAway func(dir string) error, feed func(put func(uint32, []byte) error) error) error {
	size := int64(l.store.cfg.SegmentSize)
	if err := needRoom(l.store.dir, reservation(size)+closeRoom); err != nil {
		return err
	}
	next := newSegment(s.lane, s.number, s.dir+rewriteSuffix)
	if err := l.fill(next, size, feed); err != nil {
		l.discard(next)
		return fmt.Errorf("%w: cannot rewrite segment: %w", gateway.ErrStoreFailed, err)
	}
	_ = os.Remove(filepath.Join(next.dir, "DISCARD"))
	if journal, err := os.ReadFile(filepath.Join(s.dir, journalName)); err == nil {
		_ = appendJournal(next.dir, journal, false) // without it messages are sent twice
	}
	err := errors.Join(writeIndex(next.dir, s), syncFolder(next.dir), syncFolder(l.dir))
	if err != nil {
		l.discard(next)
		return fmt.Errorf("%w: cannot rewrite segment: %w", gateway.ErrStoreFailed, err)
	}
	if s.db != nil {
		db := s.db
		s.db = nil
		if err := db.Close(); err != nil {
			l.log.Debug("segment did not close cleanly", "folder", s.dir, "error", err)
		}
	}
	if err := errors.Join(putAway(s.dir), os.Rename(next.dir, s.dir), syncFolder(l.dir)); err != nil {
		return fmt.Errorf("%w: cannot exchange segment: %w", gateway.ErrStoreFailed, err)
	}
	return nil
}

// fill writes the blocks of a rewrite and closes the new database.
func (l *lane) fill(next *segment, size int64, feed func(put func(uint32, []byte) error) error) error {
	if err := l.open(next, size); err != nil {
		return err
	}
	var batch []encodedBlock
	bytes := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := next.db.put(batch)
		batch, bytes = nil, 0
		return err
	}
	err := feed(func(block uint32, frame []byte) error {
		batch = append(batch, encodedBlock{block, frame})
		if bytes += len(frame); bytes < rewriteBatch {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	if err := flush(); err != nil {
		return err
	}
	if err := next.db.giveBack(size, false); err != nil {
		return err
	}
	db := next.db
	next.db = nil
	return db.Close()
}

// setAside keeps a damaged folder for diagnosis.
func (s *Store) setAside(dir string) error {
	aside := filepath.Join(s.dir, damagedName)
	if err := makeFolder(aside); err != nil {
		return err
	}
	// The start number keeps names apart: one segment may be damaged again.
	name := fmt.Sprintf("%s-%s-%d", filepath.Base(filepath.Dir(dir)), filepath.Base(dir), s.start)
	if err := os.RemoveAll(filepath.Join(aside, name)); err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(aside, name)); err != nil {
		return err
	}
	s.log.Error("damaged folder set aside", "folder", filepath.Join(aside, name))
	return forgetDamaged(aside)
}

// forgetDamaged removes all but the latest damaged folders.
func forgetDamaged(aside string) error {
	entries, err := os.ReadDir(aside)
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !e.IsDir() })
	age := func(e fs.DirEntry) int64 {
		info, err := e.Info()
		if err != nil {
			return 0
		}
		return info.ModTime().UnixNano()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return int(min(1, max(-1, age(b)-age(a)))) })
	for _, e := range entries[min(len(entries), damagedKept):] {
		if err := os.RemoveAll(filepath.Join(aside, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
