package board

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
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
	floor floor
	// steered is when the machine was switched on, by the wall clock as a time
	// source last steered it, in Unix nanoseconds; 0 until one has.
	steered atomic.Int64
	last    atomic.Pointer[glance] // nil before the first reading
}

// floor is what a wall clock must reach to be believed.
type floor struct {
	built time.Time // whatever the clock shows below it is wrong
	noted time.Time // a time source has said so before
}

// glance is what the machine said when it was asked last, and when that was.
type glance struct {
	machine
	at time.Time // with its monotonic part
}

// A glance is good for lookAgain. When the wall clock was set meanwhile, or the
// machine slept, wall and monotonic time have come apart by more than apart, and
// the kernel is asked at once.
const apart = 5 * time.Millisecond

// earliest is before the first release of Fieldgate: whatever the clock shows
// below it is wrong. It only serves builds that do not say when they were made.
var earliest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// NewClock makes a clock that does not believe a time before the program was
// built; nor, while nothing steers it, one before lastGood, a time that was once
// known to be right.
func NewClock(lastGood time.Time) (*Clock, error) {
	id, err := bootText()
	if err != nil {
		return nil, fmt.Errorf("cannot tell this boot from another: %w", err)
	}
	h := fnv.New64a()
	h.Write([]byte(strings.TrimSpace(id)))
	built := earliest
	if t := buildTime(); t.After(built) {
		built = t
	}
	return &Clock{boot: h.Sum64(), floor: floor{built: built, noted: lastGood}}, nil
}

// Boot identifies this boot of the machine.
func (c *Clock) Boot() uint64 { return c.boot }

// Read returns the time now. Mostly it is no system call and no allocation.
//
// A clock that a time source has steered and that nothing steers any more is
// believed no further than the machine's uptime agrees: whoever sets it by hand
// does not move what is read here.
func (c *Clock) Read() Reading {
	now := time.Now()
	g := c.last.Load()
	if g == nil || !g.good(now) {
		g = &glance{look(), now}
		c.last.Store(g)
	}
	m, passed := g.machine, now.Sub(g.at)
	m.wall = m.wall.Add(passed)
	m.uptime += passed
	return c.judge(m)
}

// good says that nothing can have changed since that matters now.
func (g *glance) good(now time.Time) bool {
	passed := now.Sub(g.at)
	shown := now.Round(0).Sub(g.at.Round(0)) // by the wall clock
	return passed < lookAgain && (shown-passed).Abs() < apart
}

// judge says what to make of what the machine says.
func (c *Clock) judge(m machine) Reading {
	// Without the monotonic reading: that would let differences of two times
	// disagree with what the times say, after a step of the clock between them.
	m.wall = m.wall.Round(0).UTC()
	if m.disciplined && !m.wall.Before(c.floor.built) {
		c.steered.Store(m.wall.UnixNano() - int64(m.uptime))
	} else if on := c.steered.Load(); on != 0 {
		m.wall = time.Unix(0, on+int64(m.uptime)).UTC()
	}
	return Reading{Wall: m.wall, Trust: c.floor.trust(m.wall, m.disciplined), Uptime: m.uptime}
}

// trust judges a time. A time source is believed below the noted time: had one
// been wrong once and far ahead, the gateway would wait for that time else.
func (f floor) trust(wall time.Time, disciplined bool) Trust {
	switch {
	case wall.Before(f.built):
		return Unset
	case disciplined:
		return Disciplined
	case wall.Before(f.noted):
		return Unset
	default:
		return Plausible
	}
}

// machine is what the machine itself says: see look.
type machine struct {
	wall        time.Time
	uptime      time.Duration
	disciplined bool
}

// ClockOffset returns by how much the kernel still has to correct the clock, as
// the time source said last (adjtimex(2)); ok is false while none disciplines it.
func ClockOffset() (offset time.Duration, ok bool) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil || state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0 {
		return 0, false
	}
	unit := time.Microsecond
	if t.Status&unix.STA_NANO != 0 {
		unit = time.Nanosecond
	}
	return time.Duration(t.Offset) * unit, true
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
