package commands

import (
	"container/heap"
	"sync"
	"time"
)

// alarm is something that is due at a time, unless it is called off before. It
// belongs to one clock, whose lock guards it.
type alarm struct {
	at    time.Time
	ring  func(now time.Time) // with the lock held; may set or call off any alarm
	place int                 // in the heap, from 1; 0 when the alarm is not set
}

// clock rings alarms, any number of them with one goroutine and one timer. Its
// lock also guards the queues it serves: whoever takes it sees a world in which
// everything that is due has happened, however late the timer is.
type clock struct {
	mu     sync.Mutex // guards everything below and the queues
	alarms alarms
	wakes  time.Time // when run looks again; zero when nothing is due ever

	earlier chan struct{} // holds one: wakes has become earlier
	stop    chan struct{}
	done    chan struct{} // closed when run has ended
}

// newClock starts a clock. It must be closed.
func newClock() *clock {
	c := &clock{
		earlier: make(chan struct{}, 1),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	go c.run()
	return c
}

func (c *clock) close() {
	close(c.stop)
	<-c.done
}

// lock takes the lock, rings what is due and returns the time.
func (c *clock) lock() (now time.Time) {
	c.mu.Lock()
	now = time.Now()
	for len(c.alarms) > 0 && !c.alarms[0].at.After(now) {
		a := c.alarms[0]
		c.callOffLocked(a)
		a.ring(now)
	}
	return now
}

func (c *clock) unlock() { c.mu.Unlock() }

// setLocked has the alarm ring at a time, and no more at the time set before.
func (c *clock) setLocked(a *alarm, at time.Time) {
	c.callOffLocked(a)
	a.at = at
	heap.Push(&c.alarms, a)
	if c.wakes.IsZero() || at.Before(c.wakes) {
		c.wakes = at
		select {
		case c.earlier <- struct{}{}:
		default: // run has not yet taken the last one: it will see this change too
		}
	}
}

// callOffLocked takes the alarm back, if it is set.
func (c *clock) callOffLocked(a *alarm) {
	if a.place > 0 {
		heap.Remove(&c.alarms, a.place-1)
	}
}

// run takes the lock whenever something is due, which rings it.
func (c *clock) run() {
	defer close(c.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-c.earlier:
		case <-c.stop:
			return
		}
		now := c.lock()
		c.wakes = time.Time{}
		if len(c.alarms) > 0 {
			c.wakes = c.alarms[0].at
			timer.Reset(c.wakes.Sub(now))
		}
		c.unlock()
	}
}

// alarms is a heap with the earliest alarm first.
type alarms []*alarm

// Len is for package heap.
func (l alarms) Len() int { return len(l) }

// Less is for package heap.
func (l alarms) Less(i, j int) bool { return l[i].at.Before(l[j].at) }

// Swap is for package heap.
func (l alarms) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].place, l[j].place = i+1, j+1
}

// Push is for package heap.
func (l *alarms) Push(x any) {
	a := x.(*alarm)
	*l = append(*l, a)
	a.place = len(*l)
}

// Pop is for package heap.
func (l *alarms) Pop() any {
	last := len(*l) - 1
	a := (*l)[last]
	(*l)[last] = nil // let it go
	*l = (*l)[:last]
	a.place = 0
	return a
}
