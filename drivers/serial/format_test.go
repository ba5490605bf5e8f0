package serial

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/fieldgate/fieldgate/drivers/serial/port"
	"github.com/fieldgate/fieldgate/gateway"
)

func TestJSONLine(t *testing.T) {
	for _, tt := range []struct {
		in        string
		leaf, seq string
		why       Discard
	}{
		{in: `{"t":21.5}`, leaf: "port"},
		{in: `{}`, leaf: "port"},
		{in: " {\"t\":1}\t", leaf: "port"},
		{in: `{"seq":7,"t":1}`, leaf: "port", seq: "7"},
		{in: `{"seq":18446744073709551615}`, leaf: "port", seq: "18446744073709551615"},
		{in: `{"seq":18446744073709551616}`, leaf: "port"},
		{in: `{"seq":-1}`, leaf: "port"},
		{in: `{"seq":1.0}`, leaf: "port"},
		{in: `{"seq":1e3}`, leaf: "port"},
		{in: `{"seq":"7"}`, leaf: "port"},
		{in: "", why: blank},
		{in: " \t", why: blank},
		{in: "null", why: DiscardNotJSON},
		{in: "[{}]", why: DiscardNotJSON},
		{in: "21.5", why: DiscardNotJSON},
		{in: `{"t":1`, why: DiscardNotJSON},
		{in: `{"t":1}}`, why: DiscardNotJSON},
		{in: `{"t":1} {"t":2}`, why: DiscardNotJSON},
		{in: "I (312) wifi: on", why: DiscardNotJSON},
		{in: "{\"t\":\"\xff\"}", why: DiscardNoise},
		{in: "\x00\x00{\"t\":1}", why: DiscardNoise},
		{in: strings.Repeat("{\"a\":", 9999), why: DiscardNotJSON},
	} {
		r, why := jsonLine(line{text: []byte(tt.in)}, "port", "")
		if r.leaf != tt.leaf || r.seq != tt.seq || why != tt.why {
			t.Errorf("%.40q: leaf %q, seq %q, discard %q, want %q, %q, %q", tt.in, r.leaf, r.seq, why, tt.leaf, tt.seq, tt.why)
		}
		if why == "" && string(r.body) != strings.TrimSpace(tt.in) {
			t.Errorf("%q: body %q", tt.in, r.body)
		}
	}
}

func TestJSONLineNamesItsLeaf(t *testing.T) {
	for in, want := range map[string]string{
		`{"id":"meter-1"}`:       "meter-1",
		`{"id":"m\u00652"}`:      "me2",
		`{"id":""}`:              "",
		`{"id":"a/b"}`:           "",
		`{"id":"a b"}`:           "",
		`{"id":7}`:               "",
		`{"id":null}`:            "",
		`{"ID":"meter-1"}`:       "",
		`{"x":{"id":"meter-1"}}`: "",
		`{"id":"` + strings.Repeat("x", 129) + `"}`:  "",
		`{"id":"` + strings.Repeat("x", 128) + `" }`: strings.Repeat("x", 128),
	} {
		r, why := jsonLine(line{text: []byte(in)}, "", "id")
		if r.leaf != want || (why == DiscardNoLeaf) != (want == "") {
			t.Errorf("%s: leaf %q, discard %q, want leaf %q", in, r.leaf, why, want)
		}
	}
}

func TestTornLines(t *testing.T) {
	if _, why := jsonLine(line{text: []byte(`1,"b":2}`), torn: true}, "x", ""); why != DiscardTorn {
		t.Errorf("tail of an object: %q, want %q", why, DiscardTorn)
	}
	if _, why := jsonLine(line{text: []byte(`{"b":2}`), torn: true}, "x", ""); why != "" {
		t.Errorf("whole object: %q, want none", why)
	}
	if _, why := textLine(line{text: []byte("21.5"), torn: true}, "x"); why != DiscardTorn {
		t.Errorf("text: %q, want %q", why, DiscardTorn)
	}
}

// The tail of an object is never taken for an object.
func TestNoTailOfAnObjectIsAnObject(t *testing.T) {
	for _, whole := range []string{
		`{"a":{"b":{"c":1}},"d":[{},{"e":{}}]}`,
		`{"{":"}","a":"{}","b":"{\"x\":1}"}`,
		`{"a":{}}`,
	} {
		for i := 1; i < len(whole); i++ {
			if r, why := jsonLine(line{text: []byte(whole[i:]), torn: true}, "x", ""); why == "" {
				t.Errorf("%s of %s was taken", r.body, whole)
			}
		}
	}
}

