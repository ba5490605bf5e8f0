package uplink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Unreachable is an error of Dial that says that the hub itself was not reached:
// nobody answered, or somebody else did. Another way may still lead to the hub.
type Unreachable struct{ Err error }

func (e *Unreachable) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Unreachable) Unwrap() error { return e.Err }

// Known is a Transport that can say which way its last connection goes.
type Known interface {
	// Way names the transport of the present connection, or of the last attempt,
	// and says in words why it is used, "" where there is no choice.
	Way() (name, why string)
}

// Renewer is a Transport whose connection is sometimes to be replaced by another
// one, although it works.
type Renewer interface {
	// AwaitRenewal waits until the present connection is to be replaced and says
	// why in words, or until ctx ends and says nothing. The uplink calls it once
	// for each connection, lets the hub settle what it has, closes the
	// connection, and dials again.
	AwaitRenewal(ctx context.Context) (why string)
}

// Way is one of several transports to the same hub.
type Way struct {
	Name string
	Transport
	// Probe looks whether the way leads to the hub without using it: it returns
	// nil when the hub itself has answered. It is called while another way is in
	// use, so it must not be what the hub takes for a connection.
	Probe func(ctx context.Context) error
}

// Ways is a Transport made of two, of which the first is better. It uses the
// second one while the first cannot be reached, and goes back when it can. There
// is never more than one connection: a way is dialled when the other one has
// failed or was closed, and a probe is none.
type Ways struct {
	first, second Way
	every         time.Duration

	mu     sync.Mutex
	onSide bool   // the second is in use, or was last; guarded by mu
	why    string // guarded by mu
}

// NewWays joins two ways. The first is probed every so often while the second is
// in use.
func NewWays(first, second Way, every time.Duration) *Ways {
	return &Ways{first: first, second: second, every: every}
}

// Dial tries the way that worked last, and the other one if the hub is not
// reached on it. The first is not tried again for each connection: where a
// firewall swallows packets, every attempt would cost a time-out. The probe brings
// it back.
func (w *Ways) Dial(ctx context.Context) (Conn, error) {
	tries := []*Way{&w.first, &w.second}
	if w.aside() {
		tries = []*Way{&w.second, &w.first}
	}
	var errs []error
	for _, way := range tries {
		conn, err := way.Dial(ctx)
		if err == nil {
			w.use(way, errs)
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", way.Name, err))
		if _, other := errors.AsType[*Unreachable](err); !other || ctx.Err() != nil {
			w.use(way, errs[:len(errs)-1]) // it leads to the hub, which says no
			return nil, errors.Join(errs...)
		}
	}
	w.use(&w.first, nil)
	return nil, errors.Join(errs...)
}

func (w *Ways) aside() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.onSide
}

// use notes which way is used, and why. The reason for the second stays the same
// until the first works.
func (w *Ways) use(way *Way, failed []error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case way == &w.first:
		w.onSide, w.why = false, ""
	case len(failed) > 0:
		w.onSide, w.why = true, failed[0].Error()
	}
}

// Way is described at Known.
func (w *Ways) Way() (name, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.onSide {
		return w.first.Name, ""
	}
	return w.second.Name, w.why
}

// AwaitRenewal waits until the first way leads to the hub while the second is in
// use.
func (w *Ways) AwaitRenewal(ctx context.Context) (why string) {
	if !w.aside() {
		<-ctx.Done()
		return ""
	}
	for sleep(ctx, w.every) {
		err := w.first.Probe(ctx)
		if err == nil {
			w.use(&w.first, nil)
			return w.first.Name + " can be reached again"
		}
		if ctx.Err() == nil {
			w.mu.Lock()
			w.why = fmt.Sprintf("%s: %v", w.first.Name, err)
			w.mu.Unlock()
		}
	}
	return ""
}
