package routes

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
)

// Faults are the switches with which the hub misbehaves towards AMQP clients.
// All are off in the zero value. They are safe for concurrent use and act on
// what arrives after the change.
type Faults struct {
	mu       sync.Mutex // guards everything below
	slow     time.Duration
	never    bool
	throttle bool
	refuse   map[string]bool
	reject   map[string]*rejection
	active   atomic.Bool // some switch is on
}

// rejection is how many of a device's messages are still to be refused, and
// with what.
type rejection struct {
	condition amqp.Symbol
	left      int
}

// change sets switches under the lock and notes whether any is on.
func (f *Faults) change(set func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	set()
	f.active.Store(f.slow > 0 || f.never || f.throttle || len(f.refuse) > 0 || len(f.reject) > 0)
}

// SlowSettle delays every settlement of telemetry by d; 0 ends it.
func (f *Faults) SlowSettle(d time.Duration) { f.change(func() { f.slow = d }) }

// SettleNever stores telemetry and leaves it unsettled. What was left unsettled
// stays so when the switch goes off.
func (f *Faults) SettleNever(on bool) { f.change(func() { f.never = on }) }

// Throttle answers put-token with 429 and refuses telemetry with
// amqp:resource-limit-exceeded.
func (f *Faults) Throttle(on bool) { f.change(func() { f.throttle = on }) }

// RefuseToken answers put-token for the device with 401.
func (f *Faults) RefuseToken(device string, on bool) {
	f.change(func() {
		if f.refuse == nil {
			f.refuse = make(map[string]bool)
		}
		if on {
			f.refuse[device] = true
		} else {
			delete(f.refuse, device)
		}
	})
}

// Reject refuses the next n telemetry transfers of the device with condition.
func (f *Faults) Reject(device string, condition amqp.Symbol, n int) {
	f.change(func() {
		if f.reject == nil {
			f.reject = make(map[string]*rejection)
		}
		if n > 0 {
			f.reject[device] = &rejection{condition, n}
		} else {
			delete(f.reject, device)
		}
	})
}

// Throttled says whether the hub throttles.
func (f *Faults) Throttled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.throttle
}

// TokenRefused says whether tokens of the device are refused.
func (f *Faults) TokenRefused(device string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refuse[device]
}

// refusal returns why the next message of the device is refused; nil when it is
// not.
func (f *Faults) refusal(device string) *amqp.Error {
	if !f.active.Load() {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.reject[device]; r != nil {
		if r.left--; r.left == 0 {
			delete(f.reject, device)
		}
		return refusal(r.condition, 400000, "refused by a fault")
	}
	if f.throttle {
		return refusal(amqp.CondResourceLimit, 429001, "ThrottlingException")
	}
	return nil
}

// settling says how settlements go at the moment.
func (f *Faults) settling() settling {
	if !f.active.Load() {
		return settling{}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return settling{f.slow, f.never}
}
