// Package rights has root work with files as another user, with that user's rights and
// no others, in one thread of the process.
package rights

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// User is whose rights count. The zero value stands for whoever runs this process.
type User struct{ UID, GID int }

// Lend says with whose rights root works with files that a configuration names: those
// of whoever could have written the configuration, and of the daemon, which owns the
// data folder. Whoever has taken the daemon over could have it name any file, and swap
// files in its folders for links while root is at work. The user is nobody else where
// all that is root's, or this process is not root. It is an error if the files are of
// several others.
func Lend(file, dataDir string) (User, error) {
	if os.Geteuid() != 0 {
		return User{}, nil
	}
	var who User
	for _, name := range []string{dataDir, filepath.Dir(file), file} {
		owner, err := ownerOf(name)
		switch {
		case err != nil:
			return User{}, err
		case owner.UID == 0 || owner == who:
		case who.UID == 0:
			who = owner
		case owner.UID != who.UID:
			return User{}, fmt.Errorf("%s is of user %s, and %s of another one", dataDir, who, name)
		}
	}
	if who.UID == 0 {
		return User{}, nil
	}
	if known, err := user.LookupId(strconv.Itoa(who.UID)); err == nil {
		if who.GID, err = strconv.Atoi(known.Gid); err != nil {
			return User{}, fmt.Errorf("user %s has no group: %w", who, err)
		}
	}
	if who.GID == 0 { // of a file whose owner nobody knows, or that only its owner was changed of
		return User{}, fmt.Errorf("user %s, whose files they are, is in root's group", who)
	}
	return who, nil
}

// ownerOf is whose file it is, nobody's if it is not there.
func ownerOf(name string) (User, error) {
	info, err := os.Stat(name)
	if os.IsNotExist(err) {
		return User{}, nil
	}
	if err != nil {
		return User{}, err
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return User{}, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrInvalid}
	}
	return User{int(s.Uid), int(s.Gid)}, nil
}

// String names the user.
func (u User) String() string {
	if known, err := user.LookupId(strconv.Itoa(u.UID)); err == nil {
		return known.Username
	}
	return strconv.Itoa(u.UID)
}

// groups are the groups whose rights the user has.
func (u User) groups() []uint32 {
	all := []uint32{uint32(u.GID)}
	known, err := user.LookupId(strconv.Itoa(u.UID))
	if err != nil {
		return all
	}
	ids, _ := known.GroupIds()
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil && !slices.Contains(all, uint32(n)) {
			all = append(all, uint32(n))
		}
	}
	return all
}

// With runs do in a thread that has these rights and no others, and returns its error,
// or why that cannot be. What do has other goroutines do is done with the rights of the
// process. The thread ends with it. Safe for concurrent use.
//
// The kernel keeps rights for each thread; that all threads of a process have the same
// is the C library's doing, and Go's (credentials(7), "C library/kernel differences").
func (u User) With(do func() error) error {
	if u == (User{}) {
		return do()
	}
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: nobody else gets this thread
		if err := u.take(); err != nil {
			failed <- fmt.Errorf("cannot work with the rights of user %s: %w", u, err)
			return
		}
		failed <- do()
	}()
	return <-failed
}

// take has the calling thread give up root's rights, groups first: without root's rights
// it could not. The real user stays root, so that the other one may not touch the process.
func (u User) take() error {
	const same = ^uintptr(0)
	groups := u.groups()
	_, _, errno := unix.RawSyscall(sysSetgroups, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0)
	if errno == 0 {
		_, _, errno = unix.RawSyscall(sysSetresgid, same, uintptr(u.GID), same)
	}
	if errno == 0 {
		_, _, errno = unix.RawSyscall(sysSetresuid, same, uintptr(u.UID), same)
	}
	if errno != 0 {
		return errno
	}
	if unix.Geteuid() != u.UID || unix.Getegid() != u.GID {
		return unix.EPERM
	}
	return nil
}
