package twins_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// nested returns an object of n objects, one in the other, around {"x":1}.
func nested(n int) string {
	return strings.Repeat(`{"o":`, n) + `{"x":1}` + strings.Repeat("}", n)
}

func TestRulesOfReported(t *testing.T) {
	for _, c := range []struct {
		name, patch string
		code        int // 0 when it is good
	}{
		{"empty", `{}`, 0},
		{"every kind", `{"a":true,"b":"text","c":1.5e3,"d":{},"e":[1,[2],{"f":"g"}],"h":null}`, 0},
		{"no JSON", `{"a":`, 400004},
		{"no object", `[1]`, 400004},
		{"null", `null`, 400004},
		{"nothing", ` `, 400004},
		{"two objects", `{"a":1}{"b":2}`, 400004},
		{"echoed version", `{"a":1,"$version":2}`, 400004},
		{"mark inside", `{"a":{"$x":1}}`, 400004},
		{"mark in array", `{"a":[{"$x":1}]}`, 400004},
		{"dot", `{"a.b":1}`, 400004},
		{"space", `{"a b":1}`, 400004},
		{"control character", `{"a\u0007":1}`, 400004},
		{"control character C1", `{"a\u0085":1}`, 400004},
		{"empty name", `{"":1}`, 400004},
		{"longest name", `{"` + strings.Repeat("n", 1024) + `":1}`, 0},
		{"long name", `{"` + strings.Repeat("n", 1025) + `":1}`, 400004},
		{"longest string", `{"a":"` + strings.Repeat("s", 4096) + `"}`, 0},
		{"long string", `{"a":"` + strings.Repeat("s", 4097) + `"}`, 400004},
		{"long string in array", `{"a":["` + strings.Repeat("s", 4097) + `"]}`, 400004},
		{"largest integer", `{"a":4503599627370495,"b":-4503599627370496}`, 0},
		{"large integer", `{"a":4503599627370496}`, 400004},
		{"small integer", `{"a":-4503599627370497}`, 400004},
		{"huge integer", `{"a":99999999999999999999999}`, 400004},
		{"huge float", `{"a":1e999}`, 400004},
		{"null in array", `{"a":[null]}`, 400004},
		{"deepest", nested(10), 0},
		{"too deep", nested(11), 400004},
		{"arrays too deep", `{"a":` + strings.Repeat("[", 11) + strings.Repeat("]", 11) + `}`, 400004},
	} {
		_, s := newStore(t)
		_, err := s.PatchReported(pump, []byte(c.patch), 0)
		if c.code == 0 && err != nil || c.code != 0 && !refusal.Is(err, c.code) {
			t.Errorf("%s: %v, want code %d", c.name, err, c.code)
		}
	}
}

func TestRulesOfWrites(t *testing.T) {
	for _, c := range []struct {
		name, body string
		code       int
	}{
		{"other members", `{"deviceId":"x","etag":"y","properties":{"reported":{"a":1}}}`, 0},
		{"null sections", `{"tags":null,"properties":null}`, 0},
		{"hub's marks", `{"properties":{"desired":{"a":1,"$version":7,"$metadata":{"a":{"$lastUpdated":"z"}}}}}`, 0},
		{"tags as text", `{"tags":"x"}`, 400004},
		{"properties as array", `{"properties":[]}`, 400004},
		{"desired as number", `{"properties":{"desired":1}}`, 400004},
		{"mark in tags", `{"tags":{"$version":1}}`, 400004},
		{"mark in desired", `{"properties":{"desired":{"$other":1}}}`, 400004},
		{"mark deeper in desired", `{"properties":{"desired":{"a":{"$version":1}}}}`, 400004},
	} {
		for _, replace := range []bool{false, true} {
			_, s := newStore(t)
			_, err := s.Update(pump, []byte(c.body), replace, "")
			if c.code == 0 && err != nil || c.code != 0 && !refusal.Is(err, c.code) {
				t.Errorf("%s, replace %v: %v, want code %d", c.name, replace, err, c.code)
			}
		}
	}
	_, s := newStore(t)
	if v := update(t, s, `{"properties":{"desired":{"a":1,"$version":7},"reported":{"b":2}}}`); at(v, "properties", "desired", "$version") != 2.0 || at(v, "properties", "reported", "b") != nil {
		t.Errorf("a service wrote what it may not: %v", v)
	}
}

// filler returns an object that counts size bytes by the size rule.
func filler(t *testing.T, size int) string {
	t.Helper()
	members := map[string]any{"n": 1, "b": true} // 1+8 and 1+4
	size -= 14
	for n := 0; size > 0; n++ {
		name := fmt.Sprintf("s%03d", n)
		length := min(size-len(name), 4000)
		// Control characters do not count, others count once whatever their bytes.
		members[name] = strings.Repeat("x", length-1) + "ü" + "\t"
		size -= len(name) + length
		if size > 0 && size < 10 {
			t.Fatal("choose another size")
		}
	}
	text, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		section, before, after string
		limit                  int
	}{
		{"tags", `{"tags":`, `}`, 8 << 10},
		{"desired", `{"properties":{"desired":`, `}}`, 32 << 10},
	} {
		_, s := newStore(t)
		if _, err := s.Update(pump, []byte(c.before+filler(t, c.limit)+c.after), false, ""); err != nil {
			t.Errorf("%s of the largest size: %v", c.section, err)
		}
		_, err := s.Update(pump, []byte(c.before+`{"m":{"":0}}`+c.after), false, "")
		if !refusal.Is(err, 400004) {
			t.Errorf("%s with an empty name: %v", c.section, err)
		}
		if _, err := s.Update(pump, []byte(c.before+`{"m":{}}`+c.after), false, ""); !refusal.Is(err, 403100) {
			t.Errorf("%s one byte larger: %v, want 403100", c.section, err)
		}
		if _, err := s.Update(pump, []byte(c.before+`{"n":null,"m":[true]}`+c.after), false, ""); err != nil {
			t.Errorf("%s with a smaller member: %v", c.section, err)
		}
	}
	_, s := newStore(t)
	if _, err := s.PatchReported(pump, []byte(filler(t, 32<<10)), 0); err != nil {
		t.Errorf("reported of the largest size: %v", err)
	}
	if _, err := s.PatchReported(pump, []byte(`{"m":{}}`), 0); !refusal.Is(err, 403100) {
		t.Errorf("reported one byte larger: %v, want 403100", err)
	}
}

// Whatever a device and a service send, the twin stays readable.
func FuzzWrites(f *testing.F) {
	f.Add([]byte(`{"tags":{"a":1},"properties":{"desired":{"b":[1,{"c":null}]}}}`), true)
	f.Add([]byte(`{"a":{"b":1.0},"c":null}`), false)
	f.Add([]byte(`{"tags":{"a":{"$b":1}}}`), false)
	f.Add([]byte(nested(12)), false)
	f.Fuzz(func(t *testing.T, body []byte, replace bool) {
		_, s := newStore(t)
		_, reported := s.PatchReported(pump, body, 0)
		_, written := s.Update(pump, body, replace, "")
		for _, err := range []error{reported, written} {
			if err != nil && refusal.Of(err).Status() == 500 {
				t.Errorf("the hub blames itself: %v", err)
			}
		}
		text, err := s.Get(pump)
		object(t, text, err)
		text, err = s.ForDevice(pump)
		object(t, text, err)
	})
}
