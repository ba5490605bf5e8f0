package uplink

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// Whatever the schedule and however many failures: the limit doubles up to its
// ceiling, and waits stay under it.
func TestWaitsStayWithinTheirLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := schedule{min: time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "min"))}
		s.max = s.min + time.Duration(rapid.Int64Range(0, int64(24*time.Hour)).Draw(t, "more"))
		n := rapid.OneOf(rapid.IntRange(1, 40), rapid.IntRange(1, 1<<30)).Draw(t, "failures")
		limit := s.limit(n)
		switch {
		case n == 1 && limit != s.min:
			t.Errorf("the first limit is %v", limit)
		case n > 1 && limit != min(2*s.limit(n-1), s.max):
			t.Errorf("limit %v after %v", limit, s.limit(n-1))
		}
		if w := s.full(n); w < 0 || w > limit {
			t.Errorf("full: %v, limit %v", w, limit)
		}
		if w := s.upper(n); w < limit/2 || w > limit {
			t.Errorf("upper: %v, limit %v", w, limit)
		}
	})
}

// Full jitter uses the whole width: of many waits some lie in each quarter.
func TestJitterIsFull(t *testing.T) {
	s := schedule{time.Second, time.Minute}
	var quarters [4]int
	for range 1000 {
		quarters[min(int(s.full(3)/time.Second), 3)]++
	}
	for i, n := range quarters {
		if n < 100 { // 250 are expected; fewer than 100 never happen by chance
			t.Errorf("%d of 1000 waits are in quarter %d", n, i+1)
		}
	}
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		pass := func(want time.Duration) {
			t.Helper()
			begin := time.Now()
			if !g.wait(t.Context()) || time.Since(begin) != want {
				t.Errorf("passed after %v, want %v", time.Since(begin), want)
			}
		}
		pass(0)
		first, fresh := g.shut(0, time.Now())
		if !fresh || first < throttle.min/2 || first > throttle.min {
			t.Errorf("first pause %v, %v", first, fresh)
		}
		if rest, fresh := g.shut(time.Hour, time.Now()); fresh || rest != first {
			t.Errorf("a second answer of the same kind closed it again, for %v", rest)
		}
		pass(first)
		second, _ := g.shut(0, time.Now())
		if second < throttle.min || second > 2*throttle.min {
			t.Errorf("second pause %v", second)
		}
		pass(second)
		asked, _ := g.shut(time.Hour, time.Now()) // the hub's word counts, if it asks for more
		if asked != time.Hour {
			t.Errorf("the hub asked for an hour and got %v", asked)
		}
		pass(asked)
		// An answer from before the gate opened, acted upon only now, is no new one.
		if wait, fresh := g.shut(time.Hour, cameAt(dated{errors.New("late"), time.Now().Add(-time.Second)})); fresh || wait != 0 {
			t.Errorf("an old answer closed it again, for %v", wait)
		}
		g.accepted()
		if again, _ := g.shut(0, time.Now()); again > throttle.min {
			t.Errorf("first pause after success: %v", again)
		}
	})
}
