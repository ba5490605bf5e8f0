//go:build !benchclock

package board

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lookAgain is how long what the machine said is good: every message reads the
// clock several times, and asking the kernel each time was an eighth of what a
// message cost.
const lookAgain = 100 * time.Millisecond

// bootText returns what is random per boot of the machine (proc(5),
// "/proc/sys/kernel/random").
func bootText() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(text), err
}

// look reads the machine's clocks.
func look() machine {
	var up unix.Timespec
	// CLOCK_BOOTTIME exists since Linux 2.6.39: this cannot fail.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &up)
	return machine{wall: time.Now(), uptime: time.Duration(up.Nano()), disciplined: disciplined()}
}

// disciplined asks the kernel whether a time source steers the clock: adjtimex(2)
// answers TIME_ERROR, and sets STA_UNSYNC, until one has done so.
func disciplined() bool {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return err == nil && state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0
}
