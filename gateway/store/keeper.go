package store

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/gateway/failpoint"
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
		if wait := s.round(false); wait > 0 {
			timer.Reset(wait)
		}
	}
}

// round looks at every segment once. It returns after what time something that is
// left is due, 0 when nothing is left.
func (s *Store) round(last bool) (wait time.Duration) {
	due := func(d time.Duration) {
		if d > 0 && (wait == 0 || d < wait) {
			wait = d
		}
	}
	s.saveDamage()
	for _, l := range s.lanes {
		l.mu.Lock()
		segments := slices.Clone(l.segments)
		unused := slices.Clone(l.unused)
		l.mu.Unlock()
		for _, seg := range segments {
			due(l.look(seg, last))
		}
		for _, seg := range unused {
			if l.removeUnused(seg) {
				due(s.tuning.journalLag)
			}
		}
	}
	return wait
}

// look does what is due for one segment. It returns after what time there will be
// more, 0 for never.
func (l *lane) look(s *segment, last bool) (wait time.Duration) {
	soon := l.store.tuning.journalLag
	l.mu.Lock()
	if !last && time.Now().Before(s.retryAt) {
		l.mu.Unlock()
		return soon
	}
	news := s.fresh > 0 && !s.gone
	unsynced := (news || s.unsynced) && !s.gone
	syncAfter := l.store.tuning.syncLag - time.Since(s.synced)
	due := last || s.fresh >= journalBatch || time.Since(s.journaled) >= l.store.tuning.journalLag
	open := s.closing && !s.sealed && !s.finishing
	finish := open && (last || !time.Now().Before(s.closeAt))
	drained := s.unsettled == 0 && (s.sealed || s.gone)
	if finish {
		s.finishing = true
	}
	l.mu.Unlock()
	if drained {
		if l.remove(s) {
			return soon
		}
		return 0
	}
	if news && due || unsynced && syncAfter <= 0 {
		if l.journal(s, last) {
			news = false
			syncAfter = l.store.tuning.syncLag
		} else {
			syncAfter = soon
		}
	}
	if finish {
		// Badger may take its time to close, and for ever on a broken disk.
		l.store.sealers.Go(func() { l.finish(s) })
	}
	switch {
	case news || open:
		return soon
	case unsynced:
		return syncAfter
	}
	return 0
}

// journal writes the news of one segment to its journal, and syncs what was
// written about a second ago. It reports whether that was done; not while the
// files are in use, because a reader may need long.
func (l *lane) journal(s *segment, last bool) bool {
	if s.io.TryLock() {
		defer s.io.Unlock()
	} else if !last {
		return false
	} // at the end only a database that is slow to close is in the way
	l.mu.Lock()
	sync := last || time.Since(s.synced) >= l.store.tuning.syncLag
	l.mu.Unlock()
	if err := l.writeJournal(s, sync); err != nil {
		// Nothing is lost by that; after a crash more messages are sent twice.
		l.noteWork(s, fmt.Errorf("cannot write journal: %w", err))
		return false
	}
	l.noteWork(s, nil)
	return true
}

