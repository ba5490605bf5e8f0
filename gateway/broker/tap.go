package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

// An operator listens without a login: what leaves send, when it is in custody, and
// what the gateway says of itself; or in the place of a leaf, what is for that one.
// Whether somebody may is for whoever opens a tap to know.

const (
	// maxTaps is how many operators may listen at a time.
	maxTaps = 16
	// maxTapped and maxTappedBytes bound what waits for one who does not read. What
	// comes then is dropped and counted: a leaf must never wait for an operator.
	maxTapped      = 1000
	maxTappedBytes = 1 << 20
)

// Errors of taps.
var (
	// ErrNoTopic says that nothing can ever come there, or be published.
	ErrNoTopic = errors.New("not a topic for this")
	// ErrTaps says that too many listen.
	ErrTaps = fmt.Errorf("%d operators listen already", maxTaps)
)

// Tapped is one publication, as an operator hears it. It must not be changed.
type Tapped struct {
	Topic      string
	Payload    []byte
	Properties []gateway.Property
	MessageID  string // "" where there is none
	Retained   bool   // it was said before the tap was opened
	Dropped    uint64 // how many before this one did not fit

	answer func(gateway.Verdict) // nil: nobody waits for a word
}

func (x *Tapped) size() int {
	n := len(x.Topic) + len(x.Payload)
	for _, p := range x.Properties {
		n += len(p.Name) + len(p.Value)
	}
	return n
}

// Taken says that the operator has it, or that it was lost on the way. It is to be
// called once for each that Next has returned: what the hub sends is settled by it.
func (x *Tapped) Taken(ok bool) {
	switch {
	case x.answer == nil:
	case ok:
		x.answer(gateway.Completed)
	default:
		x.answer(gateway.Undelivered)
	}
}

// Tap is what one operator hears. Safe for concurrent use.
type Tap struct {
	b     *Broker
	leaf  string // in whose place; "" for an operator's own
	subs  []subscription
	wants gateway.Interest

	mu      sync.Mutex
	queue   []*Tapped     // guarded by mu
	bytes   int           // of queue
	dropped uint64        // not yet said
	missed  bool          // there was no room for what the hub sends: guarded by mu
	closed  bool          // guarded by mu
	news    chan struct{} // capacity 1: queue is not empty
}

var _ gateway.Reach = (*Tap)(nil)

// Tap opens one for filters: of topics leaf/{id}/telemetry…, leaf/{id}/alarm… and
// fieldgate/…, or, with a leaf, of those to which that leaf itself may subscribe for
// commands and desired properties; methods are for leaves to answer. While a tap in
// the place of a leaf is open, commands for that leaf may come there and not to the
// leaf. fresh leaves out what was said before. The error is ErrTaps, or wraps
// ErrNoTopic.
func (b *Broker) Tap(leaf string, filters []string, fresh bool) (*Tap, error) {
	t := &Tap{b: b, leaf: leaf, news: make(chan struct{}, 1)}
	for _, f := range filters {
		sub, err := tapFilter(leaf, f)
		if err != nil {
			return nil, err
		}
		t.subs = append(t.subs, sub)
	}
	if leaf != "" {
		if err := b.addTap(t); err != nil {
			return nil, err
		}
		t.wants = interest(t.subs) &^ gateway.WantsCalls
		b.attendance.Attend(leaf, t, t.wants)
		return t, nil
	}
	b.saying.Lock() // what is said now comes behind what was said before
	defer b.saying.Unlock()
	if err := b.addTap(t); err != nil || fresh {
		return t, err
	}
	for _, topic := range slices.Sorted(maps.Keys(b.said)) {
		t.hear(topic, func() *Tapped { return &Tapped{Payload: b.said[topic], Retained: true} })
	}
	return t, nil
}

func (b *Broker) addTap(t *Tap) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	taps := b.taps.Load()
	if taps == nil {
		taps = new([]*Tap)
	}
	if len(*taps) >= maxTaps {
		return ErrTaps
	}
	more := append(slices.Clone(*taps), t)
	b.taps.Store(&more)
	return nil
}

// Close ends the tap. What was not taken is as if it had never come.
func (t *Tap) Close() {
	b := t.b
	b.mu.Lock()
	fewer := slices.DeleteFunc(slices.Clone(*b.taps.Load()), func(x *Tap) bool { return x == t })
	b.taps.Store(&fewer)
	b.mu.Unlock()
	if t.leaf != "" {
		b.attendance.Attend(t.leaf, t, 0)
	}
	t.mu.Lock()
	lost := t.queue
	t.queue, t.bytes, t.closed = nil, 0, true
	t.mu.Unlock()
	for _, x := range lost {
		x.Taken(false)
	}
}

