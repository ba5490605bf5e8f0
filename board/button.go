package board

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"periph.io/x/conn/v3/gpio"
)

// Press is how the button was pressed.
type Press string

// A short press ends before longPress; a long one counts as soon as it has lasted
// so long, while the button is still down. In between it is too long for a push and
// too short for something that cannot be undone: nothing.
const (
	Short Press = "short"
	Long  Press = "long"
)

const (
	shortPress = 3 * time.Second
	longPress  = 10 * time.Second
	// settle is how long contacts may bounce; a press that is shorter is none.
	settle = 20 * time.Millisecond
	// wait bounds a wait for an edge, so that stopping takes no longer.
	wait = 500 * time.Millisecond
	// queued is how many edges the kernel keeps for a line, at least (kernel
	// documentation, userspace-api/gpio/gpio-v2-get-line-ioctl: 16 for each line).
	queued = 16
)

// input is a line that is set up. Only run's goroutine uses it.
type input interface {
	// WaitForEdge waits for an edge, at most so long, which is more than 0. False: there
	// was none, or there never will be.
	WaitForEdge(timeout time.Duration) bool
	Read() gpio.Level
}

// button is the button on the box.
type button struct {
	part *part
	line input // nil: there is none
	down gpio.Level
	tell func(Press) // nil: nobody
	log  *slog.Logger

	mu      sync.Mutex
	presses map[Press]int64 // guarded by mu
	last    time.Time       // guarded by mu
}

func newButton(r root, c Config, k *kind, log *slog.Logger) *button {
	b := &button{down: gpio.Level(c.PressedHigh), log: log, presses: map[Press]int64{Short: 0, Long: 0}}
	name, why := c.Button, "off in the configuration"
	if name == Auto {
		name = ""
		if why = "this kind of board has no line for one that is known: write CHIP:LINE in [board] button"; k.chip != "" {
			name = fmt.Sprintf("%s:%d", k.chip, k.line)
		}
	} else if name == Off {
		name = ""
	}
	if name != "" {
		line, err := openLine(r, name, c.PressedHigh)
		if why = "not started"; err != nil {
			why = err.Error()
		} else {
			b.line = line
		}
	}
	b.part = newPart("button", name, why, log)
	return b
}

// ParseLine reads CHIP:LINE. A label may have colons in it.
func ParseLine(text string) (chip string, line int, err error) {
	i := strings.LastIndexByte(text, ':')
	if i > 0 {
		chip = text[:i]
		if n, err := strconv.ParseUint(text[i+1:], 10, 16); err == nil {
			return chip, int(n), nil
		}
	}
	return "", 0, fmt.Errorf("%q is no line of a GPIO chip: write its label and the number of the line, like \"pinctrl-bcm2711:26\"", text)
}

func (b *button) state() (Part, map[Press]int64, time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.part.now(), maps.Clone(b.presses), b.last
}

func (b *button) pressed(p Press) {
	b.mu.Lock()
	b.presses[p]++
	b.last = time.Now()
	b.mu.Unlock()
	if b.tell != nil {
		b.tell(p)
	}
}

var errDeaf = errors.New("the kernel reports no edges of the line")

func (b *button) run(ctx context.Context) {
	if b.line == nil {
		<-ctx.Done()
		return
	}
	b.part.up(nil)
	if err := b.hear(ctx); err != nil {
		b.part.up(err)
		<-ctx.Done()
		return
	}
	b.part.down()
}

// hear follows the line until ctx ends.
func (b *button) hear(ctx context.Context) error {
	// A button that is down from the start is stuck, or no button: it counts from
	// when it has been let go.
	h := hand{stuck: b.line.Read() == b.down}
	for deaf := 0; ctx.Err() == nil; {
		began := time.Now()
		edge := b.line.WaitForEdge(h.patience(began))
		took := time.Since(began)
		// An error looks like no edge, only that it comes at once.
		if !edge && took < time.Millisecond {
			if deaf++; deaf > 10 {
				return errDeaf
			}
			pause(ctx, settle)
		} else {
			deaf = 0
		}
		if edge {
			pause(ctx, settle)
			// What bounced meanwhile is of no interest. The bound keeps a line that
			// swings without end from keeping the processor busy.
			for range queued {
				if !b.line.WaitForEdge(time.Millisecond) {
					break
				}
			}
		}
		if p, ok := h.move(b.line.Read() == b.down, began.Add(took)); ok {
			b.pressed(p)
		}
	}
	return nil
}

// pause waits, or less if ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// hand is the hand on the button.
type hand struct {
	stuck bool      // down, and does not count
	since time.Time // down since then, zero if it is not
}

// patience is how long nothing need be looked at.
func (h *hand) patience(now time.Time) time.Duration {
	if h.since.IsZero() {
		return wait
	}
	return min(wait, max(time.Millisecond, h.since.Add(longPress).Sub(now)))
}

// move takes a level that has settled and says whether a press is complete.
func (h *hand) move(down bool, now time.Time) (p Press, ok bool) {
	switch {
	case h.stuck:
		h.stuck = down
	case down && h.since.IsZero():
		h.since = now
	case down && now.Sub(h.since) >= longPress:
		*h = hand{stuck: true}
		return Long, true
	case !down && !h.since.IsZero():
		lasted := now.Sub(h.since)
		h.since = time.Time{}
		return Short, lasted < shortPress
	}
	return "", false
}
