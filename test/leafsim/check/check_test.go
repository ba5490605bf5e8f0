package check

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/leafsim"
)

// arrival is message n of the leaf's telemetry as an honest gateway brings it.
func arrival(leaf string, n, seq uint64) Arrival {
	return Arrival{
		Device: leaf, MessageID: fmt.Sprintf("%s-1-%d", leaf, seq), Start: 1, Seq: seq,
		Body: fmt.Appendf(nil, `{"leaf":%q,"lane":"telemetry","n":%d}`, leaf, n),
	}
}

// arrivals brings the messages numbered ns, which the gateway took in the order
// 1, 2, 3 …
func arrivals(ns ...uint64) (list []Arrival) {
	for _, n := range ns {
		list = append(list, arrival("pump", n, n))
	}
	return list
}

// restarted is message n, taken by the gateway after a restart.
func restarted(n, seq uint64) Arrival {
	a := arrival("pump", n, seq)
	a.Start, a.MessageID = 2, fmt.Sprintf("pump-2-%d", seq)
	return a
}

func acks(ns ...uint64) (list []leafsim.Ack) {
	for _, n := range ns {
		list = append(list, leafsim.Ack{Leaf: "pump", Lane: leafsim.Telemetry, N: n})
	}
	return list
}

// with changes one arrival of a list.
func with(list []Arrival, i int, change func(*Arrival)) []Arrival {
	change(&list[i])
	return list
}

func TestCompare(t *testing.T) {
	for _, c := range []struct {
		name     string
		acks     []leafsim.Ack
		arrivals []Arrival
		want     Leaf // all but ID and FirstFailure
	}{
		{"all well", acks(1, 2, 3), arrivals(1, 2, 3), Leaf{Acked: 3, Arrived: 3}},
		{"nothing at all", nil, nil, Leaf{}},
		{"acknowledgement did not reach the leaf", acks(1), arrivals(1, 2), Leaf{Acked: 1, Arrived: 2, Unacked: 1}},
		{"lost at the end", acks(1, 2, 3), arrivals(1, 2), Leaf{Acked: 3, Arrived: 2, Lost: 1}},
		{"lost in the middle", acks(1, 2, 3), arrivals(1, 3), Leaf{Acked: 3, Arrived: 2, Lost: 1, Missing: 1}},
		{"lost and counted as dropped", acks(1, 2, 3), with(arrivals(1, 3), 1, func(a *Arrival) { a.Dropped = 1 }), Leaf{Acked: 3, Arrived: 2, Lost: 1}},
		{"everything lost", acks(1, 2), nil, Leaf{Acked: 2, Lost: 2}},
		{"tail sent again", acks(1, 2, 3, 4), arrivals(1, 2, 3, 2, 3, 4), Leaf{Acked: 4, Arrived: 4, Duplicated: 2}},
		{"tail sent again in two attempts", acks(1, 2, 3, 4), arrivals(1, 2, 3, 2, 2, 3, 4), Leaf{Acked: 4, Arrived: 4, Duplicated: 3}},
		{"something other than the tail sent again", acks(1, 2, 3, 4), arrivals(1, 2, 3, 1, 4), Leaf{Acked: 4, Arrived: 4, Duplicated: 1, Ragged: 1}},
		{"hole in what is sent again", acks(1, 2, 3, 4), arrivals(1, 2, 3, 1, 3, 4), Leaf{Acked: 4, Arrived: 4, Duplicated: 2, Ragged: 1}},
		{
			"id changed when sent again", acks(1, 2), with(arrivals(1, 2, 2), 2, func(a *Arrival) { a.MessageID = "other" }),
			Leaf{Acked: 2, Arrived: 2, Duplicated: 1, IDChanged: 1},
		},
		{
			"one id for two messages", acks(1, 2), with(arrivals(1, 2), 1, func(a *Arrival) { a.MessageID = "pump-1-1" }),
			Leaf{Acked: 2, Arrived: 2, IDReused: 1},
		},
		{
			"under another leaf's name", acks(1, 2), with(arrivals(1, 2), 1, func(a *Arrival) { a.Body = []byte(`{"leaf":"fan","lane":"telemetry","n":2}`) }),
			Leaf{Acked: 2, Arrived: 1, Lost: 1, Misnamed: 1},
		},
		{
			"body damaged", acks(1, 2), with(arrivals(1, 2), 1, func(a *Arrival) { a.Body = []byte(`{"leaf":`) }),
			Leaf{Acked: 2, Arrived: 1, Lost: 1, Unreadable: 1},
		},
		{
			"a meter, which leafsim does not play", nil,
			[]Arrival{{Device: "meter", MessageID: "1", Start: 1, Seq: 1, Body: []byte(`{"voltage":230.1}`)}, {Device: "meter", MessageID: "2", Start: 1, Seq: 2, Body: []byte(`{}`)}},
			Leaf{Foreign: 2},
		},
		{
			"nothing was acknowledged, and one body is damaged", nil, with(arrivals(1, 2), 1, func(a *Arrival) { a.Body = []byte(`{"leaf":`) }),
			Leaf{Arrived: 1, Unacked: 1, Unreadable: 1},
		},
		{
			"everything damaged that was acknowledged", acks(1), with(arrivals(1), 0, func(a *Arrival) { a.Body = []byte(`{}`) }),
			Leaf{Acked: 1, Lost: 1, Unreadable: 1},
		},
		{
			// The gateway took 2 and 3, died before it acknowledged them, and
			// the leaf published them again.
			"leaf sent again", acks(1, 2, 3), append(arrivals(1, 2, 3), arrival("pump", 2, 4), arrival("pump", 3, 5)),
			Leaf{Acked: 3, Arrived: 3, Resent: 2},
		},
		{
			// The same, but 2 was on flash: the gateway repeats it, the leaf 3.
			"gateway and leaf sent again", acks(1, 2, 3, 4),
			append(arrivals(1, 2, 3, 2), arrival("pump", 3, 4), arrival("pump", 4, 5)),
			Leaf{Acked: 4, Arrived: 4, Duplicated: 1, Resent: 1},
		},
		{
			// 1 and 3 were on flash, and not yet marked as settled there.
			"repeats after a restart", acks(1, 2, 3, 4, 5),
			append(arrivals(1, 2, 3, 4, 1, 3), restarted(5, 1)),
			Leaf{Acked: 5, Arrived: 5, Duplicated: 2, Ragged: 2},
		},
		{
			"taken in the wrong order", acks(1, 2, 3),
			[]Arrival{arrival("pump", 1, 1), arrival("pump", 3, 2), arrival("pump", 2, 3)},
			Leaf{Acked: 3, Arrived: 3, OutOfOrder: 1},
		},
		{
			"repeat of the leaf overtaken by the original", acks(1, 2),
			[]Arrival{arrival("pump", 1, 1), arrival("pump", 2, 3), arrival("pump", 2, 2)},
			Leaf{Acked: 2, Arrived: 2, Resent: 1, OutOfOrder: 1},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Compare(c.acks, c.arrivals)
			got := r.Total()
			c.want.ID = got.ID
			if got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			if failed := r.Err() != nil; failed != (c.want.Faults() > 0) {
				t.Errorf("Err() = %v with %d faults", r.Err(), c.want.Faults())
			}
		})
	}
}

