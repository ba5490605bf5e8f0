package store

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// journalBatch is after how many settled messages of a segment the journal is
// written. So many may be sent twice after the end of the process.
const journalBatch = 64

// wakeKeeper says that there may be something to seal, to remove or to write to
// a journal.
func (s *Store) wakeKeeper() {
	select {
	case s.work <- struct{}{}:
	default:
	}
}

// keep works behind the committers: it seals what they have finished, removes
// what is drained and writes the journals. It sleeps while there is nothing to do.
func (s *Store) keep() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.work:
		case <-timer.C:
		case <-s.stopping.Done():
			s.round(true)
			return
		}
		if s.round(false) {
			timer.Reset(s.tuning.journalLag)
		}
	}
}

// round looks at every segment once. It returns whether something is left for
// later.
func (s *Store) round(last bool) (more bool) {
	for _, l := range s.lanes {
		l.mu.Lock()
		segments := slices.Clone(l.segments)
		l.mu.Unlock()
		for _, seg := range segments {
			more = l.look(seg, last) || more
		}
	}
	return more
}

// look does what is due for one segment.
func (l *lane) look(s *segment, last bool) (more bool) {
	l.mu.Lock()
	news := s.fresh > 0 && !s.gone
	due := last || s.fresh >= journalBatch || time.Since(s.journaled) >= l.store.tuning.journalLag
	finish := s.closing && !s.sealed && !s.finishing
	drained := s.unsettled == 0 && (s.sealed || s.gone)
	if finish {
		s.finishing = true
	}
	l.mu.Unlock()
	if drained {
		return l.remove(s)
	}
	if news && due {
		news = !l.journal(s, last)
	}
	if finish {
		// Badger may take its time to close, and for ever on a broken disk.
		l.store.sealers.Go(func() { l.finish(s) })
	}
	return news || finish
}

// journal writes the news of one segment to its journal. It reports whether that
// was done; not while the files are in use, because a reader may need long.
func (l *lane) journal(s *segment, last bool) bool {
	if s.io.TryLock() {
		defer s.io.Unlock()
	} else if !last {
		return false
	} // at the end only a database that is slow to close is in the way
	l.mu.Lock()
	sync := last || time.Since(s.synced) >= l.store.tuning.syncLag
	blocks := slices.Sorted(maps.Keys(s.unwritten))
	records := s.takeNews(blocks)
	s.journaled = time.Now()
	if sync {
		s.synced = s.journaled
	}
	skip := s.gone || len(records) == 0
	l.mu.Unlock()
	if skip {
		return true
	}
	if err := appendJournal(s.dir, records, sync); err != nil {
		// Nothing is lost by that; after a crash more messages are sent twice.
		l.log.Debug("cannot write journal", "folder", s.dir, "error", err)
		l.mu.Lock()
		for _, block := range blocks {
			s.unwritten[block] = struct{}{}
		}
		s.fresh = max(s.fresh, 1)
		l.mu.Unlock()
		return false
	}
	return true
}

// finish seals a segment that the committer has handed over, or removes it when
// it is drained. Without room for what Badger writes while it closes a database
// the segment stays open, and the keeper comes back to it.
func (l *lane) finish(s *segment) {
	s.io.Lock()
	defer s.io.Unlock()
	defer func() {
		l.mu.Lock()
		s.finishing = false
		l.mu.Unlock()
		l.store.wakeKeeper()
	}()
	l.mu.Lock()
	drained, over := s.unsettled == 0, s.gone || s.sealed
	l.mu.Unlock()
	if over || s.db == nil {
		return
	}
	if err := l.closeHead(s, drained); err != nil {
		l.log.Warn("segment cannot be closed now", "folder", s.dir, "error", err)
		return
	}
	l.seal(s)
}

// closeHead closes the database of a segment that was written. One that is
// drained gives its room back first, contents and all.
func (l *lane) closeHead(s *segment, drained bool) error {
	if err := s.db.giveBack(int64(l.store.cfg.SegmentSize), drained); err != nil {
		return err
	}
	// Badger writes a table as it closes and dies if that does not fit, so the
	// room that is kept free for it must be there: others may be filling the
	// disk at this moment. A drained segment has just made room.
	room := int64(closeRoom)
	if !drained {
		room = max(room, int64(l.store.cfg.MinFree))
	}
	if err := needRoom(l.store.dir, room); err != nil {
		return err
	}
	db := s.db
	s.db = nil
	if err := db.Close(); err != nil {
		// What was acknowledged is in the logs: the next start recovers it.
		l.log.Error("segment did not close cleanly", "folder", s.dir, "error", err)
	}
	return nil
}

// seal writes the index of a closed segment and enters what it occupies.
func (l *lane) seal(s *segment) {
	// Badger's statistics for garbage collection, which segments do not need.
	_ = os.Remove(filepath.Join(s.dir, "DISCARD"))
	if err := writeIndex(s.dir, s); err != nil {
		l.log.Warn("cannot write index", "folder", s.dir, "error", err)
	}
	disk := diskUse(s.dir)
	l.mu.Lock()
	defer l.mu.Unlock()
	s.disk = disk
	s.sealed = true
	s.trim()
}

// remove takes a drained segment off the disk and out of the lane. It returns
// true when that has to be tried again.
func (l *lane) remove(s *segment) (again bool) {
	if !s.io.TryLock() {
		return true
	}
	defer s.io.Unlock()
	if err := l.erase(s); err != nil {
		l.log.Warn("cannot remove drained segment", "folder", s.dir, "error", err)
		return true
	}
	l.mu.Lock()
	l.removeLocked(s)
	l.retryAt = time.Time{} // there is room again
	l.mu.Unlock()
	if !l.store.closed.Load() {
		if err := makeBallast(l.store.dir, int64(l.store.cfg.MinFree)); err != nil {
			l.log.Warn("cannot allocate ballast", "error", err)
		}
	}
	return false
}

// erase closes a sealed segment and removes its files. The caller holds s.io.
func (l *lane) erase(s *segment) error {
	if s.db != nil {
		db := s.db
		s.db = nil
		if err := db.Close(); err != nil {
			l.log.Debug("segment did not close cleanly", "folder", s.dir, "error", err)
		}
	}
	return l.store.trash(s.dir)
}

// trash removes a folder so that a crash leaves either all of it or a folder in
// trash, which the next start empties.
func (s *Store) trash(dir string) error {
	if err := makeFolder(filepath.Join(s.dir, trashName)); err != nil {
		return err
	}
	name := filepath.Base(filepath.Dir(dir)) + "-" + filepath.Base(dir)
	away := filepath.Join(s.dir, trashName, name)
	if err := os.Rename(dir, away); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return os.RemoveAll(away)
}
