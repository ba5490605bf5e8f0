package serial

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/fieldgate/fieldgate/drivers/handover"
	"github.com/fieldgate/fieldgate/gateway"
)

// Discard says why a line did not become a message. The texts are label values
// of metrics.
type Discard string

// The reasons; those of package handover as well.
const (
	DiscardTooLong  Discard = "too_long"       // longer than max_line
	DiscardNoise    Discard = "noise"          // not text: bytes that are not UTF-8, or control characters
	DiscardNotJSON  Discard = "not_json"       // text, but not a JSON object: a log line, usually
	DiscardNotSenML Discard = "not_senml"      // text, but not a pack of SenML that can be used
	DiscardChecksum Discard = "checksum"       // a sentence of NMEA 0183 with a wrong checksum, or with none
	DiscardOther    Discard = "other_sentence" // one that nobody asked for
	DiscardTorn     Discard = "torn"           // begun before the port was opened, or cut off when it was lost
	DiscardNoLeaf   Discard = "no_leaf"        // the field named in leaf_field is missing or holds no leaf id
)

// Count is a number of lines and their bytes on the wire.
type Count struct{ Lines, Bytes int64 }

// state is a snapshot of a driver. Counters run since the driver was made.
type state struct {
	Lane      gateway.Lane      // of all lines
	Taken     Count             // lines whose message is in custody
	Discarded map[Discard]Count // lines that did not become a message; no memory shared with the driver
	LastLine  gateway.Instant   // when the last understood line came

	Waiting int  // lines read and not yet in custody
	Holding bool // the store refuses messages: the port is not read until it takes them again

	Answers     int64 // answer lines written to the leaf
	AnswersLost int64 // answers that could not be written: the leaf does not read, or the port was lost
}

// fill adds what the tally knows to the state of the driver.
func (t *tally) fill(g *gateway.DriverState) {
	s := t.snapshot()
	if g.Up {
		g.Leaves = 1
	}
	g.Logins = map[string]int64{"accepted": g.Ups}
	g.Taken[s.Lane] = s.Taken.Lines
	g.Discarded = make(map[string]int64, len(s.Discarded))
	for why, n := range s.Discarded {
		g.Discarded[string(why)] = n.Lines
	}
	g.Counts = map[string]int64{"answers": s.Answers, "answers_lost": s.AnswersLost}
}

// tally keeps the state and logs its changes. It does not log while it holds its
// lock. Safe for concurrent use.
type tally struct {
	log *slog.Logger

	mu sync.Mutex
	// guarded by mu:
	s     state
	noted map[Discard]bool // reasons already logged in this opening
	heard map[string]bool  // leaves of which a message was taken in this opening
}

func newTally(lane gateway.Lane, log *slog.Logger) *tally {
	return &tally{log: log, s: state{Lane: lane, Discarded: make(map[Discard]Count)}, noted: make(map[Discard]bool), heard: make(map[string]bool)}
}

func (t *tally) snapshot() state {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.s
	s.Discarded = maps.Clone(t.s.Discarded)
	return s
}

// opened begins another opening of the port.
func (t *tally) opened() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.noted)
	clear(t.heard)
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

// Taken is described at handover.Tally.
func (t *tally) Taken(i *handover.Item) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.s.Taken.Lines++
	t.s.Taken.Bytes += int64(i.Size)
	t.heard[i.Message.Leaf] = true
}

// peers says which leaves are there: those that have said something since the port is
// open. leaf is the one of the port, "" where lines name theirs.
func (t *tally) peers(s *gateway.DriverState, leaf string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	names := slices.Collect(maps.Keys(t.heard))
	if leaf != "" && !t.heard[leaf] {
		names = append(names, leaf)
	}
	slices.Sort(names)
	for _, id := range names {
		p := gateway.PeerState{Leaf: id, Up: s.Up && t.heard[id], Since: s.Since}
		if !s.Up && s.Err != nil {
			p.Err = s.Err.Error()
		}
		s.Peers = append(s.Peers, p)
	}
}

// Refused is described at handover.Tally.
func (t *tally) Refused(i *handover.Item, why string) { t.discard(Discard(why), i.Size) }

// Waiting is described at handover.Tally.
func (t *tally) Waiting(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.s.Waiting = n
}

// Holding is described at handover.Tally.
func (t *tally) Holding(why error) {
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
