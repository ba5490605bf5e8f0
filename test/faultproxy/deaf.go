package faultproxy

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// deafen has a socket drop every packet that comes, before TCP sees it (socket(7),
// SO_ATTACH_FILTER: a program that keeps no byte of it).
func deafen(socket syscall.Conn, on bool) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	if outer := raw.Control(func(fd uintptr) {
		if !on {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
			return
		}
		keepNothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &keepNothing})
	}); outer != nil {
		return outer
	}
	if err != nil {
		return fmt.Errorf("cannot change what a socket hears: %w", err)
	}
	return nil
}
