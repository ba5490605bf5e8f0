package gateway

import "time"

// Position names one stored message within its lane, until it is settled.
// It stays valid across restarts of the process.
type Position struct {
	Lane    Lane
	Segment uint64 // which small database of the ring
	Block   uint32 // which group commit within the segment
	Index   uint16 // which message within the group commit
}

// Stored is a message read back from the store.
type Stored struct {
	Position Position
	Message  *Message
}

// A stored message is in one of these states. States live in memory; only
// "settled" is also written to flash, lazily. After a restart everything that
// is not settled is Unread.
type StoredState uint8

// The states of a stored message.
const (
	Unread StoredState = iota // on flash only: Read will return it
	Out                       // held in memory by custody, on its way to the hub
	Parked                    // on flash only, of a leaf whose identity is refused: Read passes over it
)

// DropReason says by which rule a message left the gateway without having been
// settled by the hub. The texts are label values of metrics.
type DropReason string

// The reasons, as fieldgate_messages_dropped_total counts them.
const (
	DropTTL      DropReason = "ttl"      // older than its lane or it itself allows
	DropQuota    DropReason = "quota"    // bound reached, policy drop-oldest or thin
	DropPoison   DropReason = "poison"   // refused by the hub, put on the dead-letter shelf
	DropOversize DropReason = "oversize" // larger than the hub takes
	DropDamaged  DropReason = "damaged"  // unreadable on flash, set aside
	DropRefused  DropReason = "refused"  // QoS 0, not acknowledged, when the store could not take it
	DropPurged   DropReason = "purged"   // given up by an operator
)

// DropReasons lists all reasons in a fixed order.
var DropReasons = []DropReason{DropTTL, DropQuota, DropPoison, DropOversize, DropDamaged, DropRefused, DropPurged}

// Store is custody on flash, as the path uses it. Safe for concurrent use.
// Lanes are independent of each other in order, bounds and room.
type Store interface {
	// Append hands over messages of one lane, in order, for the next group
	// commit. It does not block on the disk and takes no copies: messages are
	// immutable. done is called once, from the committer, in the order of the
	// Append calls of that lane: with one position per message when all of them
	// are synced to flash, or with an error (wrapping ErrStoreFull or
	// ErrStoreFailed) when none of them is stored. state is what the messages
	// are after the commit. done must not block and must call nothing of the
	// store but Settle and Unread.
	Append(lane Lane, ms []*Message, state StoredState, done func([]Position, error))

	// Read returns the next unread messages in the order of their commits, at
	// least one if there is any, and marks them Out; at most max messages and
	// about maxBytes of message size. Messages for which park returns true are
	// marked Parked instead. An empty result without error means that nothing
	// is unread. Damaged messages are set aside and counted, never returned.
	Read(lane Lane, max, maxBytes int, park func(leaf string) bool) ([]Stored, error)

	// Settle says that the messages are done with: they leave the store.
	// Unknown positions are ignored: the bound may have dropped them meanwhile.
	Settle(ps ...Position)

	// Release makes messages that are Out Unread again (Parked when park is
	// true). Read returns them in their old order. It returns how many of them the
	// bound has dropped meanwhile.
	Release(park bool, ps ...Position) (dropped int)

	// Unpark makes all parked messages of the lane unread again.
	Unpark(lane Lane)

	// Unread returns how many messages of the lane are unread. It does not
	// touch the disk.
	Unread(lane Lane) int

	// DeadLetter puts a message that the hub refused on the dead-letter shelf,
	// synced to flash, with the hub's reason. The shelf is bounded: the oldest
	// give way.
	DeadLetter(m *Message, reason string) error

	// OnGiveUp has f told which messages the bound drops, as far as they can be
	// read, but not those that Release counts, and which are purged. f is called
	// without locks of the store, by committers too; it must not block and must call nothing of the store.
	// OnGiveUp is called once, before anything else.
	OnGiveUp(f func([]GivenUp))

	// Start is the number of this start of the gateway, one higher than that of
	// the last, and installation a random text of eight letters or digits that
	// stays for the life of the store. Together they make message ids unique.
	Start() (start uint32, installation string)

	// State is a snapshot for status and metrics. It does not touch the disk.
	State() StoreState
}

// StoreState is a snapshot of the store for status and metrics.
type StoreState struct {
	Lanes        [Lanes]LaneState
	BytesOnDisk  int64 // what the segments occupy
	BytesWritten int64 // handed to the disk since start
	Commits      int64 // group commits since start
	Errors       int64 // how often since start the disk refused something; trying again counts again
	Failing      error // why the store cannot write at the moment, or nil
	Hindered     error // why it cannot read, or make room of what is settled, though it may take messages; or nil
	DeadLetters  int   // on the shelf
	Damage       Damage
}

// Damage is what was lost to damaged flash since the store was made.
type Damage struct {
	Messages int64     // that cannot be read
	Commits  int64     // group commits that are missing, it is not known with how many messages
	Meta     int64     // how often the meta database, with its dead letters and notes, was lost, or its latest part
	From, To time.Time // capture times around them, to the precision of a segment; zero for none
}

// LaneState is the part of StoreState of one lane.
type LaneState struct {
	Messages int   // stored and not settled
	Bytes    int64 // their size on flash, approximately
	Limit    int64 // bound in bytes
	// Oldest is when the oldest unsettled message was captured, zero if none;
	// to the precision of a segment.
	Oldest  Instant
	Dropped map[DropReason]int64 // since start; may share no memory with the store
}
