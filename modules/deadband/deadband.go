// Package deadband is the module that reports on change: a message goes on only
// if a number in it differs enough from the one that was reported last, or if
// that report is old.
//
// Each channel of each leaf is judged on its own. Alarms, last wills and
// messages without that number always go on.
package deadband

import (
	"context"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/modules"
)

// Config says which number is watched and what is a change of it. At least one
// of Delta and Percent is set; where both are, each one alone makes a change.
type Config struct {
	Leaf    string `toml:"leaf"`    // pattern of leaf ids with * and ?, empty for all
	Channel string `toml:"channel"` // pattern of channels, the same
	Field   string `toml:"field"`   // the way to the number in a JSON body, "motor.temperature"

	// Delta is the least difference from the last reported value that is
	// reported, in the unit of the field; 0 for none.
	Delta float64 `toml:"delta"`
	// Percent is the least difference in per cent of the last reported value; 0 for none.
	// Where the last reported value is 0, every difference is a change.
	Percent float64 `toml:"percent"`
	// MaxAge is how old the last report may be: a message that comes later
	// goes on, whatever its value. 0 for no limit.
	MaxAge gateway.Duration `toml:"max_age"`
}

// DefaultConfig returns the shipped defaults. Field and what is a change have
// none.
func DefaultConfig() Config { return Config{MaxAge: gateway.Duration(15 * time.Minute)} }

// Validate checks the options. Errors are of type *gateway.KeyError.
func (c *Config) Validate() error {
	if err := c.scope().Validate(); err != nil {
		return err
	}
	if c.Field == "" {
		return gateway.BadKey("field", "is missing: write the way to a number in the body, like \"motor.temperature\"")
	}
	if _, err := modules.ParseField(c.Field); err != nil {
		return gateway.BadKey("field", "%q %w", c.Field, err)
	}
	for key, v := range map[string]float64{"delta": c.Delta, "percent": c.Percent} {
		if !(v >= 0) || math.IsInf(v, 0) {
			return gateway.BadKey(key, "%v is out of range: write a number above 0", v)
		}
	}
	if c.Delta == 0 && c.Percent == 0 {
		return gateway.BadKey("delta", "is missing: write the least change that is reported, or write percent")
	}
	if age := c.MaxAge.D(); age < 0 || age > 0 && age < time.Second {
		return gateway.BadKey("max_age", "%v is too short: at least 1s, or 0s for no limit", c.MaxAge)
	}
	return nil
}

func (c *Config) scope() modules.Scope { return modules.Scope{Leaf: c.Leaf, Channel: c.Channel} }

// maxStreams bounds how many channels of leaves are remembered, and maxChannel
// the bytes of a channel's name: leaves make up the names. At the bound one of
// the others is forgotten, and its next message goes on.
const (
	maxStreams = 8192
	maxChannel = 256
)

// Deadband is the module. It implements gateway.Module.
type Deadband struct {
	cfg   Config
	scope modules.Scope
	field modules.Field

	mu sync.Mutex
	// guarded by mu:
	last  map[stream]*report
	state State
}

// stream is what has a value of its own.
type stream struct{ leaf, channel string }

// report is the message of a stream that went on last.
type report struct {
	value float64
	at    gateway.Instant
}

// State is a snapshot for status and metrics. Counters run since New.
type State struct {
	Passed  int64 // messages that went on
	Removed int64 // messages that were no change
	Streams int   // channels of leaves remembered
}

// New makes the module. The error is that of Validate.
func New(cfg Config) (*Deadband, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	field, err := modules.ParseField(cfg.Field)
	return &Deadband{cfg: cfg, scope: cfg.scope(), field: field, last: make(map[stream]*report)}, err
}

// State is safe for concurrent use.
func (d *Deadband) State() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.state
	s.Streams = len(d.last)
	return s
}

// Wrap puts the deadband before next. A removed message is done with no error:
// its leaf need not send it again. When a message that went on does not come
// into custody, the hub may not know its value: the next one is reported,
// whatever it is.
func (d *Deadband) Wrap(next gateway.Handler) gateway.Handler {
	return gateway.HandlerFunc(func(ctx context.Context, m *gateway.Message, done gateway.Done) {
		value, watched := d.value(m)
		if !watched {
			d.pass()
			next.Handle(ctx, m, done)
			return
		}
		s := stream{m.Leaf, m.Channel}
		if !d.report(s, value, m.Captured) {
			done(nil)
			return
		}
		next.Handle(ctx, m, func(err error) {
			if err != nil {
				d.forget(s)
			}
			done(err)
		})
	})
}

// value returns the watched number of a message, if it has one.
func (d *Deadband) value(m *gateway.Message) (float64, bool) {
	if m.Kind != gateway.Telemetry || m.Lane == gateway.LaneAlarm || len(m.Channel) > maxChannel || !d.scope.Has(m) {
		return 0, false
	}
	v, err := d.field.Get(m.Body)
	number, ok := v.(float64)
	return number, ok && err == nil
}

func (d *Deadband) pass() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state.Passed++
}

// report says whether the value is to be reported, and remembers it if so.
func (d *Deadband) report(s stream, value float64, at gateway.Instant) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	last := d.last[s]
	switch {
	case last == nil:
		d.makeRoomLocked()
		// The names may be parts of larger texts, which must not be kept.
		d.last[stream{strings.Clone(s.leaf), strings.Clone(s.channel)}] = &report{value, at}
	case d.changed(last.value, value) || d.old(last.at, at):
		*last = report{value, at}
	default:
		d.state.Removed++
		return false
	}
	d.state.Passed++
	return true
}

// changed says whether to is a change from the reported value from.
func (d *Deadband) changed(from, to float64) bool {
	diff := math.Abs(to - from)
	return d.cfg.Delta > 0 && diff >= d.cfg.Delta ||
		d.cfg.Percent > 0 && diff > 0 && diff >= math.Abs(from)*d.cfg.Percent/100
}

// old says whether a report of then is too old at now. It looks at time since
// boot only, since the wall clock may be set in between. Another boot is old.
func (d *Deadband) old(then, now gateway.Instant) bool {
	age := d.cfg.MaxAge.D()
	return age > 0 && (then.Boot != now.Boot || now.Uptime-then.Uptime >= age)
}

// makeRoomLocked forgets a stream, any one, if there are too many.
func (d *Deadband) makeRoomLocked() {
	if len(d.last) < maxStreams {
		return
	}
	for s := range d.last {
		delete(d.last, s)
		return
	}
}

func (d *Deadband) forget(s stream) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.last, s)
}
