//go:build 386 || arm

package rights

import "golang.org/x/sys/unix"

// The calls of one thread, for numbers of 32 bits: those of the plain names take 16.
const (
	sysSetgroups = unix.SYS_SETGROUPS32
	sysSetresgid = unix.SYS_SETRESGID32
	sysSetresuid = unix.SYS_SETRESUID32
)
