package limits_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/limits"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// taken counts how many operations are allowed right now, of n tried.
func taken(l *limits.Limits, op limits.Operation, bytes, n int) int {
	got := 0
	for range n {
		if l.Take(op, bytes) == nil {
			got++
		}
	}
	return got
}

func TestOff(t *testing.T) {
	var l limits.Limits
	if n := taken(&l, limits.Query, 1, 1000); n != 1000 {
		t.Errorf("%d of 1000 allowed without a tier", n)
	}
	if err := l.SetTier("S9", 1); err == nil {
		t.Error("S9 is a tier")
	}
	if err := l.SetTier("S1", 0); err == nil {
		t.Error("a tier has no units")
	}
}

// The rates of section 6.1, in the first second and in the next.
func TestRates(t *testing.T) {
	for _, c := range []struct {
		tier   string
		units  int
		op     limits.Operation
		bytes  int
		first  int
		minute int // allowed in the minute after
	}{
		{"S1", 1, limits.Telemetry, 100, 100, 6000},
		{"S1", 20, limits.Telemetry, 100, 240, 14400},
		{"S1", 1, limits.TwinUpdate, 100, 50, 3000},
		{"S1", 1, limits.RegistryOperation, 100, 1, 100},
		{"S1", 1, limits.Query, 100, 1, 20},
		{"S1", 1, limits.Method, 100, 40, 2400},
		{"S1", 1, limits.Method, 8 << 10, 20, 1200},
		{"S2", 1, limits.Connection, 0, 120, 7200},
	} {
		synctest.Test(t, func(t *testing.T) {
			var l limits.Limits
			if err := l.SetTier(c.tier, c.units); err != nil {
				t.Fatal(err)
			}
			if n := taken(&l, c.op, c.bytes, 1000); n != c.first {
				t.Errorf("%+v: %d allowed at once", c, n)
			}
			n := 0
			for range 60 * 20 {
				time.Sleep(time.Second / 20)
				n += taken(&l, c.op, c.bytes, 1000)
			}
			if n < c.minute-1 || n > c.minute {
				t.Errorf("%+v: %d allowed in a minute", c, n)
			}
		})
	}
}

// What others do counts, and has to be paid off.
func TestSpend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limits.Limits
		l.Spend(limits.Telemetry, 1000)
		if n := taken(&l, limits.Telemetry, 1, 1000); n != 1000 {
			t.Errorf("without a tier %d of 1000 were allowed", n)
		}
		if err := l.SetTier("S1", 1); err != nil {
			t.Fatal(err)
		}
		l.Spend(limits.Telemetry, 300)
		if n := taken(&l, limits.Telemetry, 1, 1000); n != 0 {
			t.Errorf("%d were allowed in debt", n)
		}
		time.Sleep(3 * time.Second)
		if n := taken(&l, limits.Telemetry, 1, 1000); n != 100 {
			t.Errorf("%d were allowed after the debt", n)
		}
	})
}

// The free tier has 8,000 messages of half a kilobyte a day.
func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limits.Limits
		if err := l.SetTier("F1", 1); err != nil {
			t.Fatal(err)
		}
		sent := 0
		var err error
		for err == nil {
			time.Sleep(time.Second / 50)
			if err = l.Take(limits.Telemetry, 513); err == nil {
				sent++
			}
		}
		if sent != 4000 || !refusal.Is(err, 403002) {
			t.Errorf("%d messages of two steps each, then %v", sent, err)
		}
		time.Sleep(24 * time.Hour)
		if err := l.Take(limits.Telemetry, 513); err != nil {
			t.Errorf("the next day: %v", err)
		}
	})
}

func TestExhaustQuota(t *testing.T) {
	var l limits.Limits
	l.ExhaustQuota(true)
	if err := l.Take(limits.Telemetry, 1); !refusal.Is(err, 403002) {
		t.Errorf("got %v", err)
	}
	if err := l.Take(limits.TwinRead, 1); err != nil {
		t.Errorf("a twin is no message: %v", err)
	}
	l.ExhaustQuota(false)
	if n := taken(&l, limits.Telemetry, 1, 1000); n != 1000 {
		t.Errorf("%d of 1000 allowed after", n)
	}
}

// Refused messages cost nothing of the quota.
func TestRefusedCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limits.Limits
		if err := l.SetTier("F1", 1); err != nil {
			t.Fatal(err)
		}
		if n := taken(&l, limits.Telemetry, 1, 50_000); n != 100 {
			t.Fatalf("%d allowed at once", n)
		}
		time.Sleep(time.Second)
		if err := l.Take(limits.Telemetry, 1); err != nil {
			t.Errorf("after a second: %v", err)
		}
	})
}
