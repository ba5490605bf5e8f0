package strict

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// machine is a configuration with one of everything.
type machine struct {
	Name  string            `toml:"name"`
	Pump  pump              `toml:"pump"`
	Valve []valve           `toml:"valve"`
	Tags  []string          `toml:"tags"`
	Extra Table             `toml:"extra"`
	Steps []Table           `toml:"step"`
	Limit limits            `toml:",inline"`
	Ports map[string]uint16 `toml:"ports"`
	Note  string            // no tag: not a key
}

type pump struct {
	Enabled bool             `toml:"enabled"`
	Wait    gateway.Duration `toml:"wait_time"`
	Tank    gateway.Size     `toml:"tank_size"`
	Speed   int8             `toml:"speed"`
	Ratio   float64          `toml:"ratio"`
}

type valve struct {
	ID     string `toml:"id"`
	Nested struct {
		Deep int `toml:"deep"`
	} `toml:"nested"`
}

type limits struct {
	MaxPacketSize int `toml:"max_packet_size"`
}

func decode(text string) (machine, []string) {
	var m machine
	d := Parse("m.toml", []byte(text))
	d.Root().Decode(&m)
	var problems []string
	for _, p := range d.Problems() {
		problems = append(problems, p.Error())
	}
	return m, problems
}

func TestDecode(t *testing.T) {
	m, problems := decode(`
name = "north"
tags = ["a", "b"]
max_packet_size = 7
ports = {a = 1, b = 65535}
extra.free = 1
[pump]
enabled = true
wait_time = "1.5s"
tank_size = "2KiB"
speed = -128
ratio = 2
[[valve]]
id = "v0"
[[valve]]
id = "v1"
nested.deep = 9
[[step]]
any = "thing"
`)
	if len(problems) > 0 {
		t.Fatalf("a right document has problems: %q", problems)
	}
	want := pump{true, gateway.Duration(1500 * time.Millisecond), 2048, -128, 2}
	if m.Pump != want {
		t.Errorf("pump is %+v, want %+v", m.Pump, want)
	}
	if m.Name != "north" || fmt.Sprint(m.Tags) != "[a b]" || m.Limit.MaxPacketSize != 7 || m.Ports["b"] != 65535 {
		t.Errorf("outer values are %+v", m)
	}
	if len(m.Valve) != 2 || m.Valve[0].ID != "v0" || m.Valve[1].Nested.Deep != 9 {
		t.Errorf("valves are %+v", m.Valve)
	}
	if !m.Extra.Has("free") || len(m.Steps) != 1 || m.Steps[0].Text("any") != "thing" {
		t.Errorf("raw tables are %+v and %+v", m.Extra, m.Steps)
	}
}

