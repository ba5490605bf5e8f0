package senml_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/senml"
)

var now = time.Unix(1_320_078_429, 0).UTC()

// The packs of RFC 8428, sections 5.1.1 to 5.1.5, and what they resolve to.
func TestPublishedPacks(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"single": {
			`[{"n":"urn:dev:ow:10e2073a01080063","u":"Cel","v":23.1}]`,
			`[{"n":"urn:dev:ow:10e2073a01080063","u":"Cel","v":23.1,"t":1320078429}]`,
		},
		"multiple": {
			`[{"bn":"urn:dev:ow:10e2073a01080063:","n":"voltage","u":"V","v":120.1},{"n":"current","u":"A","v":1.2}]`,
			`[{"n":"urn:dev:ow:10e2073a01080063:voltage","u":"V","v":120.1,"t":1320078429},` +
				`{"n":"urn:dev:ow:10e2073a01080063:current","u":"A","v":1.2,"t":1320078429}]`,
		},
		"times": {
			`[{"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09,"bu":"A","bver":5,"n":"voltage","u":"V","v":120.1},` +
				`{"n":"current","t":-5,"v":1.2},{"n":"current","t":-4,"v":1.3},{"n":"current","t":0,"v":1.7}]`,
			`[{"n":"urn:dev:ow:10e2073a0108006:voltage","u":"V","v":120.1,"t":1276020076.001},` +
				`{"n":"urn:dev:ow:10e2073a0108006:current","u":"A","v":1.2,"t":1276020071.001},` +
				`{"n":"urn:dev:ow:10e2073a0108006:current","u":"A","v":1.3,"t":1276020072.001},` +
				`{"n":"urn:dev:ow:10e2073a0108006:current","u":"A","v":1.7,"t":1276020076.001}]`,
		},
		"places": {
			`[{"bn":"urn:dev:ow:10e2073a01080063","bt":1.320067464e+09,"bu":"%RH","v":20},{"u":"lon","v":24.30621},{"u":"lat","v":60.07965},{"t":60,"v":20.3}]`,
			`[{"n":"urn:dev:ow:10e2073a01080063","u":"%RH","v":20,"t":1320067464},{"n":"urn:dev:ow:10e2073a01080063","u":"lon","v":24.30621,"t":1320067464},` +
				`{"n":"urn:dev:ow:10e2073a01080063","u":"lat","v":60.07965,"t":1320067464},{"n":"urn:dev:ow:10e2073a01080063","u":"%RH","v":20.3,"t":1320067524}]`,
		},
		"kinds of value": {
			`[{"bn":"urn:dev:ow:10e2073a01080063:","n":"temp","u":"Cel","v":23.1},{"n":"label","vs":"Machine Room"},{"n":"open","vb":false},{"n":"nfc-reader","vd":"aGkgCg"}]`,
			`[{"n":"urn:dev:ow:10e2073a01080063:temp","u":"Cel","v":23.1,"t":1320078429},{"n":"urn:dev:ow:10e2073a01080063:label","vs":"Machine Room","t":1320078429},` +
				`{"n":"urn:dev:ow:10e2073a01080063:open","vb":false,"t":1320078429},{"n":"urn:dev:ow:10e2073a01080063:nfc-reader","vd":"aGkgCg","t":1320078429}]`,
		},
		"base value and sum": {
			`[{"bn":"m","bv":20,"bs":100,"v":0.1,"s":5},{"n":"2","s":6}]`,
			`[{"n":"m","v":20.1,"s":105,"t":1320078429},{"n":"m2","s":106,"t":1320078429}]`,
		},
		"an ignored field": {`[{"n":"a","v":1,"xyz":[1]}]`, `[{"n":"a","v":1,"t":1320078429}]`},
	} {
		records, err := senml.Resolve([]byte(c.in), now)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := string(senml.Encode(records, now, 0)); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, c.want)
		}
	}
}

func TestPacksThatAreNone(t *testing.T) {
	for in, want := range map[string]error{
		`{"n":"a","v":1}`:                 senml.ErrNotJSON,
		`[]`:                              senml.ErrNotJSON,
		`[1]`:                             senml.ErrNotJSON,
		`[{"n":"a","v":"1"}]`:             senml.ErrNotJSON,
		`[{"n":"a","v":1}`:                senml.ErrNotJSON,
		"[{\"n\":\"a\",\"vs\":\"\xff\"}]": senml.ErrNotJSON,
		`[{"bver":11,"n":"a","v":1}]`:     senml.ErrVersion,
		`[{"n":"a","v":1,"must_":1}]`:     senml.ErrUnknown,
		`[{"v":1}]`:                       senml.ErrName,
		`[{"n":"-a","v":1}]`:              senml.ErrName,
		`[{"n":"a b","v":1}]`:             senml.ErrName,
		`[{"n":"a"}]`:                     senml.ErrValue,
		`[{"n":"a","v":1,"vb":true}]`:     senml.ErrValue,
		`[{"n":"a","vd":"***"}]`:          senml.ErrValue,
		`[{"n":"a","v":1,"t":1e300}]`:     senml.ErrNumber,
	} {
		if _, err := senml.Resolve([]byte(in), now); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", in, err, want)
		}
	}
}

// A leaf whose clock is far off does not lose its reading, and the time that it
// gave is not lost either.
func TestClocksThatAreOff(t *testing.T) {
	for _, c := range []struct {
		t, want string
		now     time.Time
	}{
		{"1320078428", `"t":1320078428`, now},
		{"946684800", `"t":1320078429,"leaf_time":946684800`, now},
		{"1990000000", `"t":1320078429,"leaf_time":1990000000`, now},
		{"946684800", `"t":946684800`, time.Time{}}, // who knows whose is wrong
		{"-5.5", `"t":-5.5`, time.Time{}},
		{"-5.5", `"t":1320078423.5`, now},
		{"0", `"v":1}`, time.Time{}},
	} {
		records, err := senml.Resolve(fmt.Appendf(nil, `[{"n":"a","v":1,"t":%s}]`, c.t), c.now)
		if err != nil {
			t.Fatal(err)
		}
		got := string(senml.Encode(records, c.now, 24*time.Hour))
		if want := `[{"n":"a","v":1,` + c.want + `}]`; got != want && got != `[{"n":"a",`+c.want+`]` {
			t.Errorf("t = %s: %s, want %s", c.t, got, want)
		}
	}
}

// Whatever is taken can be read again, and is resolved already.
func FuzzResolve(f *testing.F) {
	f.Add([]byte(`[{"bn":"a:","bt":1.276020076001e+09,"bu":"A","bver":5,"n":"v","u":"V","v":120.1},{"n":"c","t":-5,"vs":"x"}]`))
	f.Add([]byte(`[{"n":"a","s":1,"ut":5},{"n":"b","vd":"aGkgCg"}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		records, err := senml.Resolve(text, now)
		if err != nil {
			return
		}
		out := senml.Encode(records, now, time.Hour)
		if !json.Valid(out) {
			t.Fatalf("%s: %s", text, out)
		}
		again, err := senml.Resolve(out, now)
		if err != nil || len(again) != len(records) {
			t.Fatalf("%s became %s: %v", text, out, err)
		}
		for i := range again {
			if again[i].Name != records[i].Name || again[i].Base != "" {
				t.Errorf("%s became %s", text, out)
			}
		}
	})
}
