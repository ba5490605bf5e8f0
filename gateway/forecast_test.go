package gateway

import (
	"testing"
	"time"
)

// history makes a forecaster that has seen a sample every ten seconds for so
// many minutes, and returns the last one.
func history(minutes int, at func(i int) sample) (*forecaster, sample) {
	var f forecaster
	var s sample
	for i := range minutes*6 + 1 {
		s = at(i)
		s.at = time.Unix(int64(10*i), 0)
		f.add(s, int64(1000*i))
	}
	return &f, s
}

func TestForecasts(t *testing.T) {
	room := StoreState{}
	room.Lanes[LaneTelemetry] = LaneState{Bytes: 400_000, Limit: 1_000_000}
	room.Lanes[LaneAlarm] = LaneState{Limit: 1_000_000}
	taken := func(bytes int) (t [Lanes]int64) {
		t[LaneTelemetry] = int64(bytes)
		return t
	}
	const unknown = -1
	for _, c := range []struct {
		name        string
		minutes     int
		at          func(i int) sample
		left, drain time.Duration
	}{
		{"just started", 0, func(int) sample { return sample{stored: 5} }, unknown, unknown},
		{"quiet", 10, func(int) sample { return sample{linkUp: true} }, unknown, 0},
		{"steady, link up", 10, func(i int) sample { return sample{taken: taken(1000 * i), linkUp: true} }, 6000 * time.Second, 0},
		{"link down", 10, func(i int) sample { return sample{taken: taken(1000 * i), stored: i} }, 6000 * time.Second, unknown},
		{"draining", 10, func(i int) sample { return sample{stored: 10_000 - 100*i, linkUp: true} }, unknown, 400 * time.Second},
		{"growing with the link up", 10, func(i int) sample { return sample{stored: 100 + i, linkUp: true} }, unknown, unknown},
		{"draining since two minutes", 10, func(i int) sample {
			if i < 48 {
				return sample{stored: 100 * i}
			}
			return sample{stored: 4800 - 100*(i-48), linkUp: true}
		}, unknown, 360 * time.Second},
	} {
		f, now := history(c.minutes, c.at)
		got := f.forecast(now, room)
		for name, x := range map[string]struct {
			got  *time.Duration
			want time.Duration
		}{"buffer left": {got.BufferLeft, c.left}, "drain time": {got.DrainTime, c.drain}} {
			switch {
			case x.got == nil && x.want == unknown:
			case x.got == nil || x.want == unknown || *x.got != x.want:
				t.Errorf("%s: %s is %v, want %v", c.name, name, x.got, x.want)
			}
		}
	}
}

func TestFlashOfTheLastDay(t *testing.T) {
	f, now := history(3*24*60, func(int) sample { return sample{} })
	got := f.forecast(now, StoreState{BytesWritten: int64(1000 * 3 * 24 * 360)}).WrittenLastDay
	if day := int64(1000 * 24 * 360); got < day || got > day+day/96 {
		t.Errorf("%d in the last day, want %d to a quarter of an hour", got, day)
	}
	if len(f.written) > 100 || len(f.samples) > 40 {
		t.Errorf("keeps %d and %d samples", len(f.written), len(f.samples))
	}
}
