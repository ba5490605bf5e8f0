package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/failpoint"
)

// Names in the store's folder.
const (
	markerName  = "store-format"
	metaName    = "meta"
	queueName   = "queue"
	trashName   = "trash"
	damagedName = "damaged"
	startsName  = "starts"
)

// Version of the format. A later one is refused: an older program would not
// understand what it finds.
const (
	formatVersion = 1
	markerText    = "fieldgate store, format "
)

// Reasons why a folder is not opened as a store. Nothing in it was changed.
var (
	ErrNotWritable = errors.New("store folder cannot be written")
	ErrForeign     = errors.New("folder is not a store")
	ErrNewer       = errors.New("store was written by a newer version")
	ErrLocked      = errors.New("store is in use by another process")
	ErrFileSystem  = errors.New("file system is not suitable for the store")
)

// Open opens the store in dir, and makes it in an empty or missing folder. It
// counts this start. Errors wrap ErrNotWritable, ErrForeign, ErrNewer, ErrLocked,
// ErrFileSystem, or gateway.ErrStoreFull when there is no room to start with.
// A damaged store opens: what cannot be read is set aside, logged and counted.
//
// It does not read the backlog, except for a segment that was being written when
// the last process ended without Close.
func Open(dir string, cfg Config, log *slog.Logger) (*Store, error) {
	return open(dir, cfg, log, shippedTuning)
}

func open(dir string, cfg Config, log *slog.Logger, t tuning) (_ *Store, err error) {
	lock, err := claim(dir, cfg.AllowAnyFS)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, cfg: cfg, log: log, lock: lock, tuning: t}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.abandon())
		}
	}()
	if err := os.RemoveAll(filepath.Join(dir, trashName)); err != nil {
		log.Warn("cannot empty the trash, the next start tries again", "error", err)
	}
	// Opening the databases takes some megabytes, and Badger does not survive
	// without.
	if err := s.makeRoomFor(startRoom); err != nil {
		return nil, fmt.Errorf("no room to open the store in %s: %w", dir, err)
	}
	s.work = make(chan struct{}, 1)
	var seen uint32
	for id := range gateway.Lane(gateway.Lanes) {
		s.lanes[id] = newLane(s, id)
		if err := s.lanes[id].load(); err != nil {
			return nil, err
		}
		seen = max(seen, s.lanes[id].maxStart())
	}
	if err := s.openMeta(seen); err != nil {
		return nil, err
	}
	s.loadDamage()
	s.saveDamage()
	s.sayDamage()
	for _, l := range s.lanes {
		// Numbers of segments are not used twice, so that a position is not either.
		l.last = max(l.last, uint64(s.start)<<32)
	}
	if err := makeBallast(dir, int64(cfg.MinFree)); err != nil {
		log.Warn("cannot allocate ballast", "error", err)
	}
	s.run()
	return s, nil
}

// abandon undoes what a failed Open has begun.
func (s *Store) abandon() error {
	var err error
	if s.meta != nil {
		err = s.meta.close()
	}
	return errors.Join(err, s.lock.Close())
}

// claim checks that the folder is ours, or makes it so, and locks it.
func claim(dir string, allowAnyFS bool) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotWritable, err)
	}
	if err := checkFileSystem(dir, allowAnyFS); err != nil {
		return nil, err
	}
	if err := unix.Access(dir, unix.R_OK|unix.W_OK|unix.X_OK); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNotWritable, dir, err)
	}
	lock, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotWritable, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%w: %s", ErrLocked, dir)
	}
	if err := checkMarker(dir); err != nil {
		lock.Close()
		return nil, err
	}
	return lock, nil
}

// checkMarker reads the marker file, and writes it in an empty folder.
func checkMarker(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, markerName))
	if errors.Is(err, fs.ErrNotExist) {
		return mark(dir)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotWritable, err)
	}
	text, ok := strings.CutPrefix(strings.TrimSpace(string(data)), markerText)
	version, err := strconv.Atoi(text)
	switch {
	case !ok || err != nil || version < 1:
		return fmt.Errorf("%w: %s has a file %s that is not ours", ErrForeign, dir, markerName)
	case version > formatVersion:
		return fmt.Errorf("%w: %s has format %d, this program knows up to %d", ErrNewer, dir, version, formatVersion)
	}
	return nil
}

