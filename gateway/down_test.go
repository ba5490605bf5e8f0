package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
)

// notes are notes in memory.
type notes struct {
	mu   sync.Mutex
	kept map[string]map[string][]byte
	fail error
}

func newNotes() *notes { return &notes{kept: make(map[string]map[string][]byte)} }

func (n *notes) Note(kind, name string) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.kept[kind][name]), nil
}

func (n *notes) SetNotes(kind string, values map[string][]byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fail != nil {
		return n.fail
	}
	if n.kept[kind] == nil {
		n.kept[kind] = make(map[string][]byte)
	}
	maps.Copy(n.kept[kind], values)
	return nil
}

func (n *notes) EachNote(kind string, f func(name string, value []byte) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(n.kept[kind])) {
		if err := f(name, slices.Clone(n.kept[kind][name])); err != nil {
			return err
		}
	}
	return nil
}

// reach is a way to leaves that keeps what it is given until the test says what
// the leaf does.
type reach struct {
	mu     sync.Mutex
	got    []uint64 // numbers, in order
	inHand []inHand
}

type inHand struct {
	c      *gateway.Command
	answer func(gateway.Verdict)
}

func (r *reach) Command(c *gateway.Command, answer func(gateway.Verdict)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, c.Number)
	r.inHand = append(r.inHand, inHand{c, answer})
}

func (r *reach) Call(_ context.Context, c *gateway.Call) (*gateway.Reply, error) {
	return &gateway.Reply{Status: 200, Body: []byte(c.Name)}, nil
}

func (r *reach) Desired(_ string, _ []byte, version int64, _ func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, uint64(version))
}

// say answers what the leaf has in its hands, the oldest first.
func (r *reach) say(v gateway.Verdict) {
	r.mu.Lock()
	held := r.inHand
	r.inHand = nil
	r.mu.Unlock()
	for _, h := range held {
		h.answer(v)
	}
}

func (r *reach) numbers() []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// offers are the hub's side of the test: what was answered to which offer.
type offers struct {
	mu       sync.Mutex
	got      map[string]gateway.Verdict
	enqueued time.Time
}

// newOffers makes the hub's side; all commands were enqueued now.
func newOffers() *offers {
	return &offers{got: make(map[string]gateway.Verdict), enqueued: time.Now()}
}

// offer offers a command with a lock of a minute.
func (o *offers) offer(d *gateway.Down, number uint64, name string) {
	d.Command(&gateway.Command{
		Leaf: "pump-1", Number: number, Enqueued: o.enqueued, LockedTo: time.Now().Add(time.Minute),
	}, func(v gateway.Verdict) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if old, twice := o.got[name]; twice {
			panic(fmt.Sprintf("offer %s answered twice: %v, then %v", name, old, v))
		}
		o.got[name] = v
	})
}

func (o *offers) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return fmt.Sprint(o.got)
}

func trusted() gateway.Instant {
	return gateway.Instant{Wall: time.Now(), Quality: gateway.Synced}
}

func newDown(t interface{ Fatal(...any) }, n gateway.Notes) *gateway.Down {
	d, err := gateway.NewDown(nil, n, trusted, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const awake, asleep = gateway.WantsCommands, gateway.WantsCommands | gateway.Asleep

func wantText(t *testing.T, what string, got any, want string) {
	t.Helper()
	if fmt.Sprint(got) != want {
		t.Errorf("%s: got %v, want %s", what, got, want)
	}
}

func TestACommandIsCompletedAfterTheLeafHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, o, r := newNotes(), newOffers(), &reach{}
		d := newDown(t, n)
		d.LinkUp()
		d.Attend("pump-1", r, awake)
		o.offer(d, 7, "first")
		synctest.Wait()
		wantText(t, "before the leaf's word", o, "map[]")
		r.say(gateway.Completed)
		synctest.Wait()
		wantText(t, "after it", o, "map[first:completed]")

		// The hub did not hear it, and offers it again, also after a restart.
		o.offer(d, 7, "again")
		d = newDown(t, n)
		d.LinkUp()
		d.Attend("pump-1", r, awake)
		o.offer(d, 7, "restart")
		synctest.Wait()
		wantText(t, "offered again", o, "map[again:completed first:completed restart:completed]")
		wantText(t, "leaf", r.numbers(), "[7]")

		// The same number of a device that was made anew is another command.
		o.enqueued = o.enqueued.Add(time.Second)
		o.offer(d, 7, "anew")
		synctest.Wait()
		wantText(t, "leaf", r.numbers(), "[7 7]")
		r.say(gateway.Rejected)
		synctest.Wait()
		wantText(t, "verdict", o.got["anew"], "rejected")
	})
}

func TestACommandWaitsForALeafAsleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOffers(), &reach{}
		d := newDown(t, newNotes())
		d.LinkUp()
		d.Attend("pump-1", r, asleep)
		o.offer(d, 1, "one")
		o.offer(d, 2, "two")
		time.Sleep(59 * time.Second)
		wantText(t, "leaf asleep", r.numbers(), "[]")
		d.Attend("pump-1", r, awake)
		wantText(t, "leaf awake", r.numbers(), "[1 2]")
		r.say(gateway.Completed)
		time.Sleep(time.Hour)
		wantText(t, "verdicts", o, "map[one:completed two:completed]")
	})
}

func TestTheHubsLockEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOffers(), &reach{}
		d := newDown(t, newNotes())
		d.LinkUp()
		o.offer(d, 1, "asleep")
		time.Sleep(61 * time.Second)
		wantText(t, "nothing is counted against it", o, "map[asleep:undelivered]")

		// With the hub there, the leaf gets it when the hub offers it again …
		d.Attend("pump-1", r, awake)
		wantText(t, "a copy", r.numbers(), "[]")
		o.offer(d, 1, "slow")
		wantText(t, "offered again", r.numbers(), "[1]")

		// … and what is in the leaf's hands is not handed over a second time.
		time.Sleep(61 * time.Second)
		o.offer(d, 1, "joined")
		r.say(gateway.Completed)
		synctest.Wait()
		wantText(t, "verdicts", o, "map[asleep:undelivered joined:completed slow:undelivered]")
		wantText(t, "leaf", r.numbers(), "[1]")
	})
}

func TestALeafThatWakesWhileTheHubIsAwayGetsTheCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOffers(), &reach{}
		d := newDown(t, newNotes())
		d.LinkUp()
		d.Attend("pump-1", r, asleep)
		o.offer(d, 1, "one")
		o.offer(d, 2, "two")
		time.Sleep(10 * time.Minute)
		d.LinkDown()
		d.Attend("pump-1", r, awake)
		wantText(t, "leaf", r.numbers(), "[1 2]")
		r.say(gateway.Completed)
		synctest.Wait()
		d.LinkUp()
		o.offer(d, 1, "one again")
		o.offer(d, 2, "two again")
		synctest.Wait()
		wantText(t, "leaf", r.numbers(), "[1 2]")
		wantText(t, "verdicts", o, "map[one:undelivered one again:completed two:undelivered two again:completed]")
	})
}

func TestAnExpiredCopyIsNotDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reach{}
		d := newDown(t, newNotes())
		d.LinkUp()
		d.Attend("pump-1", r, asleep)
		d.Command(&gateway.Command{
			Leaf: "pump-1", Number: 1, Enqueued: time.Now(), LockedTo: time.Now().Add(time.Minute),
			System: gateway.System{Expiry: time.Now().Add(5 * time.Minute)},
		}, func(gateway.Verdict) {})
		d.LinkDown()
		time.Sleep(6 * time.Minute)
		d.Attend("pump-1", r, awake)
		wantText(t, "leaf", r.numbers(), "[]")
	})
}

// A way that cannot deliver is not asked again until it says that it can.
func TestAWayThatFailsIsAskedAgainWhenItSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOffers(), &failing{}
		d := newDown(t, newNotes())
		d.LinkUp()
		d.Attend("pump-1", r, awake)
		o.offer(d, 1, "one")
		o.offer(d, 2, "two")
		wantText(t, "tried", r.numbers(), "[1]")
		d.Attend("pump-1", r, awake)
		wantText(t, "tried", r.numbers(), "[1 1]")
		time.Sleep(2 * time.Minute)
		wantText(t, "verdicts", o, "map[one:undelivered two:undelivered]")
	})
}

