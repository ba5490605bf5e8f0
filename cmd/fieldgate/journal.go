package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/fieldgate/fieldgate/gateway/control"
)

const (
	// maxEvents is how many warnings are remembered; beyond them the oldest goes.
	maxEvents = 100
	// maxFacts bounds what surrounds the message of one, in bytes.
	maxFacts = 300
)

// journal remembers the last warnings for operators who come later. One that
// repeats takes one place, so that a leaf that babbles does not drive out what
// others say. The zero value is ready. Safe for concurrent use.
type journal struct {
	mu     sync.Mutex
	events []control.Event // the oldest first; guarded by mu

	lines logLines // not warnings alone
}

// Events returns what is remembered, the oldest first.
func (j *journal) Events() []control.Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.events)
}

func (j *journal) add(e control.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	same := func(x control.Event) bool {
		return x.Message == e.Message && x.Part == e.Part && x.Leaf == e.Leaf && x.Level == e.Level
	}
	e.Count = 1
	if i := slices.IndexFunc(j.events, same); i >= 0 {
		e.Count += j.events[i].Count
		j.events = slices.Delete(j.events, i, i+1)
	} else if len(j.events) == maxEvents {
		j.events = slices.Delete(j.events, 0, 1)
	}
	j.events = append(j.events, e)
}

// watch returns a log that hands everything on to the old one, and warnings to the
// journal too, also those that the old one leaves out.
func (j *journal) watch(log *slog.Logger) *slog.Logger {
	return slog.New(&listener{next: log.Handler(), add: j.add, least: slog.LevelWarn})
}

// listener is a slog.Handler that hands records on, and those of a level or above to
// a memory too.
type listener struct {
	next   slog.Handler
	add    func(control.Event)
	least  slog.Leveler
	known  control.Event // what all records have in common
	prefix string        // of names: the groups that are open
}

// levelName spells a level as the log's own configuration and people do.
func levelName(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "error"
	case l >= slog.LevelWarn:
		return "warning"
	case l >= slog.LevelInfo:
		return "info"
	}
	return "debug"
}

// Enabled implements slog.Handler.
func (l *listener) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= l.least.Level() || l.next.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (l *listener) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= l.least.Level() {
		e := l.known
		e.Time, e.Level, e.Message = r.Time.UTC(), levelName(r.Level), r.Message
		if e.Time.IsZero() {
			e.Time = time.Now().UTC()
		}
		r.Attrs(func(a slog.Attr) bool {
			note(&e, l.prefix, a)
			return true
		})
		l.add(e)
	}
	if !l.next.Enabled(ctx, r.Level) {
		return nil
	}
	return l.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (l *listener) WithAttrs(attrs []slog.Attr) slog.Handler {
	x := *l
	x.next = l.next.WithAttrs(attrs)
	for _, a := range attrs {
		note(&x.known, l.prefix, a)
	}
	return &x
}

// WithGroup implements slog.Handler.
func (l *listener) WithGroup(name string) slog.Handler {
	x := *l
	x.next = l.next.WithGroup(name)
	if name != "" {
		x.prefix += name + "."
	}
	return &x
}

// note writes a fact down. Resolve lets secrets hide themselves.
func note(e *control.Event, prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	switch {
	case v.Kind() == slog.KindGroup:
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, x := range v.Group() {
			note(e, prefix, x)
		}
	case a.Key == "":
	case prefix == "" && a.Key == "part":
		e.Part = cut(quoted(v.String()), maxFacts)
	case prefix == "" && a.Key == "leaf":
		e.Leaf = cut(quoted(v.String()), maxFacts)
	default:
		text := v.String()
		if strings.Contains(text, " ") && strings.Contains(text, "=") {
			text = strconv.Quote(text) // nor facts of its own
		} else {
			text = quoted(text)
		}
		fact := fmt.Sprintf("%s%s=%s", prefix, a.Key, text)
		if e.Facts != "" {
			fact = e.Facts + " " + fact
		}
		e.Facts = cut(fact, maxFacts)
	}
}

// quoted quotes what a leaf, say, has put into a text to make lines of its own, or
// colours.
func quoted(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// cut shortens a text to at most so many bytes, which may not be UTF-8.
func cut(text string, most int) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most]
}
