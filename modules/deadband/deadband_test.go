package deadband

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
)

func rule(set func(*Config)) Config {
	c := DefaultConfig()
	c.Field = "v"
	set(&c)
	return c
}

// wrapped is a deadband whose handler counts what goes on.
type wrapped struct {
	*Deadband
	handler gateway.Handler
	on      int
	fail    error // what custody says
}

func wrap(t interface{ Fatal(...any) }, cfg Config) *wrapped {
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &wrapped{Deadband: d}
	w.handler = d.Wrap(gateway.HandlerFunc(func(_ context.Context, _ *gateway.Message, done gateway.Done) {
		w.on++
		done(w.fail)
	}))
	return w
}

// passes sends a message and says whether it went on.
func (w *wrapped) passes(t interface{ Errorf(string, ...any) }, m *gateway.Message) bool {
	before, dones := w.on, 0
	w.handler.Handle(context.Background(), m, func(err error) {
		dones++
		if w.on == before && err != nil {
			t.Errorf("a removed message has the error %v", err)
		}
		if w.on > before && !errors.Is(err, w.fail) {
			t.Errorf("got error %v, want %v", err, w.fail)
		}
	})
	if dones != 1 {
		t.Errorf("done was called %d times", dones)
	}
	return w.on > before
}

// at is a message with a value, some seconds after boot.
func at(seconds float64, value any) *gateway.Message {
	return &gateway.Message{
		Leaf: "pump-1", Lane: gateway.LaneTelemetry, Body: fmt.Appendf(nil, `{"v":%v}`, value),
		Captured: gateway.Instant{Boot: 1, Uptime: time.Duration(seconds * float64(time.Second))},
	}
}

func TestSeries(t *testing.T) {
	delta := func(c *Config) { c.Delta = 2 }
	for _, tt := range []struct {
		name string
		set  func(*Config)
		in   []float64 // one per second
		want string    // o goes on, . is removed
	}{
		{"delta", delta, []float64{20, 21, 21.9, 22, 21, 20.1, 20, 18}, "o..o..oo"},
		{"slow drift", delta, []float64{0, 1, 2, 3, 4, 5, 6}, "o.o.o.o"},
		{"percent", func(c *Config) { c.Percent = 10 }, []float64{100, 109, 110, 100, 99, -99}, "o.o.oo"},
		{"percent of zero", func(c *Config) { c.Percent = 10 }, []float64{0, 0, 0.001, 0.001}, "o.o."},
		{"either", func(c *Config) { c.Delta, c.Percent = 5, 10 }, []float64{100, 105, 104, 20, 22, 22.5}, "oo.oo."},
		{"age", func(c *Config) { delta(c); c.MaxAge = gateway.Duration(3 * time.Second) }, []float64{1, 1, 1, 1, 1, 1, 1}, "o..o..o"},
		{"age without limit", func(c *Config) { delta(c); c.MaxAge = 0 }, make([]float64, 2000), "o" + strings.Repeat(".", 1999)},
	} {
		w := wrap(t, rule(tt.set))
		var got strings.Builder
		for i, v := range tt.in {
			if w.passes(t, at(float64(i), v)) {
				got.WriteByte('o')
			} else {
				got.WriteByte('.')
			}
		}
		if got.String() != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got.String(), tt.want)
		}
		s := w.State()
		if s.Passed != int64(strings.Count(tt.want, "o")) || s.Removed != int64(strings.Count(tt.want, ".")) || s.Streams != 1 {
			t.Errorf("%s: state %+v", tt.name, s)
		}
	}
}

func TestWhatIsNotWatchedGoesOn(t *testing.T) {
	for name, change := range map[string]func(*gateway.Message){
		"alarm":          func(m *gateway.Message) { m.Lane = gateway.LaneAlarm },
		"will":           func(m *gateway.Message) { m.Kind = gateway.Will },
		"not JSON":       func(m *gateway.Message) { m.Body = []byte("v=1") },
		"no number":      func(m *gateway.Message) { m.Body = []byte(`{"v":"1"}`) },
		"no field":       func(m *gateway.Message) { m.Body = []byte(`{}`) },
		"other leaf":     func(m *gateway.Message) { m.Leaf = "fan-1" },
		"endless name":   func(m *gateway.Message) { m.Channel = strings.Repeat("x", maxChannel+1) },
		"number too big": func(m *gateway.Message) { m.Body = []byte(`{"v":1e999}`) },
	} {
		w := wrap(t, rule(func(c *Config) { c.Delta, c.Leaf = 1, "pump-*" }))
		for range 3 {
			m := at(1, 1)
			change(m)
			if !w.passes(t, m) {
				t.Errorf("%s: removed", name)
			}
		}
		if s := w.State(); s.Streams != 0 || s.Passed != 3 {
			t.Errorf("%s: state %+v", name, s)
		}
	}
}