// failing is a way on which nothing arrives.
type failing struct{ reach }

func (f *failing) Command(c *gateway.Command, answer func(gateway.Verdict)) {
	f.mu.Lock()
	f.got = append(f.got, c.Number)
	f.mu.Unlock()
	answer(gateway.Undelivered)
}

func TestWhatCannotBeNotedIsStillAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, o, r := newNotes(), newOffers(), &reach{}
		n.fail = gateway.ErrStoreFull
		d := newDown(t, n)
		d.LinkUp()
		d.Attend("pump-1", r, awake)
		o.offer(d, 1, "one")
		r.say(gateway.Completed)
		synctest.Wait()
		o.offer(d, 1, "again")
		synctest.Wait()
		wantText(t, "verdicts", o, "map[again:completed one:completed]")
		wantText(t, "leaf", r.numbers(), "[1]")
	})
}

func TestCallsGoWhereTheLeafIsAwake(t *testing.T) {
	d := newDown(t, newNotes())
	r := &reach{}
	call := &gateway.Call{Leaf: "pump-1", Name: "reboot"}
	for _, wants := range []gateway.Interest{0, gateway.WantsCommands, gateway.WantsCalls | gateway.Asleep} {
		d.Attend("pump-1", r, wants)
		if _, err := d.Call(t.Context(), call); !errors.Is(err, gateway.ErrAbsent) {
			t.Errorf("interest %b: got %v, want %v", wants, err, gateway.ErrAbsent)
		}
	}
	d.Attend("pump-1", r, gateway.WantsCalls)
	reply, err := d.Call(t.Context(), call)
	if err != nil || string(reply.Body) != "reboot" {
		t.Errorf("got %v, %v", reply, err)
	}
}

func TestDesiredChangesGoToAllWhoListen(t *testing.T) {
	d := newDown(t, newNotes())
	ways := []*reach{{}, {}, {}}
	d.Attend("pump-1", ways[0], gateway.WantsDesired)
	d.Attend("pump-1", ways[1], gateway.WantsDesired|gateway.Asleep)
	d.Attend("pump-1", ways[2], gateway.WantsDesired|gateway.WantsCalls)
	d.Desired("pump-1", []byte(`{"$version":3}`), 3, func() {})
	d.Desired("pump-2", []byte(`{"$version":4}`), 4, func() {})
	wantText(t, "told", []any{ways[0].got, ways[1].got, ways[2].got}, "[[3] [] [3]]")
}

func TestTheUplinkHearsOfEachInterestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDown(t, newNotes())
		mqtt, ble := &reach{}, &reach{}
		next := func() string {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			leaf, wants, err := d.NextInterest(ctx)
			if err != nil {
				return "nothing"
			}
			return fmt.Sprintf("%s %b", leaf, wants)
		}
		for _, step := range []struct {
			do   func()
			want string
		}{
			{func() {}, "nothing"},
			{func() { d.Attend("a", mqtt, gateway.WantsCommands) }, "a 1"},
			{func() { d.Attend("a", ble, gateway.WantsCalls) }, "a 11"},
			{func() { d.Attend("a", mqtt, asleep) }, "nothing"}, // it is awake on the other way
			{func() { d.Attend("a", ble, 0) }, "a 1001"},
			{func() { d.Attend("a", mqtt, 0); d.Attend("a", mqtt, asleep) }, "nothing"}, // changed back
			{d.LinkDown, "nothing"},
			{d.LinkUp, "a 1001"},
			{func() { d.Attend("a", mqtt, 0) }, "a 0"},
		} {
			step.do()
			wantText(t, "interest", next(), step.want)
		}
	})
}

// TestCommandsHold plays random histories: a hub that locks, offers again and
// loses the link, a leaf that comes, goes, answers or forgets to, a gateway that
// crashes. The leaf gets each command in the hub's order and never again after
// its word; in the end the hub has heard the leaf's word on every one.
func TestCommandsHold(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(*testing.T) { history(rt) })
	})
}

