package uplink_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// gaps returns the times between attempts to connect.
func gaps(w *wire) []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	var g []time.Duration
	for i := 1; i < len(w.dials); i++ {
		g = append(g, w.dials[i].Sub(w.dials[i-1]))
	}
	return g
}

func TestBackoffGrowsWithJitterToItsCeiling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		w.dial = func(int) error { return errors.New("no route") }
		cfg := uplink.DefaultConfig()
		u, stop := start(t, cfg, w, newOutbox(t))
		time.Sleep(2 * time.Hour)
		s := u.State()
		stop()
		g := gaps(w)
		if len(g) < 50 || g[0] != 0 {
			t.Fatalf("%d retries in two hours, the first after %v, want it at once", len(g), g[0])
		}
		limit := cfg.BackoffMin.D()
		for i, gap := range g[1:] {
			if gap > limit {
				t.Errorf("retry %d came after %v, limit %v", i+2, gap, limit)
			}
			limit = min(2*limit, cfg.BackoffMax.D())
		}
		late := g[20:]
		if slices.Max(late) < cfg.BackoffMax.D()/2 || slices.Min(late) > cfg.BackoffMax.D()/2 {
			t.Errorf("no jitter: %v to %v", slices.Min(late), slices.Max(late))
		}
		if s.Connected || s.Connects[uplink.ConnectFailed] != int64(len(g)+1) || s.Offline != 2*time.Hour ||
			s.LastError == "" || s.RetryAt.Before(time.Now().Add(-cfg.BackoffMax.D())) {
			t.Errorf("state %+v", s)
		}
	})
}

func TestRefusedGatewayAsksSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		w.dial = func(int) error { return &uplink.Fault{Remedy: uplink.Refused, Err: errors.New("who are you")} }
		cfg := uplink.DefaultConfig()
		u, stop := start(t, cfg, w, newOutbox(t))
		time.Sleep(24 * time.Hour)
		stop()
		g := gaps(w)
		if g[0] < cfg.AuthBackoffMin.D()/2 || len(g) > 60 {
			t.Errorf("%d attempts in a day, the first again after %v", len(g), g[0])
		}
		if s := u.State(); s.Connects[uplink.ConnectRefused] != int64(len(g)+1) {
			t.Errorf("state %+v", s)
		}
	})
}

func TestStableConnectionIsReplacedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, out := newWire(), newOutbox(t)
		_, stop := start(t, uplink.DefaultConfig(), w, out)
		for range 5 {
			time.Sleep(2 * time.Minute)
			w.last().lose(errors.New("cut"))
		}
		time.Sleep(2 * time.Minute)
		stop()
		for i, gap := range gaps(w) {
			if gap != 2*time.Minute {
				t.Errorf("connection %d came %v after the one before, which lasted 2m", i+2, gap)
			}
		}
		if out.up || out.linkups != 6 {
			t.Errorf("up %v after the end, %d times up", out.up, out.linkups)
		}
	})
}

func TestFlappingConnectionBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		_, stop := start(t, uplink.DefaultConfig(), w, newOutbox(t))
		for range 1000 {
			synctest.Wait()
			w.last().lose(errors.New("cut"))
			time.Sleep(time.Second)
		}
		stop()
		if n := len(gaps(w)); n > 100 {
			t.Errorf("%d connections in 1000 s", n)
		}
	})
}

func TestThrottledHubClosesTheGateForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, out := newWire(), newOutbox(t)
		pause := 40 * time.Minute
		closed := true
		w.answer = func(string) (bool, error) {
			if closed {
				return false, &uplink.Fault{Remedy: uplink.Throttled, Pause: pause, Err: errors.New("quota")}
			}
			return true, nil
		}
		u, stop := start(t, uplink.DefaultConfig(), w, out)
		defer stop()
		out.publish("a", 100)
		synctest.Wait()
		if s := u.State(); s.Throttled != 1 || !s.ClosedUntil.Equal(time.Now().Add(pause)) {
			t.Errorf("state %+v", s)
		}
		out.publish("b", 10)
		time.Sleep(pause - time.Second)
		if n := w.opened("b"); n > 0 {
			t.Error("another leaf went to the hub in the pause")
		}
		w.mu.Lock()
		closed = false
		w.mu.Unlock()
		time.Sleep(2 * time.Second)
		if n := out.count(gateway.Accepted); n != 110 {
			t.Errorf("%d accepted after the pause, want 110", n)
		}
	})
}

