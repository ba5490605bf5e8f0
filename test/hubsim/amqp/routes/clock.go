package routes

import "time"

// clock does something when its time has come.
type clock struct{ timer *time.Timer }

// after has f called, without the lock, once d has passed, unless the clock is
// stopped or the connection ends before. The lock is held.
func (c *connection) after(d time.Duration, f func()) *clock {
	k := &clock{}
	c.clocks[k] = struct{}{}
	c.ringing.Add(1)
	k.timer = time.AfterFunc(d, func() {
		defer c.ringing.Done()
		c.mu.Lock()
		delete(c.clocks, k)
		c.mu.Unlock()
		f()
	})
	return k
}

// stop keeps a clock from ringing, when it has not rung. The lock is held.
func (c *connection) stop(k *clock) {
	delete(c.clocks, k)
	if k.timer.Stop() {
		c.ringing.Done()
	}
}
