package gateway

import "context"

// Waiting is a message that waits on flash.
type Waiting struct {
	Stored
	State StoredState
}

// Purged is what a purge came to.
type Purged struct {
	Messages int // given up
	Under    int // chosen, but on their way to the hub: they stay
}

// Verified is what reading all that waits in a lane came to.
type Verified struct {
	Messages int   // intact
	Bytes    int64 // their size, as Message.Size counts it
	Damaged  int   // messages that cannot be read
	Spans    []DamagedSpan
}

// MaxDamagedSpans bounds Verified.Spans; Damaged counts all.
const MaxDamagedSpans = 100

// DamagedSpan is a run of messages that cannot be read, all of one group commit.
type DamagedSpan struct {
	First    Position // of the first message
	Messages int
	From, To Instant // first and last capture time of the segment around them
	Err      error   // why the first cannot be read
}

// Backlog is what waits on flash, for operators. Nothing of it disturbs the order, who
// reads for the hub, or who writes: a group commit's messages are looked at at a time, and
// no lock is held while a function of the caller runs. What is handed over after a call
// began is not looked at. Safe for concurrent use.
type Backlog interface {
	// Look calls use for each message of a lane that waits, in order, until it returns
	// false. What is damaged is passed over. Errors are those of ctx, or wrap
	// ErrStoreFailed.
	Look(ctx context.Context, lane Lane, use func(Waiting) bool) error

	// Purge gives up the messages of a lane of which match is true, counted under the
	// reason DropPurged. Those on their way to the hub stay, and so does what is
	// damaged. What is given up does not come back after a crash, unless the error says
	// so; on an error some may have been given up, which the result counts.
	Purge(ctx context.Context, lane Lane, match func(*Message) bool) (Purged, error)

	// Verify reads all that waits in a lane, at half the speed at which it could, and
	// changes nothing: what is damaged is set aside when its turn comes. Errors are
	// those of ctx, or wrap ErrStoreFailed.
	Verify(ctx context.Context, lane Lane) (Verified, error)
}