func TestRefusedLeafWaitsLongAndAcrossConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, out := newWire(), newOutbox(t)
		w.open = func(leaf string) error {
			if leaf == "bad" {
				return &uplink.Fault{Remedy: uplink.Refused, Err: errors.New("unknown device")}
			}
			return nil
		}
		cfg := uplink.DefaultConfig()
		u, stop := start(t, cfg, w, out)
		defer stop()
		out.publish("bad", 5)
		out.publish("good", 5)
		for range 24 {
			time.Sleep(time.Hour)
			w.last().lose(errors.New("cut"))
			synctest.Wait()
		}
		if n := out.count(gateway.Accepted); n != 5 {
			t.Errorf("%d accepted, want those of the good leaf", n)
		}
		if n := w.opened("bad"); n < 24 || n > 70 {
			t.Errorf("the refused leaf was tried %d times in a day", n)
		}
		if s := u.State(); s.Refused["bad"] != "unknown device" || len(s.Refused) != 1 {
			t.Errorf("refused %v", s.Refused)
		}
		for i, r := range out.recalled() {
			if !r.refused || r.leaf != "bad" {
				t.Errorf("recall %+v", r)
			}
			if r.pause < cfg.AuthBackoffMin.D()/2 || i > 20 && r.pause < cfg.AuthBackoffMax.D()/2 {
				t.Errorf("refusal %d asks for a pause of %v", i+1, r.pause)
			}
		}
	})
}

// A hub that refuses several messages together does not say which one is bad: it
// is found by sending them one by one, and everything else arrives in order.
func TestPoisonInABatchIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, out := newWire(), newOutbox(t)
		w.together, w.delay, w.gentle = 64, time.Millisecond, true
		w.answer = func(m string) (bool, error) {
			if m == "leaf/20" || m == "leaf/150" {
				return false, &uplink.Fault{Remedy: uplink.Poison, Err: errors.New("bad")}
			}
			return true, nil
		}
		_, stop := start(t, uplink.DefaultConfig(), w, out)
		defer stop()
		out.publish("leaf", 500)
		time.Sleep(time.Minute)
		synctest.Wait()
		if a, r := out.count(gateway.Accepted), out.count(gateway.Refused); a != 498 || r != 2 {
			t.Errorf("%d accepted, %d refused", a, r)
		}
		for _, m := range []string{"leaf/20", "leaf/150"} {
			if o, _ := out.outcome(m); o != gateway.Refused {
				t.Errorf("%s: %v", m, o)
			}
		}
		// What was behind a refused batch may have arrived before it was known:
		// it comes again. The last copies are in order.
		last := make(map[string]int)
		for i, m := range w.arrived["leaf"] {
			last[m] = i
		}
		for seq, before := uint64(1), -1; seq <= 500; seq++ {
			i, ok := last[name("leaf", seq)]
			if ok && i < before || ok == (seq == 20 || seq == 150) {
				t.Fatalf("message %d: arrived %v, last at position %d, the one before at %d", seq, ok, i, before)
			} else if ok {
				before = i
			}
		}
		if w.batches == 0 {
			t.Error("nothing was sent together")
		}
	})
}

