// Package handover brings messages of leaves that cannot send again into
// custody, in order. A sensor on a serial line or in the air has no way to be
// asked for a repetition, so a message that the store cannot take now is held and
// tried again. It is for the drivers of such leaves; a leaf that repeats what was
// not acknowledged does not need it.
package handover

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// How long a message that the store refused waits for its next attempt: from
// retryMin, doubled each time up to retryMax.
const (
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second
)

// Queue is what stands between a driver and custody, for one port or adapter.
// Messages behind one that is held wait. Only a message that the gateway will
// never take is given up.
//
//	Put ──► line: [ out out out waiting waiting ] ──► retired from its head
//	              Run hands over ─┘                   when its fate is known
//
// After a refusal nothing is handed over until the fate of all that is out is
// known. Then the first one still waiting is tried alone, and only when it is
// taken do the others follow. Custody refuses whole suffixes, so order is kept.
type Queue struct {
	up    gateway.Handler
	max   int // length of line at which Put waits
	tally Tally

	wake chan struct{} // to Run: look again
	room chan struct{} // to Put: look again

	mu sync.Mutex
	// guarded by mu:
	line     []*Item
	out      int           // how many of line are out
	holding  error         // why one came back, nil when all goes well
	pause    time.Duration // before the next attempt, while holding
	resumeAt time.Time     // of the next attempt, while holding
}

// Item is a message between a leaf and custody. Whoever makes it fills the
// exported fields.
type Item struct {
	Message *gateway.Message
	Size    int // bytes on the wire, for whoever counts
	// Answer tells the leaf what became of it, without blocking. false means
	// not now: it will be called again after Wake. nil when leaves are not
	// answered.
	Answer func(taken bool) bool

	// guarded by the queue's mu:
	fate  fate
	alone bool // the one attempt while holding
	why   string
}

// Tally is told how it goes. No lock is held meanwhile, and custody does not
// wait for it, except for Waiting.
type Tally interface {
	Waiting(n int)               // so many are not in custody yet; must not block
	Holding(why error)           // the store refuses, or nil: it takes again; also when nothing has changed
	Taken(i *Item)               // is in custody
	Refused(i *Item, why string) // never will be: one of the reasons below
}

// Why the gateway never takes a message. The texts are label values of metrics.
const (
	UnknownLeaf = "unknown_leaf" // the gateway does not know the leaf, or has disabled it
	TooLarge    = "too_large"    // more than the hub takes
	Refused     = "refused"      // for another reason
)

type fate uint8

const (
	waiting fate = iota // to be handed over
	out                 // handed over, Done not yet called
	taken               // in custody
	refused             // for ever
)

// New makes a queue in which at most max messages wait.
func New(max int, up gateway.Handler, t Tally) *Queue {
	return &Queue{up: up, max: max, tally: t, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// Put adds a message at the end and waits while the line is full. The error is
// that of ctx. Only one goroutine may put.
func (q *Queue) Put(ctx context.Context, p *Item) error {
	for {
		q.mu.Lock()
		if len(q.line) < q.max {
			q.line = append(q.line, p)
			q.tally.Waiting(len(q.line))
			q.mu.Unlock()
			signal(q.wake)
			return nil
		}
		q.mu.Unlock()
		select {
		case <-q.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Offer adds a message at the end and does not wait: while the line is full the oldest
// one that was not handed over gives way, and if there is none the message itself.
// dropped says that one was. For what cannot be held back, like what is in the air.
// Safe for concurrent use.
func (q *Queue) Offer(p *Item) (dropped bool) {
	q.mu.Lock()
	if dropped = len(q.line) >= q.max; dropped {
		i := slices.IndexFunc(q.line, func(x *Item) bool { return x.fate == waiting })
		if i < 0 {
			q.mu.Unlock()
			return true
		}
		q.line = slices.Delete(q.line, i, i+1)
	}
	q.line = append(q.line, p)
	q.tally.Waiting(len(q.line))
	q.mu.Unlock()
	signal(q.wake)
	return dropped
}

// Room says whether there is room for n more messages.
func (q *Queue) Room(n int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.line)+n <= q.max
}

// Wake says that there may be room for an answer again. It does not block.
func (q *Queue) Wake() { signal(q.wake) }

// Run hands over until ctx ends. What is then not in custody stays with its
// leaf, which has had no answer.
func (q *Queue) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		q.report(q.retire())
		p, wait := q.next()
		if p != nil {
			// A copy for each attempt: the gateway writes into what it takes.
			m := *p.Message
			q.up.Handle(ctx, &m, func(err error) { q.settled(p, err) })
			continue
		}
		timer.Reset(wait)
		select {
		case <-q.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// retire answers and forgets messages from the head of the line, as far as their
// fate is known. It returns them and why the others are being held, if they are.
func (q *Queue) retire() (gone []*Item, holding error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, p := range q.line {
		if p.fate != taken && p.fate != refused || p.Answer != nil && !p.Answer(p.fate == taken) {
			break
		}
		n++
	}
	if n > 0 {
		gone = slices.Clone(q.line[:n])
		q.line = slices.Delete(q.line, 0, n)
		q.tally.Waiting(len(q.line))
		signal(q.room)
	}
	return gone, q.holding
}

// report counts, and logs, what retire returned. It holds no lock: the gateway
// must never wait in a Done for a log.
func (q *Queue) report(gone []*Item, holding error) {
	q.tally.Holding(holding)
	for _, p := range gone {
		if p.fate == taken {
			q.tally.Taken(p)
		} else {
			q.tally.Refused(p, p.why)
		}
	}
}

// next returns the message to hand over now, or how long there will be none if
// nothing wakes Run before.
func (q *Queue) next() (*Item, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	const idle = time.Hour
	if q.holding != nil {
		if q.out > 0 {
			return nil, idle
		}
		if wait := time.Until(q.resumeAt); wait > 0 {
			return nil, wait
		}
	}
	for _, p := range q.line {
		if p.fate == waiting {
			p.fate, p.alone = out, q.holding != nil
			q.out++
			return p, 0
		}
	}
	return nil, idle
}

// settled is the Done of p.
func (q *Queue) settled(p *Item, err error) {
	q.mu.Lock()
	q.out--
	again := false
	p.fate, p.why, again = judge(err)
	switch {
	case again && q.holding == nil:
		q.holding, q.pause = err, retryMin
	case again && p.alone:
		q.pause = min(2*q.pause, retryMax)
	case p.alone:
		q.holding = nil
	}
	if again {
		q.resumeAt = time.Now().Add(q.pause/2 + rand.N(q.pause/2))
	}
	p.alone = false
	q.mu.Unlock()
	signal(q.wake)
}

// judge says what an error from the gateway means for a message, and whether to
// try it again.
func judge(err error) (f fate, why string, again bool) {
	switch {
	case err == nil:
		return taken, "", false
	case errors.Is(err, gateway.ErrStoreFull), errors.Is(err, gateway.ErrStoreFailed), errors.Is(err, gateway.ErrShuttingDown),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return waiting, "", true
	case errors.Is(err, gateway.ErrUnknownLeaf):
		return refused, UnknownLeaf, false
	case errors.Is(err, gateway.ErrTooLarge):
		return refused, TooLarge, false
	}
	return refused, Refused, false
}

// signal leaves a note in a channel of capacity one. One is enough: whoever reads
// it looks at everything.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
