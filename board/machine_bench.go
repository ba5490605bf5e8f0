//go:build benchclock

package board

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// With the build tag benchclock the machine's clocks are what a file says, so
// that tests of the whole program can set them: nothing on Linux gives one
// process a wall clock of its own. The shipped program is built without it.

// BenchClock is the environment variable that names the file. In it stands one
// line: how far the wall clock is ahead of the real one (a duration, or less than
// nothing), whether a time source steers it (true or false), the name of this
// boot, and the real uptime in nanoseconds at which that boot began.
const BenchClock = "FIELDGATE_BENCH_CLOCK"

type bench struct {
	ahead       time.Duration
	disciplined bool
	boot        string
	began       int64
}

func readBench() (b bench, err error) {
	text, err := os.ReadFile(os.Getenv(BenchClock))
	if err != nil {
		return b, err
	}
	var ahead string
	if _, err := fmt.Fscan(strings.NewReader(string(text)), &ahead, &b.disciplined, &b.boot, &b.began); err != nil {
		return b, fmt.Errorf("clock of the bench: %w", err)
	}
	b.ahead, err = time.ParseDuration(ahead)
	return b, err
}

// lookAgain is nothing: a test that has set the clock wants to see it at once.
const lookAgain = 0

func bootText() (string, error) {
	b, err := readBench()
	return b.boot, err
}

func look() machine {
	b, err := readBench()
	if err != nil {
		panic("board: " + err.Error()) // a test that forgot its clock
	}
	var up unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &up)
	return machine{
		wall:        time.Now().Add(b.ahead),
		uptime:      time.Duration(up.Nano() - b.began),
		disciplined: b.disciplined,
	}
}