// One leaf that always has more to send takes turns with those that have little:
// before a quiet one is served, the chatty one gets no more than its window and
// one turn.
func TestChattyLeafTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, out := newWire(), newOutbox(t)
		w.together, w.delay = 64, 10*time.Millisecond
		cfg := uplink.DefaultConfig()
		cfg.MaxInflight = 64 // the chatty leaf alone could fill it
		_, stop := start(t, cfg, w, out)
		defer stop()
		out.publish("chatty", 100_000)
		time.Sleep(100 * time.Millisecond)
		for i := range 50 {
			out.publish(fmt.Sprint("quiet", i), 1)
		}
		before := out.accepted("chatty")
		for i := 0; out.count(gateway.Accepted) < 100_050 && out.quiet() < 50; i++ {
			if i > 1000 {
				t.Fatalf("%d of 50 quiet leaves served", out.quiet())
			}
			time.Sleep(10 * time.Millisecond)
		}
		// Fifty quiet leaves are fifty turns; between two of them the chatty one
		// may have one, of a sixteenth of what there is.
		if n := out.accepted("chatty") - before; n > 64+50*64/16 {
			t.Errorf("%d messages of the chatty leaf went before the last quiet leaf's one", n)
		}
	})
}

func TestPoisonIsShelvedInItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, out := newWire(), newOutbox(t)
		w.answer = func(m string) (bool, error) {
			if m == "a/7" {
				return false, &uplink.Fault{Remedy: uplink.Poison, Err: errors.New("bad")}
			}
			return true, nil
		}
		u, stop := start(t, uplink.DefaultConfig(), w, out)
		defer stop()
		out.publish("a", 20)
		synctest.Wait()
		if o, ok := out.outcome("a/7"); !ok || o != gateway.Refused || out.count(gateway.Accepted) != 19 {
			t.Errorf("a/7 is %v, %v; %d accepted", o, ok, out.count(gateway.Accepted))
		}
		if s := u.State(); s.Accepted != 19 || s.Rejected != 1 || s.Inflight != 0 || s.Recalls != 0 {
			t.Errorf("state %+v", s)
		}
	})
}

// What the hub refuses while the shelf cannot take it breaks the link: what is
// behind it waits for it, and comes again as one tail.
func TestRefusedMessageThatCannotBeShelvedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, out := newWire(), newOutbox(t)
		w.delay, w.gentle, out.shelfFull = time.Second, true, 1
		w.answer = func(m string) (bool, error) {
			if m == "a/7" {
				return false, &uplink.Fault{Remedy: uplink.Poison, Err: errors.New("bad")}
			}
			return true, nil
		}
		u, stop := start(t, uplink.DefaultConfig(), w, out)
		out.publish("a", 20)
		time.Sleep(5 * time.Minute)
		s := u.State()
		stop()
		var want []string
		for _, part := range [][2]uint64{{1, 6}, {8, 20}, {8, 20}} {
			for seq := part[0]; seq <= part[1]; seq++ {
				want = append(want, name("a", seq))
			}
		}
		if got := w.arrived["a"]; !slices.Equal(got, want) {
			t.Errorf("arrived %v", got)
		}
		if o, _ := out.outcome("a/7"); o != gateway.Refused || s.Accepted != 19 || s.Rejected != 1 || s.Recalls != 1 {
			t.Errorf("a/7 is %v; state %+v", o, s)
		}
	})
}

func TestReleasedMessageTakesItsTailWithIt(t *testing.T) {
	for _, remedy := range []uplink.Remedy{uplink.Again, uplink.BackOff, uplink.Throttled} {
		synctest.Test(t, func(t *testing.T) {
			w, out := newWire(), newOutbox(t)
			w.delay, w.gentle = time.Second, true // all are with the hub before it answers
			released := false
			w.answer = func(m string) (bool, error) {
				if m != "a/7" || released {
					return true, nil
				}
				released = true
				return false, &uplink.Fault{Remedy: remedy, Err: errors.New("not now")}
			}
			u, stop := start(t, uplink.DefaultConfig(), w, out)
			out.publish("a", 20)
			time.Sleep(5 * time.Minute)
			s := u.State()
			stop()
			var want []string
			for _, part := range [][2]uint64{{1, 6}, {8, 20}, {7, 20}} {
				for seq := part[0]; seq <= part[1]; seq++ {
					want = append(want, name("a", seq))
				}
			}
			if got := w.arrived["a"]; !slices.Equal(got, want) {
				t.Errorf("%v: arrived %v", remedy, got)
			}
			if out.count(gateway.Accepted) != 20 || s.Accepted != 20 || s.Recalls != 1 || s.Inflight != 0 {
				t.Errorf("%v: %d accepted, state %+v", remedy, out.count(gateway.Accepted), s)
			}
		})
	}
}

func TestMessageThatKillsTheLinkIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, out := newWire(), newOutbox(t)
		w.delay = time.Millisecond
		w.answer = func(m string) (bool, error) {
			if m == "a/50" || m == "a/300" {
				return false, &uplink.Fault{Remedy: uplink.Suspect, Err: errors.New("a message is too large")}
			}
			return true, nil
		}
		_, stop := start(t, uplink.DefaultConfig(), w, out)
		defer stop()
		out.publish("a", 500)
		time.Sleep(10 * time.Minute)
		first, _ := out.outcome("a/50")
		second, _ := out.outcome("a/300")
		if n := out.count(gateway.Refused); n != 2 || first != gateway.Refused || second != gateway.Refused {
			t.Errorf("%d refused, a/50 %v, a/300 %v", n, first, second)
		}
		if n := out.count(gateway.Accepted); n != 498 {
			t.Errorf("%d accepted, want 498", n)
		}
	})
}

func TestLeafWithoutCreditBlocksOnlyItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, out := newWire(), newOutbox(t)
		w.send = func(ctx context.Context, m string) {
			if m == "a/3" {
				<-ctx.Done()
			}
		}
		_, stop := start(t, uplink.DefaultConfig(), w, out)
		out.publish("a", 10)
		out.publish("b", 1000)
		synctest.Wait()
		if n := out.count(gateway.Accepted); n != 1002 {
			t.Errorf("%d accepted, want 2 and 1000", n)
		}
		stop() // ends although the leaf is blocked
	})
}

func TestBoundsOfMessagesInFlight(t *testing.T) {
	for _, c := range []struct{ window, most, leaves, want int }{
		{10, 1000, 1, 10},
		{10, 25, 5, 25},
		{1, 1000, 3, 3},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, out := newWire(), newOutbox(t)
			w.delay = time.Second
			cfg := uplink.DefaultConfig()
			cfg.Window, cfg.MaxInflight = c.window, c.most
			u, stop := start(t, cfg, w, out)
			defer stop()
			for i := range c.leaves {
				out.publish(fmt.Sprint("leaf", i), 100)
			}
			synctest.Wait()
			if s := u.State(); s.Inflight != c.want || s.Links != c.leaves {
				t.Errorf("%+v: state %+v", c, s)
			}
			time.Sleep(10 * time.Minute)
			if n := w.highest(); n != c.want {
				t.Errorf("%+v: at most %d in flight", c, n)
			}
			if n := out.count(gateway.Accepted); n != 100*c.leaves {
				t.Errorf("%+v: %d accepted", c, n)
			}
		})
	}
}

func TestFarewell(t *testing.T) {
	for _, c := range []struct {
		delay, took time.Duration
		accepted    int
	}{
		{time.Second, time.Second, 10}, // what is on its way is settled
		{time.Minute, 3 * time.Second, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, out := newWire(), newOutbox(t)
			w.delay = c.delay
			_, stop := start(t, uplink.DefaultConfig(), w, out)
			out.publish("a", 10)
			synctest.Wait()
			begin := time.Now()
			stop()
			if took := time.Since(begin); took != c.took {
				t.Errorf("answers take %v: the end took %v, want %v", c.delay, took, c.took)
			}
			if n := out.count(gateway.Accepted); n != c.accepted {
				t.Errorf("answers take %v: %d accepted, want %d", c.delay, n, c.accepted)
			}
		})
	}
}

func TestIdleLinkIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, out := newWire(), newOutbox(t)
		cfg := uplink.DefaultConfig()
		u, stop := start(t, cfg, w, out)
		defer stop()
		for round := 1; round <= 3; round++ {
			out.publish("a", 1)
			time.Sleep(cfg.IdleDetach.D() - time.Second)
			if s := u.State(); s.Links != 1 {
				t.Errorf("round %d: %d links before the time", round, s.Links)
			}
			time.Sleep(2 * time.Second)
			if s := u.State(); s.Links != 0 || s.Recalls != 0 || w.opened("a") != round {
				t.Errorf("round %d: opened %d times, state %+v", round, w.opened("a"), s)
			}
		}
	})
}

func TestHubThatNeverAnswersLosesTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, out := newWire(), newOutbox(t)
		w.delay = 100 * 24 * time.Hour
		cfg := uplink.DefaultConfig()
		u, stop := start(t, cfg, w, out)
		defer stop()
		out.publish("a", 3)
		time.Sleep(cfg.StallTimeout.D() - time.Second)
		if s := u.State(); s.Recalls != 0 || s.Inflight != 3 {
			t.Errorf("too early: %+v", s)
		}
		time.Sleep(2 * time.Second)
		if s := u.State(); s.Recalls != 1 {
			t.Errorf("not noticed: %+v", s)
		}
	})
}

func TestUplinkWaitsForTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		var synced atomic.Bool
		u := uplink.New(uplink.DefaultConfig(), uplink.Parts{Transport: w, Log: discard(), Clock: func() gateway.Instant {
			i := clock()
			if !synced.Load() {
				i.Quality = gateway.Unsynced
			}
			return i
		}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- u.Run(ctx, newOutbox(t)) }()
		time.Sleep(time.Hour)
		if s := u.State(); s.Waiting != "trusted time" || w.attempts() > 0 {
			t.Errorf("%d attempts, state %+v", w.attempts(), s)
		}
		synced.Store(true)
		time.Sleep(2 * time.Second)
		if s := u.State(); !s.Connected {
			t.Errorf("not connected with a trusted clock: %+v", s)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestWhateverBreaks lets links and connections break at random and checks the
// promises: every message is settled once, those of a leaf arrive in order, and
// duplicates are a tail sent again in one piece.
func TestWhateverBreaks(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		window := rapid.IntRange(1, 20).Draw(rt, "window")
		leaves := rapid.IntRange(1, 4).Draw(rt, "leaves")
		breaks := rapid.SliceOfN(rapid.IntRange(1, 60), 0, 30).Draw(rt, "breaks")
		kinds := rapid.SliceOfN(rapid.SampledFrom([]string{"lost", "lost and stored", "backoff", "connection"}), 30, 30).Draw(rt, "kinds")
		synctest.Test(t, func(t *testing.T) {
			w, out := newWire(), newOutbox(t)
			w.delay = 10 * time.Millisecond
			sent := 0 // since the last break
			w.answer = func(string) (bool, error) {
				if sent++; len(breaks) == 0 || sent < breaks[0] {
					return true, nil
				}
				kind := kinds[len(breaks)-1]
				breaks, sent = breaks[1:], 0
				switch kind {
				case "lost":
					return false, errLinkLost
				case "lost and stored":
					return true, errLinkLost
				case "backoff":
					return false, &uplink.Fault{Remedy: uplink.BackOff, Err: errors.New("fault")}
				}
				w.conns[len(w.conns)-1].lose(errors.New("cut"))
				return true, nil
			}
			cfg := uplink.DefaultConfig()
			cfg.Window = window
			_, stop := start(t, cfg, w, out)
			for i := range leaves {
				out.publish(fmt.Sprint("leaf", i), 100)
			}
			time.Sleep(24 * time.Hour)
			stop()
			if n := out.count(gateway.Accepted); n != 100*leaves {
				rt.Errorf("%d accepted of %d", n, 100*leaves)
			}
			for leaf, names := range w.arrived {
				checkOrder(rt, leaf, names)
			}
		})
	})
}

// checkOrder fails unless each message follows its predecessor, or goes back to
// begin a tail again.
func checkOrder(t *rapid.T, leaf string, names []string) {
	last := uint64(0)
	for i, n := range names {
		seq := last + 1
		for seq > 1 && name(leaf, seq) != n {
			seq--
		}
		if name(leaf, seq) != n {
			t.Fatalf("%s at position %d arrived after %d", n, i, last)
		}
		last = seq
	}
	if last != 100 {
		t.Fatalf("%s: the last is %d", leaf, last)
	}
}
