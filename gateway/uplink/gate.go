package uplink

import (
	"context"
	"sync"
	"time"
)

// gate holds up all leaves while the hub asks for a pause ("closed until").
type gate struct {
	mu    sync.Mutex
	until time.Time // guarded by mu
	times int       // pauses in a row without a message accepted between; guarded by mu
}

// shut closes the gate for at least pause, as the hub asked at that time, and
// returns how long it stays closed. fresh is false when it was closed already:
// everything that was on its way gets the same answer, and that is one request to
// wait, not many. It may be acted upon when the gate is open again: a quota would
// then be waited for until the next day.
func (g *gate) shut(pause time.Duration, at time.Time) (wait time.Duration, fresh bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at.Before(g.until) {
		return max(time.Until(g.until), 0), false
	}
	g.times++
	wait = max(pause, throttle.upper(g.times))
	g.until = time.Now().Add(wait)
	return wait, true
}

// closed says that the hub has asked to wait, and the time is not over.
func (g *gate) closed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Until(g.until) > 0
}

// accepted says that the hub takes messages again.
func (g *gate) accepted() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.times = 0
}

// wait returns when the gate is open; it says whether ctx still runs.
func (g *gate) wait(ctx context.Context) bool {
	for {
		g.mu.Lock()
		left := time.Until(g.until)
		g.mu.Unlock()
		if left <= 0 {
			return ctx.Err() == nil
		}
		if !sleep(ctx, left) {
			return false
		}
	}
}