func TestTextLine(t *testing.T) {
	for in, want := range map[string]Discard{
		"T=21.5":        "",
		" a\tb ":        "",
		"größe 5 µm":    "",
		"":              blank,
		"  ":            blank,
		"a\x00":         DiscardNoise,
		"\x1b[0m":       DiscardNoise,
		"a\xff":         DiscardNoise,
		"\x7f":          DiscardNoise,
		"a\rb":          DiscardNoise,
		"{\"seq\":\"1}": "",
	} {
		r, why := textLine(line{text: []byte(in)}, "x")
		if why != want || why == "" && (string(r.body) != in || r.leaf != "x" || r.seq != "") {
			t.Errorf("%q: %+v, discard %q, want %q", in, r, why, want)
		}
	}
}

func TestNMEALine(t *testing.T) {
	wanted := DefaultConfig().Sentences
	for in, want := range map[string]Discard{
		"$GPZDA,201530.00,04,07,2002,00,00*60":         "",
		"\xff\xfe$GPZDA,201530.00,04,07,2002,00,00*60": "",
		"$GPZDA,201530.00,04,07,2002,00,00*61":         DiscardChecksum,
		"$GPGLL,4916.45,N,12311.12,W,225444,A*31":      DiscardOther,
		"boot": DiscardNoise,
		"":     blank,
	} {
		r, why := nmeaLine(line{text: []byte(in)}, "gps", wanted)
		if why != want || why == "" && (r.leaf != "gps" || string(r.body) != `{"sentence":"ZDA","talker":"GP","time":"2002-07-04T20:15:30Z"}`) {
			t.Errorf("%q: %+v, discard %q, want %q", in, r, why, want)
		}
	}
	if _, why := nmeaLine(line{text: []byte("5,A*31"), torn: true}, "gps", wanted); why != DiscardTorn {
		t.Errorf("tail: %q", why)
	}
}

func TestSenMLLine(t *testing.T) {
	at := gateway.Instant{Wall: time.Unix(1_320_078_429, 0), Quality: gateway.Synced}
	for _, c := range []struct {
		leaf, in string
		want     string
		why      Discard
	}{
		{"m", `[{"n":"t","v":1}]`, `m [{"n":"t","v":1,"t":1320078429}]`, ""},
		{
			"", `[{"bn":"dev-1:","n":"t","v":1},{"bn":"dev-2/","n":"t","v":2},{"bn":"dev-1:","n":"h","v":3}]`,
			`dev-1 [{"n":"dev-1:t","v":1,"t":1320078429},{"n":"dev-1:h","v":3,"t":1320078429}] dev-2 [{"n":"dev-2/t","v":2,"t":1320078429}]`, "",
		},
		{"", `[{"n":"t","v":1}]`, "", DiscardNoLeaf},
		{"", `[{"bn":"a/b:","n":"t","v":1}]`, "", DiscardNoLeaf},
		{"m", `{"n":"t","v":1}`, "", DiscardNotSenML},
		{"m", "[\x00", "", DiscardNoise},
		{"m", " ", "", blank},
	} {
		rs, why := senmlLine(line{text: []byte(c.in)}, c.leaf, at, time.Hour)
		var got []string
		for _, r := range rs {
			got = append(got, r.leaf, string(r.body))
		}
		if strings.Join(got, " ") != c.want || why != c.why {
			t.Errorf("%s: %s, discard %q, want %s, %q", c.in, got, why, c.want, c.why)
		}
	}
	// A clock that was never set says nothing about times.
	rs, _ := senmlLine(line{text: []byte(`[{"n":"t","t":-5,"v":1}]`)}, "m", gateway.Instant{Wall: time.Unix(5, 0)}, time.Hour)
	if got := string(rs[0].body); got != `[{"n":"t","v":1,"t":-5}]` {
		t.Errorf("without a clock: %s", got)
	}
}

func FuzzFormat(f *testing.F) {
	for _, in := range []string{`{"id":"meter-1","seq":1}`, `{"id":"a","seq":1e9}`, "T=21.5", "\xff\x00", `{"id":{}}`, "{\"id\":\"\\ud800\"}"} {
		f.Add([]byte(in), false)
		f.Add([]byte(in), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, torn bool) {
		l := line{text: text, size: len(text) + 1, torn: torn}
		if r, why := jsonLine(l, "", "id"); why == "" {
			if !json.Valid(r.body) || !utf8.Valid(r.body) || r.body[0] != '{' || !port.ValidLeaf(r.leaf) {
				t.Errorf("json reading %+v", r)
			}
			if answer := answerText(true, r.seq, 1); r.seq != "" && !json.Valid([]byte(answer)) {
				t.Errorf("answer %q", answer)
			}
		}
		if r, why := textLine(l, "x"); why == "" && (!utf8.Valid(r.body) || bytes.IndexByte(r.body, 0) >= 0) {
			t.Errorf("text reading %+v", r)
		}
	})
}
