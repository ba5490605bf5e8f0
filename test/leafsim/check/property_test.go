package check

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/test/leafsim"
)

// bench plays an honest gateway with one leaf: it takes messages, forgets
// unacknowledged ones when it is killed, and repeats the tail when the link
// breaks.
type bench struct {
	acks     []leafsim.Ack
	arrivals []Arrival

	start, seq uint64
	next       uint64 // the next n of the leaf
	sent       []Arrival
}

func (b *bench) take(n uint64) Arrival {
	b.seq++
	body, _ := json.Marshal(leafsim.Body{Leaf: "pump", Lane: leafsim.Telemetry, N: n})
	return Arrival{
		Device: "pump", Body: body, Start: b.start, Seq: b.seq,
		MessageID: fmt.Sprintf("pump-%d-%d", b.start, b.seq),
	}
}

// arrive sends the next k messages and acknowledges all but the last unacked.
func (b *bench) arrive(k, unacked int) {
	for i := range k {
		b.sent = append(b.sent, b.take(b.next))
		if i < k-unacked {
			b.acks = append(b.acks, leafsim.Ack{Leaf: "pump", Lane: leafsim.Telemetry, N: b.next})
		}
		b.next++
	}
	b.arrivals = append(b.arrivals, b.sent[len(b.sent)-k:]...)
}

// history draws a course of events that keeps every promise.
func honest(t *rapid.T) *bench {
	b := &bench{start: 1, next: 1}
	b.arrive(rapid.IntRange(4, 12).Draw(t, "first"), 0)
	for range rapid.IntRange(0, 6).Draw(t, "events") {
		switch rapid.IntRange(0, 2).Draw(t, "event") {
		case 0:
			b.arrive(rapid.IntRange(1, 8).Draw(t, "messages"), 0)
		case 1: // the link breaks, the tail is sent again
			tail := rapid.IntRange(1, len(b.sent)).Draw(t, "tail")
			cut := rapid.IntRange(0, tail).Draw(t, "cut")
			from := len(b.sent) - tail
			b.arrivals = append(b.arrivals, b.sent[from:from+cut]...)
			b.arrivals = append(b.arrivals, b.sent[from:]...)
		case 2: // the gateway is killed before it acknowledged, the leaf resends
			k := rapid.IntRange(1, 4).Draw(t, "unacknowledged")
			b.arrive(k, k)
			b.start, b.seq = b.start+1, 0
			b.next -= uint64(k)
			b.arrive(k, 0)
		}
	}
	b.arrive(rapid.IntRange(2, 6).Draw(t, "last"), 0)
	return b
}

func TestHonestGatewayPasses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := honest(t)
		r := Compare(b.acks, b.arrivals)
		if err := r.Err(); err != nil {
			t.Fatal(err)
		}
		total := r.Total()
		if total.Ragged != 0 {
			t.Fatalf("%d ragged runs, and every one was a tail", total.Ragged)
		}
		if want := len(b.acks); total.Acked != want || total.Arrived != want {
			t.Fatalf("acked %d, arrived %d, want %d", total.Acked, total.Arrived, want)
		}
		if got, want := total.Duplicated+total.Resent, len(b.arrivals)-total.Arrived; got != want {
			t.Fatalf("%d repetitions counted, want %d", got, want)
		}
	})
}

// only returns where the arrivals are whose n arrived exactly once.
func (b *bench) only() (places []int) {
	times, at := make(map[uint64]int), make(map[uint64]int)
	for i, a := range b.arrivals {
		body, _ := leafsim.ParseBody(a.Body)
		times[body.N]++
		at[body.N] = i
	}
	for n, k := range times {
		if k == 1 {
			places = append(places, at[n])
		}
	}
	slices.Sort(places)
	return places
}

// Each fault, put anywhere into any honest course of events, is found under its
// own name.
func TestEveryFaultIsFound(t *testing.T) {
	faults := map[string]struct {
		inflict func(t *rapid.T, b *bench, i int)
		count   func(Leaf) int
	}{
		"lost": {
			func(_ *rapid.T, b *bench, i int) { b.arrivals = append(b.arrivals[:i:i], b.arrivals[i+1:]...) },
			func(l Leaf) int { return l.Lost },
		},
		"out of order": {
			func(t *rapid.T, b *bench, i int) {
				a := b.arrivals[i]
				rest := append(b.arrivals[:i:i], b.arrivals[i+1:]...)
				later := rapid.IntRange(i+1, len(rest)).Draw(t, "later")
				b.arrivals = append(append(rest[:later:later], a), rest[later:]...)
			},
			func(l Leaf) int { return l.OutOfOrder },
		},
		"wrong identity": {
			func(_ *rapid.T, b *bench, i int) { b.arrivals[i].Device = "fan" },
			func(l Leaf) int { return l.Misnamed },
		},
		"damaged": {
			func(t *rapid.T, b *bench, i int) {
				body := b.arrivals[i].Body
				b.arrivals[i].Body = body[:rapid.IntRange(0, len(body)-1).Draw(t, "cut")]
			},
			func(l Leaf) int { return l.Unreadable },
		},
		"id changed": {
			func(_ *rapid.T, b *bench, i int) {
				again := b.arrivals[len(b.arrivals)-1]
				again.MessageID += "x"
				b.arrivals = append(b.arrivals, again)
			},
			func(l Leaf) int { return l.IDChanged },
		},
		"id reused": {
			func(_ *rapid.T, b *bench, i int) { b.arrivals[len(b.arrivals)-1].MessageID = b.arrivals[0].MessageID },
			func(l Leaf) int { return l.IDReused },
		},
		"ragged": {
			func(t *rapid.T, b *bench, _ int) {
				from := rapid.IntRange(0, len(b.sent)-2).Draw(t, "from")
				to := rapid.IntRange(from+1, len(b.sent)-1).Draw(t, "to")
				b.arrivals = append(b.arrivals, b.sent[from:to]...)
				b.arrive(1, 0)
			},
			func(l Leaf) int { return l.Ragged },
		},
	}
	notFault := map[string]bool{"ragged": true} // a restart may cause it
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				b := honest(t)
				// A fault in an arrival that is repeated may heal: strike one
				// that is not, and not the very last, which nothing can pass.
				places := b.only()
				i := rapid.SampledFrom(places).Filter(func(i int) bool { return i < len(b.arrivals)-1 }).Draw(t, "place")
				f.inflict(t, b, i)
				r := Compare(b.acks, b.arrivals)
				if f.count(r.Total()) == 0 || (r.Err() == nil) != notFault[name] {
					t.Fatalf("not found: %+v", r.Total())
				}
			})
		})
	}
}
