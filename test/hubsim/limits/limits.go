// Package limits counts what a hub of a tier allows: rates per operation and
// the daily quota of messages (wire contract, sections 6.1 and 6.2). It is off
// until it is switched on.
package limits

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// Operation is a kind of request that has a rate of its own.
type Operation uint8

// The operations of section 6.1.
const (
	RegistryOperation Operation = iota
	Connection
	Telemetry
	CommandSend
	CommandReceive
	Upload
	Method
	Query
	TwinRead
	TwinUpdate
	Job
	JobDevice
	operations int = iota
)

// Limits is safe for concurrent use. The zero value allows everything.
type Limits struct {
	on atomic.Bool

	mu      sync.Mutex // guards everything below
	buckets [operations]bucket
	quota   float64   // messages of a day; 0 for no limit
	meter   int       // bytes that count as one message
	used    float64   // messages of the day
	day     time.Time // to which used belongs
	empty   bool      // see ExhaustQuota
}

// bucket holds what may still be done of one operation. A second's worth fits.
type bucket struct {
	rate float64 // per second; 0 for no limit
	left float64
	last time.Time
}

// SetTier switches the limits of a tier on: "F1", "S1", "S2", "S3" with a number
// of units from 1; "" switches them off. It fails for a tier that does not exist.
func (l *Limits) SetTier(name string, units int) error {
	t, ok := tiers[name]
	if name != "" && !ok {
		return fmt.Errorf("there is no tier %q: use F1, S1, S2 or S3", name)
	}
	if units < 1 && name != "" {
		return fmt.Errorf("a tier has at least 1 unit, not %d", units)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buckets = [operations]bucket{}
	l.quota, l.meter, l.used = t.quota*float64(units), t.meter, 0
	for op, r := range t.rates {
		rate := max(r.least, r.perUnit*float64(units))
		l.buckets[op] = bucket{rate: rate, left: room(rate), last: time.Now()}
	}
	l.on.Store(name != "" || l.empty)
	return nil
}

// room is how much of an operation may be done at once: a second's worth, and
// one at least, or rates below one a second would never allow any.
func room(rate float64) float64 { return max(rate, 1) }

// Take asks for one operation that carries bytes of payload; the error is
// 429001, or 403002 when the daily quota of messages is used up. What was
// refused costs nothing.
func (l *Limits) Take(op Operation, bytes int) error {
	if !l.on.Load() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	cost := 1.0
	if op == Method {
		cost = math.Ceil(float64(max(bytes, 1)) / methodMeter)
	}
	messages := 0.0
	if op == Telemetry || op == CommandSend {
		messages = l.messages(bytes)
		if l.spent(now, messages) {
			return refusal.New(403002, "the daily quota of messages is used up")
		}
	}
	if !l.buckets[op].take(now, cost) {
		return refusal.New(429001, "more than the tier allows in a second")
	}
	l.used += messages
	return nil
}

// messages is how many messages of the quota a payload counts for.
func (l *Limits) messages(bytes int) float64 {
	if l.meter == 0 {
		return 1
	}
	return math.Ceil(float64(max(bytes, 1)) / float64(l.meter))
}

// spent says that the quota has no room for more messages. It begins again with
// each day of UTC.
func (l *Limits) spent(now time.Time, more float64) bool {
	if day := now.UTC().Truncate(24 * time.Hour); !day.Equal(l.day) {
		l.day, l.used = day, 0
	}
	return l.empty || (l.quota > 0 && l.used+more > l.quota)
}

// take removes cost from the bucket if it is there. What is larger than the
// bucket passes when the bucket is full, and leaves it in debt.
func (b *bucket) take(now time.Time, cost float64) bool {
	if b.rate == 0 {
		return true
	}
	full := room(b.rate)
	b.left = min(full, b.left+now.Sub(b.last).Seconds()*b.rate)
	b.last = now
	if b.left < min(cost, full) {
		return false
	}
	b.left -= cost
	return true
}

// Spend counts n operations against the rate of op, as if others had done them in
// this moment. The bucket may go into debt: the hub then refuses op until the debt
// is paid off. Where op has no limit nothing happens.
func (l *Limits) Spend(op Operation, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buckets[op].left -= float64(n)
}

// ExhaustQuota makes the daily quota count as used up until it is switched off.
func (l *Limits) ExhaustQuota(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.empty = on
	l.on.Store(on || l.buckets[Telemetry].rate > 0)
}
