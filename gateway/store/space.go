package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/gateway"
)

const (
	// ballastSize is allocated while there is room and given up when there is
	// none to start with: opening needs some megabytes.
	ballastSize = 16 << 20
	ballastName = "ballast"

	// closeRoom is what Badger may need to close a segment: a table of a
	// memtable's size.
	closeRoom = 2 << 20
	// ampleRoom must be free at the start for the meta database to be compacted.
	ampleRoom = 64 << 20

	// startRoom is what opening takes: the meta database and, after a crash, one
	// segment of each lane.
	startRoom = 12 << 20
)

// freeSpace is what this process may still allocate on the file system of path.
func freeSpace(path string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, fmt.Errorf("cannot ask for free space of %s: %w", path, err)
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// needRoom returns an error wrapping gateway.ErrStoreFull unless that many bytes
// are free at path.
func needRoom(path string, bytes int64) error {
	free, err := freeSpace(path)
	if err != nil {
		return fmt.Errorf("%w: %w", gateway.ErrStoreFailed, err)
	}
	if free < bytes {
		return fmt.Errorf("%w: %v free on disk, %v needed", gateway.ErrStoreFull, gateway.Size(free), gateway.Size(bytes))
	}
	return nil
}

// allocate makes sure that the first size bytes of an existing file have their
// place on disk, and syncs it. The length of the file stays. File systems that
// cannot do that are only in use when the operator allowed it: then there is no
// reservation.
func allocate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	err = ignoringInterrupts(func() error {
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
	})
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("cannot reserve %v: %w", gateway.Size(size), err)
	}
	return f.Sync()
}

// punch frees size bytes of a file from an offset on. The length stays.
func punch(path string, from, size int64) error {
	if size <= 0 {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	err = ignoringInterrupts(func() error {
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, from, size)
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// trimLogs frees what was reserved in the logs of a folder and not written: the
// zeros at their ends become holes.
func trimLogs(dir string) error {
	logs, err := filepath.Glob(filepath.Join(dir, "*.[vm]*"))
	for _, path := range logs {
		info, serr := os.Stat(path)
		if serr != nil {
			err = errors.Join(err, serr)
			continue
		}
		used := 0
		if merr := withMapped(path, func(data []byte) { used = len(bytes.TrimRight(data, "\x00")) }); merr != nil {
			err = errors.Join(err, merr)
			continue // what cannot be read is not known to be zero
		}
		const page = 4096
		from := int64(used+page-1) &^ (page - 1)
		err = errors.Join(err, punch(path, from, info.Size()-from))
	}
	return err
}

// dataEnd returns where the last hole of a file begins, or its length when it
// does not end in one.
func dataEnd(f *os.File) (end int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	for end < info.Size() {
		data, err := unix.Seek(int(f.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return end, nil
		}
		if err != nil {
			return info.Size(), nil // nobody knows
		}
		if end, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE); err != nil {
			return info.Size(), nil
		}
	}
	return end, nil
}

// logSize is how much is in the value logs of a folder, in bytes.
func logSize(dir string) (size int64) {
	logs, _ := filepath.Glob(filepath.Join(dir, "*.vlog"))
	for _, path := range logs {
		if f, err := os.Open(path); err == nil {
			if end, err := dataEnd(f); err == nil {
				size += end
			}
			f.Close()
		}
	}
	return size
}

// makeRoomFor gives up what can be spared until so many bytes are free: at the
// start what was reserved and not written before a crash, then the ballast, then
// damaged folders. The error wraps gateway.ErrStoreFull.
func (s *Store) makeRoomFor(bytes int64) error {
	if needRoom(s.dir, bytes) == nil {
		return nil
	}
	if starting := s.stop == nil; starting {
		if err := s.trimCrashed(); err != nil {
			s.log.Warn("cannot give back unused room of logs", "error", err)
		}
	}
	for _, name := range []string{ballastName, damagedName} {
		path := filepath.Join(s.dir, name)
		if _, err := os.Stat(path); needRoom(s.dir, bytes) == nil || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("%w: %w", gateway.ErrStoreFailed, err)
		}
		s.log.Warn("disk is full: what can be spared is given up", "path", path)
	}
	return needRoom(s.dir, bytes)
}

// roomToKeep makes sure that so many bytes are free for what must be kept though
// the disk is full, dead letters and notes, and besides those what the next start
// needs. It may go below the floor, and the ballast gives way where that helps. The
// error wraps gateway.ErrStoreFull.
func (s *Store) roomToKeep(bytes int64) error {
	need := bytes + startRoom
	err := needRoom(s.dir, need)
	path := filepath.Join(s.dir, ballastName)
	if err == nil || occupied(path) < ballastSize || needRoom(s.dir, need-ballastSize) != nil {
		return err
	}
	if err := dropBallast(s.dir); err != nil {
		return fmt.Errorf("%w: %w", gateway.ErrStoreFailed, err)
	}
	s.log.Warn("disk is full: what can be spared is given up", "path", path)
	return needRoom(s.dir, need)
}

// trimCrashed trims the logs of all segments that were not closed, and of the meta
// database.
func (s *Store) trimCrashed() error {
	err := trimLogs(filepath.Join(s.dir, metaName))
	folders, _ := filepath.Glob(filepath.Join(s.dir, queueName, "*", "*"))
	for _, dir := range folders {
		if _, serr := os.Stat(filepath.Join(dir, indexName)); errors.Is(serr, fs.ErrNotExist) {
			err = errors.Join(err, trimLogs(dir))
		}
	}
	return err
}

func ignoringInterrupts(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// diskUse is what the files below a folder occupy, in bytes. What cannot be read
// counts as nothing.
func diskUse(dir string) int64 {
	var sum int64
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += s.Blocks * 512
		}
		return nil
	})
	return sum
}

