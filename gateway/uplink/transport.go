package uplink

import (
	"context"

	"github.com/fieldgate/fieldgate/gateway"
)

// Transport makes connections to the hub. Its errors, and those of everything it
// makes, are *Fault where the transport knows what the failure asks for; any
// other error is answered with BackOff.
type Transport interface {
	// Dial connects and proves whatever the connection itself needs. It returns
	// when leaves can be opened, or with an error; ctx ends only the attempt.
	// The uplink dials again only after it has closed the connection before.
	Dial(ctx context.Context) (Conn, error)
}

// Conn is one connection that carries all leaves. Safe for concurrent use.
type Conn interface {
	// Open proves the identity of the leaf to the hub and opens its link. A leaf
	// has at most one link at a time.
	Open(ctx context.Context, leaf string) (Link, error)

	// Done is closed when the connection is lost, however that came to be: also
	// when it has only gone silent for too long.
	Done() <-chan struct{}

	// Err says why, after Done is closed.
	Err() error

	// Close ends the connection, in bounded time also when the far side is gone.
	// Everything that the connection started has ended when it returns.
	Close()
}

// Link is the way of one leaf to the hub. One goroutine sends and closes,
// another one waits for receipts.
type Link interface {
	// Send puts the first n of the messages on their way, at least one, as one
	// delivery: the hub takes or refuses them together. It returns without the
	// hub's answer. It blocks while the hub gives this leaf no room; that must not
	// hold up other leaves. A first message that can never be sent fails with
	// Poison and leaves the link as it was; after any other error the link is only
	// good for Close.
	Send(ctx context.Context, ms []*gateway.Message) (r Receipt, n int, err error)

	// Abort gives up on a hub that does not answer on this link any more: the
	// link alone, or with RungSession everything that it shares a session with;
	// a transport without sessions gives up what comes closest. All receipts
	// outstanding, and a Send that waits for room, fail soon after.
	Abort(Rung)

	// Close gives up the link. It is called once, when no receipt is outstanding.
	Close(ctx context.Context)
}

// Receipt is the hub's answer to one delivery, when it comes.
type Receipt interface {
	// Wait returns nil when the hub has accepted all its messages. Receipts of one
	// link are waited for in the order of Send, by one goroutine.
	Wait(ctx context.Context) error
}
