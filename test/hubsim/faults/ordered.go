package faults

import (
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// Ordered are the refusals that devices have ordered for themselves. The zero
// value has none. It is safe for concurrent use.
type Ordered struct {
	mu       sync.Mutex // guards byDevice
	byDevice map[string]orderedRefusal
}

type orderedRefusal struct {
	reason *refusal.Error
	until  time.Time
}

// Set has the device refused for d.
func (o *Ordered) Set(device string, reason *refusal.Error, d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byDevice == nil {
		o.byDevice = make(map[string]orderedRefusal)
	}
	o.byDevice[device] = orderedRefusal{reason, time.Now().Add(d)}
}

// Refusal returns why telemetry of the device is refused now; nil when it is not.
func (o *Ordered) Refusal(device string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	r, ok := o.byDevice[device]
	if ok && time.Now().Before(r.until) {
		return r.reason
	}
	delete(o.byDevice, device)
	return nil
}
