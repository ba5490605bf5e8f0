package gateway

import (
	"context"
	"errors"
	"time"
)

// Twins answers leaves that ask for their twin or report to it, with the hub or
// without: package twin does. Safe for concurrent use.
type Twins interface {
	// Twin returns the twin document as a device sees it, {"desired":…,
	// "reported":…}, each with its $version, and how old it is: 0 when the hub has
	// just sent it, the age of the copy kept here when the hub is away. What the
	// leaf has reported and the hub has not taken is in it already. The error is
	// ErrNoTwin when there is no copy either, or *TwinError.
	Twin(ctx context.Context, leaf string) (document []byte, age time.Duration, err error)

	// Report takes over a patch of reported properties, JSON as the leaf sent it,
	// whose slice is the caller's again when Report returns. done is called
	// exactly once, from any goroutine, and must not block: with the hub's new
	// version, or 0 when the patch is in custody on flash and goes to the hub
	// later; or with the hub's word against it, a *TwinError.
	Report(leaf string, patch []byte, done func(version int64, err error))
}

// ErrNoTwin says that the hub is away and no copy of the twin is kept.
var ErrNoTwin = errors.New("the hub cannot be reached, and no copy of this twin is kept")

// TwinError is the hub's word against a twin request: Status by HTTP's rules,
// Code the hub's own number (0 for none), Message its text.
type TwinError struct {
	Status, Code int
	Message      string
}

func (e *TwinError) Error() string { return e.Message }

// HubTwins is what the uplink does for package twin. Safe for concurrent use.
type HubTwins interface {
	// GetTwin asks the hub for the leaf's twin.
	GetTwin(ctx context.Context, leaf string) (document []byte, err error)

	// PatchReported sends a patch of reported properties; calls for one leaf come
	// one after the other. The error is a *TwinError when the hub has answered,
	// else the patch may or may not have arrived.
	PatchReported(ctx context.Context, leaf string, patch []byte) (version int64, err error)
}

// ErrLinkDown says that there is no connection to the hub now.
var ErrLinkDown = errors.New("no connection to the hub")
