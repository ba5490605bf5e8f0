package main

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	systemd "github.com/coreos/go-systemd/v22/journal"

	"github.com/fieldgate/fieldgate/gateway/control"
)

const (
	// journalBurst lines about one leaf and one event may come at once, and one each
	// journalEvery after that: a leaf that babbles must not flush the journal.
	journalBurst = 20
	journalEvery = 10 * time.Second
	// maxJournalRates bounds of how many leaves and events that is remembered.
	maxJournalRates = 4096
)

// journalFields is a slog.Handler that writes to systemd's journal: the message with its
// facts, as on a terminal, and as fields what one searches by. Kinds of events, which a
// record names in "event", have a MESSAGE_ID, by which "journalctl -x" explains them.
type journalFields struct {
	least slog.Leveler
	next  slog.Handler // for what the journal does not take
	send  func(message string, p systemd.Priority, fields map[string]string) error
	rates *journalRates

	known     control.Event // what all records have in common
	event     string
	transport string
	prefix    string // of names: the groups that are open
}

func newJournalFields(least slog.Leveler, next slog.Handler) *journalFields {
	return &journalFields{least: least, next: next, send: systemd.Send, rates: &journalRates{now: time.Now}}
}

// Enabled implements slog.Handler.
func (j *journalFields) Enabled(_ context.Context, level slog.Level) bool {
	return level >= j.least.Level()
}

// Handle implements slog.Handler.
func (j *journalFields) Handle(ctx context.Context, r slog.Record) error {
	x := *j
	r.Attrs(func(a slog.Attr) bool {
		x.note(a)
		return true
	})
	e := x.known
	kind := x.event
	if kind == "" {
		kind = r.Message
	}
	allowed, held := true, 0
	if e.Leaf != "" || x.event != "" {
		if allowed, held = j.rates.allow(e.Leaf, kind); !allowed {
			return nil
		}
	}
	fields := map[string]string{"SYSLOG_IDENTIFIER": "fieldgate"}
	for name, value := range map[string]string{
		"FIELDGATE_LEAF": e.Leaf, "FIELDGATE_DEVICE": e.Leaf, "FIELDGATE_TRANSPORT": x.transport, "FIELDGATE_EVENT": x.event,
		"FIELDGATE_PART": e.Part, "FIELDGATE_FACTS": e.Facts, "MESSAGE_ID": messageID(x.event),
	} {
		if value != "" {
			fields[name] = value
		}
	}
	if held > 0 {
		fields["FIELDGATE_HELD_BACK"] = strconv.Itoa(held)
	}
	text := r.Message
	if e.Leaf != "" {
		text = e.Leaf + ": " + text
	}
	if e.Facts != "" {
		text += ", " + e.Facts
	}
	if held > 0 {
		text += "; " + count(held, "line like this was", "lines like this were") + " held back"
	}
	if j.send(text, priority(r.Level), fields) == nil {
		return nil
	}
	return j.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (j *journalFields) WithAttrs(attrs []slog.Attr) slog.Handler {
	x := *j
	x.next = j.next.WithAttrs(attrs)
	for _, a := range attrs {
		x.note(a)
	}
	return &x
}

// WithGroup implements slog.Handler.
func (j *journalFields) WithGroup(name string) slog.Handler {
	x := *j
	x.next = j.next.WithGroup(name)
	if name != "" {
		x.prefix += name + "."
	}
	return &x
}

// note takes a fact in. What has a field of its own is no fact besides.
func (j *journalFields) note(a slog.Attr) {
	switch {
	case j.prefix == "" && a.Key == "event":
		j.event = a.Value.String()
	case j.prefix == "" && a.Key == "transport":
		j.transport = cut(a.Value.Resolve().String(), maxFacts)
	default:
		note(&j.known, j.prefix, a)
	}
}

// priority spells a level as syslog does.
func priority(l slog.Level) systemd.Priority {
	switch {
	case l >= slog.LevelError:
		return systemd.PriErr
	case l >= slog.LevelWarn:
		return systemd.PriWarning
	case l >= slog.LevelInfo:
		return systemd.PriInfo
	}
	return systemd.PriDebug
}

// journalRates say what may still be written. Safe for concurrent use.
type journalRates struct {
	now func() time.Time // by the monotonic clock

	mu    sync.Mutex
	known map[string]*journalRate // by leaf and event; guarded by mu
}

// journalRate is what one leaf has left of one event.
type journalRate struct {
	left float64
	at   time.Time // when that was so
	held int       // lines since one was written
}

// allow says whether a line may be written, and if so how many were not since the last
// one.
func (r *journalRates) allow(leaf, event string) (ok bool, held int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, key := r.now(), strings.Join([]string{leaf, event}, "\x00")
	one := r.known[key]
	if one == nil {
		if len(r.known) >= maxJournalRates {
			r.forget(now)
		}
		if len(r.known) >= maxJournalRates {
			key = "" // all that are too many share one
			one = r.known[key]
		}
		if one == nil {
			if r.known == nil {
				r.known = make(map[string]*journalRate)
			}
			one = &journalRate{left: journalBurst, at: now}
			r.known[key] = one
		}
	}
	one.left = min(journalBurst, one.left+now.Sub(one.at).Seconds()/journalEvery.Seconds())
	one.at = now
	if one.left < 1 {
		one.held++
		return false, 0
	}
	one.left--
	held, one.held = one.held, 0
	return true, held
}

// forget drops those that have said nothing for so long that they may say all again.
func (r *journalRates) forget(now time.Time) {
	for key, one := range r.known {
		if one.held == 0 && now.Sub(one.at) >= journalBurst*journalEvery {
			delete(r.known, key)
		}
	}
}
