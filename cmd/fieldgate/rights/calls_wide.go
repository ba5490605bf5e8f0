//go:build !386 && !arm

package rights

import "golang.org/x/sys/unix"

// The calls of one thread; those of syscall and unix are for all of them.
const (
	sysSetgroups = unix.SYS_SETGROUPS
	sysSetresgid = unix.SYS_SETRESGID
	sysSetresuid = unix.SYS_SETRESUID
)
