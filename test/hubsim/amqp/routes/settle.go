package routes

import (
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/faults"
)

// settle settles a telemetry delivery the way the faults want it. The order of
// settlements on a connection is that of the deliveries, whatever the delay.
func (c *connection) settle(d server.Delivery, state amqp.State, how faults.Settling) {
	if how.Never {
		return
	}
	c.mu.Lock()
	if c.slow == nil && how.Delay > 0 {
		c.slow = newSettler()
	}
	slow := c.slow
	c.mu.Unlock()
	v := verdict{d, state, how.Twice, time.Now().Add(how.Delay)}
	if slow == nil {
		v.tell()
		return
	}
	slow.add(v)
}

// verdict is a settlement that waits for its time.
type verdict struct {
	d     server.Delivery
	state amqp.State
	twice bool
	due   time.Time
}

func (v verdict) tell() {
	v.d.Settle(v.state)
	if v.twice {
		v.d.Repeat(v.state)
	}
}

// settler settles one connection's deliveries late. A connection keeps it once
// it has it, so that a settlement cannot overtake an earlier, slower one.
type settler struct {
	mu    sync.Mutex // guards queue
	queue []verdict
	wake  chan struct{} // holds at most one
	quit  chan struct{}
	done  chan struct{}
}

func newSettler() *settler {
	s := &settler{
		wake: make(chan struct{}, 1),
		quit: make(chan struct{}),
		done: make(chan struct{}),
	}
	go s.run()
	return s
}

func (s *settler) add(v verdict) {
	s.mu.Lock()
	s.queue = append(s.queue, v)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default: // awake already
	}
}

// stop ends the settler and waits for it; what waits stays unsettled.
func (s *settler) stop() {
	close(s.quit)
	<-s.done
}

func (s *settler) run() {
	defer close(s.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		for _, v := range s.take(time.Now()) {
			v.tell()
		}
		if next := s.next(); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-s.quit:
			return
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// take removes and returns what is due.
func (s *settler) take(now time.Time) []verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for n < len(s.queue) && !s.queue[n].due.After(now) {
		n++
	}
	due := s.queue[:n:n]
	s.queue = s.queue[n:]
	return due
}

// next returns when something is due; zero when nothing waits.
func (s *settler) next() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return time.Time{}
	}
	return s.queue[0].due
}
