package routes

import (
	"sync"
	"time"
)

// clocks do things when their time has come. The zero value has none. They are
// safe for concurrent use.
type clocks struct {
	mu      sync.Mutex // guards everything below
	set     map[*time.Timer]struct{}
	stopped bool
	ringing sync.WaitGroup // those that are set or at work
}

// after has f called once d has passed, unless stop comes before. f must not
// wait.
func (c *clocks) after(d time.Duration, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return
	}
	if c.set == nil {
		c.set = make(map[*time.Timer]struct{})
	}
	c.ringing.Add(1)
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		defer c.ringing.Done()
		c.mu.Lock() // timer is assigned by now
		delete(c.set, timer)
		c.mu.Unlock()
		f()
	})
	c.set[timer] = struct{}{}
}

// stop sees to it that nothing is called any more once it has returned.
func (c *clocks) stop() {
	c.mu.Lock()
	c.stopped = true
	for timer := range c.set {
		if timer.Stop() {
			c.ringing.Done()
		}
	}
	c.mu.Unlock()
	c.ringing.Wait()
}
