package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/failpoint"
)

const (
	// rewriteSuffix marks the folder of a segment that is being rewritten.
	rewriteSuffix = ".new"
	// damagedKept bounds how many damaged segments are kept for diagnosis; the
	// oldest give way.
	damagedKept = 2
	// rewriteBatch and rewriteBlocks are how many bytes and blocks go into one
	// transaction of a rewrite. Badger takes 1,638 entries, by its own sum of the
	// size of a table.
	rewriteBatch  = 512 << 10
	rewriteBlocks = 1000
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

// recoverUnsealed takes over a segment that was not closed, and seals it. Badger
// stops at the first damage in its logs and cuts off what is behind it, for good.
// So it is let loose on the files only where it has no block to cut; else what it
// knows is found on a copy, and the blocks, found by their frames, are written
// anew. It returns nil when the segment holds nothing.
func (l *lane) recoverUnsealed(number uint64) (*segment, error) {
	s := newSegment(l.id, number, l.path(number))
	r, err := search(s)
	if err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.SegmentRecover)
	if r.lost == 0 {
		if err := withdrawFullLogs(s.dir); err != nil {
			l.log.Warn("a crash now may be reported as damage", "folder", s.dir, "error", err)
		}
	}
	blocks, err := l.known(s, r)
	failpoint.Hit(failpoint.SegmentRecovered)
	if err != nil && passing(err) {
		return nil, err
	}
	putAway := l.store.setAside
	lost := r.lost
	switch cut := cutOff(blocks, r.frames); {
	case err != nil:
		l.log.Error("segment is damaged: what is intact is written anew", "folder", s.dir, "error", err, "blocks", len(r.frames))
		blocks = withMissing(r.frames, blocks)
	case len(cut) > 0:
		err = fmt.Errorf("%d blocks are cut off", len(cut))
		l.log.Info("log was interrupted or is damaged: segment is written anew", "folder", s.dir, "blocks", len(cut))
		blocks, putAway = withMissing(r.frames, blocks), l.store.trash
	case r.written:
		lost++ // of the end of a commit, and no block of it can be found
	}
	blocks = withMissing(blocks, r.noted)
	if len(r.frames) == 0 && len(blocks) == 0 {
		if lost > 0 {
			l.missing(s, lost)
		}
		if err != nil {
			l.log.Error("nothing in the segment can be read", "folder", s.dir)
			return nil, l.store.setAside(s.dir)
		}
		return nil, l.store.trash(s.dir)
	}
	lost += s.rebuild(blocks, r.noted)
	if err != nil {
		err = l.rewrite(s, sizeOf(r.frames), putAway, feedFrames(r.frames))
	} else {
		removeUnneeded(s.dir)
		err = writeIndex(s.dir, s)
	}
	if err == nil && lost > 0 {
		l.missing(s, lost)
	}
	return s, err
}

// missing counts commits that are missing, nobody knows with how many messages.
func (l *lane) missing(s *segment, commits int) {
	l.store.damage.add(0, commits, s)
	l.log.Error("group commits are missing on flash", "commits", commits, "segment", segmentName(s.number),
		"captured_from", s.first.Wall, "captured_to", s.last.Wall)
}

// remains is what is found in the files of a segment that was not closed, before
// Badger has touched them.
type remains struct {
	frames map[uint32][]byte // of blocks, damaged ones too
	behind map[uint32]bool   // those that Badger would cut off
	noted  map[uint32]int    // blocks that the journal names, which proves that they were complete, and their messages
	lost   int               // commits of which the files say that they are missing

	// written says that a commit was written to its end, where Badger cuts its log
	// off: it is damaged, not interrupted.
	written bool
	// later says that the last commit that is found comes directly behind the last one
	// of which the log has the end: it can be interrupted although another is damaged.
	// Its first block is the lowest that bears its number.
	later bool
	first uint32
}

