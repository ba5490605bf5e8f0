package commands

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// MaxNotices bounds the messages that wait for services. When nobody fetches
// them the oldest make room. The contract names no bound; this one keeps a bench
// alive that runs for days.
const MaxNotices = 10_000

// Notices is a queue towards services: feedback or file notifications. Its
// messages are locked, settled and redelivered like commands. Safe for
// concurrent use.
type Notices struct {
	clock *clock
	batch int

	// The clock guards what follows.
	cfg       Config
	delay     time.Duration
	queue     *queue
	gathering []record // for the next message
	due       alarm    // when it is sent at the latest
}

// record is one notice, about an identity.
type record struct {
	id   registry.ID
	json []byte
}

// NewNotices returns an empty queue. With batch above 1 records are gathered
// into one JSON array, up to that many, for at most delay (section 5.8: 64
// records, 15 s); with 1 each record is a message of its own, not an array.
// The depth of cfg does not count, see MaxNotices.
func NewNotices(cfg Config, batch int, delay time.Duration) *Notices {
	n := &Notices{clock: newClock(), batch: batch, delay: delay, cfg: cfg.withDefaults()}
	n.queue = newQueue(n.clock, &n.cfg)
	n.due.ring = n.sendLocked
	return n
}

// Add appends one record, which is JSON, about an identity. It keeps record.
func (n *Notices) Add(id registry.ID, json []byte) {
	now := n.clock.lock()
	defer n.clock.unlock()
	n.gathering = append(n.gathering, record{id, json})
	switch len(n.gathering) {
	case n.batch:
		n.clock.callOffLocked(&n.due)
		n.sendLocked(now)
	case 1:
		n.clock.setLocked(&n.due, now.Add(n.delay))
	}
}

// sendLocked queues what was gathered.
func (n *Notices) sendLocked(now time.Time) {
	e := &entry{records: n.gathering, message: n.text(n.gathering), expires: now.Add(n.cfg.TTL)}
	n.gathering = nil
	if n.queue.lenLocked() >= MaxNotices && len(n.queue.ready) > 0 {
		n.queue.removeLocked(n.queue.ready[0], forgotten)
	}
	n.queue.addLocked(e, now)
}

// text makes a message from records.
func (n *Notices) text(records []record) *message.Message {
	if n.batch == 1 {
		return &message.Message{Body: records[0].json}
	}
	list := make([][]byte, len(records))
	for i, r := range records {
		list[i] = r.json
	}
	return &message.Message{Body: slices.Concat([]byte("["), bytes.Join(list, []byte(",")), []byte("]"))}
}

// Receive locks and returns the next message, whose body is JSON.
func (n *Notices) Receive() (Delivery, bool) {
	now := n.clock.lock()
	defer n.clock.unlock()
	return n.queue.receiveLocked(now)
}

// Next is Receive that waits until there is one, or until ctx ends; then nothing
// is locked and the error is that of ctx. Who waits longest is served first.
func (n *Notices) Next(ctx context.Context) (Delivery, error) {
	now := n.clock.lock()
	return n.queue.next(ctx, now) // gives the lock up
}

// Complete removes the message; 412002 when its lock has expired or is unknown,
// as for Reject and Abandon.
func (n *Notices) Complete(lock string) error {
	n.clock.lock()
	defer n.clock.unlock()
	e, err := n.queue.heldLocked(lock)
	if err != nil {
		return err
	}
	n.queue.removeLocked(e, success)
	return nil
}

// Reject removes the message too: nobody hears of a refused notice.
func (n *Notices) Reject(lock string) error { return n.Complete(lock) }

// Abandon puts the message back; its delivery count grows. When it has been
// delivered as often as it may be, it is removed.
func (n *Notices) Abandon(lock string) error {
	now := n.clock.lock()
	defer n.clock.unlock()
	e, err := n.queue.heldLocked(lock)
	if err != nil {
		return err
	}
	n.queue.abandonLocked(e, now)
	return nil
}

// Unlock puts the message back without a growing count.
func (n *Notices) Unlock(lock string) {
	now := n.clock.lock()
	defer n.clock.unlock()
	if e, err := n.queue.heldLocked(lock); err == nil {
		n.queue.unlockLocked(e, now)
	}
}

// Drop forgets the records about an identity, wherever they are: those still
// gathered and those in messages, which lose just these records when they are
// delivered again. A message without any other record is gone, and a lock on it
// is lost.
func (n *Notices) Drop(id registry.ID) {
	n.clock.lock()
	defer n.clock.unlock()
	about := func(r record) bool { return r.id == id }
	n.gathering = slices.DeleteFunc(n.gathering, about)
	if len(n.gathering) == 0 {
		n.clock.callOffLocked(&n.due)
	}
	for _, e := range n.queue.entriesLocked() {
		if !slices.ContainsFunc(e.records, about) {
			continue
		}
		e.records = slices.DeleteFunc(e.records, about)
		if len(e.records) == 0 {
			n.queue.removeLocked(e, forgotten)
			continue
		}
		e.message = n.text(e.records) // a new one: the old one may be with a receiver
	}
}

// Len returns how many messages wait or are locked; records that are still being
// gathered do not count.
func (n *Notices) Len() int {
	n.clock.lock()
	defer n.clock.unlock()
	return n.queue.lenLocked()
}

// Configure changes the configuration. What is queued keeps its expiry, what is
// locked keeps its lock.
func (n *Notices) Configure(cfg Config) {
	n.clock.lock()
	defer n.clock.unlock()
	n.cfg = cfg.withDefaults()
}

// SetDelay changes how long records are gathered, for those to come. Tests that
// wait for feedback need not wait as long as the hub does.
func (n *Notices) SetDelay(d time.Duration) {
	n.clock.lock()
	defer n.clock.unlock()
	n.delay = d
}

// Close ends the timers. Nothing may be called after it, and nobody may wait.
func (n *Notices) Close() { n.clock.close() }
