// Package filter is the module that removes messages by one rule: by leaf, by
// channel, by a comparison on a JSON field, or by several of these together. A
// message matches when every condition that is given holds. The action "drop"
// removes what matches; "keep" removes everything else.
//
//	[[module]]
//	name = "filter"
//	action = "drop"
//	leaf = "pump-*"
//	field = "pressure"
//	op = "<"
//	value = 0.5
package filter

import (
	"context"
	"errors"
	"math"
	"reflect"
	"slices"
	"sync/atomic"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/modules"
)

// Values of Config.Action.
const (
	Keep = "keep" // only what matches goes on
	Drop = "drop" // what matches is removed
)

// Values of Config.OnError.
const (
	ErrorPass = "pass" // a message that cannot be compared goes on, whatever the action
	ErrorDrop = "drop" // it is removed
)

// Config is one rule.
type Config struct {
	Action  string `toml:"action"`  // Keep or Drop
	Leaf    string `toml:"leaf"`    // pattern of leaf ids with * and ?, empty for all
	Channel string `toml:"channel"` // pattern of channels, the same

	// Field, Op and Value are the comparison; all empty for none. The field of
	// the body, "motor.temperature", is on the left side, Value on the right.
	// The orders < <= > >= are for numbers; == and != for numbers, text and
	// true or false. "exists" takes no value.
	Field string `toml:"field"`
	Op    string `toml:"op"`
	Value any    `toml:"value"`

	// OnError says what happens to a message of that leaf and channel that has
	// no answer to the comparison: its body is not JSON, or (not for "exists")
	// the field is missing or of another type than Value.
	OnError string `toml:"on_error"`
}

// DefaultConfig returns the shipped defaults. A rule needs at least one
// condition besides.
func DefaultConfig() Config { return Config{Action: Drop, OnError: ErrorPass} }

const opExists = "exists"

// The comparisons. Orders are for numbers only.
var (
	orders = []string{"<", "<=", ">", ">="}
	ops    = append([]string{"==", "!=", opExists}, orders...)
)

// Validate checks the rule. Errors are of type *gateway.KeyError.
func (c *Config) Validate() error {
	if c.Action != Keep && c.Action != Drop {
		return gateway.BadKey("action", "%q is unknown: write %q or %q", c.Action, Keep, Drop)
	}
	if c.OnError != ErrorPass && c.OnError != ErrorDrop {
		return gateway.BadKey("on_error", "%q is unknown: write %q or %q", c.OnError, ErrorPass, ErrorDrop)
	}
	if err := c.scope().Validate(); err != nil {
		return err
	}
	if c.Field == "" {
		switch {
		case c.Op != "":
			return gateway.BadKey("op", "has nothing to compare: write field = \"…\" too")
		case c.Value != nil:
			return gateway.BadKey("value", "has nothing to be compared with: write field = \"…\" and op = \"…\" too")
		case c.Leaf == "" && c.Channel == "":
			return gateway.BadKey("action", "%q without a condition is for all messages: write leaf, channel or field too", c.Action)
		}
		return nil
	}
	return c.checkComparison()
}

func (c *Config) checkComparison() error {
	if _, err := modules.ParseField(c.Field); err != nil {
		return gateway.BadKey("field", "%q %w", c.Field, err)
	}
	if !slices.Contains(ops, c.Op) {
		return gateway.BadKey("op", "%q is unknown: write one of %q", c.Op, ops)
	}
	value, ok := normal(c.Value)
	_, number := value.(float64)
	switch {
	case c.Op == opExists && c.Value != nil:
		return gateway.BadKey("value", "goes with no value: \"exists\" only asks whether the field is there")
	case c.Op == opExists:
		return nil
	case c.Value == nil:
		return gateway.BadKey("value", "is missing: write what %s is compared with", c.Field)
	case !ok:
		return gateway.BadKey("value", "%v cannot be compared: write a number, a text or true or false", c.Value)
	case slices.Contains(orders, c.Op) && !number:
		return gateway.BadKey("value", "%q compares numbers: write one, without quotes", c.Op)
	}
	return nil
}

func (c *Config) scope() modules.Scope { return modules.Scope{Leaf: c.Leaf, Channel: c.Channel} }

// normal returns v in the types of decoded JSON.
func normal(v any) (any, bool) {
	switch r := reflect.ValueOf(v); {
	case !r.IsValid():
		return nil, false
	case r.CanInt():
		return float64(r.Int()), true
	case r.CanUint():
		return float64(r.Uint()), true
	case r.CanFloat():
		return r.Float(), !math.IsNaN(r.Float())
	case r.Kind() == reflect.Bool, r.Kind() == reflect.String:
		return v, true
	}
	return nil, false
}

// Filter is the module. It implements gateway.Module.
type Filter struct {
	scope   modules.Scope
	field   modules.Field // empty when there is no comparison
	op      string
	value   any
	keep    bool
	onError bool // what cannot be compared goes on
	counts  struct{ passed, removed, unclear atomic.Int64 }
}

// State is a snapshot for status and metrics. Counters run since New.
type State struct {
	Passed  int64 // messages that went on
	Removed int64 // messages that were removed
	Unclear int64 // of both: those that had no answer to the comparison
}

// New makes the module. The error is that of Validate.
func New(cfg Config) (*Filter, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	f := &Filter{scope: cfg.scope(), op: cfg.Op, keep: cfg.Action == Keep, onError: cfg.OnError == ErrorPass}
	f.value, _ = normal(cfg.Value)
	if cfg.Field != "" {
		f.field, _ = modules.ParseField(cfg.Field) // checked by Validate
	}
	return f, nil
}

// State is safe for concurrent use.
func (f *Filter) State() State {
	return State{f.counts.passed.Load(), f.counts.removed.Load(), f.counts.unclear.Load()}
}

// Wrap puts the filter before next. A removed message is done with no error:
// its leaf need not send it again.
func (f *Filter) Wrap(next gateway.Handler) gateway.Handler {
	return gateway.HandlerFunc(func(ctx context.Context, m *gateway.Message, done gateway.Done) {
		if !f.passes(m) {
			f.counts.removed.Add(1)
			done(nil)
			return
		}
		f.counts.passed.Add(1)
		next.Handle(ctx, m, done)
	})
}

// passes says whether the message goes on.
func (f *Filter) passes(m *gateway.Message) bool {
	if !f.scope.Has(m) {
		return !f.keep
	}
	if len(f.field) == 0 {
		return f.keep
	}
	matches, clear := f.compare(m.Body)
	if !clear {
		f.counts.unclear.Add(1)
		return f.onError
	}
	return matches == f.keep
}

// compare evaluates the comparison on a body. clear is false when it has no
// answer.
func (f *Filter) compare(body []byte) (matches, clear bool) {
	have, err := f.field.Get(body)
	if f.op == opExists {
		return err == nil, !errors.Is(err, modules.ErrNotJSON)
	}
	if err != nil || reflect.TypeOf(have) != reflect.TypeOf(f.value) {
		return false, false
	}
	switch f.op {
	case "==":
		return have == f.value, true
	case "!=":
		return have != f.value, true
	}
	a, b := have.(float64), f.value.(float64) // checked by Validate
	switch f.op {
	case "<":
		return a < b, true
	case "<=":
		return a <= b, true
	case ">":
		return a > b, true
	default:
		return a >= b, true
	}
}