func TestProblems(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string // each problem begins with one of these, in order
	}{
		{"unknown key", "\nnmae = \"x\"", []string{"m.toml:2:1: unknown key \"nmae\": did you mean `name`?"}},
		{"unknown in a table", "[pump]\n  wait = \"1s\"", []string{"m.toml:2:3: unknown key \"wait\" in [pump]: did you mean `wait_time`?"}},
		{"unknown in the second element", "[[valve]]\n[[valve]]\nidd=\"x\"", []string{"m.toml:3:1: unknown key \"idd\" in [valve[1]]: did you mean `id`?"}},
		{"unknown table", "[pmup]\nspeed=1", []string{"m.toml:1:2: unknown key \"pmup\": did you mean `pump`?"}},
		{"key of another table", "speed = 1", []string{"m.toml:1:1: unknown key \"speed\": it belongs in [pump]"}},
		{"dotted", "pump.sped = 1", []string{"m.toml:1:6: unknown key \"sped\" in [pump]: did you mean `speed`?"}},
		{"nothing like it", "xyzzy = 1", []string{"m.toml:1:1: unknown key \"xyzzy\""}},
		{"no tag, no key", "Note = \"x\"", []string{"m.toml:1:1: unknown key \"Note\": did you mean `name`?"}},
		{"text for a switch", "[pump]\nenabled = \"yes\"", []string{"m.toml:2:11: expected true or false, got the text \"yes\": did you mean `true`?"}},
		{"text for a number", "[pump]\nspeed = \"5\"", []string{"m.toml:2:9: expected a whole number, got the text \"5\": did you mean `5`?"}},
		{"number for text", "name = 5", []string{"m.toml:1:8: expected text in quotes, got 5: did you mean `\"5\"`?"}},
		{"list for text", "name = [\"x\"]", []string{"m.toml:1:1: expected text in quotes, got a list: did you mean `\"x\"`?"}},
		{"text for a list", "tags = \"x\"", []string{"m.toml:1:8: expected a list in [ ], got the text \"x\": did you mean `[\"x\"]`?"}},
		{"wrong element", "tags = [\"x\",\n 2]", []string{"m.toml:2:2: expected text in quotes, got 2"}},
		{"too large", "[pump]\nspeed = 128", []string{"m.toml:2:9: 128 is out of range"}},
		{"fraction", "[pump]\nspeed = 1.5", []string{"m.toml:2:9: expected a whole number, got 1.5"}},
		{"no unit", "[pump]\nwait_time = 30", []string{"m.toml:2:13: \"30\" is not a duration: write a number and a unit"}},
		{"wrong unit", "[pump]\nwait_time = \"30 sec\"", []string{"m.toml:2:13: \"30 sec\" is not a duration: write a number and a unit, like \"250ms\", \"30s\", \"15m\", \"12h\" or \"7d\": did you mean `\"30s\"`?"}},
		{"wrong size", "[pump]\ntank_size = \"64MB\"", []string{"m.toml:2:13: \"64MB\" is not a size: write a number and a unit, like \"512B\", \"64KiB\", \"16MiB\" or \"1GiB\": did you mean `\"64MiB\"`?"}},
		{"one bracket too few", "[valve]\nid=\"x\"", []string{"m.toml:1:2: there can be several of these: write [[valve]] instead of [valve]"}},
		{"one bracket too many", "[[pump]]\nspeed=1", []string{"m.toml:1:3: there is only one of these: write [pump] instead of [[pump]]"}},
		{"value for a table", "pump = 3", []string{"m.toml:1:8: expected a table, got 3"}},
		{"table for a value", "[name]\nx = 1", []string{"m.toml:1:2: expected text in quotes, got a table"}},
		{"date", "name = 2026-01-01", []string{"m.toml:1:8: expected text in quotes, got a date or time"}},
		{"not a number", "[pump]\nratio = nan", []string{"m.toml:2:9: expected a number, got NaN"}},
		{"several", "nmae = \"x\"\n[pump]\nsped = 1\nratio = \"x\"", []string{
			"m.toml:1:1: unknown key", "m.toml:3:1: unknown key", "m.toml:4:9: expected a number",
		}},
		{"columns are characters", "pump = {\"ü\" = 1}", []string{"m.toml:1:9: unknown key \"ü\" in [pump]"}},
		{"column after letters of two bytes", "pump={\"ä\"=1, speeed=1}", []string{"m.toml:1:7: unknown", "m.toml:1:14: unknown"}},
		{"text without quotes", "name = north", []string{"m.toml:1:8: "}},
		{"twice", "name = \"a\"\nname = \"b\"", []string{"m.toml:2:1: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, got := decode(c.text)
			if len(got) != len(c.want) {
				t.Fatalf("problems: %q\nwant %q", got, c.want)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], c.want[i]) {
					t.Errorf("problem %d is\n%s\nwant\n%s", i, got[i], c.want[i])
				}
			}
		})
	}
}

