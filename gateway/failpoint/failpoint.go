// Package failpoint names the steps around which the process may die: before and
// after everything that is written, sent, acknowledged or settled.
//
// In the shipped build Hit is an empty function and nothing of this package is
// in the binary. With the build tag "failpoints" the environment variable
// FIELDGATE_FAILPOINT says at which of its passes a point kills the process, as
// signal 9 does: "custody-spill:3" at the third. The end-to-end tests do that at
// every point.
package failpoint

// Variable is the environment variable that arms one point.
const Variable = "FIELDGATE_FAILPOINT"

// Point is one step, named by where it is and what comes next there or, in the
// past tense, what has just been done.
type Point string

// The points, in the order in which a message passes them.
const (
	BrokerHandover Point = "broker-handover" // a publication is about to be handed to the path
	CustodyTake    Point = "custody-take"    // a message has its number
	CustodySpill   Point = "custody-spill"   // messages are about to be handed to the store

	StoreCommit    Point = "store-commit"    // a group commit is about to be written
	StoreCommitted Point = "store-committed" // and synced
	CustodyAnswer  Point = "custody-answer"  // those who handed over are about to be told

	BrokerPuback   Point = "broker-puback" // acknowledgements are about to be written
	BrokerPubacked Point = "broker-pubacked"
	SerialAnswer   Point = "serial-answer"
	SerialAnswered Point = "serial-answered"

	UplinkSend    Point = "uplink-send" // a message is about to be sent
	UplinkSent    Point = "uplink-sent"
	UplinkSettle  Point = "uplink-settle" // the hub's word on it is here
	UplinkSettled Point = "uplink-settled"
	CustodyRecall Point = "custody-recall" // a leaf's link is lost
	CustodyDown   Point = "custody-down"   // the connection is lost

	BacklogRead Point = "backlog-read" // about to be read from flash
	BacklogHave Point = "backlog-have" // read, not yet in the outbox

	JournalWrite   Point = "journal-write" // what is settled is about to be noted
	JournalWritten Point = "journal-written"
	JournalSynced  Point = "journal-synced"

	SegmentMake    Point = "segment-make" // the database is made, its room is not reserved
	SegmentMade    Point = "segment-made"
	SegmentClose   Point = "segment-close"
	SegmentClosed  Point = "segment-closed"
	IndexWritten   Point = "index-written" // beside the old one, not yet in its place
	IndexPlaced    Point = "index-placed"
	SegmentTrash   Point = "segment-trash" // about to be moved out of the queue
	SegmentTrashed Point = "segment-trashed"
	SegmentRemoved Point = "segment-removed"

	SegmentRecover   Point = "segment-recover" // at the start, one that was not closed
	SegmentRecovered Point = "segment-recovered"
	RewriteFilled    Point = "rewrite-filled" // what is intact of a damaged one is in a new one
	RewriteAway      Point = "rewrite-away"   // the old one is set aside
	RewriteDone      Point = "rewrite-done"

	MetaStart   Point = "meta-start" // this start is about to be counted
	MetaStarted Point = "meta-started"
	MetaShelve  Point = "meta-shelve" // a dead letter is about to be written
	MetaShelved Point = "meta-shelved"
	MetaClose   Point = "meta-close"
	MetaClosed  Point = "meta-closed"
)

// Points returns all of them.
func Points() []Point {
	return []Point{
		BrokerHandover, CustodyTake, CustodySpill,
		StoreCommit, StoreCommitted, CustodyAnswer,
		BrokerPuback, BrokerPubacked, SerialAnswer, SerialAnswered,
		UplinkSend, UplinkSent, UplinkSettle, UplinkSettled, CustodyRecall, CustodyDown,
		BacklogRead, BacklogHave,
		JournalWrite, JournalWritten, JournalSynced,
		SegmentMake, SegmentMade, SegmentClose, SegmentClosed, IndexWritten, IndexPlaced,
		SegmentTrash, SegmentTrashed, SegmentRemoved,
		SegmentRecover, SegmentRecovered, RewriteFilled, RewriteAway, RewriteDone,
		MetaStart, MetaStarted, MetaShelve, MetaShelved, MetaClose, MetaClosed,
	}
}