// writeJournal writes what is new, and syncs all of the journal. The caller holds
// s.io.
func (l *lane) writeJournal(s *segment, sync bool) (err error) {
	l.mu.Lock()
	blocks := slices.Sorted(maps.Keys(s.unwritten))
	records := s.takeNews(blocks)
	s.journaled = time.Now()
	sync = sync && (s.unsynced || len(records) > 0)
	torn := s.torn
	skip := s.gone || len(records) == 0 && !sync
	l.mu.Unlock()
	if skip {
		return nil
	}
	if torn {
		err = mendJournal(s)
	}
	if err == nil {
		err = appendJournal(s.dir, records, sync)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.torn = err != nil
	if err != nil {
		for _, block := range blocks {
			s.unwritten[block] = struct{}{}
		}
		s.fresh += len(blocks)
		return err
	}
	if s.unsynced = !sync; sync {
		s.synced = s.journaled
	}
	return nil
}

// noteWork remembers whether the keeper can do its work on a segment, and logs
// when that changes. After an error it waits before it tries again.
func (l *lane) noteWork(s *segment, err error) {
	l.mu.Lock()
	was := s.hindered
	s.hindered, s.retryAt = err, time.Time{}
	if err != nil {
		l.store.errors.Add(1)
		s.retryAt = time.Now().Add(l.store.tuning.retryAfter)
	}
	l.mu.Unlock()
	switch {
	case err != nil && was == nil:
		l.log.Warn("store cannot tidy up and tries again", "folder", s.dir, "error", err)
	case err == nil && was != nil:
		l.log.Info("store can tidy up again", "folder", s.dir)
	}
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
	if drained {
		// Its contents go before its folder. What a power cut leaves in between is no
		// damage, and the journal says so. On a full disk it has to go without.
		_ = l.writeJournal(s, true)
	}
	if err := l.closeHead(s, drained); err != nil {
		l.postpone(s, err)
		l.noteWork(s, fmt.Errorf("cannot close segment: %w", err))
		return
	}
	l.seal(s)
	l.noteWork(s, nil)
}

// postpone notes that a segment does not close now, and says so the first time.
func (l *lane) postpone(s *segment, err error) {
	l.mu.Lock()
	first := s.closeAt.IsZero()
	s.closeAt = time.Now().Add(l.store.tuning.retryAfter)
	l.mu.Unlock()
	if first {
		l.log.Warn("segment cannot be closed now, it is tried again", "folder", s.dir, "error", err)
	}
}

// closeHead closes the database of a segment that was written. One that is
// drained gives its room back first, contents and all.
func (l *lane) closeHead(s *segment, drained bool) error {
	if err := s.db.unblock(); err != nil {
		return err
	}
	if s.db.flushed {
		l.endHead(s, drained)
		return nil
	}
	if err := s.db.mark(); err != nil {
		return err
	}
	if err := s.db.giveBack(int64(l.store.cfg.SegmentSize), drained); err != nil {
		return err
	}
	// A table is written now. The room that is kept free for it must be there, so
	// that it rarely fails when others fill the disk at this moment. A drained
	// segment has just made room.
	room := int64(closeRoom)
	if !drained {
		room = max(room, int64(l.store.cfg.MinFree))
	}
	if err := needRoom(l.store.dir, room); err != nil {
		return err
	}
	failpoint.Hit(failpoint.SegmentClose)
	if l.store.tuning.beforeFlush != nil {
		l.store.tuning.beforeFlush()
	}
	if err := s.db.flush(); err != nil && !drained {
		return err
	}
	l.endHead(s, drained)
	return nil
}

// endHead closes the database of a segment that has been flushed or is drained.
func (l *lane) endHead(s *segment, drained bool) {
	db := s.db
	s.db = nil
	end := db.shut
	if drained {
		end = db.drop
	}
	if err := end(); err != nil {
		// What was acknowledged is in the logs: the next start recovers it.
		l.store.errors.Add(1)
		l.log.Error("segment did not close cleanly", "folder", s.dir, "error", err)
	}
}

// seal writes the index of a closed segment and enters what it occupies.
func (l *lane) seal(s *segment) {
	failpoint.Hit(failpoint.SegmentClosed)
	removeUnneeded(s.dir)
	if err := writeIndex(s.dir, s); err != nil {
		l.log.Warn("cannot write index", "folder", s.dir, "error", err)
	}
	failpoint.Hit(failpoint.IndexPlaced)
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
		l.noteWork(s, fmt.Errorf("cannot remove drained segment: %w", err))
		return true
	}
	l.noteWork(s, nil)
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

// removeUnused removes the folder of a segment that was discarded and is in no
// list. It returns true when that has to be tried again.
func (l *lane) removeUnused(s *segment) (again bool) {
	l.mu.Lock()
	early := time.Now().Before(s.retryAt)
	l.mu.Unlock()
	if early {
		return true
	}
	err := l.store.trash(s.dir)
	l.noteWork(s, err)
	if err != nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unused = slices.DeleteFunc(l.unused, func(other *segment) bool { return other == s })
	return false
}

// erase closes a sealed segment and removes its files. The caller holds s.io.
func (l *lane) erase(s *segment) error {
	if s.db != nil {
		db := s.db
		s.db = nil
		if err := db.drop(); err != nil {
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
	// An attempt of before may have left something there, perhaps of another folder
	// that had the same name.
	if err := os.RemoveAll(away); err != nil {
		return err
	}
	failpoint.Hit(failpoint.SegmentTrash)
	if err := os.Rename(dir, away); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	failpoint.Hit(failpoint.SegmentTrashed)
	err := os.RemoveAll(away)
	failpoint.Hit(failpoint.SegmentRemoved)
	return err
}