// search returns an error that may pass: Badger must not touch what could not be
// searched.
func search(s *segment) (*remains, error) {
	r := &remains{behind: map[uint32]bool{}, noted: map[uint32]int{}}
	if logIsShort(s.dir) {
		r.lost++ // at least: nobody knows what stood there
	}
	places, err := locate(s)
	if err != nil {
		return nil, err
	}
	logs, _ := filepath.Glob(filepath.Join(s.dir, "*.[vm]*"))
	var ended uint64
	for _, path := range logs {
		err := withReadable(path, func(data []byte) {
			end := reach(data)
			for block, p := range places {
				if p.path == path && p.at >= int64(end) {
					r.behind[block] = true
				}
			}
			if strings.HasSuffix(path, ".mem") {
				r.written = r.written || writtenToTheEnd(data, end)
				for _, txn := range txnEnds(data, logHeader) {
					ended = max(ended, txn)
				}
			}
		})
		if err != nil && passing(err) {
			return nil, err
		}
	}
	if len(places) > 0 {
		last := slices.Max(slices.Collect(maps.Keys(places)))
		r.later = places[last].txn == ended+1 // one is written after the other
		r.first = last
		for block, p := range places {
			if p.txn == places[last].txn {
				r.first = min(r.first, block)
			}
		}
	}
	if r.frames, err = readAt(places); err != nil {
		return nil, err
	}
	if journal, err := os.ReadFile(filepath.Join(s.dir, journalName)); err == nil {
		s.eachRecord(journal, func(block uint32, count int, _ []byte) { r.noted[block] = count })
	}
	return r, nil
}

// known returns a copy of each block's frame that the database knows, nil where
// that cannot be read. It takes out of the remains what was not finished.
func (l *lane) known(s *segment, r *remains) (map[uint32][]byte, error) {
	drop := func(known map[uint32][]byte) {
		from := uint32(0)
		if r.written {
			if !r.later {
				return
			}
			from = r.first // what comes before may be known to nobody for its damage
		}
		if n := dropUnfinished(r.frames, withMissing(known, r.noted), from); n > 0 {
			// Nothing of it was acknowledged, if it was interrupted. Where damage looks
			// like that, nobody can tell.
			l.log.Info("last commit is incomplete and dropped: it was interrupted, or is damaged since", "folder", s.dir, "blocks", n)
		}
	}
	if len(r.behind) == 0 {
		blocks, err := l.replay(s)
		if err == nil {
			drop(blocks)
		}
		return blocks, err
	}
	// If it must be written anew, that needs more room than the copy.
	if err := l.roomToRewrite(sizeOf(r.frames)); err != nil {
		return nil, err
	}
	numbers, err := l.probe(s)
	if err != nil {
		return nil, err
	}
	blocks := map[uint32][]byte{}
	for _, block := range numbers {
		blocks[block] = r.frames[block]
	}
	drop(blocks)
	for block := range r.behind {
		if r.frames[block] != nil {
			return blocks, nil
		}
	}
	return l.replay(s) // there was no more than an unfinished commit
}

