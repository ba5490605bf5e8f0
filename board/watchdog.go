package board

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// device is the first hardware watchdog.
const device = "/dev/watchdog0"

// Progress is what one part of the program has to show for the watchdog to be fed.
// Safe for concurrent use.
type Progress struct {
	part  string
	bound time.Duration
	epoch time.Time
	at    atomic.Int64 // of the last progress, since epoch
}

// Made says that the part has got on. It costs nothing worth mentioning.
func (p *Progress) Made() { p.at.Store(int64(time.Since(p.epoch))) }

// late says for how long the part has made no progress, 0 if that is within its bound.
func (p *Progress) late() time.Duration {
	if since := time.Since(p.epoch) - time.Duration(p.at.Load()); since > p.bound {
		return since
	}
	return 0
}

// watchdog resets the machine if it is not fed. It is fed while all parts of the
// program make progress.
type watchdog struct {
	part    *part
	path    string // "": there is none
	timeout time.Duration
	log     *slog.Logger
	watched []*Progress // not changed once run has begun

	mu       sync.Mutex
	fed      int64         // guarded by mu
	starving []string      // guarded by mu; as the log last had it
	granted  time.Duration // guarded by mu
}

func newWatchdog(r root, c Config, log *slog.Logger) *watchdog {
	w := &watchdog{timeout: c.WatchdogTimeout, log: log}
	why := "off in the configuration"
	if c.Watchdog {
		w.path, why = r.path(device), "not started"
		if _, err := os.Stat(w.path); err != nil {
			w.path, why = "", "there is no "+device
		}
	}
	what := ""
	if w.path != "" {
		what = device
	}
	w.part = newPart("watchdog", what, why, log)
	return w
}

func (w *watchdog) watch(part string, bound time.Duration) *Progress {
	p := &Progress{part: part, bound: bound, epoch: time.Now()}
	w.watched = append(w.watched, p)
	return p
}

type dogState struct {
	Part
	Fed      int64
	Starving []string
	Timeout  time.Duration
}

func (w *watchdog) state() dogState {
	w.mu.Lock()
	defer w.mu.Unlock()
	return dogState{w.part.now(), w.fed, w.late(), w.granted}
}

// retryDog is when a watchdog that another program has is tried again.
const retryDog = time.Minute

func (w *watchdog) run(ctx context.Context) {
	if w.path == "" {
		<-ctx.Done()
		return
	}
	for {
		err := w.guard(ctx)
		if ctx.Err() != nil {
			w.part.down()
			return
		}
		w.part.up(err)
		pause(ctx, retryDog)
	}
}

// guard arms the watchdog and feeds it until ctx ends; then it is disarmed.
func (w *watchdog) guard(ctx context.Context) error {
	f, err := os.OpenFile(w.path, os.O_WRONLY, 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("another program has it, as systemd with RuntimeWatchdogSec: %w", err)
	}
	if err != nil {
		return err
	}
	granted, err := arm(f, w.timeout)
	if err != nil {
		return errors.Join(err, disarm(f))
	}
	w.mu.Lock()
	w.granted = granted
	w.mu.Unlock()
	w.part.up(nil)
	every := time.NewTicker(max(time.Second, granted/3))
	defer every.Stop()
	for {
		if w.mayEat() {
			// Any write is food (kernel documentation, watchdog/watchdog-api), but one with
			// a V in it: see disarm. Should it fail, the next one may not.
			if _, err := f.Write([]byte{0}); err != nil {
				w.log.Warn("cannot feed the watchdog", "error", err)
			} else {
				w.mu.Lock()
				w.fed++
				w.mu.Unlock()
			}
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			if err := disarm(f); err != nil {
				w.log.Error("the watchdog stays armed and will reset the machine", "error", err)
			}
			return nil
		}
	}
}

// mayEat says whether all parts have made progress.
func (w *watchdog) mayEat() bool {
	late := w.late()
	w.mu.Lock()
	was := w.starving
	w.starving = late
	timeout := w.granted
	w.mu.Unlock()
	if !slices.Equal(was, late) {
		if len(late) > 0 {
			w.log.Error("the watchdog is not fed: no progress", "of", strings.Join(late, ", "), "reset_in_ms", timeout.Milliseconds())
		} else {
			w.log.Info("the watchdog is fed again")
		}
	}
	return len(late) == 0
}

// late returns the parts of the program that have made no progress for too long.
func (w *watchdog) late() (parts []string) {
	for _, p := range w.watched {
		if p.late() > 0 {
			parts = append(parts, p.part)
		}
	}
	return parts
}

// arm sets the timeout, or the longest that there is, and returns what it is.
// Opening has armed the watchdog already.
func arm(f *os.File, timeout time.Duration) (granted time.Duration, err error) {
	const shortest = 3 * time.Second // below, a busy moment would be a reset
	fd := int(f.Fd())
	for try := timeout; ; try /= 2 {
		err := unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, int(try/time.Second))
		if err == nil || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) {
			break // set, or it has one timeout and no other
		}
		if !errors.Is(err, unix.EINVAL) || try/2 < shortest {
			return 0, fmt.Errorf("cannot set its timeout: %w", err)
		}
	}
	seconds, err := unix.IoctlGetUint32(fd, unix.WDIOC_GETTIMEOUT)
	if err != nil || seconds == 0 {
		return unknownTimeout, nil // not every driver says
	}
	return time.Duration(seconds) * time.Second, nil
}

// unknownTimeout is taken for that of a watchdog that does not say: hardware knows
// hardly a shorter one than this.
const unknownTimeout = 9 * time.Second

// disarm closes the watchdog with the letter that says it is meant (kernel
// documentation, watchdog/watchdog-api, "Magic Close"). A kernel built or
// started with nowayout keeps it armed all the same.
func disarm(f *os.File) error {
	_, err := f.WriteString("V")
	return errors.Join(err, f.Close())
}