// Next waits for what comes next, until ctx ends.
func (t *Tap) Next(ctx context.Context) (*Tapped, error) {
	for {
		t.mu.Lock()
		if len(t.queue) > 0 {
			x := t.queue[0]
			t.queue = t.queue[1:]
			t.bytes -= x.size()
			again := t.missed && len(t.queue) == 0
			t.missed = t.missed && !again
			t.mu.Unlock()
			if again { // what it could not take is tried once more
				t.b.attendance.Attend(t.leaf, t, t.wants)
			}
			return x, nil
		}
		t.mu.Unlock()
		select {
		case <-t.news:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// add queues what there is room for.
func (t *Tap) add(x *Tapped) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	if len(t.queue) >= maxTapped || t.bytes+x.size() > maxTappedBytes && len(t.queue) > 0 {
		if t.leaf != "" {
			t.missed = true
			return false
		}
		t.dropped++
		t.b.counters.count(func(s *State) { s.TapDropped++ })
		return false
	}
	x.Dropped, t.dropped = t.dropped, 0
	t.queue = append(t.queue, x)
	t.bytes += x.size()
	select {
	case t.news <- struct{}{}:
	default:
	}
	return true
}

// hear queues what comes on a topic that a filter matches.
func (t *Tap) hear(topic string, make func() *Tapped) {
	if t.leaf != "" || !slices.ContainsFunc(t.subs, func(s subscription) bool { return plain.Overlap(s.filter, topic) }) {
		return
	}
	x := make()
	x.Topic = topic
	t.add(x)
}

// tell tells all who listen.
func (b *Broker) tell(topic string, make func() *Tapped) {
	if taps := b.taps.Load(); taps != nil {
		for _, t := range *taps {
			t.hear(topic, make)
		}
	}
}

// tapped says whether anybody listens.
func (b *Broker) tapped() bool {
	taps := b.taps.Load()
	return taps != nil && len(*taps) > 0
}

// tellMessage tells what a leaf has sent.
func (b *Broker) tellMessage(m *gateway.Message) {
	if b.tapped() {
		b.tell(plain.Topic(plain.Level(m.Leaf), heardRest(m)), func() *Tapped {
			return &Tapped{Payload: m.Body, Properties: m.Properties, MessageID: m.System.MessageID}
		})
	}
}

// tapFilter reads a filter of an operator, in the place of a leaf or not.
func tapFilter(leaf, filter string) (subscription, error) {
	refused := func(why string) (subscription, error) {
		return subscription{}, fmt.Errorf("%w: %q: %s", ErrNoTopic, filter, why)
	}
	if !validFilter(filter) || len(filter) > maxString || strings.Contains(filter, "\x00") {
		return refused("a + and a # stand for whole levels, a # for the last ones")
	}
	if leaf == "" {
		for _, topic := range []string{"leaf/+/telemetry", "leaf/+/alarm", saidTopics + "/+"} {
			// A channel may have levels, and no more than the filter need be looked at.
			more := max(0, strings.Count(filter, "/")-strings.Count(topic, "/"))
			if plain.Overlap(filter, topic+strings.Repeat("/+", more)) {
				return subscription{filter: filter}, nil
			}
		}
		return refused("what leaves send is on leaf/{id}/telemetry/… and leaf/{id}/alarm/…, what the gateway says of itself on fieldgate/…; what a leaf hears comes in its place only")
	}
	sub, ok := parseFilter(leaf, filter)
	if !ok {
		return refused("it is none of this leaf's")
	}
	if interest([]subscription{sub})&^gateway.WantsCalls == 0 {
		return refused("only commands and desired properties come to who is no leaf")
	}
	return sub, nil
}

// Command is described at gateway.DownHandler.
func (t *Tap) Command(c *gateway.Command, answer func(gateway.Verdict)) {
	x := &Tapped{Payload: c.Body, Properties: c.Properties, MessageID: c.System.MessageID, answer: t.b.counted(answer)}
	rest := "command/" + plain.CommandName(c)
	if sub, ok := find(t.subs, toCommands, ""); ok {
		x.Topic = hub.CommandTopic(sub.level, c)
	} else if sub, ok := find(t.subs, toPlain, rest); ok {
		x.Topic = plain.Topic(sub.level, rest)
	}
	switch {
	case x.Topic == "": // as from a leaf that listens for other names: see desk.command
		x.answer(gateway.Rejected)
	case !t.add(x):
		x.answer(gateway.Undelivered)
	}
}

// Call is described at gateway.DownHandler.
func (t *Tap) Call(context.Context, *gateway.Call) (*gateway.Reply, error) {
	return nil, gateway.ErrAbsent
}

// Desired is described at gateway.DownHandler.
func (t *Tap) Desired(_ string, patch []byte, version int64, heard func()) {
	x := &Tapped{Payload: patch, answer: func(v gateway.Verdict) {
		if v == gateway.Completed {
			heard()
		}
	}}
	if _, ok := find(t.subs, toDesired, ""); ok {
		x.Topic = hub.DesiredTopic(version)
	} else if sub, ok := find(t.subs, toPlain, plain.Desired); ok {
		x.Topic = plain.Topic(sub.level, plain.Desired)
	} else {
		return
	}
	t.add(x)
}
