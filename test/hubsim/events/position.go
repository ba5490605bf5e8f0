package events

import (
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Position is where a reader starts. The zero Position is the beginning.
type Position struct {
	key       string // offsetKey, sequenceKey, timeKey; "" for the beginning
	inclusive bool
	value     int64
	latest    bool // only what comes from now on
}

// What a selector may compare.
const (
	offsetKey   = "amqp.annotation.x-opt-offset"
	sequenceKey = "amqp.annotation.x-opt-sequence-number"
	timeKey     = "amqp.annotation.x-opt-enqueued-time"
)

// ErrSelector is wrapped by every error of ParseSelector.
var ErrSelector = errors.New("selector not understood")

// ParseSelector reads the filter expression of a reader: one of the three
// annotations, > or >=, and a number that may be quoted. An offset may also be
// @latest; -1 stands in front of everything.
func ParseSelector(text string) (Position, error) {
	key, rest, found := strings.Cut(text, ">")
	if !found {
		return Position{}, fmt.Errorf("%w: no comparison in %q", ErrSelector, text)
	}
	p := Position{key: strings.TrimSpace(key)}
	rest, p.inclusive = strings.CutPrefix(rest, "=")
	value := strings.TrimSpace(rest)
	if n := len(value); n >= 2 && value[0] == '\'' && value[n-1] == '\'' {
		value = value[1 : n-1]
	}
	switch p.key {
	case offsetKey:
		if value == "@latest" {
			return Position{key: offsetKey, latest: true}, nil
		}
	case sequenceKey, timeKey:
	default:
		return Position{}, fmt.Errorf("%w: %q", ErrSelector, p.key)
	}
	var err error
	if p.value, err = strconv.ParseInt(value, 10, 64); err != nil {
		return Position{}, fmt.Errorf("%w: %q is not a number", ErrSelector, value)
	}
	return p, nil
}

// Start returns the sequence number at which a reader of partition n begins.
func (l *Log) Start(n int, p Position) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	part := &l.partitions[n]
	if p.latest {
		return part.next
	}
	if p.key == "" {
		return part.first
	}
	i := sort.Search(int(part.next-part.first), func(i int) bool {
		e := &part.segments[i/segmentSize][i%segmentSize]
		return p.covers(e)
	})
	return part.first + int64(i)
}

// covers says whether an event lies behind the position.
func (p Position) covers(e *Event) bool {
	value := e.Offset
	switch p.key {
	case sequenceKey:
		value = e.Sequence
	case timeKey:
		value = e.Enqueued.UnixMilli()
	}
	return value > p.value || (p.inclusive && value == p.value)
}

// After returns the position behind an event with the sequence number.
func After(sequence int64) Position { return Position{key: sequenceKey, value: sequence} }

// From returns the position of the first event taken at or after a time.
func From(t time.Time) Position {
	return Position{key: timeKey, value: t.UnixMilli(), inclusive: true}
}
