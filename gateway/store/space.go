package store

import (
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
	// memtable's size. metaRoom is what it may need to write a dead letter: a new
	// memtable, and compaction of all that is on the shelf.
	closeRoom = 2 << 20
	metaRoom  = 32 << 20

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
// place on disk. The length of the file stays. File systems that cannot do that
// are only in use when the operator allowed it: then there is no reservation.
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
	return nil
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
