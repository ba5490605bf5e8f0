package broker

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// noticePause is how long a repeated warning is only counted.
	noticePause = time.Minute
	// maxNotices bounds how many different warnings are remembered; further ones
	// are not logged. The counters of State miss none.
	maxNotices = 1024
)

// notices logs warnings that outsiders can cause as often as they like: the
// first at once, then once a minute how many there were. Safe for concurrent
// use.
type notices struct {
	log *slog.Logger

	mu   sync.Mutex
	seen map[string]*notice // guarded by mu
}

type notice struct {
	message string
	attrs   []slog.Attr
	since   time.Time
	again   int
}

func newNotices(log *slog.Logger) *notices {
	return &notices{log: log, seen: make(map[string]*notice)}
}

// warn logs a message. Messages with the same key are taken for repetitions,
// whatever their attributes say.
func (n *notices) warn(key, message string, attrs ...slog.Attr) {
	n.mu.Lock()
	key = message + " " + key
	known := n.seen[key]
	switch {
	case known != nil:
		known.again++
	case len(n.seen) < maxNotices:
		n.seen[key] = &notice{message: message, attrs: attrs, since: time.Now()}
	}
	first := known == nil && n.seen[key] != nil
	n.mu.Unlock()
	if first {
		n.log.LogAttrs(context.Background(), slog.LevelWarn, message, attrs...)
	}
}

// sweep logs what was repeated in the minute before now, and forgets the rest.
func (n *notices) sweep(now time.Time) {
	var due []*notice
	n.mu.Lock()
	for key, known := range n.seen {
		if now.Sub(known.since) < noticePause {
			continue
		}
		delete(n.seen, key)
		if known.again > 0 {
			due = append(due, known)
		}
	}
	n.mu.Unlock()
	for _, known := range due {
		attrs := append(known.attrs[:len(known.attrs):len(known.attrs)], slog.Int("again", known.again))
		n.log.LogAttrs(context.Background(), slog.LevelWarn, known.message, attrs...)
	}
}
