package presence_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/presence"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

var (
	pump  = registry.ID{Device: "pump"}
	valve = registry.ID{Device: "pump", Module: "valve"}
)

// never is the end of a session that nobody may end.
func never(t *testing.T) func(*refusal.Error) {
	return func(e *refusal.Error) { t.Errorf("the session was ended: %v", e) }
}

// news returns a table and the changes it tells.
func news() (*presence.Table, *[]string) {
	table := presence.New()
	var list []string
	table.OnChange(func(id registry.ID, connected bool) { list = append(list, fmt.Sprint(id, " ", connected)) })
	return table, &list
}

func TestEnterAndLeave(t *testing.T) {
	table, told := news()
	s := table.Enter(pump, never(t))
	if s.ID() != pump {
		t.Errorf("the session is that of %v", s.ID())
	}
	m := table.Enter(valve, never(t))
	if n := table.Count(); n != 1 {
		t.Errorf("%d devices are connected, want 1: modules do not count", n)
	}
	s.Leave()
	s.Leave()
	if table.End(pump, refusal.New(401003, "")) {
		t.Error("a session that had left was ended")
	}
	if table.State(pump).Connected || !table.State(valve).Connected || table.Count() != 0 {
		t.Error("the wrong one has left")
	}
	m.Leave()
	if want := []string{"pump true", "pump/valve true", "pump false", "pump/valve false"}; !slices.Equal(*told, want) {
		t.Errorf("told %q, want %q", *told, want)
	}
}

// A newer connection displaces an older one, whose end is no departure.
func TestDisplaced(t *testing.T) {
	table, told := news()
	var reasons []int
	older := table.Enter(pump, func(e *refusal.Error) { reasons = append(reasons, e.Code) })
	newer := table.Enter(pump, never(t))
	older.Leave()
	if !slices.Equal(reasons, []int{400027}) {
		t.Errorf("the older session was ended with %d, want 400027 once", reasons)
	}
	if !table.State(pump).Connected || table.Count() != 1 {
		t.Error("the device is not connected")
	}
	newer.Leave()
	if want := []string{"pump true", "pump false"}; !slices.Equal(*told, want) {
		t.Errorf("told %q, want %q", *told, want)
	}
}

func TestEnd(t *testing.T) {
	table, told := news()
	reason := refusal.New(404001, "deleted")
	var s *presence.Session
	ended := 0
	s = table.Enter(pump, func(e *refusal.Error) {
		ended++
		if e != reason {
			t.Errorf("ended with %v", e)
		}
		s.Leave() // a session may leave when it is ended
	})
	if !table.End(pump, reason) || table.End(pump, reason) || table.End(valve, reason) {
		t.Error("End does not tell whether there was a session")
	}
	if ended != 1 || table.State(pump).Connected {
		t.Errorf("ended %d times, connected %v", ended, table.State(pump).Connected)
	}
	if want := []string{"pump true", "pump false"}; !slices.Equal(*told, want) {
		t.Errorf("told %q, want %q", *told, want)
	}
}

func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := presence.New()
		start := time.Now()
		check := func(connected bool, changed, active time.Duration) {
			t.Helper()
			want := presence.State{Connected: connected, Changed: start.Add(changed), LastActivity: start.Add(active)}
			if got := table.State(pump); got != want {
				t.Errorf("state %+v, want %+v", got, want)
			}
		}
		s := table.Enter(pump, func(*refusal.Error) {})
		check(true, 0, 0)
		time.Sleep(time.Second)
		s.Touch()
		check(true, 0, time.Second)
		time.Sleep(time.Second)
		s = table.Enter(pump, never(t)) // displacing is no change, but activity
		check(true, 0, 2*time.Second)
		time.Sleep(time.Second)
		s.Leave()
		check(false, 3*time.Second, 2*time.Second)
		table.Forget(pump)
		s.Touch() // forgotten remains forgotten
		if got := table.State(pump); got != (presence.State{}) {
			t.Errorf("a forgotten device has the state %+v", got)
		}
	})
}

// A device that is connected again before its old identity is forgotten stays
// what it is.
func TestForgetConnected(t *testing.T) {
	table := presence.New()
	defer table.Enter(pump, never(t)).Leave()
	table.Forget(pump)
	if !table.State(pump).Connected {
		t.Error("a connected device was forgotten")
	}
}

func TestArrivals(t *testing.T) {
	table := presence.New()
	next := table.Arrivals()
	select {
	case <-next:
		t.Fatal("somebody has arrived")
	default:
	}
	s := table.Enter(pump, never(t))
	<-next
	next = table.Arrivals()
	s.Leave()
	select {
	case <-next:
		t.Fatal("a departure counts as an arrival")
	default:
	}
}

// Whoever comes, goes and is thrown out at the same time: each session ends or
// leaves once, and in the end nobody is left.
func TestRace(t *testing.T) {
	table := presence.New()
	var connected atomic.Int64
	table.OnChange(func(_ registry.ID, on bool) {
		if on {
			connected.Add(1)
		} else {
			connected.Add(-1)
		}
	})
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for range 200 {
				var ends atomic.Int32
				s := table.Enter(pump, func(*refusal.Error) {
					if ends.Add(1) > 1 {
						t.Error("a session was ended twice")
					}
				})
				s.Touch()
				if n%2 == 0 {
					table.End(pump, refusal.New(401003, "away"))
				}
				s.Leave()
			}
		})
	}
	all.Wait()
	if n := connected.Load(); n != 0 || table.Count() != 0 || table.State(pump).Connected {
		t.Errorf("%d arrivals more than departures, %d connected", n, table.Count())
	}
}