// probe lists the blocks that a database knows. It works on a copy, without the
// values, in trash, so that nobody has to remove it if it is cut short.
func (l *lane) probe(s *segment) (blocks []uint32, err error) {
	dir := filepath.Join(l.store.dir, trashName, "probe-"+l.id.String()+"-"+filepath.Base(s.dir))
	if err := errors.Join(os.RemoveAll(dir), makeFolder(dir)); err != nil {
		return nil, err
	}
	defer func() {
		if rerr := os.RemoveAll(dir); rerr != nil {
			l.log.Warn("cannot remove copy of a segment, the next start tries again", "error", rerr)
		}
	}()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Type().IsRegular() && filepath.Ext(e.Name()) != ".vlog" && e.Name() != journalName {
			if err := copyWritten(filepath.Join(s.dir, e.Name()), filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	if err := heal(dir, l.log.Debug); err != nil {
		return nil, err
	}
	db, err := openSegment(dir, 0, l.log)
	if err != nil {
		return nil, err
	}
	err = db.keys(func(block uint32) { blocks = append(blocks, block) })
	if serr := db.shut(); serr != nil { // a slow card, say: what the copy told is true all the same
		l.log.Warn("copy of a segment does not close", "folder", dir, "error", serr)
	}
	return blocks, err
}

// copyWritten copies a file but for the zeros at its end, which become a hole.
func copyWritten(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	merr := withMapped(from, func(data []byte) { _, err = out.Write(bytes.TrimRight(data, "\x00")) })
	return errors.Join(merr, err, out.Truncate(info.Size()), out.Close())
}

// dropUnfinished takes out of frames what a power cut has left of the last commit,
// if that was not synced: nobody was told that it is safe. The database knows all
// blocks of a commit or none, as the sync of its log comes last. Of one that it
// does not know, those stay that are whole and have no gap before them: its log
// may be damaged. What comes behind a gap would overtake what the leaf sends
// again. It returns how many blocks it has dropped.
//
// known must have the blocks too of which something else proves that they were
// synced: their damage would look the same. Blocks before from are of that commit
// only where the header of its last block says so.
func dropUnfinished(frames, known map[uint32][]byte, from uint32) (dropped int) {
	first, last, found := lastCommit(frames, known, from)
	if !found {
		return 0
	}
	for block := first; block <= last; block++ {
		if _, synced := known[block]; synced {
			return 0
		}
	}
	next := first
	for next <= last && frames[next] != nil && whole(frames[next]) {
		next++
	}
	before := len(frames)
	maps.DeleteFunc(frames, func(block uint32, _ []byte) bool {
		_, synced := known[block]
		return block >= next && !synced
	})
	return before - len(frames)
}

// lastCommit returns the first and the last block of the last commit of which a
// block was found. How far back it goes, the header of a block says; a power cut can
// have left part of that. Then the commit begins behind the last block that is known, and
// not before from: the header of a block before may be that of another commit.
func lastCommit(frames, known map[uint32][]byte, from uint32) (first, last uint32, found bool) {
	for block := range frames {
		last, found = max(last, block), true
	}
	for block := last; found; block-- {
		if f, err := parseFrame(frames[block]); err == nil {
			if first = block - min(block, uint32(f.index)); block < last {
				first = max(first, from)
			}
			return first, last, true
		}
		if _, synced := known[block-min(block, 1)]; synced || block <= from {
			return block, last, true
		}
	}
	return 0, 0, false
}

// whole says that all messages of a frame are intact.
func whole(data []byte) bool {
	f, err := parseFrame(data)
	if err != nil || f.size > len(data) {
		return false
	}
	all := func(int) bool { return true }
	f.each(all, func(_ int, _ []byte, e error) bool {
		if e != nil && !errors.Is(e, errThinned) {
			err = e
		}
		return err == nil
	})
	return err == nil
}

// recoverSealed rewrites a sealed segment that does not open, with what can be
// found of its blocks. What is missing is counted. The caller holds s.io.
func (l *lane) recoverSealed(s *segment) error {
	frames, err := salvage(s)
	if err != nil {
		return err
	}
	maps.DeleteFunc(frames, func(block uint32, data []byte) bool {
		return int(block) >= len(s.table) || s.count(block) == 0
	})
	if err := l.rewrite(s, sizeOf(frames), l.store.setAside, feedFrames(frames)); err != nil {
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
		l.store.damage.add(lost, 0, s)
		l.log.Error("messages are damaged on flash and set aside", "messages", lost, "segment", segmentName(s.number),
			"captured_from", s.first.Wall, "captured_to", s.last.Wall)
	}
	return nil
}

// withMissing returns frames, with a nil for each block of others that is not
// among them.
func withMissing[V any](frames map[uint32][]byte, others map[uint32]V) map[uint32][]byte {
	all := map[uint32][]byte{}
	for block := range others {
		all[block] = nil
	}
	maps.Copy(all, frames)
	return all
}

// fullLogsName is an empty file of a segment, there while its logs must have their
// full size.
const fullLogsName = "full-logs"

// promiseFullLogs is called when the logs are made and synced.
func promiseFullLogs(dir string) error {
	return os.WriteFile(filepath.Join(dir, fullLogsName), nil, 0o600)
}

// withdrawFullLogs is called before Badger is let loose on logs that it shortens or
// removes: it does so when it opens those of a crash, and when it closes a database
// in which nothing is.
func withdrawFullLogs(dir string) error {
	switch err := os.Remove(filepath.Join(dir, fullLogsName)); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return syncFolder(dir)
}

// removeUnneeded removes what a segment that is complete and closed does not need:
// Badger's statistics for garbage collection too.
func removeUnneeded(dir string) {
	for _, name := range []string{fullLogsName, "DISCARD"} {
		_ = os.Remove(filepath.Join(dir, name))
	}
}

// logIsShort says that the write-ahead log of a segment that was being written is
// missing or has lost its end.
func logIsShort(dir string) bool {
	if _, err := os.Stat(filepath.Join(dir, fullLogsName)); err != nil {
		return false
	}
	tables, _ := filepath.Glob(filepath.Join(dir, "*.sst"))
	logs, _ := filepath.Glob(filepath.Join(dir, "*.mem"))
	if len(tables) > 0 || len(logs) > 1 {
		return false
	}
	if len(logs) == 0 {
		return true
	}
	info, err := os.Stat(logs[0])
	return err == nil && info.Size() < 2*segmentMemtable
}

// cutOff lists the blocks of frames that Badger has not found.
func cutOff(blocks, frames map[uint32][]byte) (cut []uint32) {
	for block := range frames {
		if blocks[block] == nil {
			cut = append(cut, block)
		}
	}
	return cut
}

// replay lets Badger recover a segment's database and closes it. It returns a
// copy of each block's frame, nil where that cannot be read.
func (l *lane) replay(s *segment) (blocks map[uint32][]byte, err error) {
	if err := heal(s.dir, l.log.Warn); err != nil {
		return nil, err
	}
	size := int64(l.store.cfg.SegmentSize)
	db, err := openSegment(s.dir, size, l.log)
	if err != nil && !passing(err) && !errors.Is(err, errAbandoned) {
		db, err = openSegment(s.dir, size, l.log)
	}
	if err != nil {
		return nil, err
	}
	blocks = map[uint32][]byte{}
	err = db.scan(func(block uint32, data []byte) {
		if _, ferr := findFrameAt(data, s.address(block)); ferr != nil {
			blocks[block] = nil
			return
		}
		blocks[block] = bytes.Clone(data)
	})
	return blocks, errors.Join(err, db.shut())
}

// heal removes the empty log files that a power cut leaves and on which Badger
// fails (badger issue 2207), and the link that flush puts in the place of one.
// Nothing is in them.
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
		if err != nil || info.Size() > 0 && info.Mode().Type() != fs.ModeSymlink {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if info.Size() == 0 {
			say("empty log file removed", "file", path)
		}
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
// the database is in. Their headers may be damaged: see findFrameAt. A frame
// without damage is preferred.
func salvage(s *segment) (map[uint32][]byte, error) {
	places, err := locate(s)
	if err != nil {
		return nil, err
	}
	return readAt(places)
}

func readAt(places map[uint32]place) (map[uint32][]byte, error) {
	frames := map[uint32][]byte{}
	for block, p := range places {
		frame, err := p.read()
		if err != nil {
			return nil, err
		}
		if frame != nil {
			frames[block] = frame
		}
	}
	return frames, nil
}

// place is where a frame was found in the raw files of a segment.
type place struct {
	path  string
	at    int64
	size  int
	clean bool   // its header is intact
	txn   uint64 // number of its transaction, where it stands in a log; may be damaged
}

// read returns the frame, nil when the disk cannot read it.
func (p place) read() ([]byte, error) {
	f, err := os.Open(p.path)
	if err != nil && passing(err) {
		return nil, err
	}
	if err != nil {
		return nil, nil
	}
	defer f.Close()
	frame := make([]byte, p.size)
	if _, err := f.ReadAt(frame, p.at); err != nil {
		return nil, nil
	}
	return frame, nil
}

// locate finds where the frames are that salvage reads. What the disk cannot read
// is passed over; an error may pass.
func locate(s *segment) (map[uint32]place, error) {
	places := map[uint32]place{}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return places, nil
		}
		return nil, err
	}
	for _, e := range entries {
		from := 0
		switch filepath.Ext(e.Name()) {
		case ".vlog", ".mem":
			from = logHeader
		case ".sst":
		default:
			continue
		}
		path := filepath.Join(s.dir, e.Name())
		err := withReadable(path, func(data []byte) {
			findFrames(data, from, s, func(block uint32, at int, frame []byte) {
				_, err := parseFrame(frame)
				if old, ok := places[block]; !ok || !old.clean {
					places[block] = place{path, int64(at), len(frame), err == nil, txnBefore(data[:at])}
				}
			})
		})
		if err != nil && passing(err) {
			return nil, err
		}
	}
	return places, nil
}

// salvageBlock is salvage for one block; nil when nothing of it is found. While a
// sealed segment is open it is searched only once. The caller holds s.io.
func (l *lane) salvageBlock(s *segment, block uint32) ([]byte, error) {
	l.mu.Lock()
	sealed := s.sealed
	l.mu.Unlock()
	places := s.places
	if places == nil {
		var err error
		if places, err = locate(s); err != nil {
			return nil, err
		}
	}
	if sealed {
		s.places = places
	}
	p, ok := places[block]
	if !ok {
		return nil, nil
	}
	return p.read()
}

// findFrames looks for frames from an offset on: by what Badger has put around
// them, and where that is damaged by what they begin with. It calls use with
// each and its offset; the frame aliases data.
func findFrames(data []byte, from int, s *segment, use func(block uint32, at int, frame []byte)) {
	for from < len(data) {
		if e, ok := parseEntry(data[from:]); ok {
			if f, err := parseFrame(e.value); !e.intact && err == nil && f.size < len(e.value) {
				// The frame knows its length; that of the entry is what is damaged,
				// and would lead past the entries behind it.
				e.size -= len(e.value) - f.size
				e.value = e.value[:f.size]
			}
			if _, err := findFrameAt(e.value, s.address(e.block)); err == nil {
				use(e.block, from+e.at, e.value)
				from += e.size
				continue
			}
			if e.intact {
				from += e.size
				continue
			}
		}
		i := bytes.Index(data[from:], []byte(frameMagic))
		if i < 0 {
			return
		}
		f, err := parseFrame(data[from+i:])
		if err != nil || f.lane != s.lane || f.segment != s.number || f.size > len(data)-from-i {
			from += i + 1
			continue
		}
		use(f.block, from+i, data[from+i:from+i+f.size])
		from += i + f.size + entrySum
	}
}

// What Badger puts around a value in its logs (memtable.go, structs.go of v4.9.6):
// two bytes, then lengths of key and value and an expiry as variable-length
// integers, the key with 8 bytes of a version, the value, and a checksum.
const (
	logHeader = 20 // before the first entry
	entrySum  = 4
	entryKey  = 4 + 8 // a block's
)

// entry is a value in one of Badger's logs, under a block's key.
type entry struct {
	block  uint32
	value  []byte
	at     int  // offset of the value
	size   int  // of the whole entry
	intact bool // by Badger's checksum
}

// parseEntry reads the entry at the start of data. ok is false for what is none,
// or has another kind of key and is damaged.
func parseEntry(data []byte) (e entry, ok bool) {
	var lengths [3]uint64
	at := 2
	for i := range lengths {
		if at >= len(data) {
			return e, false
		}
		v, n := binary.Uvarint(data[at:])
		if n <= 0 || v > uint64(len(data)) {
			return e, false
		}
		lengths[i], at = v, at+n
	}
	key, value := int(lengths[0]), int(lengths[1])
	e.size = at + key + value + entrySum
	if key == 0 || e.size > len(data) {
		return e, false
	}
	sum := crc32.Checksum(data[:e.size-entrySum], castagnoli)
	e.intact = sum == binary.BigEndian.Uint32(data[e.size-entrySum:])
	if key == entryKey {
		e.block = binary.BigEndian.Uint32(data[at:])
		e.at = at + key
		e.value = data[e.at : e.at+value]
	}
	return e, key == entryKey || e.intact
}

// Bits of the first byte of an entry (value.go): it belongs to a transaction, it
// ends one. In the value log they are not set.
const (
	entryInTxn  = 1 << 6
	entryEndTxn = 1 << 7
)

// reach returns up to where Badger reads a log, and what is behind it cuts off: to
// the first entry that is not intact, but not into a transaction without an end.
func reach(data []byte) int {
	end := logHeader
	for at := end; at < len(data); {
		e, ok := parseEntry(data[at:])
		if !ok || !e.intact {
			break
		}
		within := data[at]&entryInTxn != 0
		if at += e.size; !within {
			end = at
		}
	}
	return end
}

// txnKey is the key of what ends a transaction, 5 bytes behind its beginning.
const (
	txnKey   = "!badger!txn"
	txnKeyAt = 5
)

// txnEnds yields where in a write-ahead log, from an offset on, an intact end of a
// transaction is, and the number of that.
func txnEnds(data []byte, from int) iter.Seq2[int, uint64] {
	return func(yield func(at int, txn uint64) bool) {
		for next := from; next < len(data); {
			i := bytes.Index(data[next:], []byte(txnKey))
			if i < 0 {
				return
			}
			at := next + i - txnKeyAt
			next += i + len(txnKey)
			if at < from || data[at]&entryEndTxn == 0 {
				continue
			}
			if e, ok := parseEntry(data[at:]); ok && e.intact && !yield(at, txnBefore(data[:min(next+8, len(data))])) {
				return
			}
		}
	}
}

// txnBefore is the number of the transaction that a key ends with: the version that
// Badger gives to what is written in it. They count up from 1.
func txnBefore(data []byte) uint64 {
	if len(data) < 8 {
		return 0
	}
	return ^binary.BigEndian.Uint64(data[len(data)-8:])
}

// writtenToTheEnd says that a write-ahead log, which Badger cuts off at end, was
// written beyond: there is the intact end of a transaction, and before it no part
// of a sector is missing, as it can be after a power cut.
func writtenToTheEnd(data []byte, end int) bool {
	const sector = 512
	for at := range txnEnds(data, end) {
		for part := end; part < at; {
			next := min(at, (part/sector+1)*sector)
			if len(bytes.Trim(data[part:next], "\x00")) == 0 {
				return false
			}
			part = next
		}
		return true
	}
	return false
}

// logIsDamaged says that Badger will cut off of a write-ahead log what was written to
// its end.
func logIsDamaged(dir string) (damaged bool) {
	logs, _ := filepath.Glob(filepath.Join(dir, "*.mem"))
	for _, path := range logs {
		_ = withReadable(path, func(data []byte) { damaged = damaged || writtenToTheEnd(data, reach(data)) })
	}
	return damaged
}

// withMapped calls use with the contents of a file, valid during the call, without
// a hole at its end: Badger makes its logs longer than what is in them.
func withMapped(path string, use func(data []byte)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := dataEnd(f)
	if err != nil || size == 0 {
		return err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	return errors.Join(guarded(func() error { use(data); return nil }), unix.Munmap(data))
}

// withReadable is withMapped for a search: where a page cannot be read, use is
// called again, with zeros in its place. What is behind it is not lost with it.
func withReadable(path string, use func(data []byte)) error {
	err := withMapped(path, use)
	if !errors.Is(err, errFault) {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	use(readPages(f, int(info.Size())))
	return nil
}

// readPages reads a file page by page, as far as it can be read. What cannot is
// zeros.
func readPages(f *os.File, size int) []byte {
	data := make([]byte, size)
	page := os.Getpagesize()
	for at := 0; at < size; at += page {
		piece := data[at:min(at+page, size)]
		if n, err := f.ReadAt(piece, int64(at)); err != nil {
			clear(piece[n:])
		}
	}
	return data
}

// rebuild fills a new segment's table from the frames of its blocks. One that is
// missing has as many messages as the journal has noted: Read will find and count
// those that are not settled. Else it keeps its number and has none; lost counts
// such blocks.
func (s *segment) rebuild(blocks map[uint32][]byte, noted map[uint32]int) (lost int) {
	missing := func() {
		count := noted[uint32(len(s.table))]
		if s.add(count, gateway.Unread); count == 0 {
			lost++
		}
	}
	for _, block := range slices.Sorted(maps.Keys(blocks)) {
		for uint32(len(s.table)) < block {
			missing()
		}
		f, err := findFrameAt(blocks[block], s.address(block))
		if err != nil {
			missing()
			continue
		}
		s.add(f.count, gateway.Unread)
		all := func(int) bool { return true } // any may be damaged
		f.each(all, func(_ int, data []byte, err error) bool {
			if err == nil {
				if m, err := decodeMessage(data); err == nil {
					s.saw(m)
				}
			}
			return true
		})
	}
	s.trim()
	return lost
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

// sizeOf is the size that a segment must have for these frames.
func sizeOf(frames map[uint32][]byte) (size int64) {
	for _, frame := range frames {
		values, _ := blockCost(len(frame), rewriteThreshold)
		size += values
	}
	return size
}

// roomToRewrite makes sure that a segment can be written anew. What is in the way
// of that gives way: else nothing could be read, and at the start nothing opens.
// Errors wrap gateway.ErrStoreFull.
func (l *lane) roomToRewrite(size int64) error {
	return l.store.makeRoomFor(reservation(size) + closeRoom)
}

// rewrite replaces the files of a sealed segment by new ones with the blocks that
// feed puts, for which a segment of the given size has room. putAway takes the old
// folder. A crash leaves either the old or the new one. The caller holds s.io.
func (l *lane) rewrite(s *segment, size int64, putAway func(dir string) error, feed func(put func(uint32, []byte) error) error) error {
	if err := l.roomToRewrite(size); err != nil {
		return err
	}
	next := newSegment(s.lane, s.number, s.dir+rewriteSuffix)
	if err := l.fill(next, size, feed); err != nil {
		l.discardRewrite(next)
		return fmt.Errorf("%w: cannot rewrite segment: %w", gateway.ErrStoreFailed, err)
	}
	removeUnneeded(next.dir)
	if journal, err := os.ReadFile(filepath.Join(s.dir, journalName)); err == nil {
		_ = appendJournal(next.dir, journal, true) // without it messages are sent twice
	}
	err := errors.Join(writeIndex(next.dir, s), syncFolder(next.dir), syncFolder(l.dir))
	if err != nil {
		l.discardRewrite(next)
		return fmt.Errorf("%w: cannot rewrite segment: %w", gateway.ErrStoreFailed, err)
	}
	failpoint.Hit(failpoint.RewriteFilled)
	if s.db != nil {
		db := s.db
		s.db = nil
		if err := db.shut(); err != nil {
			l.log.Debug("segment did not close cleanly", "folder", s.dir, "error", err)
		}
	}
	s.places = nil
	if err = putAway(s.dir); err != nil {
		if _, serr := os.Stat(s.dir); !errors.Is(serr, fs.ErrNotExist) {
			l.discardRewrite(next)
			return fmt.Errorf("%w: cannot exchange segment: %w", gateway.ErrStoreFailed, err)
		}
	}
	failpoint.Hit(failpoint.RewriteAway)
	if err := errors.Join(err, os.Rename(next.dir, s.dir), syncFolder(l.dir)); err != nil {
		// The old one is away, so the new one counts: finishRewrite puts it in place.
		l.store.errors.Add(1)
		l.log.Warn("cannot put a rewritten segment in place, reading it tries again", "folder", s.dir, "error", err)
	}
	failpoint.Hit(failpoint.RewriteDone)
	return nil
}

// discardRewrite removes what was written of a rewrite. What stays the next
// attempt removes, or the next start. It is not left to the keeper: by then
// the folder may be that of another attempt.
func (l *lane) discardRewrite(next *segment) {
	l.closeUnused(next)
	if err := l.store.trash(next.dir); err != nil {
		l.store.errors.Add(1)
		l.log.Warn("cannot remove unfinished rewrite of a segment", "folder", next.dir, "error", err)
	}
}

// finishRewrite puts a rewritten segment in place where that failed after the old
// one had been put away.
func finishRewrite(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return nil // it is there, or opening it will say why not
	}
	err := os.Rename(dir+rewriteSuffix, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// fill writes the blocks of a rewrite and closes the new database.
func (l *lane) fill(next *segment, size int64, feed func(put func(uint32, []byte) error) error) error {
	if err := l.store.trash(next.dir); err != nil { // what an earlier attempt has left
		return err
	}
	if err := l.openWith(next, size, rewriteSegment); err != nil {
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
		if bytes += len(frame); bytes < rewriteBatch && len(batch) < rewriteBlocks {
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
	err = errors.Join(next.db.mark(), next.db.giveBack(size, false))
	if err == nil {
		err = next.db.flush()
	}
	if err != nil {
		return err
	}
	db := next.db
	next.db = nil
	return db.shut()
}

// setAside keeps a damaged folder for diagnosis, unless the next start needs its
// room.
func (s *Store) setAside(dir string) error {
	if err := needRoom(s.dir, startRoom); err != nil {
		s.log.Error("damaged folder is not kept", "folder", dir, "error", err)
		return s.trash(dir)
	}
	aside := filepath.Join(s.dir, damagedName)
	if err := makeFolder(aside); err != nil {
		return err
	}
	// The start number keeps names apart: one segment may be damaged again.
	start := s.start
	if start == 0 { // not counted yet
		start = readStarts(s.dir) + 1
	}
	name := fmt.Sprintf("%s-%s-%d", filepath.Base(filepath.Dir(dir)), filepath.Base(dir), start)
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
