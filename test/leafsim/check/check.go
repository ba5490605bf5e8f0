// Package check compares what the gateway acknowledged to its leaves with what
// arrived at the hub, and says what is lost, duplicated, out of order or under
// a wrong name.
//
// It judges arrivals as a back end sees them and nothing else. Two kinds of
// repetition are told apart by the gateway's own numbering: the gateway sends a
// message again after a broken link (same start and sequence number, a
// duplicate), and a leaf publishes a message again that was not acknowledged
// before its connection broke (a new sequence number for an old n, a resend).
package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/fieldgate/fieldgate/test/leafsim"
)

// Arrival is one event as the hub's event endpoint gives it out. Arrivals of
// one device must be in the order in which the hub took them.
type Arrival struct {
	Device    string // who the hub says has sent it
	MessageID string
	Body      []byte
	Start     uint64 // the gateway start that numbered it
	Seq       uint64 // the gateway's number per leaf, lane and start; 0 if it carries none
	Dropped   uint64 // messages of this leaf and lane that the gateway says it dropped before
}

// Leaf is the result for one leaf, summed over its lanes.
type Leaf struct {
	ID      string
	Acked   int // distinct messages acknowledged to the leaf
	Arrived int // distinct messages that arrived
	Unacked int // distinct messages that arrived though the leaf saw no acknowledgement: no fault

	Resent     int // arrivals that the leaf itself sent again: no fault
	Duplicated int // arrivals that the gateway sent again: no fault after a failure
	// Foreign counts what arrived of a leaf that is none of leafsim's, like a meter or a
	// sensor: nothing was acknowledged to it, and it has never sent what leafsim's do. Nobody
	// knows what it should have sent: no fault.
	Foreign int
	// Ragged counts runs of repetitions that are not a tail of what had
	// arrived. A broken link never causes one. A restart does, without fault:
	// the gateway then repeats what was on flash, which is not everything.
	Ragged int

	Lost         int // acknowledged, never arrived
	OutOfOrder   int // first arrivals that came after a later one
	IDChanged    int // duplicates with another message id than the original
	IDReused     int // different messages with one message id
	Misnamed     int // arrivals under this identity that another leaf sent
	Unreadable   int // arrivals whose body no leaf made
	Missing      int // gaps in the gateway's numbering that it does not account for
	FirstFailure string
}

// Faults is how many broken promises there are in the row.
func (l *Leaf) Faults() int {
	return l.Lost + l.OutOfOrder + l.IDChanged + l.IDReused + l.Misnamed + l.Unreadable + l.Missing
}

// fault notes the first failure in words, for the person who reads the report.
func (l *Leaf) fault(format string, args ...any) {
	if l.FirstFailure == "" {
		l.FirstFailure = fmt.Sprintf(format, args...)
	}
}

// Report is the result for all leaves, sorted by id.
type Report struct{ Leaves []*Leaf }

// Compare judges arrivals against acknowledgements.
func Compare(acks []leafsim.Ack, arrivals []Arrival) Report {
	leaves := make(map[string]*history)
	of := func(id string) *history {
		h := leaves[id]
		if h == nil {
			h = newHistory(id)
			leaves[id] = h
		}
		return h
	}
	for _, a := range acks {
		of(a.Leaf).ack(a)
	}
	for i := range arrivals {
		of(arrivals[i].Device).arrive(&arrivals[i])
	}
	var r Report
	for _, h := range leaves {
		r.Leaves = append(r.Leaves, h.close())
	}
	slices.SortFunc(r.Leaves, func(a, b *Leaf) int { return cmp.Compare(a.ID, b.ID) })
	return r
}

// Total is the sum of all rows.
func (r Report) Total() Leaf {
	t := Leaf{ID: "total"}
	for _, l := range r.Leaves {
		t.Acked += l.Acked
		t.Arrived += l.Arrived
		t.Unacked += l.Unacked
		t.Resent += l.Resent
		t.Duplicated += l.Duplicated
		t.Lost += l.Lost
		t.OutOfOrder += l.OutOfOrder
		t.Ragged += l.Ragged
		t.IDChanged += l.IDChanged
		t.IDReused += l.IDReused
		t.Misnamed += l.Misnamed
		t.Unreadable += l.Unreadable
		t.Foreign += l.Foreign
		t.Missing += l.Missing
	}
	return t
}

// Err is nil when every promise was kept. Otherwise it names the leaves with
// faults and the first fault of each.
func (r Report) Err() error {
	var lines []string
	for _, l := range r.Leaves {
		if l.Faults() > 0 {
			lines = append(lines, fmt.Sprintf("%s: %d faults, first: %s", l.ID, l.Faults(), l.FirstFailure))
		}
	}
	if lines == nil {
		return nil
	}
	return fmt.Errorf("broken promises at %d leaves:\n%s", len(lines), strings.Join(lines, "\n"))
}
