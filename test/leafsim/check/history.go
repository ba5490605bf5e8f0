package check

import (
	"cmp"
	"maps"
	"slices"

	"github.com/fieldgate/fieldgate/test/leafsim"
)

// history is what is known of one leaf. Its lanes have nothing to do with each
// other: each has its own numbers and its own order.
type history struct {
	result Leaf
	lanes  map[string]*lane
	ids    map[string]numbered // which message a message id stands for
}

// numbered names a message of a leaf by the leaf's own count.
type numbered struct {
	lane string
	n    uint64
}

// number names a message of a lane by the gateway's count.
type number struct {
	start, seq uint64
	id         string // where the gateway gave no number
}

// number is the gateway's name for the arrival.
func (a *Arrival) number() number {
	if a.Seq == 0 {
		return number{id: a.MessageID}
	}
	return number{start: a.Start, seq: a.Seq}
}

func (a number) compare(b number) int {
	return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.seq, b.seq))
}

// lane is the history of one lane of one leaf.
type lane struct {
	acked   map[uint64]bool
	arrived map[uint64]bool
	highest uint64 // n of the latest first arrival

	ids    map[number]string // message id of each gateway message
	latest number            // the last gateway message that arrived for the first time
	sent   course[number]    // by the gateway's count
	made   course[uint64]    // by the leaf's
	drops  map[uint64]uint64 // per gateway start: most that it said it dropped
}

// course is the order in which different things came for the first time.
type course[K comparable] struct {
	place map[K]int
	last  int // place of the one that came last
}

func newCourse[K comparable]() course[K] { return course[K]{place: make(map[K]int), last: -1} }

// jump goes to the next one and says whether it leaves out some on the way.
func (c *course[K]) jump(to K) bool {
	at, seen := c.place[to]
	if !seen {
		at = len(c.place)
		c.place[to] = at
	}
	jumps := at > c.last+1
	c.last = at
	return jumps
}

func newHistory(id string) *history {
	return &history{result: Leaf{ID: id}, lanes: make(map[string]*lane), ids: make(map[string]numbered)}
}

func (h *history) lane(name string) *lane {
	l := h.lanes[name]
	if l == nil {
		l = &lane{
			acked: make(map[uint64]bool), arrived: make(map[uint64]bool),
			ids: make(map[number]string), drops: make(map[uint64]uint64),
			sent: newCourse[number](), made: newCourse[uint64](),
		}
		h.lanes[name] = l
	}
	return l
}

func (h *history) ack(a leafsim.Ack) { h.lane(a.Lane).acked[a.N] = true }

// arrive takes the next event under the leaf's identity.
func (h *history) arrive(a *Arrival) {
	b, err := leafsim.ParseBody(a.Body)
	if err != nil || b.N == 0 {
		h.result.Unreadable++
		h.result.fault("an event has a body that no leaf made: %.60q", a.Body)
		return
	}
	if b.Leaf != a.Device {
		h.result.Misnamed++
		h.result.fault("%s %d of leaf %s arrived under this identity", b.Lane, b.N, b.Leaf)
		return
	}
	h.checkID(a, b)
	l := h.lane(b.Lane)
	h.checkRun(l, a, b)
	again := h.identify(l, a, b)
	h.count(l, b, again)
}

// checkID: one message id stands for one message.
func (h *history) checkID(a *Arrival, b leafsim.Body) {
	is := numbered{b.Lane, b.N}
	if was, known := h.ids[a.MessageID]; known && was != is {
		h.result.IDReused++
		h.result.fault("message id %q stands for %s %d and for %s %d", a.MessageID, was.lane, was.n, is.lane, is.n)
		return
	}
	h.ids[a.MessageID] = is
}

// identify says whether the gateway sent this very message before.
func (h *history) identify(l *lane, a *Arrival, b leafsim.Body) (again bool) {
	key := a.number()
	l.drops[a.Start] = max(l.drops[a.Start], a.Dropped)
	id, again := l.ids[key]
	switch {
	case again && id != a.MessageID:
		h.result.IDChanged++
		h.result.fault("%s %d: message id %q became %q when it was sent again", b.Lane, b.N, id, a.MessageID)
	case !again && len(l.ids) > 0 && key.seq > 0 && key.compare(l.latest) < 0:
		h.result.OutOfOrder++
		h.result.fault("%s: gateway number %d.%d first arrived after %d.%d", b.Lane, key.start, key.seq, l.latest.start, l.latest.seq)
	}
	if !again {
		l.ids[key], l.latest = a.MessageID, key
	}
	return again
}

// checkRun judges repetitions. After a broken link the gateway goes back and
// sends from there to the end again, perhaps in several attempts: an arrival
// follows on the one before, or goes back, and never jumps ahead of what is
// being repeated. Following on counts by the gateway's numbers or by the
// leaf's: the leaf may repeat what the gateway has forgotten.
func (h *history) checkRun(l *lane, a *Arrival, b leafsim.Body) {
	aheadSent, aheadMade := l.sent.jump(a.number()), l.made.jump(b.N)
	if aheadSent && aheadMade {
		h.result.Ragged++
	}
}

// count sorts the arrival into first arrivals and the two kinds of repetition.
func (h *history) count(l *lane, b leafsim.Body, again bool) {
	switch {
	case again:
		h.result.Duplicated++
	case l.arrived[b.N]:
		h.result.Resent++
	case b.N < l.highest:
		h.result.OutOfOrder++
		h.result.fault("%s %d first arrived after %d", b.Lane, b.N, l.highest)
	}
	l.arrived[b.N] = true
	l.highest = max(l.highest, b.N)
}

// close draws the sums.
func (h *history) close() *Leaf {
	for _, name := range slices.Sorted(maps.Keys(h.lanes)) {
		l := h.lanes[name]
		h.result.Acked += len(l.acked)
		h.result.Arrived += len(l.arrived)
		for _, n := range slices.Sorted(maps.Keys(l.acked)) {
			if !l.arrived[n] {
				h.result.Lost++
				h.result.fault("%s %d was acknowledged and never arrived", name, n)
			}
		}
		for n := range l.arrived {
			if !l.acked[n] {
				h.result.Unacked++
			}
		}
		h.countMissing(name, l)
	}
	if r := &h.result; len(h.lanes) == 0 && r.Misnamed == 0 {
		r.Foreign, r.Unreadable, r.FirstFailure = r.Unreadable, 0, ""
	}
	return &h.result
}

// countMissing looks for gaps in the gateway's numbers: 1, 2, 3 … per start.
// What is missing must be accounted for as dropped.
func (h *history) countMissing(name string, l *lane) {
	highest, arrived := make(map[uint64]uint64), make(map[uint64]uint64)
	for key := range l.ids {
		if key.seq > 0 {
			highest[key.start] = max(highest[key.start], key.seq)
			arrived[key.start]++
		}
	}
	for start, high := range highest {
		if gaps := high - arrived[start]; gaps > l.drops[start] {
			h.result.Missing += int(gaps - l.drops[start])
			h.result.fault("%s: of the %d messages of gateway start %d, %d are missing and %d are said to be dropped",
				name, high, start, gaps, l.drops[start])
		}
	}
}
