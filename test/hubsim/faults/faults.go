// Package faults holds the switches with which the hub misbehaves, whatever the
// protocol, and reads the orders to misbehave that telemetry may carry (wire
// contract, section 10.3).
package faults

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// Switches are all off in the zero value. They are safe for concurrent use and
// act on what arrives after the change.
type Switches struct {
	active atomic.Bool // some switch is on

	mu       sync.Mutex // guards everything below
	settling Settling
	throttle bool
	quota    bool
	skew     time.Duration
	refuse   map[string]bool // by device
	reject   map[string]*rejection
}

// rejection is how many of a device's messages are still to be refused, and
// with what.
type rejection struct {
	condition string
	left      int
}

// Settling is how telemetry is settled while a fault is on.
type Settling struct {
	Delay time.Duration // before the settlement
	Never bool          // it does not come
	Twice bool          // it comes twice
}

// change sets switches under the lock and notes whether any is on.
func (s *Switches) change(set func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set()
	s.active.Store(s.settling != Settling{} || s.throttle || s.quota || s.skew != 0 ||
		len(s.refuse) > 0 || len(s.reject) > 0)
}

// SlowSettle delays every settlement of telemetry by d; 0 ends it.
func (s *Switches) SlowSettle(d time.Duration) { s.change(func() { s.settling.Delay = d }) }

// SettleNever stores telemetry and leaves it unsettled. What was left unsettled
// stays so when the switch goes off.
func (s *Switches) SettleNever(on bool) { s.change(func() { s.settling.Never = on }) }

// SettleTwice sends every settlement of telemetry a second time.
func (s *Switches) SettleTwice(on bool) { s.change(func() { s.settling.Twice = on }) }

// Throttle refuses tokens and telemetry with 429.
func (s *Switches) Throttle(on bool) { s.change(func() { s.throttle = on }) }

// Quota refuses telemetry as if the daily quota were used up (403002).
func (s *Switches) Quota(on bool) { s.change(func() { s.quota = on }) }

// ClockSkew puts the hub's clock ahead by d, or back when d is negative. Tokens
// are judged by it.
func (s *Switches) ClockSkew(d time.Duration) { s.change(func() { s.skew = d }) }

// RefuseToken refuses good tokens of the device with 401.
func (s *Switches) RefuseToken(device string, on bool) {
	s.change(func() {
		if s.refuse == nil {
			s.refuse = make(map[string]bool)
		}
		if on {
			s.refuse[device] = true
		} else {
			delete(s.refuse, device)
		}
	})
}

// Reject refuses the next n telemetry messages of the device with a condition of
// AMQP; 0 ends it. Other protocols see a bad request.
func (s *Switches) Reject(device, condition string, n int) {
	s.change(func() {
		if s.reject == nil {
			s.reject = make(map[string]*rejection)
		}
		if n > 0 {
			s.reject[device] = &rejection{condition, n}
		} else {
			delete(s.reject, device)
		}
	})
}

// Settling says how settlements go at the moment. Ask before the message can be
// seen by anyone.
func (s *Switches) Settling() Settling {
	if !s.active.Load() {
		return Settling{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settling
}

// Refusal returns why the next telemetry message of the device is refused; nil
// when it is not. It is a *refusal.Error.
func (s *Switches) Refusal(device string) error {
	if !s.active.Load() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r := s.reject[device]; {
	case r != nil:
		if r.left--; r.left == 0 {
			delete(s.reject, device)
		}
		e := refusal.New(400000, "refused by a fault")
		e.Condition = r.condition
		return e
	case s.throttle:
		return throttled()
	case s.quota:
		return refusal.New(403002, "the daily quota is used up by a fault")
	}
	return nil
}

// TokenRefusal returns why a good token of the device, or "" for one that is not
// about a device, is refused; nil when it is not.
func (s *Switches) TokenRefusal(device string) error {
	if !s.active.Load() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.throttle:
		return throttled()
	case s.refuse[device]:
		return refusal.New(401003, "refused by a fault")
	}
	return nil
}

// throttled is the refusal that every client knows to wait after (section 3.11).
func throttled() error {
	e := refusal.New(429001, "throttled by a fault")
	e.Condition = "amqp:resource-limit-exceeded"
	return e
}

// Now is the hub's clock, which a switch can put wrong.
func (s *Switches) Now() time.Time {
	if !s.active.Load() {
		return time.Now()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.skew)
}