// occupied is what a file occupies, in bytes; 0 when it is not there.
func occupied(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512
	}
	return 0
}

// tableSize is what the tables of the database in a folder occupy, in bytes.
func tableSize(dir string) (sum int64) {
	tables, _ := filepath.Glob(filepath.Join(dir, "*.sst"))
	for _, path := range tables {
		sum += occupied(path)
	}
	return sum
}

// passing says whether an error comes from the state of the machine and not from
// what is in the files: trying again later may succeed. Badger passes most causes
// on as text only, so that is what is compared.
func passing(err error) bool {
	return slices.ContainsFunc(passingCauses, func(cause syscall.Errno) bool {
		return strings.Contains(err.Error(), cause.Error())
	})
}

var passingCauses = []syscall.Errno{
	unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.EMFILE, unix.ENFILE, unix.ENOMEM,
	unix.EROFS, unix.EACCES, unix.EPERM, unix.EAGAIN,
}

// File systems by the number that statfs gives (linux/magic.h and, for those not
// in it, the file system's own source).
var fileSystems = map[int64]string{
	unix.EXT4_SUPER_MAGIC:      "ext4",
	unix.F2FS_SUPER_MAGIC:      "f2fs",
	unix.XFS_SUPER_MAGIC:       "xfs",
	unix.BTRFS_SUPER_MAGIC:     "btrfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay",
	unix.TMPFS_MAGIC:           "tmpfs",
	unix.MSDOS_SUPER_MAGIC:     "vfat",
	unix.EXFAT_SUPER_MAGIC:     "exfat",
	unix.V9FS_MAGIC:            "9p",
	unix.NFS_SUPER_MAGIC:       "nfs",
	unix.CIFS_SUPER_MAGIC:      "cifs",
	unix.SMB2_SUPER_MAGIC:      "smb",
	unix.FUSE_SUPER_MAGIC:      "fuse",
}

// checkFileSystem refuses a folder whose file system is not known to keep the
// store's promises: what was synced must survive a power cut together with its
// name, and reserved room must be there.
func checkFileSystem(dir string, allowAny bool) error {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return fmt.Errorf("cannot ask for the file system of %s: %w", dir, err)
	}
	kind := int64(s.Type) //nolint:unconvert // narrower on other processors
	if allowAny || kind == unix.EXT4_SUPER_MAGIC || kind == unix.F2FS_SUPER_MAGIC {
		return nil
	}
	name, ok := fileSystems[kind]
	if !ok {
		name = fmt.Sprintf("of an unknown kind (0x%x)", kind)
	}
	return fmt.Errorf("%w: %s is on a file system %s; use ext4 or f2fs, or set store.allow_any_filesystem = true "+
		"if a power cut may cost messages", ErrFileSystem, dir, name)
}

// ballast makes the ballast file if there is room for it above the floor.
func makeBallast(dir string, minFree int64) error {
	path := filepath.Join(dir, ballastName)
	if info, err := os.Stat(path); err == nil && info.Size() == ballastSize {
		return nil
	}
	if needRoom(dir, minFree+ballastSize) != nil {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	err = ignoringInterrupts(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, ballastSize) })
	if err != nil {
		_ = os.Remove(path)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// dropBallast gives the ballast up.
func dropBallast(dir string) error {
	err := os.Remove(filepath.Join(dir, ballastName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
