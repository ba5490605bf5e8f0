package port

import (
	"bytes"
	"context"
	"os"

	"golang.org/x/sys/unix"
)

// The kernel tells who listens what is plugged in and pulled out: a multicast of
// netlink(7), NETLINK_KOBJECT_UEVENT, group 1, with a text "add@/devices/…" and
// then KEY=value, each ended by a zero byte (Linux, lib/kobject_uevent.c). Links
// in /dev/serial come later, from udev, and where there is no netlink nothing
// comes at all: so this only makes waiting shorter, and nobody relies on it.

// ueventGroup is the kernel's own; 2 is udev's.
const ueventGroup = 1

// plugged calls news whenever a terminal has come or gone, until ctx ends. It
// returns at once where the kernel does not tell.
func plugged(ctx context.Context, news func()) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return
	}
	socket := os.NewFile(uintptr(fd), "uevent") // waits by the runtime's poller, and ends when closed
	defer socket.Close()
	if unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: ueventGroup}) != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	defer stop()
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 8<<10) // the kernel's are at most 2 KiB of text and a path
	for {
		var n int
		var from unix.Sockaddr
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, from, failed = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
			return failed != unix.EAGAIN && failed != unix.EINTR
		})
		switch {
		case err != nil: // closed
			return
		case failed == unix.ENOBUFS: // some were lost: look
			news()
		case failed != nil:
			return
		case isKernel(from) && isTerminal(buf[:n]):
			news()
		}
	}
}

// isKernel says whether the kernel has sent it: other programs may, if they are
// root.
func isKernel(from unix.Sockaddr) bool {
	a, ok := from.(*unix.SockaddrNetlink)
	return ok && a.Pid == 0
}

// isTerminal says whether the event is about a terminal that has come or gone.
func isTerminal(event []byte) bool {
	var change, tty bool
	for field := range bytes.SplitSeq(event, []byte{0}) {
		switch string(field) {
		case "ACTION=add", "ACTION=remove", "ACTION=move":
			change = true
		case "SUBSYSTEM=tty":
			tty = true
		}
	}
	return change && tty
}
