package commands

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// entry is one message in its queue, from its arrival until it is settled,
// expires or is taken away.
//
//	          lock                 complete, reject
//	ready ------------> locked ----------------------> gone
//	  ^                   |                              ^
//	  +-------------------+   expiry and purge, from both
//	    abandon, lock lost    the last abandon, from locked
type entry struct {
	alarm    // lock expiry or message expiry, whichever comes first
	message  *message.Message
	sequence uint64
	enqueued time.Time
	expires  time.Time
	returned int    // deliveries that were abandoned
	lock     string // token of the delivery; "" while ready
	lockEnds time.Time
	gone     func(why outcome) // told when the entry has left; nil when nobody cares
	records  []record          // of a Notices: what the message is made from
}

// queue is messages in order, for one receiver at a time or several. The lock of
// the clock guards it.
type queue struct {
	clock    *clock
	cfg      *Config           // of the owner
	ready    []*entry          // by sequence
	locked   map[string]*entry // by lock token
	waiting  []chan Delivery   // of receivers, in order of arrival; each holds one
	sequence uint64            // of the newest entry
}

func newQueue(c *clock, cfg *Config) *queue {
	return &queue{clock: c, cfg: cfg, locked: make(map[string]*entry)}
}

func (q *queue) lenLocked() int { return len(q.ready) + len(q.locked) }

// addLocked puts a new entry, with message and expires, at the end.
func (q *queue) addLocked(e *entry, now time.Time) {
	q.sequence++
	e.sequence, e.enqueued = q.sequence, now
	e.ring = func(now time.Time) { q.dueLocked(e, now) }
	q.readyLocked(e, now)
}

// readyLocked puts an entry at its place in the order and serves those who wait.
// An entry that has been locked before gets its old place back, which is our
// choice: the contract does not know what the hub does (open point 11.6).
func (q *queue) readyLocked(e *entry, now time.Time) {
	i, _ := slices.BinarySearchFunc(q.ready, e.sequence, bySequence)
	q.ready = slices.Insert(q.ready, i, e)
	q.clock.setLocked(&e.alarm, e.expires)
	for len(q.waiting) > 0 {
		d, ok := q.receiveLocked(now)
		if !ok {
			return
		}
		q.waiting[0] <- d
		q.waiting = slices.Delete(q.waiting, 0, 1)
	}
}

func bySequence(e *entry, sequence uint64) int { return cmp.Compare(e.sequence, sequence) }

// receiveLocked locks the first ready entry.
func (q *queue) receiveLocked(now time.Time) (Delivery, bool) {
	if len(q.ready) == 0 {
		return Delivery{}, false
	}
	e := q.ready[0]
	q.ready = slices.Delete(q.ready, 0, 1)
	e.lock, e.lockEnds = message.NewGUID(), now.Add(q.cfg.Lock)
	q.locked[e.lock] = e
	q.clock.setLocked(&e.alarm, earlier(e.lockEnds, e.expires))
	return Delivery{
		Message: e.message, LockToken: e.lock,
		Sequence: e.sequence, Enqueued: e.enqueued, Count: e.returned,
	}, true
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// dueLocked is called when the message or the lock on it expires. A lock that
// expires does not count as a delivery (trap 9.24).
func (q *queue) dueLocked(e *entry, now time.Time) {
	if !e.expires.After(now) {
		q.removeLocked(e, expired)
		return
	}
	q.unlockLocked(e, now)
}

// unlockLocked makes a locked entry ready again.
func (q *queue) unlockLocked(e *entry, now time.Time) {
	delete(q.locked, e.lock)
	e.lock = ""
	q.readyLocked(e, now)
}

// abandonLocked makes a locked entry ready again, or takes it out when that was
// the last delivery allowed.
func (q *queue) abandonLocked(e *entry, now time.Time) {
	e.returned++
	if e.returned >= q.cfg.MaxDelivery {
		q.removeLocked(e, exceeded)
		return
	}
	q.unlockLocked(e, now)
}

// removeLocked takes an entry out, ready or locked.
func (q *queue) removeLocked(e *entry, why outcome) {
	q.clock.callOffLocked(&e.alarm)
	if e.lock != "" {
		delete(q.locked, e.lock)
	} else if i, ok := slices.BinarySearchFunc(q.ready, e.sequence, bySequence); ok {
		q.ready = slices.Delete(q.ready, i, i+1)
	}
	if e.gone != nil {
		e.gone(why)
	}
}

// clearLocked takes everything out, in order, and returns how much that was.
func (q *queue) clearLocked(why outcome) int {
	all := q.entriesLocked()
	for _, e := range all {
		q.removeLocked(e, why)
	}
	return len(all)
}

// entriesLocked returns all entries in order.
func (q *queue) entriesLocked() []*entry {
	all := slices.Clone(q.ready)
	for _, e := range q.locked {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *entry) int { return bySequence(a, b.sequence) })
	return all
}

// heldLocked returns the entry with a lock; 412002 when there is none.
func (q *queue) heldLocked(lock string) (*entry, error) {
	if q != nil {
		if e := q.locked[lock]; e != nil {
			return e, nil
		}
	}
	return nil, refusal.New(412002, "the lock is not held: "+lock)
}

// next waits for a delivery. It is called with the lock held and gives it up. A
// receiver that gives up at the very moment a delivery comes hands it back, so
// an error means that nothing is locked.
func (q *queue) next(ctx context.Context, now time.Time) (Delivery, error) {
	d, ok := q.receiveLocked(now)
	if ok {
		q.clock.unlock()
		return d, nil
	}
	c := make(chan Delivery, 1)
	q.waiting = append(q.waiting, c)
	q.clock.unlock()
	select {
	case d := <-c:
		return d, nil
	case <-ctx.Done():
	}
	now = q.clock.lock()
	defer q.clock.unlock()
	select {
	case d := <-c:
		if e := q.locked[d.LockToken]; e != nil {
			q.unlockLocked(e, now)
		}
	default:
		q.waiting = slices.DeleteFunc(q.waiting, func(w chan Delivery) bool { return w == c })
	}
	return Delivery{}, ctx.Err()
}