func TestSyntaxHints(t *testing.T) {
	for line, want := range map[string]string{
		"name = north":          "did you mean `name = \"north\"`?",
		"wait_time = 30s":       "did you mean `wait_time = \"30s\"`?",
		"enabled = True":        "did you mean `enabled = true`?",
		"enabled = yes # often": "did you mean `enabled = true`?",
		"enabled = off":         "did you mean `enabled = false`?",
		"name: \"north\"":       "did you mean `name = \"north\"`?",
		"[pump":                 "did you mean `[pump]`?",
		"[[valve]":              "did you mean `[[valve]]`?",
		"name = \"north":        "did you mean `name = \"north\"`?",
		"name = north\"":        "did you mean `name = \"north\"`?",
		"name =":                "write a value after `name =`",
		"name":                  "write a value after `name =`",
	} {
		_, got := decode("\n" + line + "\n")
		if len(got) != 1 || !strings.HasPrefix(got[0], "m.toml:2:") || !strings.HasSuffix(got[0], want) {
			t.Errorf("%s: problems %q, want one in line 2 that ends in %q", line, got, want)
		}
	}
}

func TestCheckFindsTheKey(t *testing.T) {
	d := Parse("m.toml", []byte("[pump]\nspeed = 3\n[[valve]]\nid = \"x\"\n"))
	d.Root().Sub("pump").Check(errors.Join(
		gateway.BadKey("speed", "too fast"),
		fmt.Errorf("wrapped: %w", gateway.BadKey("ratio", "missing")),
		errors.New("broken"),
	))
	d.Root().Check(gateway.BadKey("valve[0].nested.deep", "too deep"))
	d.Root().Check(nil)
	var got []string
	for _, p := range d.Problems() {
		got = append(got, p.Error())
	}
	want := []string{
		"m.toml:1:2: ratio: missing", "m.toml:1:2: broken",
		"m.toml:2:9: speed: too fast", "m.toml:3:3: valve[0].nested.deep: too deep",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("problems:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestOnePathOneProblem(t *testing.T) {
	d := Parse("m.toml", []byte("[pump]\nsped = 3\nwait_time = 1\n"))
	var m machine
	d.Root().Decode(&m)
	pump := d.Root().Sub("pump")
	pump.Check(gateway.BadKey("speed", "missing"))          // it is only misspelt
	pump.Check(gateway.BadKey("wait_time", "out of range")) // it never had a value
	if got := d.Problems(); len(got) != 2 {
		t.Errorf("problems %q, want only the two of decoding", got)
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"abc", "abc", 0},
		{"abc", "", 3},
		{"abc", "acb", 1},
		{"abc", "abcd", 1},
		{"kitten", "sitting", 3},
		{"max-size", "max_size", 0},
		{"Name", "name", 0},
		{strings.Repeat("x", 1000), "x", maxWord},
	} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
		if got := distance(c.b, c.a); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.b, c.a, got, c.want)
		}
	}
}

// FuzzDecode: whatever stands in a file, it is decoded or complained about, at a
// place that exists.
func FuzzDecode(f *testing.F) {
	f.Add("name = \"x\"\n[pump]\nspeed = 1\n[[valve]]\nid='v'\nnested={deep=1}")
	f.Add("[[valve]]\n[[valve.nested]]\n[valve.nested.x]\n[[step]]\n[step.a.b]")
	f.Add("pump = [1, {a=[{}]}, \"\"\"x\"\"\"]\n\"\".\"a.b\" = 1979-05-27T07:32:00Z")
	f.Add("[pump\nenabled: yes")
	f.Add("\xef\xbb\xbfname = 'bom'\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		var m machine
		d := Parse("m.toml", []byte(text))
		d.Root().Decode(&m)
		for _, p := range d.Problems() {
			lines := strings.Split(text, "\n")
			if p.Line < 1 || p.Line > len(lines) || p.Column < 1 || p.Column > len(lines[p.Line-1])+1 {
				t.Errorf("%v: there is no such place", p)
			}
			if p.Message == "" {
				t.Errorf("%v: no message", p)
			}
		}
	})
}
