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

// shut closes the gate for at least pause and returns how long it stays closed.
// fresh is false when it was closed already: everything that was on its way gets
// the same answer, and that is one request to wait, not many.
func (g *gate) shut(pause time.Duration) (wait time.Duration, fresh bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if wait = time.Until(g.until); wait > 0 {
		return wait, false
	}
	g.times++
	wait = max(pause, throttle.upper(g.times))
	g.until = time.Now().Add(wait)
	return wait, true
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
