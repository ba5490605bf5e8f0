package board

import (
	"path/filepath"
	"testing"
	"time"
)

func TestTrust(t *testing.T) {
	floor := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name        string
		wall        time.Time
		disciplined bool
		want        Trust
	}{
		{"power-on without a battery", time.Unix(0, 0), false, Unset},
		{"set back by a wrong time source", floor.Add(-time.Hour), true, Unset},
		{"battery-backed clock", floor.Add(time.Hour), false, Plausible},
		{"time source", floor.Add(time.Hour), true, Disciplined},
		{"just at the floor", floor, false, Plausible},
	} {
		if got := trust(c.wall, floor, c.disciplined); got != c.want {
			t.Errorf("%s: trust %v, want %v", c.name, got, c.want)
		}
	}
}

func TestReadIsOneMachine(t *testing.T) {
	a, err := NewClock(time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewClock(time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if a.Boot() == 0 || a.Boot() != b.Boot() {
		t.Errorf("two clocks of one boot say boot %x and %x", a.Boot(), b.Boot())
	}
	first, second := a.Read(), b.Read()
	if first.Uptime <= 0 || second.Uptime < first.Uptime {
		t.Errorf("uptime goes from %v to %v", first.Uptime, second.Uptime)
	}
	if first.Wall.Location() != time.UTC {
		t.Errorf("wall clock is in %v, want UTC", first.Wall.Location())
	}
}

func TestLastGoodTimeIsAFloor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "clock")
	if got, err := LastGood(file); err != nil || !got.IsZero() {
		t.Fatalf("LastGood before KeepGood = %v, %v; want the zero time", got, err)
	}
	future := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second)
	for range 2 { // the second time the file is there already
		if err := KeepGood(file, future); err != nil {
			t.Fatal(err)
		}
	}
	got, err := LastGood(file)
	if err != nil || !got.Equal(future) {
		t.Fatalf("LastGood = %v, %v; want %v", got, err, future)
	}
	c, err := NewClock(got)
	if err != nil {
		t.Fatal(err)
	}
	if r := c.Read(); r.Trust != Unset {
		t.Errorf("a clock before the last good time has trust %v, want Unset", r.Trust)
	}
}
