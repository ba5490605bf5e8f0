package serial

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// bench is a handover under way in a synctest bubble.
type bench struct {
	*handover
	custody
	answers []string
	stop    func()
}

func newBench(t *testing.T, room int) *bench {
	b := &bench{}
	b.handover = newHandover(room, &b.custody, newTally(slog.New(slog.DiscardHandler)))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { b.run(ctx) })
	b.stop = func() { cancel(); wg.Wait() }
	return b
}

func (b *bench) offer(text string) *pending {
	return &pending{
		msg: &gateway.Message{Leaf: "x", Body: []byte(text)}, size: len(text) + 1,
		answer: func(ok bool) bool {
			b.answers = append(b.answers, text+":"+strconv.FormatBool(ok))
			return true
		},
	}
}

func (b *bench) putAll(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := b.put(t.Context(), b.offer(text)); err != nil {
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
		s := b.tally.snapshot()
		if s.Taken != (Count{2, 4}) || s.Discarded[DiscardTooLarge] != (Count{1, 2}) || s.Waiting != 0 {
			t.Errorf("state %+v", s)
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
		if s := b.tally.snapshot(); !s.Holding || s.Waiting != 3 {
			t.Errorf("state %+v, want it to hold 3 lines", s)
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
		if s := b.tally.snapshot(); s.Holding {
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
	for err, why := range map[error]Discard{
		gateway.ErrUnknownLeaf: DiscardUnknownLeaf,
		gateway.ErrTooLarge:    DiscardTooLarge,
		errors.New("other"):    DiscardRefused,
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, 8)
			defer b.stop()
			b.putAll(t, "a", "b")
			b.refuse(err)
			synctest.Wait()
			b.check(t, "answers", b.answers, "a:false", "b:false")
			if n := b.tally.snapshot().Discarded[why]; n != (Count{2, 4}) {
				t.Errorf("%v: counted %+v as %s, want 2 lines of 4 bytes", err, n, why)
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
		go func() { put <- b.put(t.Context(), b.offer("c")) }()
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
		go func() { put <- b.put(ctx, b.offer("d")) }()
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
		p.answer = func(bool) bool { return room }
		if err := b.put(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		b.settle(1)
		synctest.Wait()
		if s := b.tally.snapshot(); s.Waiting != 1 || s.Taken.Lines != 0 {
			t.Errorf("state %+v, want the line to wait", s)
		}
		room = true
		signal(b.wake)
		synctest.Wait()
		if s := b.tally.snapshot(); s.Waiting != 0 || s.Taken.Lines != 1 {
			t.Errorf("state %+v, want the line gone", s)
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
					if b.tally.snapshot().Waiting < room {
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
			for b.tally.snapshot().Waiting > 0 {
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
