package board

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// led is the status LED. It blinks by writes to its brightness and not by a
// trigger of the kernel's, which would go on showing that all is well when this
// program does not run any more.
type led struct {
	part    *part
	dir     string // "": there is none
	trigger string // that it has by itself, where the board's table knows
	signal  atomic.Int32
	changed chan struct{} // holds one: the signal has changed
}

var errNoLED = errors.New("this kind of board has no status LED that is known: name one of /sys/class/leds in [board] led")

func newLED(r root, name string, k *kind, log *slog.Logger) *led {
	l := &led{changed: make(chan struct{}, 1)}
	why := "off in the configuration"
	if name != Off {
		var err error
		if l.dir, err = r.findLED(name, k.leds); err == nil {
			why = "not started"
			name = filepath.Base(l.dir)
		} else {
			why = err.Error()
		}
	}
	if l.dir == "" {
		name = ""
	}
	if slices.Contains(k.leds, name) {
		l.trigger = k.trigger
	}
	l.part = newPart("led", name, why, log)
	return l
}

// findLED returns the folder of the LED.
func (r root) findLED(name string, usual []string) (dir string, err error) {
	names := []string{name}
	if name == Auto {
		if len(usual) == 0 {
			return "", errNoLED
		}
		names = usual
	}
	for _, n := range names {
		dir := filepath.Join(r.path("sys/class/leds"), n)
		if _, err := os.Stat(filepath.Join(dir, "brightness")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("there is no LED %s in /sys/class/leds", strings.Join(names, " or "))
}

func (l *led) show(s Signal) {
	if l.signal.Swap(int32(s)) == int32(s) {
		return
	}
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

func (l *led) state() (Part, Signal) { return l.part.now(), Signal(l.signal.Load()) }

// retryLED is when an LED that could not be written is tried again.
const retryLED = time.Minute

func (l *led) run(ctx context.Context) {
	if l.dir == "" {
		<-ctx.Done()
		return
	}
	before := l.selected()
	for ctx.Err() == nil {
		err := l.blink(ctx)
		if ctx.Err() != nil {
			break
		}
		l.part.up(err)
		select {
		case <-time.After(retryLED):
		case <-ctx.Done():
		}
	}
	// After a kill there is none: then it gets what such boards have.
	if before == "none" {
		before = cmp.Or(l.trigger, before)
	}
	_ = l.write("brightness", "0")
	_ = l.write("trigger", before)
	l.part.down()
}

// blink shows signals until ctx ends or the LED cannot be written.
func (l *led) blink(ctx context.Context) error {
	// A kernel without triggers has no such file, nor anything that drives the LED.
	if err := l.write("trigger", "none"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	full := l.full()
	for step := 0; ; step++ {
		pattern := patterns[l.signal.Load()]
		level := full
		if step%2 == 1 {
			level = "0"
		}
		if err := l.write("brightness", level); err != nil {
			return err
		}
		l.part.up(nil)
		wait := time.NewTimer(pattern[step%len(pattern)])
		select {
		case <-wait.C:
			if len(pattern) == 1 {
				step-- // stays on
			}
		case <-l.changed:
			wait.Stop()
			step = -1
		case <-ctx.Done():
			wait.Stop()
			return nil
		}
	}
}

// full is the greatest brightness. The kernel has 255 where it does not say.
func (l *led) full() string {
	text, _ := os.ReadFile(filepath.Join(l.dir, "max_brightness"))
	if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && n > 0 {
		return strconv.Itoa(n)
	}
	return "255"
}

// selected is the trigger that the LED has: the file lists all that there are,
// that one in brackets.
func (l *led) selected() string {
	text, _ := os.ReadFile(filepath.Join(l.dir, "trigger"))
	_, rest, _ := strings.Cut(string(text), "[")
	name, _, found := strings.Cut(rest, "]")
	if !found || strings.ContainsAny(name, " \n") {
		return "none"
	}
	return name
}

// write writes a file of the LED's. It is there already, or the LED is not.
func (l *led) write(file, text string) error {
	f, err := os.OpenFile(filepath.Join(l.dir, file), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return cmp.Or(err, f.Close())
}