// hubQueue is the model of the hub's queue for one device.
type hubQueue struct {
	mu      sync.Mutex
	next    uint64
	waiting []uint64             // in order
	locked  map[uint64]time.Time // of those, until when
	settled map[uint64]gateway.Verdict
	link    int // counts connections: answers on an old one are lost
	up      bool
}

func (h *hubQueue) offer(d *gateway.Down, origin time.Time) {
	h.mu.Lock()
	var due []uint64
	for _, n := range h.waiting {
		if h.up && time.Now().After(h.locked[n]) {
			due = append(due, n)
		}
	}
	link, lock := h.link, time.Now().Add(time.Minute)
	for _, n := range due {
		h.locked[n] = lock
	}
	h.mu.Unlock()
	for _, n := range due {
		answered := false
		d.Command(&gateway.Command{Leaf: "a", Number: n, Enqueued: origin, LockedTo: lock}, func(v gateway.Verdict) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if answered {
				panic("answered twice")
			}
			answered = true
			if h.link != link || !h.up || v == gateway.Undelivered || time.Now().After(lock) {
				return
			}
			h.settled[n] = v
			h.waiting = slices.DeleteFunc(h.waiting, func(x uint64) bool { return x == n })
		})
	}
}

func (h *hubQueue) unlock(up bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.link++
	h.up = up
	clear(h.locked)
}

func history(t *rapid.T) {
	n, r := newNotes(), &reach{}
	h := &hubQueue{locked: make(map[uint64]time.Time), settled: make(map[uint64]gateway.Verdict)}
	origin := time.Now()
	d := newDown(t, n)
	word := make(map[uint64]bool) // the leaf has said it
	say := func(v gateway.Verdict) {
		r.mu.Lock()
		held := r.inHand
		r.mu.Unlock()
		if v != gateway.Undelivered {
			for _, x := range held {
				word[x.c.Number] = true
			}
		}
		r.say(v)
		synctest.Wait()
	}
	check := func() {
		synctest.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, x := range r.inHand {
			if word[x.c.Number] {
				t.Fatalf("command %d came again after the leaf's word", x.c.Number)
			}
		}
		first := slices.Clone(r.got)
		seen := make(map[uint64]bool)
		first = slices.DeleteFunc(first, func(x uint64) bool { defer func() { seen[x] = true }(); return seen[x] })
		if !slices.IsSorted(first) {
			t.Fatalf("first deliveries out of order: %v", first)
		}
	}
	steps := map[string]func(*rapid.T){
		"send": func(*rapid.T) {
			if h.next < 40 {
				h.next++
				h.waiting = append(h.waiting, h.next)
			}
			h.offer(d, origin)
		},
		"wake":  func(*rapid.T) { d.Attend("a", r, awake) },
		"sleep": func(*rapid.T) { d.Attend("a", r, asleep); say(gateway.Undelivered) },
		"word":  func(*rapid.T) { say(gateway.Completed) },
		"no":    func(*rapid.T) { say(gateway.Rejected) },
		"wait": func(t *rapid.T) {
			time.Sleep(time.Duration(rapid.IntRange(1, 90).Draw(t, "seconds")) * time.Second)
			h.offer(d, origin)
		},
		"cut":     func(*rapid.T) { h.unlock(false); d.LinkDown() },
		"connect": func(*rapid.T) { h.unlock(true); d.LinkUp(); h.offer(d, origin) },
		"crash": func(*rapid.T) {
			h.unlock(false)
			r.mu.Lock()
			r.inHand = nil
			r.mu.Unlock()
			d = newDown(t, n)
		},
		"": func(*rapid.T) { check() },
	}
	t.Repeat(steps)

	h.unlock(true)
	d.LinkUp()
	d.Attend("a", r, awake)
	h.offer(d, origin)
	say(gateway.Completed)
	check()
	h.offer(d, origin)
	synctest.Wait()
	if len(h.waiting) > 0 {
		t.Fatalf("the hub still waits for a word on %v; the leaf got %v", h.waiting, r.got)
	}
	time.Sleep(2 * time.Minute) // timers end
}
