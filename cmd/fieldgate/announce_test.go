package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// everything is a state in which no two numbers are the same, and nothing is empty.
func everything() *state {
	s, n := new(state), 1000.0
	fillWith(reflect.ValueOf(s).Elem(), &n)
	return s
}

func fillWith(v reflect.Value, n *float64) {
	*n += 7
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(int64(*n), 0).UTC()))
			return
		}
		for _, field := range v.Fields() {
			fillWith(field, n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillWith(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fillWith(v.Index(0), n)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		value := reflect.New(v.Type().Elem()).Elem()
		fillWith(value, n)
		v.SetMapIndex(reflect.ValueOf(fmt.Sprintf("key%v", *n)), value)
	case reflect.String:
		v.SetString(fmt.Sprintf("text%v", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(*n)
	default:
		v.SetInt(int64(*n))
	}
}

// numbersIn collects all numbers of JSON, and all times as Unix times.
func numbersIn(v any, all map[float64]bool) {
	switch v := v.(type) {
	case map[string]any:
		for _, x := range v {
			numbersIn(x, all)
		}
	case []any:
		for _, x := range v {
			numbersIn(x, all)
		}
	case float64:
		all[v] = true
	case string:
		if at, err := time.Parse(time.RFC3339, v); err == nil {
			all[float64(at.Unix())] = true
		}
	}
}

// Every number of the metrics is one of the state's, and the twin's values stand where
// the state has them.
func TestAllViewsAreOfOneState(t *testing.T) {
	s := everything()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var whole map[string]any
	if err := json.Unmarshal(text, &whole); err != nil {
		t.Fatal(err)
	}
	numbers := make(map[float64]bool)
	numbersIn(whole, numbers)

	out := make(chan prometheus.Metric, 1000)
	measured{out}.all(s)
	close(out)
	seen := 0
	for m := range out {
		var d dto.Metric
		if err := m.Write(&d); err != nil {
			t.Fatal(err)
		}
		v := d.GetGauge().GetValue() + d.GetCounter().GetValue()
		if v == 0 || v == 1 { // yes or no
			continue
		}
		if seen++; !numbers[v] {
			t.Errorf("%v is %v, which is nowhere in the state", m.Desc(), v)
		}
	}
	if seen < 50 {
		t.Errorf("only %d metrics have a number of their own", seen)
	}

	paths := append(slices.Clone(reportedWords), reportedFigures...)
	var twin map[string]any
	if err := json.Unmarshal(pick(s, paths), &twin); err != nil {
		t.Fatal(err)
	}
	contained(t, "", twin, whole)
	for _, path := range paths {
		if strings.HasSuffix(path, ".hub") && strings.HasPrefix(path, "certificates") {
			continue // by a name that only a real state has
		}
		if len(pick(s, []string{path})) <= len("{}") {
			t.Errorf("%s is reported and nowhere in the state", path)
		}
	}
}

// contained checks that all of part stands in whole at the same places.
func contained(t *testing.T, at string, part, whole any) {
	t.Helper()
	switch p := part.(type) {
	case map[string]any:
		w, _ := whole.(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(p)) {
			contained(t, at+"."+name, p[name], w[name])
		}
	case []any:
		w, _ := whole.([]any)
		for i := range p {
			if i < len(w) {
				contained(t, fmt.Sprintf("%s[%d]", at, i), p[i], w[i])
			} else {
				t.Errorf("%s has %d elements, the state %d", at, len(p), len(w))
			}
		}
	default:
		if !reflect.DeepEqual(part, whole) {
			t.Errorf("%s is %v in the twin and %v in the state", at, part, whole)
		}
	}
}

// twinAtHub is the gateway's twin as a reporter writes it.
type twinAtHub struct {
	status  map[string]any
	writes  int
	reads   int
	asked   int
	kept    bool // the hub does not take reports now
	refused bool // by its last word
	err     error
}

func (h *twinAtHub) reporter(every time.Duration) *reporter {
	return &reporter{
		every: every, allowed: reportBurst, answered: make(chan answer, 1),
		ask:     func(context.Context) { h.asked++; h.refused = h.kept },
		taken:   func() { h.refused = false },
		refused: func() bool { return h.refused },
		report: func(patch []byte, done func(int64, error)) {
			h.writes++
			var p struct {
				Fieldgate struct{ Status map[string]any }
			}
			if h.err == nil && json.Unmarshal(patch, &p) == nil {
				h.status = merged(h.status, p.Fieldgate.Status)
			}
			if h.kept || h.err != nil {
				done(0, h.err)
			} else {
				done(int64(h.writes), nil)
			}
		},
		known: func(context.Context) (json.RawMessage, bool) {
			h.reads++
			text, _ := json.Marshal(h.status)
			if h.status == nil {
				text = nil
			}
			return text, h.err == nil
		},
	}
}

// A report that the hub does not take while there is a connection has the gateway ask
// whether its own device is still taken: at once, and then once a minute until it is.
func TestKeptReportAsksTheHub(t *testing.T) {
	h := &twinAtHub{status: map[string]any{}}
	r, s, now := h.reporter(time.Second), everything(), noon
	pass := func(seconds int, news bool) {
		for range seconds {
			now = now.Add(time.Second)
			if news {
				s.Store.Failing = now.String()
			}
			r.look(t.Context(), s, now)
			r.look(t.Context(), s, now) // takes the answer
		}
	}
	expect := func(when string, asked int, refused bool) {
		t.Helper()
		if h.asked != asked || h.refused != refused {
			t.Errorf("%s: asked %d times, refused %v; want %d, %v", when, h.asked, h.refused, asked, refused)
		}
	}
	pass(10, true)
	expect("while all is taken", 0, false)
	h.kept = true
	pass(1, true)
	expect("after the first that was kept", 1, true)
	pass(int(2*readEvery/time.Second), true)
	expect("two minutes later", 3, true)
	h.kept = false
	pass(1, true)
	expect("after the first that is taken again", 3, false)
	pass(1000, true)
	expect("long after that", 3, false)

	// Without anything new to report it is asked all the same.
	h.kept = true
	pass(1, true)
	expect("kept again", 4, true)
	h.kept = false
	r.every = time.Hour
	r.allowed = 0
	pass(int(readEvery/time.Second), false)
	expect("a minute later, with nothing to report", 5, false)
}

// merged is RFC 7386.
func merged(old, patch map[string]any) map[string]any {
	out := maps.Clone(old)
	if out == nil {
		out = make(map[string]any)
	}
	for name, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(out, name)
		case map[string]any:
			before, _ := out[name].(map[string]any)
			out[name] = merged(before, v)
		default:
			out[name] = v
		}
	}
	return out
}

// Changes of words are told at once, figures once in a while, what is no more goes,
// and whatever happens there is a bound on the writes.
func TestReportsToTheTwinAreFew(t *testing.T) {
	const every = 10 * time.Minute
	h := &twinAtHub{status: map[string]any{"store": map[string]any{"failing": "of a former run"}, "old": 1.0}}
	r, s, now := h.reporter(every), everything(), noon
	s.Store.Failing = ""
	look := func(after time.Duration) {
		now = now.Add(after)
		r.look(t.Context(), s, now)
	}
	same := func(when string) {
		t.Helper()
		look(0) // takes the answer
		want := make(map[string]any)
		if err := json.Unmarshal(pick(s, append(slices.Clone(reportedWords), reportedFigures...)), &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(h.status, want) {
			t.Errorf("%s: the hub has %v, want %v", when, h.status, want)
		}
	}
	look(0)
	same("at the start")
	if h.writes != 1 || h.reads != 1 {
		t.Errorf("%d writes and %d reads at the start", h.writes, h.reads)
	}
	for range 300 { // figures grow each second
		s.Path.Taken["telemetry"]++
		look(time.Second)
	}
	if h.writes != 1 {
		t.Errorf("%d writes within half an interval of figures", h.writes)
	}
	s.Store.Failing = "disk is full"
	look(time.Second)
	same("after a change of words")
	if h.writes != 2 {
		t.Errorf("%d writes after a change of words", h.writes)
	}
	s.Path.Taken["telemetry"]++
	look(every)
	same("after an interval")
	before := h.writes
	const hours = 4
	for i := range hours * 360 { // a link that flaps for hours
		s.Uplink.Since = now
		s.Clock = fmt.Sprint("flap", i)
		look(10 * time.Second)
	}
	if n, most := h.writes-before, hours*6+reportBurst; n > most || n < most/2 {
		t.Errorf("%d writes in hours of changes, at most %d", n, most)
	}
	h.err = errors.New("refused")
	look(every)
	look(every)
	h.err = nil
	reads := h.reads
	look(every)
	look(0)
	same("after a refusal")
	if h.reads == reads {
		t.Error("after a refusal it is not known what the hub has: it has to be read")
	}
}

// Where the hub does not give the twin, it is read again each minute, also when no
// more may be written: the operator may have mended it.
func TestTwinThatIsRefusedIsReadAgain(t *testing.T) {
	h := &twinAtHub{err: errors.New("refused")}
	r, s, now := h.reporter(time.Hour), everything(), noon
	look := func(seconds int) {
		for range seconds {
			now = now.Add(time.Second)
			r.look(t.Context(), s, now)
		}
	}
	look(60)
	if h.reads != reportBurst {
		t.Errorf("read %d times in the first minute, want %d", h.reads, reportBurst)
	}
	look(600)
	if h.reads != reportBurst+10 || h.writes != 0 {
		t.Errorf("%d reads and %d writes in the ten minutes after it", h.reads-reportBurst, h.writes)
	}
	h.err = nil
	look(60)
	if h.reads != reportBurst+11 || h.writes != 0 {
		t.Errorf("read %d times and written %d times once it can be", h.reads, h.writes)
	}
	look(3600)
	if h.reads != reportBurst+11 || h.writes == 0 {
		t.Errorf("read %d times and written %d times in the next hour", h.reads, h.writes)
	}
}

// A state of a thousand troubles still fits the twin.
func TestReportFitsTheTwin(t *testing.T) {
	s := everything()
	for range 1000 {
		s.Drivers = append(s.Drivers, driverState{Name: strings.Repeat("n", 200), Error: strings.Repeat("e", 5000)})
	}
	s.Store.Failing = strings.Repeat("f", 10000)
	if n := len(pick(s, append(slices.Clone(reportedWords), reportedFigures...))); n > 20<<10 {
		t.Errorf("the report has %d bytes", n)
	}
}
