package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// usage is what a process has used since it was started.
type usage struct {
	cpu     time.Duration // user and system, of all its threads
	written int64         // bytes that it made the kernel write to disk
}

func (u usage) since(before usage) usage {
	return usage{u.cpu - before.cpu, u.written - before.written}
}

// tick is the kernel's unit of processor time: USER_HZ, 100 on all of Linux.
const tick = 10 * time.Millisecond

// usageOf reads /proc (proc_pid_stat(5), proc_pid_io(5)).
func usageOf(pid int) (usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	// The second field is a name in parentheses and may hold anything.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return usage{}, fmt.Errorf("/proc/%d/stat: %q", pid, stat)
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	written, err := number(fmt.Sprintf("/proc/%d/io", pid), "write_bytes")
	if err != nil {
		return usage{}, err
	}
	return usage{time.Duration(user+system) * tick, written}, nil
}

// ownCPU is the processor time of this process.
func ownCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0 // cannot happen: both arguments are good
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// memory is what a process holds, in bytes.
type memory struct {
	peak, now, anonymous int64
}

func memoryOf(pid int) (m memory, err error) {
	file := fmt.Sprintf("/proc/%d/status", pid)
	for _, f := range []struct {
		name string
		to   *int64
	}{{"VmHWM", &m.peak}, {"VmRSS", &m.now}, {"RssAnon", &m.anonymous}} {
		if *f.to, err = number(file, f.name); err != nil {
			return m, err
		}
		*f.to *= 1024 // the file counts in kB
	}
	return m, nil
}

// forgetPeak makes the kernel begin anew to look for the peak of memory.
func forgetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// field reads what stands behind a name and a colon.
func field(file, name string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if n, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(n) == name {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("%s: no %s", file, name)
}

// number reads a number behind a name and a colon.
func number(file, name string) (int64, error) {
	value, err := field(file, name)
	if err != nil {
		return 0, err
	}
	digits, _, _ := strings.Cut(value, " ")
	return strconv.ParseInt(digits, 10, 64)
}

// dataSync is fdatasync(2).
func dataSync(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
