package serial

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

// handover brings messages into custody, in the order in which they were put
// in. A serial line has no way to ask for a repetition, so a message that the
// store cannot take now is held and tried again; later ones wait behind it.
// Only a message that the gateway will never take is given up and counted.
//
//	put ──► line: [ out out out waiting waiting ] ──► retired from its head
//	              run hands over ─┘                   when its fate is known
//
// After a refusal nothing is handed over until the fate of all that is out is
// known. Then the first one still waiting is tried alone, and only when it is
// taken do the others follow. Custody refuses whole suffixes, so order is kept.
type handover struct {
	up    gateway.Handler
	max   int // length of line at which put waits
	tally *tally

	wake chan struct{} // to run: look again
	room chan struct{} // to put: look again

	mu sync.Mutex
	// guarded by mu:
	line     []*pending
	out      int           // how many of line are out
	holding  error         // why one came back, nil when all goes well
	pause    time.Duration // before the next attempt, while holding
	resumeAt time.Time     // of the next attempt, while holding
}

// pending is a message between the port and custody.
type pending struct {
	msg  *gateway.Message
	size int // bytes of its line on the wire
	// answer tells the leaf what became of it, without blocking. false means
	// not now: it will be called again. nil when leaves are not answered.
	answer func(taken bool) bool

	// guarded by the handover's mu:
	fate  fate
	alone bool // the one attempt while holding
	why   Discard
}

type fate uint8

const (
	waiting fate = iota // to be handed over
	out                 // handed over, Done not yet called
	taken               // in custody
	refused             // for ever
)

func newHandover(max int, up gateway.Handler, t *tally) *handover {
	return &handover{up: up, max: max, tally: t, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// put adds a message at the end and waits while the line is full. The error is
// that of ctx. Only one goroutine may put.
func (h *handover) put(ctx context.Context, p *pending) error {
	for {
		h.mu.Lock()
		if len(h.line) < h.max {
			h.line = append(h.line, p)
			h.tally.waiting(len(h.line))
			h.mu.Unlock()
			signal(h.wake)
			return nil
		}
		h.mu.Unlock()
		select {
		case <-h.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// run hands over until ctx ends. What is then not in custody stays with its
// leaf, which has had no answer.
func (h *handover) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		h.report(h.retire())
		p, wait := h.next()
		if p != nil {
			// A copy for each attempt: the gateway writes into what it takes.
			m := *p.msg
			h.up.Handle(ctx, &m, func(err error) { h.settled(p, err) })
			continue
		}
		timer.Reset(wait)
		select {
		case <-h.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// retire answers and forgets messages from the head of the line, as far as their
// fate is known. It returns them and why the others are being held, if they are.
func (h *handover) retire() (gone []*pending, holding error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, p := range h.line {
		if p.fate != taken && p.fate != refused || p.answer != nil && !p.answer(p.fate == taken) {
			break
		}
		n++
	}
	if n > 0 {
		gone = slices.Clone(h.line[:n])
		h.line = slices.Delete(h.line, 0, n)
		h.tally.waiting(len(h.line))
		signal(h.room)
	}
	return gone, h.holding
}

// report counts, and logs, what retire returned. It holds no lock: the gateway
// must never wait in a Done for a log.
func (h *handover) report(gone []*pending, holding error) {
	h.tally.holding(holding)
	for _, p := range gone {
		if p.fate == taken {
			h.tally.taken(p.size)
		} else {
			h.tally.discard(p.why, p.size)
		}
	}
}

// next returns the message to hand over now, or how long there will be none if
// nothing wakes run before.
func (h *handover) next() (*pending, time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	const idle = time.Hour
	if h.holding != nil {
		if h.out > 0 {
			return nil, idle
		}
		if wait := time.Until(h.resumeAt); wait > 0 {
			return nil, wait
		}
	}
	for _, p := range h.line {
		if p.fate == waiting {
			p.fate, p.alone = out, h.holding != nil
			h.out++
			return p, 0
		}
	}
	return nil, idle
}

// settled is the Done of p.
func (h *handover) settled(p *pending, err error) {
	h.mu.Lock()
	h.out--
	again := false
	p.fate, p.why, again = judge(err)
	switch {
	case again && h.holding == nil:
		h.holding, h.pause = err, retryMin
	case again && p.alone:
		h.pause = min(2*h.pause, retryMax)
	case p.alone:
		h.holding = nil
	}
	if again {
		h.resumeAt = time.Now().Add(h.pause/2 + rand.N(h.pause/2))
	}
	p.alone = false
	h.mu.Unlock()
	signal(h.wake)
}

// judge says what an error from the gateway means for a message, and whether to
// try it again.
func judge(err error) (f fate, why Discard, again bool) {
	switch {
	case err == nil:
		return taken, "", false
	case errors.Is(err, gateway.ErrStoreFull), errors.Is(err, gateway.ErrStoreFailed), errors.Is(err, gateway.ErrShuttingDown),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return waiting, "", true
	case errors.Is(err, gateway.ErrUnknownLeaf):
		return refused, DiscardUnknownLeaf, false
	case errors.Is(err, gateway.ErrTooLarge):
		return refused, DiscardTooLarge, false
	}
	return refused, DiscardRefused, false
}

// signal leaves a note in a channel of capacity one. One is enough: whoever reads
// it looks at everything.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
