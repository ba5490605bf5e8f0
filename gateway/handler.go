package gateway

import (
	"context"
	"errors"
)

// Done is told the fate of a message that was handed over: nil means it is in
// custody (settled by the hub or synced to flash) and the leaf may be
// acknowledged; an error means it is not, and will not be sent. It is called
// exactly once, from any goroutine, and must not block.
type Done func(error)

// Handler takes messages on their way up. Handle may block while the gateway is
// at a bound: the caller then stops reading from that leaf, which is the
// backpressure. It returns when the message has been taken over (done will be
// called, or has been); ctx ends only the wait. Messages of one leaf must be
// handed over one after the other, in order.
type Handler interface {
	Handle(ctx context.Context, m *Message, done Done)
}

// HandlerFunc makes a function a Handler.
type HandlerFunc func(ctx context.Context, m *Message, done Done)

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, m *Message, done Done) { f(ctx, m, done) }

// Module is one processing step. Wrap returns a handler that does the step and
// passes on what is left to next: the same message, a new one made from it, or
// nothing (then it calls done(nil) itself: a message that a rule removed needs
// no answer from the leaf). Safe for concurrent use by different leaves;
// messages of one leaf arrive one after the other.
type Module interface {
	Wrap(next Handler) Handler
}

// Reasons why the gateway does not take a message. The broker turns them into
// the protocol's own words.
var (
	ErrUnknownLeaf  = errors.New("unknown or disabled leaf")
	ErrTooLarge     = errors.New("message too large for the hub")
	ErrStoreFull    = errors.New("store is full")
	ErrStoreFailed  = errors.New("store cannot write")
	ErrShuttingDown = errors.New("gateway is shutting down")
)
