package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// withoutChown runs a program for which the kernel refuses to change owners, as
// SystemCallFilter=~@privileged of a unit has it (systemd.exec(5); @chown is part of it).
func withoutChown() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: without-chown PROGRAM [ARGUMENT...]")
		os.Exit(2)
	}
	program, err := exec.LookPath(os.Args[1])
	if err == nil {
		err = refuseChown()
	}
	if err == nil {
		err = unix.Fchown(0, -1, -1)
		if err == unix.EPERM {
			err = unix.Exec(program, os.Args[1:], os.Environ())
		} else {
			err = fmt.Errorf("owners can be changed: %v", err)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(126)
}

// refuseChown puts a filter on this thread, which stays for what it executes
// (seccomp(2)).
func refuseChown() error {
	runtime.LockOSThread()
	numbers := []uint32{unix.SYS_FCHOWN, unix.SYS_FCHOWNAT}
	if runtime.GOARCH == "amd64" {
		numbers = append(numbers, 92, 94) // chown and lchown, which newer machines do not have
	}
	var filter []unix.SockFilter
	// The number is the first field of struct seccomp_data.
	filter = append(filter, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS})
	for i, n := range numbers {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(len(numbers) - i), K: n})
	}
	filter = append(filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}
