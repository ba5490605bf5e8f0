package twin

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func must(t testing.TB, text string) object {
	t.Helper()
	o, err := parse([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return o
}

func TestParse(t *testing.T) {
	for _, text := range []string{"", " ", "null", "[]", "1", `"x"`, `{"a":1}{}`, `{"a":}`, `{"a":1}x`} {
		if o, err := parse([]byte(text)); err == nil {
			t.Errorf("%q: got %v", text, o)
		}
	}
	if got := string(format(must(t, ` { "b" : 12345678901234567890.10 , "a":[null] } `))); got != `{"a":[null],"b":12345678901234567890.10}` {
		t.Errorf("got %s", got)
	}
}

// The hub's rules for what a device reports (wire contract, section 5.4).
func TestValidate(t *testing.T) {
	deep := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	for text, ok := range map[string]bool{
		`{}`: true, `{"a":null}`: true, `{"a":{"b":[1,"x",true,null,{"c":1}]}}`: true,
		`{"$version":1}`: false, `{"a":{"$b":1}}`: false, `{"a.b":1}`: false, `{"a b":1}`: false,
		`{"a\u0001":1}`: false, `{"":1}`: false, `{"grün":"\u0001"}`: true,
		deep(10): true, deep(11): false,
		`{"a":` + strings.Repeat("[", 9) + strings.Repeat("]", 9) + `}`:   true,
		`{"a":` + strings.Repeat("[", 10) + strings.Repeat("]", 10) + `}`: false,
		`{"a":4503599627370495}`: true, `{"a":4503599627370496}`: false,
		`{"a":-4503599627370496}`: true, `{"a":-4503599627370497}`: false,
		`{"a":99999999999999999999}`: false, `{"a":1e300}`: true, `{"a":0.1}`: true,
		`{"a":"` + strings.Repeat("x", 4096) + `"}`: true, `{"a":"` + strings.Repeat("x", 4097) + `"}`: false,
		`{"` + strings.Repeat("k", 1024) + `":1}`: true, `{"` + strings.Repeat("k", 1025) + `":1}`: false,
		`{"a":["` + strings.Repeat("x", 4097) + `"]}`:                        false,
		`{"a":"` + strings.Repeat(strings.Repeat("x", 4000)+`","`, 8) + `"}`: true,
	} {
		o, err := parse([]byte(text))
		if err != nil {
			continue // the last one is no JSON on purpose
		}
		if err := validate(o); (err == nil) != ok {
			t.Errorf("%.60s…: got %v", text, err)
		}
	}
	big := object{}
	for _, key := range "abcdefgh" {
		big[string(key)] = strings.Repeat("x", 4095)
	}
	if err := validate(big); err != nil {
		t.Errorf("32 KiB: %v", err)
	}
	big["i"] = true
	if err := validate(big); err == nil {
		t.Error("above 32 KiB: no error")
	}
}

// documents draws objects with few keys, so that patches meet what is there.
func documents(nulls bool) *rapid.Generator[object] {
	keys := rapid.SampledFrom([]string{"a", "b", "c"})
	var object0 func(depth int) *rapid.Generator[object]
	value := func(depth int) *rapid.Generator[any] {
		return rapid.Custom(func(t *rapid.T) any {
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0:
				if nulls {
					return nil
				}
				return true
			case 1:
				return json.Number("1")
			case 2:
				return "text"
			case 3:
				return []any{json.Number("1"), "x"}
			default:
				if depth == 0 {
					return false
				}
				return object0(depth-1).Draw(t, "object")
			}
		})
	}
	object0 = func(depth int) *rapid.Generator[object] {
		return rapid.MapOfN(keys, value(depth), 0, 3)
	}
	return object0(2)
}

func TestDifferenceLeadsToTheOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := documents(false).Draw(t, "from"), documents(false).Draw(t, "to")
		before := string(format(from))
		patch := difference(from, to)
		if got := apply(from, patch); !reflect.DeepEqual(got, to) {
			t.Fatalf("patch %s makes %s", format(patch), format(got))
		}
		if string(format(from)) != before {
			t.Fatal("the document was changed")
		}
		if reflect.DeepEqual(from, to) && len(patch) > 0 {
			t.Fatalf("a patch for nothing: %s", format(patch))
		}
	})
}

func TestCombinedPatchesDoTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		document := documents(false).Draw(t, "document")
		patches := rapid.SliceOfN(documents(true), 0, 6).Draw(t, "patches")
		want := document
		var combined []object
		for _, p := range patches {
			want = apply(want, p)
			combined = appended(combined, p)
		}
		got := document
		for _, p := range combined {
			got = apply(got, p)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: got %s, want %s", combined, format(got), format(want))
		}
		// A patch that is already with the hub may be applied twice.
		if len(combined) > 0 && !reflect.DeepEqual(apply(apply(document, combined[0]), combined[0]), apply(document, combined[0])) {
			t.Fatalf("%s twice is not once", format(combined[0]))
		}
	})
}

func TestMostPatchesBecomeOne(t *testing.T) {
	var list []object
	for range 100 {
		list = appended(list, must(t, `{"temperature":{"value":1,"old":null},"state":"on"}`))
	}
	if len(list) != 1 {
		t.Errorf("got %d patches", len(list))
	}
}

func FuzzPatch(f *testing.F) {
	f.Add([]byte(`{"a":{"b":null}}`), []byte(`{"a":{"b":{"c":[1,2.5e9]}},"d":"x"}`))
	f.Add([]byte(`{"a":1}`), []byte(`{"a":{"$x":{}}}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		x, err := parse(a)
		if err != nil {
			return
		}
		y, err := parse(b)
		if err != nil {
			return
		}
		_ = validate(x)
		_ = sizeOf(x)
		got := apply(apply(object{}, x), y)
		if d := difference(apply(object{}, x), got); !reflect.DeepEqual(apply(apply(object{}, x), d), got) {
			t.Errorf("difference %s", format(d))
		}
	})
}

func TestPatchBetweenTexts(t *testing.T) {
	for _, c := range [][3]string{
		{`{"a":1,"b":{"c":2}}`, `{"a":1,"b":{"d":3}}`, `{"b":{"c":null,"d":3}}`},
		{``, `{"a":[1]}`, `{"a":[1]}`},
		{`{"a":1}`, `{"a":1}`, ``},
	} {
		if got, err := Patch([]byte(c[0]), []byte(c[1])); err != nil || string(got) != c[2] {
			t.Errorf("from %s to %s: %s, %v", c[0], c[1], got, err)
		}
	}
	if _, err := Patch([]byte("1"), []byte("{}")); err == nil {
		t.Error("1 is no object")
	}
}
