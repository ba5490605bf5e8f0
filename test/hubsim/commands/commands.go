// Package commands keeps cloud-to-device messages until devices have taken them,
// and the feedback that their senders asked for (wire contract, sections 3.6,
// 4.2 and 5.8).
//
// A command waits in the queue of its device, in order. A receiver locks it,
// which hides it from others, and settles it: completed and rejected commands
// are gone, abandoned ones and those whose lock has expired or whose link has
// ended are back at their old place. Time ends every command at its expiry,
// locked or not. What became of a command is told in a feedback record, which
// goes to services through Notices, a queue with the same rules.
package commands

import (
	"context"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// Limits of a command (sections 5.8 and 6.2).
const (
	MaxSize = 64 << 10       // bytes, as message.Message.Size counts
	MaxTTL  = 48 * time.Hour // from now to the expiry that a sender may ask for
)

// Config are the properties of the queues, as the resource provider shows them.
// Zero fields mean the default.
type Config struct {
	Depth       int           // messages of one device; default 50, then 403004
	TTL         time.Duration // of messages without expiry; default 1h
	Lock        time.Duration // default 60s
	MaxDelivery int           // how often a message may be delivered and abandoned; default 10
}

func (c Config) withDefaults() Config {
	if c.Depth == 0 {
		c.Depth = 50
	}
	if c.TTL == 0 {
		c.TTL = time.Hour
	}
	if c.Lock == 0 {
		c.Lock = time.Minute
	}
	if c.MaxDelivery == 0 {
		c.MaxDelivery = 10
	}
	return c
}

// Delivery is one message handed to a device, locked until it is settled. It
// belongs to the receiver; Message does not change.
type Delivery struct {
	Message   *message.Message
	LockToken string // GUID text
	Sequence  uint64 // in the device's queue, from 1
	Enqueued  time.Time
	Count     int // deliveries that were abandoned before this one
}

// Queues are the queues of all identities. Safe for concurrent use.
type Queues struct {
	clock      *clock
	cfg        Config                 // guarded by the clock, like queues
	queues     map[registry.ID]*queue // of identities that were sent to or wait
	feedback   *Notices
	generation func(registry.ID) string
}

// New returns empty queues. Feedback goes to feedback; generation tells the
// generation of an identity's registration and is called without locks held.
func New(cfg Config, feedback *Notices, generation func(registry.ID) string) *Queues {
	return &Queues{
		clock:      newClock(),
		cfg:        cfg.withDefaults(),
		queues:     make(map[registry.ID]*queue),
		feedback:   feedback,
		generation: generation,
	}
}

// Configure changes the configuration. What is queued keeps its expiry, what is
// locked keeps its lock.
func (q *Queues) Configure(cfg Config) {
	q.clock.lock()
	defer q.clock.unlock()
	q.cfg = cfg.withDefaults()
}

// Send queues m for a device. It fails with 403004 when the queue is full,
// 400004 for a bad ack or feedback without id, 403009 for an expiry that has
// passed or is more than two days away, 413001 above 64 KiB. The caller has
// checked that the identity exists.
func (q *Queues) Send(id registry.ID, m *message.Message) error {
	if err := check(m); err != nil {
		return err
	}
	e := &entry{message: m, gone: q.reporter(id, m)}
	now := q.clock.lock()
	defer q.clock.unlock()
	e.expires = now.Add(q.cfg.TTL)
	if !m.Expiry.IsZero() {
		left := m.Expiry.Sub(now)
		if left <= 0 || left > MaxTTL {
			return refusal.New(403009, "the expiry must be at most two days away and not in the past")
		}
		e.expires = now.Add(left) // by the clock that alarms go by
	}
	list := q.ofLocked(id)
	if list.lenLocked() >= q.cfg.Depth {
		return refusal.New(403004, "too many messages wait for "+id.String())
	}
	list.addLocked(e, now)
	return nil
}

// check refuses what no queue takes.
func check(m *message.Message) error {
	switch m.Ack {
	case "", "none":
	case "positive", "negative", "full":
		if m.ID == "" { // trap 9.25
			return refusal.New(400004, "feedback needs a message id to refer to")
		}
	default:
		return refusal.New(400004, "iothub-ack must be none, positive, negative or full")
	}
	if m.Size() > MaxSize {
		return refusal.New(413001, "a command may have 64 KiB")
	}
	return nil
}

// ofLocked returns the queue of an identity, a new one if need be.
func (q *Queues) ofLocked(id registry.ID) *queue {
	list := q.queues[id]
	if list == nil {
		list = newQueue(q.clock, &q.cfg)
		q.queues[id] = list
	}
	return list
}

// tidyLocked lets a queue go that holds nothing worth keeping.
func (q *Queues) tidyLocked(id registry.ID) {
	if list := q.queues[id]; list != nil && list.sequence == 0 && len(list.waiting) == 0 {
		delete(q.queues, id)
	}
}

// Receive locks and returns the next message; false when there is none.
func (q *Queues) Receive(id registry.ID) (Delivery, bool) {
	now := q.clock.lock()
	defer q.clock.unlock()
	if list := q.queues[id]; list != nil {
		return list.receiveLocked(now)
	}
	return Delivery{}, false
}

// Next is Receive that waits until there is one, or until ctx ends; then nothing
// is locked and the error is that of ctx. Who waits longest is served first.
func (q *Queues) Next(ctx context.Context, id registry.ID) (Delivery, error) {
	now := q.clock.lock()
	d, err := q.ofLocked(id).next(ctx, now) // gives the lock up
	if err != nil {
		q.clock.lock()
		defer q.clock.unlock()
		q.tidyLocked(id)
	}
	return d, err
}

// Complete takes a delivery off the queue for good; 412002 when its lock has
// expired or is unknown, as for Reject and Abandon.
func (q *Queues) Complete(id registry.ID, lock string) error { return q.settle(id, lock, success) }

// Reject dead-letters the delivery.
func (q *Queues) Reject(id registry.ID, lock string) error { return q.settle(id, lock, rejected) }

func (q *Queues) settle(id registry.ID, lock string, how outcome) error {
	q.clock.lock()
	defer q.clock.unlock()
	list := q.queues[id]
	e, err := list.heldLocked(lock)
	if err != nil {
		return err
	}
	list.removeLocked(e, how)
	return nil
}

// Abandon puts the message back; its delivery count grows. When it has been
// delivered as often as it may be, it is dead-lettered instead.
func (q *Queues) Abandon(id registry.ID, lock string) error {
	now := q.clock.lock()
	defer q.clock.unlock()
	list := q.queues[id]
	e, err := list.heldLocked(lock)
	if err != nil {
		return err
	}
	list.abandonLocked(e, now)
	return nil
}

// Unlock puts a message back without a growing count: the link or connection
// it was delivered on has ended. Unknown locks are ignored.
func (q *Queues) Unlock(id registry.ID, lock string) {
	now := q.clock.lock()
	defer q.clock.unlock()
	list := q.queues[id]
	if e, err := list.heldLocked(lock); err == nil {
		list.unlockLocked(e, now)
	}
}

// Purge empties the queue, locked messages included, and returns how many
// messages that cost.
func (q *Queues) Purge(id registry.ID) int {
	q.clock.lock()
	defer q.clock.unlock()
	if list := q.queues[id]; list != nil {
		return list.clearLocked(purged)
	}
	return 0
}

// Drop forgets everything of a deleted identity. After it the queues add no
// feedback about what was sent before; what they had added is for Notices.Drop.
func (q *Queues) Drop(id registry.ID) {
	q.clock.lock()
	defer q.clock.unlock()
	list := q.queues[id]
	if list == nil {
		return
	}
	list.clearLocked(forgotten)
	list.sequence = 0
	q.tidyLocked(id)
}

// Len returns how many messages are queued or locked.
func (q *Queues) Len(id registry.ID) int {
	q.clock.lock()
	defer q.clock.unlock()
	if list := q.queues[id]; list != nil {
		return list.lenLocked()
	}
	return 0
}

// Close ends the timers. Nothing may be called after it, and nobody may wait.
func (q *Queues) Close() { q.clock.close() }
