// Package board is what the gateway knows about the machine it runs on. So far
// that is the clock: what time it is, how far to trust that, and which boot of
// the machine this is. It knows nothing of messages; see cmd/fieldgate for how
// its readings become a gateway.Clock.
package board

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Trust says how far the wall clock can be trusted.
type Trust int

// The levels of trust, from least to most.
const (
	Unset       Trust = iota // before the floor: the clock has not been set since power-on
	Plausible                // not before the floor, but nothing disciplines it
	Disciplined              // the kernel says that a time source steers it
)

// Reading is one look at the clock.
type Reading struct {
	Wall   time.Time     // UTC
	Trust  Trust         // in Wall
	Uptime time.Duration // since the machine was switched on, including sleep
}

// Clock reads the machine's clocks. Safe for concurrent use.
type Clock struct {
	boot  uint64
	floor time.Time
}

// earliest is before the first release of Fieldgate: whatever the clock shows
// below it is wrong. It only serves builds that do not say when they were made.
var earliest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// bootID is random per boot of the machine (proc(5), "/proc/sys/kernel/random").
const bootID = "/proc/sys/kernel/random/boot_id"

// NewClock makes a clock that does not believe a time before lastGood, a time
// that was once known to be right; nor one before the program was built.
func NewClock(lastGood time.Time) (*Clock, error) {
	id, err := os.ReadFile(bootID)
	if err != nil {
		return nil, fmt.Errorf("cannot tell this boot from another: %w", err)
	}
	h := fnv.New64a()
	h.Write([]byte(strings.TrimSpace(string(id))))
	floor := earliest
	for _, t := range []time.Time{buildTime(), lastGood} {
		if t.After(floor) {
			floor = t
		}
	}
	return &Clock{boot: h.Sum64(), floor: floor}, nil
}

// Boot identifies this boot of the machine.
func (c *Clock) Boot() uint64 { return c.boot }

// Read returns the time now. It is three system calls and no allocation.
func (c *Clock) Read() Reading {
	var up unix.Timespec
	// CLOCK_BOOTTIME exists since Linux 2.6.39: this cannot fail.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &up)
	wall := time.Now().UTC()
	return Reading{Wall: wall, Trust: trust(wall, c.floor, disciplined()), Uptime: time.Duration(up.Nano())}
}

func trust(wall, floor time.Time, disciplined bool) Trust {
	switch {
	case wall.Before(floor):
		return Unset
	case disciplined:
		return Disciplined
	default:
		return Plausible
	}
}

// disciplined asks the kernel whether a time source steers the clock: adjtimex(2)
// answers TIME_ERROR, and sets STA_UNSYNC, until one has done so.
func disciplined() bool {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return err == nil && state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0
}

func buildTime() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			t, _ := time.Parse(time.RFC3339, s.Value)
			return t
		}
	}
	return time.Time{}
}

// LastGood returns the time that KeepGood noted in file, zero if it never did.
func LastGood(file string) (time.Time, error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime().UTC(), nil
}

// KeepGood notes in file that the time t is known to be right. The note is the
// file's own date, which costs the flash a single inode.
func KeepGood(file string, t time.Time) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Chtimes(file, t, t)
}
