package gateway_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// local is a program on this machine that sends commands to pump-1.
type local struct {
	*gateway.Down
	notes *notes
	way   *reach
}

// send sends a command within limit, and returns its word later.
func (l *local) send(t *testing.T, limit time.Duration) (word func() (gateway.Verdict, error), giveUp func()) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	var v gateway.Verdict
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		v, err = l.Send(ctx, &gateway.Command{Leaf: "pump-1", Body: []byte("x")})
	}()
	synctest.Wait()
	return func() (gateway.Verdict, error) { <-done; cancel(); return v, err }, cancel
}

func withLocal(t *testing.T, test func(t *testing.T, l *local)) {
	synctest.Test(t, func(t *testing.T) {
		n := newNotes()
		down, err := gateway.NewDown(nil, n, trusted, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		test(t, &local{down, n, new(reach)})
	})
}

func TestLocalCommandIsAnsweredByTheLeaf(t *testing.T) {
	withLocal(t, func(t *testing.T, l *local) {
		l.Attend("pump-1", l.way, gateway.WantsCommands)
		for _, linkUp := range []bool{false, true} {
			if linkUp {
				l.LinkUp()
			}
			for _, want := range []gateway.Verdict{gateway.Completed, gateway.Rejected, gateway.Abandoned} {
				word, _ := l.send(t, time.Minute)
				l.way.say(want)
				if v, err := word(); v != want || err != nil {
					t.Errorf("link %v: %v, %v; want %v", linkUp, v, err, want)
				}
			}
		}
		if len(l.notes.kept) != 0 {
			t.Errorf("noted on flash: %v", l.notes.kept)
		}
	})
}

// Local commands and the hub's stand in one line.
func TestLocalCommandKeepsTheOrder(t *testing.T) {
	withLocal(t, func(t *testing.T, l *local) {
		l.LinkUp()
		l.Attend("pump-1", l.way, gateway.WantsCommands|gateway.Asleep)
		o := newOffers()
		o.offer(l.Down, 1, "1")
		word, _ := l.send(t, time.Minute)
		o.offer(l.Down, 2, "2")
		l.Attend("pump-1", l.way, gateway.WantsCommands)
		got := l.way.numbers()
		if len(got) != 3 || got[0] != 1 || got[2] != 2 {
			t.Errorf("handed over: %v", got)
		}
		l.way.say(gateway.Completed)
		if v, err := word(); v != gateway.Completed || err != nil {
			t.Errorf("%v, %v", v, err)
		}
	})
}

// What nobody waits for any more is nobody's: a leaf that wakes later does not get
// it, with the hub or without.
func TestLocalCommandThatIsGivenUpIsGone(t *testing.T) {
	withLocal(t, func(t *testing.T, l *local) {
		if _, err := l.Send(t.Context(), &gateway.Command{Leaf: "pump-1"}); !errors.Is(err, gateway.ErrAbsent) {
			t.Errorf("to nobody: %v", err)
		}
		l.Attend("pump-1", l.way, gateway.WantsCommands|gateway.Asleep)
		late, _ := l.send(t, time.Second)
		if v, err := late(); v != gateway.Undelivered || !errors.Is(err, gateway.ErrAbsent) {
			t.Errorf("to one that does not wake: %v, %v", v, err)
		}
		word, giveUp := l.send(t, time.Minute)
		giveUp()
		if _, err := word(); !errors.Is(err, gateway.ErrAbsent) {
			t.Errorf("given up: %v", err)
		}
		l.Attend("pump-1", l.way, gateway.WantsCommands)
		if got := l.way.numbers(); len(got) != 0 {
			t.Errorf("the leaf got %d commands that were given up", len(got))
		}

		word, _ = l.send(t, time.Second)
		if _, err := word(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("to a leaf that does not answer: %v", err)
		}
		l.way.say(gateway.Undelivered) // its connection broke
		l.Attend("pump-1", l.way, gateway.WantsCommands)
		if got := l.way.numbers(); len(got) != 1 {
			t.Errorf("it came %d times", len(got))
		}
	})
}

func TestWhoWantsWhat(t *testing.T) {
	withLocal(t, func(t *testing.T, l *local) {
		l.Attend("pump-1", l.way, gateway.WantsCalls|gateway.Asleep)
		l.Attend("pump-2", l.way, 0)
		if got := l.Wants(); len(got) != 1 || got["pump-1"] != gateway.WantsCalls|gateway.Asleep {
			t.Errorf("wants: %v", got)
		}
	})
}
