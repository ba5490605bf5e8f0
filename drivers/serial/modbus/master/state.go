package master

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"

	"github.com/fieldgate/fieldgate/drivers/handover"
	"github.com/fieldgate/fieldgate/drivers/serial/modbus"
	"github.com/fieldgate/fieldgate/gateway"
)

// tally counts. It implements handover.Tally. Safe for concurrent use.
type tally struct {
	log *slog.Logger

	mu sync.Mutex
	// guarded by mu:
	taken     [gateway.Lanes]int64
	discarded map[string]int64
	commands  map[string]int64
	calls     map[string]int64
	counts    map[string]int64
	holds     bool
	refused   map[string]string // why the last message of a leaf was, until one is taken
}

func newTally(log *slog.Logger) *tally {
	return &tally{
		log: log, discarded: make(map[string]int64), commands: make(map[string]int64), calls: make(map[string]int64), refused: make(map[string]string),
		counts: map[string]int64{"rounds": 0, "rounds_broken": 0, "polls_held": 0, "polls_missed": 0, "no_answer": 0, "slaves_lost": 0},
	}
}

// State is described at gateway.Driver.
func (d *Driver) State() gateway.DriverState {
	g := d.keeper.Driver(d.Name(), kind)
	d.mu.Lock()
	came := int64(0)
	for _, s := range d.slaves {
		g.Peers = append(g.Peers, gateway.PeerState{Leaf: s.Leaf, Up: s.alive, Err: s.why, Since: s.since})
		if s.alive {
			came++
		}
	}
	d.mu.Unlock()
	g.Leaves = int(came)
	t := d.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	g.Logins = map[string]int64{"accepted": g.Ups}
	g.Taken = t.taken
	g.Discarded, g.Commands, g.Calls, g.Counts = maps.Clone(t.discarded), maps.Clone(t.commands), maps.Clone(t.calls), maps.Clone(t.counts)
	return g
}

func (t *tally) change(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
}

func (t *tally) count(event string)        { t.add(event, 1) }
func (t *tally) add(event string, n int64) { t.change(func() { t.counts[event] += n }) }

func (t *tally) command(v gateway.Verdict) { t.change(func() { t.commands[v.String()]++ }) }
func (t *tally) call(end string)           { t.change(func() { t.calls[end]++ }) }

func (t *tally) exception(e modbus.Exception) { t.count(fmt.Sprintf("exception_%d", byte(e))) }

func (t *tally) silence(err error) {
	event := "no_answer"
	if errors.Is(err, errGarbled) {
		event = "garbled"
	}
	t.count(event)
}

// stray counts what came and was no answer, by occasions.
func (t *tally) stray(int) { t.change(func() { t.discarded["noise"]++ }) }

// Waiting is described at handover.Tally.
func (t *tally) Waiting(int) {}

// Holding is described at handover.Tally.
func (t *tally) Holding(why error) {
	t.mu.Lock()
	news := t.holds != (why != nil)
	t.holds = why != nil
	t.mu.Unlock()
	switch {
	case news && why != nil:
		t.log.Warn("gateway does not take messages", "err", why)
	case news:
		t.log.Info("gateway takes messages again")
	}
}

// Taken is described at handover.Tally.
func (t *tally) Taken(i *handover.Item) {
	t.change(func() {
		t.taken[i.Message.Lane]++
		delete(t.refused, i.Message.Leaf)
	})
}

// Refused is described at handover.Tally. Of a leaf whose messages are all refused
// the first is worth a word.
func (t *tally) Refused(i *handover.Item, why string) {
	news := false
	t.change(func() {
		t.discarded[why]++
		news = t.refused[i.Message.Leaf] != why
		t.refused[i.Message.Leaf] = why
	})
	if news {
		t.log.Warn("messages refused", "leaf", i.Message.Leaf, "reason", why)
	}
}
