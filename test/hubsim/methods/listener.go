package methods

import (
	"context"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// listener is a device that takes requests.
type listener struct {
	mu      sync.Mutex // held while deliver runs; guards deliver
	deliver func(Request)
}

// take hands a request over; false when the listener has ended.
func (l *listener) take(r Request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.deliver == nil {
		return false
	}
	l.deliver(r)
	return true
}

// end waits for a deliver that runs, and lets no other one begin.
func (l *listener) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deliver = nil
}

// Listen has deliver called with each request for the identity until cancel; a
// listener that comes later takes the place of an earlier one, which gets none
// after Listen has returned. deliver must not wait, and must not call Listen or
// cancel; it may call Answer. After cancel has returned deliver is not called
// any more.
func (e *Exchange) Listen(id registry.ID, deliver func(Request)) (cancel func()) {
	l := &listener{deliver: deliver}
	e.mu.Lock()
	older := e.listeners[id]
	e.listeners[id] = l
	close(e.arrival)
	e.arrival = make(chan struct{})
	e.mu.Unlock()
	if older != nil {
		older.end()
	}
	return func() {
		e.mu.Lock()
		if e.listeners[id] == l {
			delete(e.listeners, id)
		}
		e.mu.Unlock()
		l.end()
	}
}

// handOver gives a request to whoever listens, at the latest when the connect
// timeout is over.
func (e *Exchange) handOver(ctx context.Context, id registry.ID, r Request, patience time.Duration) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		l, arrival := e.listener(id)
		if l != nil {
			if l.take(r) {
				return nil
			}
			continue // it has just ended or been replaced
		}
		if patience == 0 {
			return notOnline(id)
		}
		select {
		case <-arrival:
		case <-timer.C:
			return notOnline(id)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func notOnline(id registry.ID) error {
	return refusal.New(404103, id.String()+" is not connected or takes no methods")
}

// listener returns who listens for an identity, nil when nobody does, and a
// channel that is closed when anybody begins to.
func (e *Exchange) listener(id registry.ID) (*listener, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.listeners[id], e.arrival
}
