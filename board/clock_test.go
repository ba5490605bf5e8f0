package board

import (
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestTrust(t *testing.T) {
	built := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	noted := built.Add(30 * 24 * time.Hour)
	for _, c := range []struct {
		name        string
		wall        time.Time
		disciplined bool
		want        Trust
	}{
		{"power-on without a battery", time.Unix(0, 0), false, Unset},
		{"time source before the program was made", built.Add(-time.Hour), true, Unset},
		{"just when it was made", built, true, Disciplined},
		{"empty battery", noted.Add(-time.Hour), false, Unset},
		{"time source after one that was ahead", noted.Add(-time.Hour), true, Disciplined},
		{"battery-backed clock", noted.Add(time.Hour), false, Plausible},
		{"time source", noted.Add(time.Hour), true, Disciplined},
		{"just at the noted time", noted, false, Plausible},
	} {
		if got := (floor{built, noted}).trust(c.wall, c.disciplined); got != c.want {
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
	if trust := c.floor.trust(time.Now(), false); trust != Unset {
		t.Errorf("a clock before the last good time has trust %v, want Unset", trust)
	}
}

// What a time source has said once holds until it says otherwise, whatever the
// clock is set to meanwhile.
func TestSteeredClockIsNotSetByHand(t *testing.T) {
	const year = 365 * 24 * time.Hour
	rapid.Check(t, func(t *rapid.T) {
		built := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
		c := &Clock{floor: floor{built: built}}
		truth, up, steered := built.Add(30*24*time.Hour), time.Duration(0), false
		for range rapid.IntRange(1, 20).Draw(t, "readings") {
			pass := rapid.SampledFrom([]time.Duration{0, time.Second, 48 * time.Hour}).Draw(t, "passes")
			truth, up = truth.Add(pass), up+pass
			m := machine{wall: truth, uptime: up, disciplined: rapid.Bool().Draw(t, "steered")}
			if !m.disciplined {
				m.wall = truth.Add(rapid.SampledFrom([]time.Duration{0, time.Hour, -time.Hour, 10 * year, -10 * year}).Draw(t, "ahead"))
			}
			steered = steered || m.disciplined
			want := Reading{Wall: m.wall, Trust: Plausible, Uptime: up}
			switch {
			case m.disciplined:
				want.Trust = Disciplined
			case steered:
				want.Wall = truth
			case m.wall.Before(built):
				want.Trust = Unset
			}
			if got := c.judge(m); got != want {
				t.Fatalf("the machine says %+v: %+v, want %+v", m, got, want)
			}
		}
	})
}
