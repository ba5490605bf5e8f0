package firstboot

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// StatusFile says on the card how the gateway is and what to do.
const StatusFile = "FIELDGATE-STATUS.txt"

// WriteStatus writes the status file in a folder of the card, unless that is what is
// there: a card is not to be worn by it. Its lines end as on Windows.
func WriteStatus(folder, text string) error {
	name := filepath.Join(folder, StatusFile)
	out := bytes.ReplaceAll([]byte(text), []byte("\n"), []byte("\r\n"))
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, out) {
		return nil
	}
	return Writable(folder, func() error {
		// In place: FAT knows no renaming that a power cut leaves whole, and this file can
		// be made again at any time.
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		_, err = f.Write(out)
		return errors.Join(err, f.Sync(), f.Close())
	})
}

// Writable calls f while the file system of the folder can be written to, which on the
// card is an exception. Whoever else calls it for that folder waits, also in another
// process: it would find the card writable, and then no more.
func Writable(folder string, f func() error) error {
	lock, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer lock.Close()
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return err
	}
	var at unix.Statfs_t
	if err := unix.Statfs(folder, &at); err != nil {
		return err
	}
	if at.Flags&unix.ST_RDONLY == 0 {
		return f()
	}
	// The flags of statfs(2) and mount(2) have the same numbers.
	keep := uintptr(at.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME)
	if err := unix.Mount("", folder, "", unix.MS_REMOUNT|keep, ""); err != nil {
		return err
	}
	return errors.Join(f(), unix.Mount("", folder, "", unix.MS_REMOUNT|unix.MS_RDONLY|keep, ""))
}
