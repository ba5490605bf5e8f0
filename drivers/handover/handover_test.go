package handover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
)

// custody is a small honest gateway: it settles messages in order, and when it
// refuses one it refuses all that are with it, as the path does.
type custody struct {
	mu    sync.Mutex
	with  []handed // handed over, not settled
	calls int
	taken []string // bodies in custody, in order
}

type handed struct {
	m    *gateway.Message
	done gateway.Done
}

func (c *custody) Handle(_ context.Context, m *gateway.Message, done gateway.Done) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	c.with = append(c.with, handed{m, done})
}

// settle takes the first n messages into custody.
func (c *custody) settle(n int) {
	c.mu.Lock()
	batch := c.with[:min(n, len(c.with))]
	c.with = c.with[len(batch):]
	for _, h := range batch {
		c.taken = append(c.taken, string(h.m.Body))
	}
	c.mu.Unlock()
	for _, h := range batch {
		h.done(nil)
	}
}

// refuse refuses everything.
func (c *custody) refuse(err error) {
	c.mu.Lock()
	batch := c.with
	c.with = nil
	c.mu.Unlock()
	for _, h := range batch {
		h.done(fmt.Errorf("segment 3: %w", err))
	}
}

func (c *custody) waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.with)
}

// ledger is a Tally.
type ledger struct {
	waits   int
	held    bool
	kept    int
	refused map[string]int
}

func (l *ledger) Waiting(n int)               { l.waits = n }
func (l *ledger) Holding(why error)           { l.held = why != nil }
func (l *ledger) Taken(*Item)                 { l.kept++ }
func (l *ledger) Refused(_ *Item, why string) { l.refused[why]++ }

// bench is a queue under way in a synctest bubble.
type bench struct {
	*Queue
	ledger
	custody
	answers []string
	stop    func()
}

func newBench(t *testing.T, room int) *bench {
	b := &bench{}
	b.refused = make(map[string]int)
	b.Queue = New(room, &b.custody, &b.ledger)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { b.Run(ctx) })
	b.stop = func() { cancel(); wg.Wait() }
	return b
}

func (b *bench) offer(text string) *Item {
	return &Item{
		Message: &gateway.Message{Leaf: "x", Body: []byte(text)}, Size: len(text) + 1,
		Answer: func(ok bool) bool {
			b.answers = append(b.answers, text+":"+strconv.FormatBool(ok))
			return true
		},
	}
}

func (b *bench) putAll(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := b.Put(t.Context(), b.offer(text)); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
}

func (b *bench) check(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestAnswersAreInTheOrderOfTheLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 8)
		defer b.stop()
		b.putAll(t, "a", "b", "c")
		first, second, third := b.with[0], b.with[1], b.with[2]
		third.done(nil)
		second.done(gateway.ErrTooLarge)
		synctest.Wait()
		b.check(t, "before the first is known", b.answers)
		first.done(nil)
		synctest.Wait()
		b.check(t, "answers", b.answers, "a:true", "b:false", "c:true")
		if b.kept != 2 || b.refused[TooLarge] != 1 || b.waits != 0 {
			t.Errorf("tally %+v", b.ledger)
		}
	})
}

func TestRefusedSuffixIsHandedOverAgainInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 8)
		defer b.stop()
		b.putAll(t, "a", "b", "c", "d")
		b.settle(1)
		b.refuse(gateway.ErrStoreFull)
		synctest.Wait()
		if !b.held || b.waits != 3 {
			t.Errorf("tally %+v, want it to hold 3 lines", b.ledger)
		}
		b.putAll(t, "e")
		if b.custody.waiting() != 0 {
			t.Error("a later line was handed over before the refused ones")
		}

		time.Sleep(retryMin)
		synctest.Wait()
		if n := b.custody.waiting(); n != 1 {
			t.Fatalf("%d lines tried at once after a refusal, want 1", n)
		}
		b.settle(1)
		synctest.Wait()
		b.settle(3)
		synctest.Wait()
		b.check(t, "in custody", b.taken, "a", "b", "c", "d", "e")
		b.check(t, "answers", b.answers, "a:true", "b:true", "c:true", "d:true", "e:true")
		if b.held {
			t.Error("still holding")
		}
	})
}

func TestAttemptsBecomeRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 8)
		defer b.stop()
		b.putAll(t, "a")
		begin := time.Now()
		for time.Since(begin) < 10*time.Minute {
			b.refuse(gateway.ErrStoreFailed)
			time.Sleep(10 * time.Millisecond)
		}
		// Each pause is between half and all of retryMax once it has grown.
		if low, high := 120, 250; b.calls < low || b.calls > high {
			t.Errorf("%d attempts in ten minutes, want %d to %d", b.calls, low, high)
		}
		for b.custody.waiting() == 0 {
			time.Sleep(time.Second)
		}
		b.settle(1)
		synctest.Wait()
		b.check(t, "in custody", b.taken, "a")
	})
}

func TestLinesThatTheGatewayNeverTakesAreGivenUp(t *testing.T) {
	for err, why := range map[error]string{
		gateway.ErrUnknownLeaf: UnknownLeaf,
		gateway.ErrTooLarge:    TooLarge,
		errors.New("other"):    Refused,
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, 8)
			defer b.stop()
			b.putAll(t, "a", "b")
			b.refuse(err)
			synctest.Wait()
			b.check(t, "answers", b.answers, "a:false", "b:false")
			if n := b.refused[why]; n != 2 {
				t.Errorf("%v: counted %d as %s, want 2", err, n, why)
			}
		})
	}
}

func TestPutWaitsAtTheBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2)
		defer b.stop()
		b.putAll(t, "a", "b")
		put := make(chan error)
		go func() { put <- b.Put(t.Context(), b.offer("c")) }()
		synctest.Wait()
		select {
		case err := <-put:
			t.Fatalf("put beyond the bound returned %v", err)
		default:
		}
		b.settle(1)
		if err := <-put; err != nil {
			t.Error(err)
		}

		ctx, cancel := context.WithCancel(t.Context())
		go func() { put <- b.Put(ctx, b.offer("d")) }()
		synctest.Wait()
		cancel()
		if err := <-put; !errors.Is(err, context.Canceled) {
			t.Errorf("put at the bound returned %v after its context ended", err)
		}
	})
}

func TestLineWaitsForRoomForItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2)
		defer b.stop()
		room := false
		p := b.offer("a")
		p.Answer = func(bool) bool { return room }
		if err := b.Put(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		b.settle(1)
		synctest.Wait()
		if b.waits != 1 || b.kept != 0 {
			t.Errorf("tally %+v, want the line to wait", b.ledger)
		}
		room = true
		b.Wake()
		synctest.Wait()
		if b.waits != 0 || b.kept != 1 {
			t.Errorf("tally %+v, want the line gone", b.ledger)
		}
	})
}

// Whatever the store does, each line comes into custody exactly once, in order.
func TestHandoverKeepsOrder(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		room := rapid.IntRange(1, 10).Draw(r, "room")
		steps := rapid.SliceOfN(rapid.SampledFrom([]string{"put", "put", "settle", "refuse", "sleep"}), 1, 60).Draw(r, "steps")
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, room)
			defer b.stop()
			var want []string
			for _, step := range steps {
				switch step {
				case "put":
					text := strconv.Itoa(len(want))
					if b.Room(1) {
						want = append(want, text)
						b.putAll(t, text)
					}
				case "settle":
					b.settle(2)
				case "refuse":
					b.refuse(gateway.ErrStoreFull)
				case "sleep":
					time.Sleep(retryMax)
				}
				synctest.Wait()
			}
			for b.waits > 0 {
				time.Sleep(retryMax)
				synctest.Wait()
				b.settle(1)
				synctest.Wait()
			}
			b.check(t, "in custody", b.taken, want...)
			for i := range want {
				want[i] += ":true"
			}
			b.check(t, "answers", b.answers, want...)
		})
	})
}
