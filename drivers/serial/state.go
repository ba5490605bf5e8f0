package serial

import (
	"context"
	"log/slog"
	"maps"
	"sync"

	"github.com/fieldgate/fieldgate/gateway"
)

// Discard says why a line did not become a message. The texts are label values
// of metrics.
type Discard string

// The reasons.
const (
	DiscardTooLong     Discard = "too_long"     // longer than max_line
	DiscardNoise       Discard = "noise"        // not text: bytes that are not UTF-8, or control characters
	DiscardNotJSON     Discard = "not_json"     // text, but not a JSON object: a log line, usually
	DiscardTorn        Discard = "torn"         // begun before the port was opened, or cut off when it was lost
	DiscardNoLeaf      Discard = "no_leaf"      // the field named in leaf_field is missing or holds no leaf id
	DiscardUnknownLeaf Discard = "unknown_leaf" // the gateway does not know the leaf, or has disabled it
	DiscardTooLarge    Discard = "too_large"    // more than the hub takes
	DiscardRefused     Discard = "refused"      // refused by the gateway for another reason
)

// Count is a number of lines and their bytes on the wire.
type Count struct{ Lines, Bytes int64 }

// State is a snapshot of a driver for status and metrics. Counters run since
// the driver was made.
type State struct {
	Open   bool
	Device string // what the configured path led to at the last opening, "/dev/ttyUSB1"
	Err    error  // why the port is not open; nil while it is
	Opened int64  // how often the port was opened; each after the first is a reopening

	Taken     Count             // lines whose message is in custody
	Discarded map[Discard]Count // lines that did not become a message; no memory shared with the driver
	LastLine  gateway.Instant   // when the last understood line came

	Waiting int  // lines read and not yet in custody
	Holding bool // the store refuses messages: the port is not read until it takes them again

	Answers     int64 // answer lines written to the leaf
	AnswersLost int64 // answers that could not be written: the leaf does not read, or the port was lost
}

// tally keeps the state and logs its changes. It does not log while it holds its
// lock. Safe for concurrent use.
type tally struct {
	log *slog.Logger

	mu sync.Mutex
	// guarded by mu:
	s     State
	noted map[Discard]bool // reasons already logged in this opening
	last  string           // text of the last error logged, to log a repeating one once
}

func newTally(log *slog.Logger) *tally {
	return &tally{log: log, s: State{Discarded: make(map[Discard]Count)}, noted: make(map[Discard]bool)}
}

func (t *tally) snapshot() State {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.s
	s.Discarded = maps.Clone(t.s.Discarded)
	return s
}

func (t *tally) opened(device string) {
	t.mu.Lock()
	t.s.Open, t.s.Device, t.s.Err = true, device, nil
	t.s.Opened++
	n := t.s.Opened
	t.last = ""
	clear(t.noted)
	t.mu.Unlock()
	t.log.Info("serial port open", "device", device, "opened", n)
}

// closed notes why the port is not open; nil at the end of the driver. The same
// reason again is not logged.
func (t *tally) closed(err error) {
	t.mu.Lock()
	t.s.Open, t.s.Err = false, err
	news := err != nil && err.Error() != t.last
	if news {
		t.last = err.Error()
	}
	t.mu.Unlock()
	if news {
		t.log.Warn("serial port not open", "err", err)
	}
}

// discard counts a line. The first one for a reason in an opening is worth a
// warning, the others are not.
func (t *tally) discard(why Discard, size int) {
	t.mu.Lock()
	c := t.s.Discarded[why]
	t.s.Discarded[why] = Count{c.Lines + 1, c.Bytes + int64(size)}
	level := slog.LevelDebug
	if !t.noted[why] {
		t.noted[why] = true
		level = slog.LevelWarn
	}
	t.mu.Unlock()
	t.log.Log(context.Background(), level, "line discarded", "reason", string(why), "bytes", size)
}

func (t *tally) arrived(at gateway.Instant) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.s.LastLine = at
}

func (t *tally) taken(size int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.s.Taken.Lines++
	t.s.Taken.Bytes += int64(size)
}

func (t *tally) waiting(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.s.Waiting = n
}

// holding notes why the store refuses messages, or that it takes them (nil).
func (t *tally) holding(why error) {
	t.mu.Lock()
	news := t.s.Holding != (why != nil)
	t.s.Holding = why != nil
	t.mu.Unlock()
	switch {
	case news && why != nil:
		t.log.Warn("gateway does not take messages, port is not read", "err", why)
	case news:
		t.log.Info("gateway takes messages again")
	}
}

func (t *tally) answered(ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ok {
		t.s.Answers++
	} else {
		t.s.AnswersLost++
	}
}