// mark makes an empty folder a store. A folder with other things in it is
// refused, untouched; lost+found is what mkfs leaves in every ext4 file system.
func mark(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotWritable, err)
	}
	for _, e := range entries {
		if e.Name() != "lost+found" && e.Name() != markerName+".next" {
			return fmt.Errorf("%w: %s holds other things (%s); use an empty folder", ErrForeign, dir, e.Name())
		}
	}
	path := filepath.Join(dir, markerName)
	if err := replaceFile(path, []byte(markerText+strconv.Itoa(formatVersion)+"\n")); err != nil {
		return fmt.Errorf("%w: %w", ErrNotWritable, err)
	}
	return errors.Join(syncFolder(path), syncFolder(dir))
}

// openMeta opens the meta database and counts this start. One that does not open
// is set aside: the next has a new installation text, so that ids stay unique.
func (s *Store) openMeta(seen uint32) error {
	dir := filepath.Join(s.dir, metaName)
	cut := logIsDamaged(dir)
	m, err := openMeta(dir, s.roomToKeep, s.log)
	if err == nil && cut {
		s.log.Error("meta database is damaged: the latest dead letters and notes are lost")
		s.damage.addMeta()
	}
	if err != nil && !passing(err) {
		s.log.Error("meta database is damaged: dead letters are lost, the installation gets a new name", "error", err)
		if err := s.setAside(dir); err != nil {
			return err
		}
		s.damage.addMeta()
		m, err = openMeta(dir, s.roomToKeep, s.log)
	}
	if err != nil {
		return fmt.Errorf("cannot open meta database: %w", err)
	}
	s.meta = m
	seen = max(seen, readStarts(s.dir))
	failpoint.Hit(failpoint.MetaStart)
	s.start, s.installation, err = m.begin(seen)
	failpoint.Hit(failpoint.MetaStarted)
	if err != nil {
		return fmt.Errorf("cannot count this start: %w", err)
	}
	if err := writeStarts(s.dir, s.start); err != nil {
		s.log.Warn("cannot write the number of starts", "error", err)
	}
	return errors.Join(syncFolder(dir), syncFolder(s.dir))
}

// readStarts reads the number of starts from its file; 0 when that is missing or
// damaged. It stands in the meta database as well: if that goes back to an
// earlier state, by damage or by hand, no number must be given out twice, since
// message ids are made of it.
func readStarts(dir string) uint32 {
	data, err := os.ReadFile(filepath.Join(dir, startsName))
	if err != nil {
		return 0
	}
	var start, sum uint32
	if _, err := fmt.Sscanf(string(data), startsText, &start, &sum); err != nil || sum != startsSum(start) {
		return 0
	}
	return start
}

func writeStarts(dir string, start uint32) error {
	path := filepath.Join(dir, startsName)
	text := fmt.Appendf(nil, startsText, start, startsSum(start))
	return errors.Join(replaceFile(path, text), syncFolder(path), syncFolder(dir))
}

const startsText = "starts %d %08x\n"

func startsSum(start uint32) uint32 {
	return crc32.Checksum(binary.LittleEndian.AppendUint32(nil, start), castagnoli)
}

// maxStart is the highest start that numbered a message of the lane.
func (l *lane) maxStart() uint32 {
	var most uint32
	for _, s := range l.segments {
		most = max(most, s.maxStart)
	}
	return most
}

func (l *lane) path(number uint64) string { return filepath.Join(l.dir, segmentName(number)) }

// makeFolder makes a folder and those above it.
func makeFolder(dir string) error { return os.MkdirAll(dir, 0o700) }

// syncFolder makes a file's contents, or the names in a folder, safe.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
