package store

import (
	"errors"
	"io/fs"
	"os"

	"github.com/fieldgate/fieldgate/gateway"
)

// roll names messages in runs: most of a leaf stand in a row.
type roll struct {
	why  gateway.DropReason
	runs []gateway.GivenUp
	last map[string]int // index of the last run of each leaf
}

func (r *roll) add(m *gateway.Message) {
	if i, ok := r.last[m.Leaf]; ok {
		if run := &r.runs[i]; run.Start == m.Start && run.Last+1 == m.Seq {
			run.Last = m.Seq
			return
		}
	}
	if r.last == nil {
		r.last = make(map[string]int)
	}
	r.last[m.Leaf] = len(r.runs)
	r.runs = append(r.runs, gateway.GivenUp{
		Leaf: m.Leaf, Lane: m.Lane, Start: m.Start, First: m.Seq, Last: m.Seq, Dropped: m.Dropped, Why: r.why,
	})
}

// nameWaiting names the messages of a segment that are not Out and not settled, as
// far as they can be read: they cannot become either while s.io is held, which the
// caller does.
func (l *lane) nameWaiting(s *segment) []gateway.GivenUp {
	if l.store.onGiveUp.Load() == nil {
		return nil
	}
	if _, err := os.Stat(s.dir); errors.Is(err, fs.ErrNotExist) {
		return nil // an attempt to drop it was cut short: that is no damage
	}
	if l.openReading(s) != nil {
		return nil
	}
	names := roll{why: gateway.DropQuota}
	for block := range uint32(len(s.table)) {
		count := s.count(block)
		waits := make([]bool, count)
		l.mu.Lock()
		for i := range waits {
			state := s.state(block, i)
			waits[i] = state == gateway.Unread || state == gateway.Parked
		}
		l.mu.Unlock()
		_, _ = s.db.get(block, func(data []byte) { // what is damaged is not named
			f, err := parseFrameAt(data, s.address(block), count)
			if err != nil {
				return
			}
			f.each(func(i int) bool { return waits[i] }, func(_ int, data []byte, err error) bool {
				if err != nil {
					return true
				}
				if m, err := decodeMessage(data); err == nil {
					names.add(m)
				}
				return true
			})
		})
	}
	return names.runs
}

// tellGivenUp tells of messages that were given up.
func (l *lane) tellGivenUp(names []gateway.GivenUp) {
	if f := l.store.onGiveUp.Load(); f != nil && len(names) > 0 {
		(*f)(names)
	}
}
