package filter

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/gateway"
)

// rule is the default with some options set.
func rule(set func(*Config)) Config {
	c := DefaultConfig()
	set(&c)
	return c
}

// passes sends one message through a filter.
func passes(t *testing.T, f *Filter, m *gateway.Message) bool {
	t.Helper()
	next, dones := 0, 0
	refused := errors.New("refused behind the filter")
	h := f.Wrap(gateway.HandlerFunc(func(_ context.Context, got *gateway.Message, done gateway.Done) {
		if got != m {
			t.Error("another message came out")
		}
		next++
		done(refused)
	}))
	h.Handle(t.Context(), m, func(err error) {
		dones++
		if (err != nil) != (next == 1) {
			t.Errorf("done(%v) for a message that went on %d times", err, next)
		}
	})
	if dones != 1 {
		t.Errorf("done was called %d times", dones)
	}
	return next == 1
}

func TestRules(t *testing.T) {
	where := func(field, op string, value any) func(*Config) {
		return func(c *Config) { c.Field, c.Op, c.Value = field, op, value }
	}
	for _, tt := range []struct {
		name    string
		set     func(*Config)
		body    string
		matches bool // drop removes it, keep lets it pass
		unclear bool // on_error decides
	}{
		{name: "leaf", set: func(c *Config) { c.Leaf = "pump-*" }, matches: true},
		{name: "other leaf", set: func(c *Config) { c.Leaf = "fan-*" }},
		{name: "channel", set: func(c *Config) { c.Channel = "flow" }, matches: true},
		{name: "both", set: func(c *Config) { c.Leaf, c.Channel = "pump-1", "heat" }},
		{name: "less", set: where("a.v", "<", int64(5)), body: `{"a":{"v":4.9}}`, matches: true},
		{name: "not less", set: where("a.v", "<", int64(5)), body: `{"a":{"v":5}}`},
		{name: "at most", set: where("v", "<=", 5.0), body: `{"v":5}`, matches: true},
		{name: "more", set: where("v", ">", -1.5), body: `{"v":-1}`, matches: true},
		{name: "not more", set: where("v", ">", -1.5), body: `{"v":-1.5}`},
		{name: "at least", set: where("v", ">=", 2), body: `{"v":2}`, matches: true},
		{name: "equal number", set: where("v", "==", int64(2)), body: `{"v":2.0}`, matches: true},
		{name: "equal text", set: where("v", "==", "on"), body: `{"v":"on"}`, matches: true},
		{name: "other text", set: where("v", "==", "on"), body: `{"v":"off"}`},
		{name: "unequal text", set: where("v", "!=", "on"), body: `{"v":"off"}`, matches: true},
		{name: "true", set: where("v", "==", true), body: `{"v":true}`, matches: true},
		{name: "false is not true", set: where("v", "==", true), body: `{"v":false}`},
		{name: "exists", set: where("v", "exists", nil), body: `{"v":null}`, matches: true},
		{name: "does not exist", set: where("v", "exists", nil), body: `{}`},
		{name: "not JSON", set: where("v", "exists", nil), body: `v=1`, unclear: true},
		{name: "no field", set: where("v", "<", 1), body: `{}`, unclear: true},
		{name: "other type", set: where("v", "==", 1), body: `{"v":"1"}`, unclear: true},
		{name: "object", set: where("v", "!=", "x"), body: `{"v":{}}`, unclear: true},
		{name: "out of scope", set: func(c *Config) { where("v", "<", 5)(c); c.Leaf = "fan-*" }, body: `{"v":1}`},
	} {
		for _, action := range []string{Keep, Drop} {
			for _, onError := range []string{ErrorPass, ErrorDrop} {
				f, err := New(rule(func(c *Config) { tt.set(c); c.Action, c.OnError = action, onError }))
				if err != nil {
					t.Fatalf("%s: %v", tt.name, err)
				}
				want := tt.matches == (action == Keep)
				if tt.unclear {
					want = onError == ErrorPass
				}
				m := &gateway.Message{Leaf: "pump-1", Channel: "flow", Body: []byte(tt.body)}
				if got := passes(t, f, m); got != want {
					t.Errorf("%s, action %s, on_error %s: passes %v, want %v", tt.name, action, onError, got, want)
				}
				s := f.State()
				if s.Passed+s.Removed != 1 || (s.Passed == 1) != want || (s.Unclear == 1) != tt.unclear {
					t.Errorf("%s, action %s: state %+v", tt.name, action, s)
				}
			}
		}
	}
}

func TestBadOptions(t *testing.T) {
	for _, tt := range []struct {
		set       func(*Config)
		key, hint string
	}{
		{func(c *Config) {}, "action", "write leaf, channel or field"},
		{func(c *Config) { c.Leaf, c.Action = "a", "remove" }, "action", `"keep"`},
		{func(c *Config) { c.Leaf, c.OnError = "a", "fail" }, "on_error", `"pass"`},
		{func(c *Config) { c.Leaf = "a[" }, "leaf", "pump-*"},
		{func(c *Config) { c.Channel = "[" }, "channel", "pump-*"},
		{func(c *Config) { c.Leaf, c.Op = "a", "<" }, "op", "field"},
		{func(c *Config) { c.Leaf, c.Value = "a", 1 }, "value", "field"},
		{func(c *Config) { c.Field, c.Op, c.Value = "a..b", "<", 1 }, "field", "motor.temperature"},
		{func(c *Config) { c.Field, c.Value = "a", 1 }, "op", `"exists"`},
		{func(c *Config) { c.Field, c.Op, c.Value = "a", "=", 1 }, "op", `"=="`},
		{func(c *Config) { c.Field, c.Op = "a", "<" }, "value", "missing"},
		{func(c *Config) { c.Field, c.Op, c.Value = "a", "<", "5" }, "value", "without quotes"},
		{func(c *Config) { c.Field, c.Op, c.Value = "a", "==", []any{1} }, "value", "number, a text"},
		{func(c *Config) { c.Field, c.Op, c.Value = "a", "exists", true }, "value", "no value"},
	} {
		_, err := New(rule(tt.set))
		bad, ok := errors.AsType[*gateway.KeyError](err)
		if !ok || bad.Key != tt.key || !strings.Contains(bad.Error(), tt.hint) {
			t.Errorf("got %v, want key %s with the hint %s", err, tt.key, tt.hint)
		}
	}
}
