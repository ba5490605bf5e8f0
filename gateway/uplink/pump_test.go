package uplink

import (
	"testing"
	"time"
)

func TestRoundsKeepPace(t *testing.T) {
	for _, tc := range []struct {
		last time.Duration
		n    int64
		want time.Duration
	}{
		{10 * time.Millisecond, 20, roundMax},                        // 2,000 a second
		{4 * time.Millisecond, 32, 4 * time.Millisecond},             // 8,000
		{10 * time.Millisecond, 100, 3200000},                        // 10,000
		{5 * time.Millisecond, 500, roundMin},                        // 100,000
		{2 * time.Millisecond, 1 << 20, roundMin},                    // all that there is room for
		{time.Hour, 1, roundMax},                                     // long ago
		{time.Hour, 0, roundMax}, {0, 0, roundMax}, {0, 5, roundMin}, // a leaf gone meanwhile; a clock that stands
	} {
		if got := roundAfter(tc.last, tc.n); got != tc.want {
			t.Errorf("%d messages in %v: %v, want %v", tc.n, tc.last, got, tc.want)
		}
	}
}
