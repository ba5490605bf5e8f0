package main

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// machineState is what the program uses of its machine. What the machine does not
// tell is left out.
type machineState struct {
	CPU  float64 `json:"cpu_seconds"`               // of processors, since the start of the daemon
	RSS  int64   `json:"resident_bytes,omitempty"`  // memory that the daemon occupies
	Free int64   `json:"data_free_bytes,omitempty"` // on the file system of the data folder
}

// machineOf asks the kernel.
func machineOf(dataDir string) (s machineState) {
	var used unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &used) == nil {
		s.CPU = time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
	}
	// proc(5): the second number of statm is the resident set, in pages.
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := bytes.Fields(text); len(f) > 1 {
			pages, _ := strconv.ParseInt(string(f[1]), 10, 64)
			s.RSS = pages * int64(os.Getpagesize())
		}
	}
	var fs unix.Statfs_t
	if unix.Statfs(dataDir, &fs) == nil {
		s.Free = int64(fs.Bavail) * fs.Bsize
	}
	return s
}