func TestStreamsAreJudgedApart(t *testing.T) {
	w := wrap(t, rule(func(c *Config) { c.Delta = 1 }))
	for i, name := range []stream{{"a", ""}, {"b", ""}, {"a", "x"}, {"a", "y"}} {
		m := at(1, i%2)
		m.Leaf, m.Channel = name.leaf, name.channel
		if !w.passes(t, m) || w.passes(t, m) {
			t.Errorf("%v: want the first to go on and the second not", name)
		}
	}
}

func TestWhatCustodyRefusesIsNoReport(t *testing.T) {
	w := wrap(t, rule(func(c *Config) { c.Delta = 1 }))
	w.fail = gateway.ErrStoreFull
	if !w.passes(t, at(1, 5)) || !w.passes(t, at(2, 5)) {
		t.Error("removed because of a message that was refused")
	}
	w.fail = nil
	if !w.passes(t, at(3, 5)) || w.passes(t, at(4, 5)) {
		t.Error("want the next one to go on, and none after it")
	}
}

func TestRestartOfTheMachineEndsAReport(t *testing.T) {
	w := wrap(t, rule(func(c *Config) { c.Delta = 1 }))
	w.passes(t, at(1000, 5))
	later := at(1001, 5)
	later.Captured.Boot = 2
	if !w.passes(t, later) {
		t.Error("the age of a report was taken from two boots")
	}
}

func TestStreamsAreBounded(t *testing.T) {
	w := wrap(t, rule(func(c *Config) { c.Delta = 1 }))
	for i := range maxStreams + 100 {
		m := at(1, 1)
		m.Channel = fmt.Sprint(i)
		if !w.passes(t, m) {
			t.Fatalf("first message of channel %d removed", i)
		}
	}
	if n := w.State().Streams; n != maxStreams {
		t.Errorf("%d streams, want %d", n, maxStreams)
	}
}

// The first value is reported; a change of at least delta from the last
// reported value always is, less never, unless the report is old.
func TestNoChangeIsMissed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		delta := rapid.Float64Range(0.001, 100).Draw(t, "delta")
		w := wrap(t, rule(func(c *Config) { c.Delta, c.MaxAge = delta, gateway.Duration(time.Minute) }))
		var last, lastAt, now float64
		for i, v := range rapid.SliceOfN(rapid.Float64Range(-300, 300), 1, 50).Draw(t, "values") {
			now += float64(rapid.IntRange(0, 40).Draw(t, "pause"))
			w.fail = nil
			if rapid.IntRange(0, 9).Draw(t, "refusal") == 0 {
				w.fail = gateway.ErrStoreFull
			}
			want := i == 0 || math.IsNaN(last) || math.Abs(v-last) >= delta || now-lastAt >= 60
			if got := w.passes(t, at(now, v)); got != want {
				t.Fatalf("value %v after %v, age %v: goes on %v, want %v", v, last, now-lastAt, got, want)
			}
			switch {
			case want && w.fail != nil:
				last = math.NaN() // nothing is reported
			case want:
				last, lastAt = v, now
			}
		}
	})
}

func TestBadOptions(t *testing.T) {
	for _, tt := range []struct {
		set       func(*Config)
		key, hint string
	}{
		{func(c *Config) { c.Field, c.Delta = "", 1 }, "field", "motor.temperature"},
		{func(c *Config) { c.Field, c.Delta = "a.", 1 }, "field", "motor.temperature"},
		{func(c *Config) {}, "delta", "percent"},
		{func(c *Config) { c.Delta = -1 }, "delta", "above 0"},
		{func(c *Config) { c.Delta, c.Percent = 1, math.NaN() }, "percent", "above 0"},
		{func(c *Config) { c.Percent = math.Inf(1) }, "percent", "above 0"},
		{func(c *Config) { c.Delta, c.MaxAge = 1, gateway.Duration(time.Millisecond) }, "max_age", "1s"},
		{func(c *Config) { c.Delta, c.Leaf = 1, "[" }, "leaf", "pump-*"},
	} {
		_, err := New(rule(tt.set))
		bad, ok := errors.AsType[*gateway.KeyError](err)
		if !ok || bad.Key != tt.key || !strings.Contains(bad.Error(), tt.hint) {
			t.Errorf("got %v, want key %s with the hint %s", err, tt.key, tt.hint)
		}
	}
}
