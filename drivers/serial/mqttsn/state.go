package mqttsn

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/hdlc"
	"github.com/fieldgate/fieldgate/gateway"
)

// counts is what a link counts, by the words of gateway.DriverState. Guarded by
// Link.mu.
type counts struct {
	logins, discarded, commands, calls, events map[string]int64

	taken   [gateway.Lanes]int64
	desired int64
	warned  map[string]time.Time // when a warning was logged last
}

func newCounts() counts {
	return counts{
		logins: make(map[string]int64), discarded: make(map[string]int64), commands: make(map[string]int64),
		calls: make(map[string]int64), events: make(map[string]int64), warned: make(map[string]time.Time),
	}
}

// Fill adds what the link knows to the state of its driver.
func (l *Link) Fill(s *gateway.DriverState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &l.counts
	s.Logins, s.Discarded, s.Commands, s.Calls = maps.Clone(c.logins), maps.Clone(c.discarded), maps.Clone(c.commands), maps.Clone(c.calls)
	s.Counts, s.Taken, s.Desired = maps.Clone(c.events), c.taken, c.desired
	s.Leaves, s.Peers = 0, nil
	for _, id := range slices.Sorted(maps.Keys(l.sessions)) {
		one := l.sessions[id]
		peer := gateway.PeerState{Leaf: id, Up: one.connected(), Since: one.since}
		if peer.Up {
			s.Leaves++
		} else {
			peer.Err = one.gone
		}
		s.Peers = append(s.Peers, peer)
	}
}

// discard counts what a leaf has sent in vain.
func (l *Link) discard(why string, attrs ...any) {
	l.counts.discarded[why]++
	l.warn("discard "+why, "message discarded", append([]any{"reason", why}, attrs...)...)
}

// lost counts what was no frame.
func (l *Link) lost(before, now hdlc.Discards) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range []struct {
		why string
		n   uint64
	}{
		{"noise", now.Noise - before.Noise},
		{"short", now.Short - before.Short},
		{"checksum", now.Sum - before.Sum},
		{"too_long", now.Long - before.Long},
		{"aborted", now.Aborted - before.Aborted},
	} {
		if d.n > 0 {
			l.counts.discarded[d.why] += int64(d.n)
		}
	}
}

// warnPause is how long a repeated warning is only counted.
const warnPause = time.Minute

// warn logs what outsiders can cause as often as they like. There are few keys.
func (l *Link) warn(key, text string, attrs ...any) {
	level := slog.LevelWarn
	if now := time.Now(); now.Sub(l.counts.warned[key]) < warnPause {
		level = slog.LevelDebug
	} else {
		l.counts.warned[key] = now
	}
	log := l.log
	l.do(func() { log.Log(context.Background(), level, text, attrs...) })
}