// Numbers out of order count once for the leaf's own count and once for the
// gateway's: either alone is a broken promise.
func TestBothNumberingsOutOfOrder(t *testing.T) {
	r := Compare(acks(1, 2), arrivals(2, 1))
	if got := r.Total().OutOfOrder; got != 2 {
		t.Errorf("got %d out of order, want 2", got)
	}
}

func TestLanesAndLeavesAreIndependent(t *testing.T) {
	a := arrivals(1, 2)
	alarm := arrival("pump", 1, 1)
	alarm.Body = []byte(`{"leaf":"pump","lane":"alarm","n":1}`)
	alarm.MessageID = "pump-alarm-1"
	a = append(a, arrival("fan", 1, 1), alarm, arrival("pump", 3, 3), arrival("fan", 2, 2))
	r := Compare(acks(1, 2, 3), a)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	if len(r.Leaves) != 2 || r.Leaves[0].ID != "fan" || r.Leaves[1].ID != "pump" {
		t.Errorf("rows %+v, want fan and pump", r.Leaves)
	}
}

func TestErrNamesLeafAndFault(t *testing.T) {
	err := Compare(acks(1, 2), arrivals(1)).Err()
	if err == nil || !strings.Contains(err.Error(), "pump") || !strings.Contains(err.Error(), "telemetry 2 was acknowledged and never arrived") {
		t.Errorf("got %v", err)
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	if err := Compare(acks(1, 2), arrivals(1, 2, 2)).WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	want := "" +
		"   leaf  acknowledged  arrived  lost  duplicated  out of order\n" +
		"   pump             2        2     0           1             0\n" +
		"  total             2        2     0           1             0\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	if err := Compare(acks(1, 2), arrivals(1, 2, 1, 3)).WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "ragged repeats") {
		t.Errorf("a fault has no column:\n%s", b.String())
	}
}
