package uplink

import (
	"context"
	"math/rand/v2"
	"time"
)

// schedule is a limit that doubles with each failure in a row.
type schedule struct{ min, max time.Duration }

// limit returns the longest wait after n failures in a row, n from 1.
func (s schedule) limit(n int) time.Duration {
	d := s.min
	for ; n > 1 && d < s.max; n-- {
		d *= 2
	}
	return min(d, s.max)
}

// full returns a wait anywhere under the limit (full jitter): after a power cut
// a whole field of gateways must not dial in step.
func (s schedule) full(n int) time.Duration {
	return rand.N(s.limit(n) + 1)
}

// upper returns a wait in the upper half of what the limit allows, for waits
// that are a courtesy to the hub and must not be short by chance.
func (s schedule) upper(n int) time.Duration {
	d := s.limit(n)
	return d/2 + rand.N(d/2+1)
}

// sleep waits for d or until ctx ends; it says whether d has passed.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
