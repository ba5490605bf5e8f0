package edit

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"pgregory.net/rapid"
)

// file is one as people write them.
const file = `# The pump house.

[hub] # upstream
host   = "plant"       # do not touch
  keep_alive = "30s"

# Leaves
[[leaf]]
id = "pump-1"
# its key
key_file = "pump-1.key"

[[leaf]]
id = 'meter 1'
tags = [
  "a", # first
  "b",
]
limits = { low = 1, high = 9 }

[[serial]]
port = "x"
[[serial.slave]]
address = 9
[lane]
alarm.ttl = "1d" # dotted
# the end`

func TestSet(t *testing.T) {
	leaf := func(i int) Path { return Key("leaf").Element(i) }
	for _, c := range []struct {
		path        Path
		value       string
		old, wanted string // what is replaced in the file
	}{
		{Key("hub", "host"), `"other"`, `"plant" `, `"other" `},
		{Key("hub", "keep_alive"), `"1m"`, `"30s"`, `"1m"`},
		{Key("hub", "port"), `7`, "\"30s\"\n", "\"30s\"\n  port = 7\n"},
		{leaf(0).Child("id"), `"pump-2"`, `"pump-1"`, `"pump-2"`},
		{leaf(0).Child("off"), `true`, "pump-1.key\"\n", "pump-1.key\"\noff = true\n"},
		{leaf(1).Child("tags"), `["c"]`, "[\n  \"a\", # first\n  \"b\",\n]", `["c"]`},
		{leaf(1).Child("limits").Child("high"), `10`, "high = 9", "high = 10"},
		{leaf(0).Child("at").Child("x"), `1`, "pump-1.key\"\n", "pump-1.key\"\n\n[leaf.at]\nx = 1\n"},
		{Key("serial").Element(0).Child("slave").Element(0).Child("address"), `10`, "address = 9", "address = 10"},
		{Key("serial").Element(0).Child("baud"), `10`, "port = \"x\"\n", "port = \"x\"\nbaud = 10\n"},
		{Key("lane", "alarm", "full"), `"thin"`, "# dotted\n", "# dotted\nalarm.full = \"thin\"\n"},
		{Key("lane", "telemetry", "full"), `"thin"`, "# the end", "# the end\n\n[lane.telemetry]\nfull = \"thin\"\n"},
		{Key("odd", "a.b"), `1`, "# the end", "# the end\n\n[odd]\n\"a.b\" = 1\n"},
		{Key("top"), `1`, "# The pump", "top = 1\n# The pump"},
	} {
		want := strings.Replace(file, c.old, c.wanted, 1)
		got, err := Set([]byte(file), c.path, c.value)
		if err != nil || string(got) != want {
			t.Errorf("%v = %s: %v\n%s", c.path, c.value, err, got)
		}
		crlf := strings.ReplaceAll(file, "\n", "\r\n")
		got, err = Set([]byte(crlf), c.path, c.value)
		if err != nil || string(got) != strings.ReplaceAll(want, "\n", "\r\n") {
			t.Errorf("with CR LF, %v = %s: %v\n%q", c.path, c.value, err, got)
		}
	}
}

func TestUnset(t *testing.T) {
	for _, c := range []struct {
		path        Path
		old, wanted string
	}{
		{Key("hub", "host"), "host   = \"plant\"       # do", "# do"}, // the comment is not ours to take
		{Key("hub", "keep_alive"), "  keep_alive = \"30s\"\n", ""},
		{Key("leaf").Element(1).Child("tags"), "tags = [\n  \"a\", # first\n  \"b\",\n]\n", ""},
		{Key("leaf").Element(1).Child("limits"), "limits = { low = 1, high = 9 }\n", ""},
		{Key("lane", "alarm", "ttl"), "alarm.ttl = \"1d\" #", "#"},
	} {
		got, err := Unset([]byte(file), c.path)
		if want := strings.Replace(file, c.old, c.wanted, 1); err != nil || string(got) != want {
			t.Errorf("%v: %v\n%s", c.path, err, got)
		}
	}
}

func TestWhatCannotBeEdited(t *testing.T) {
	for _, c := range []struct {
		path  Path
		value string // "" unsets
		want  error
	}{
		{Key("hub"), "1", ErrWhole},
		{Key("lane", "alarm"), "1", ErrWhole},
		{Key("hub", "host", "deeper"), "1", ErrWhole},
		{Key("leaf"), "1", ErrWhole},
		{Key("leaf", "id"), "1", ErrNoElement},
		{Key("leaf").Element(2).Child("id"), "1", ErrNoElement},
		{Key("leaf").Element(0), "1", ErrWhole},
		{Key("leaf").Element(1).Child("limits").Child("mid"), "1", ErrWhole},
		{Key("hub", "port"), "", ErrNotSet},
		{Key("hub"), "", ErrWhole},
		{Key("leaf").Element(7).Child("id"), "", ErrNoElement},
		{Key("leaf").Element(1).Child("limits").Child("high"), "", ErrWhole},
	} {
		_, err := Unset([]byte(file), c.path)
		if c.value != "" {
			_, err = Set([]byte(file), c.path, c.value)
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%v = %s: %v, want that it %v", c.path, c.value, err, c.want)
		}
	}
	for _, value := range []string{"", "1 # one", "1\ny = 2", "1\n", "\"a", "[1, 2", "yes", " 1", "1 ", "{a=1} }"} {
		if _, err := Set([]byte(file), Key("hub", "port"), value); err == nil {
			t.Errorf("%q is a value", value)
		}
	}
	if _, err := Set([]byte("a = "), Key("b"), "1"); err == nil {
		t.Error("a text that is not TOML was edited")
	}
}

func TestAddTable(t *testing.T) {
	entries := []NewEntry{{Key("id"), `"x"`}, {Key("deadband", "a b"), "0.5"}}
	const added = "id = \"x\"\ndeadband.\"a b\" = 0.5\n"
	for _, c := range []struct {
		list        Path
		old, wanted string
	}{
		{Key("leaf"), "high = 9 }\n", "high = 9 }\n\n[[leaf]]\n" + added},
		{Key("serial"), "address = 9\n", "address = 9\n\n[[serial]]\n" + added},
		{Key("serial").Element(0).Child("slave"), "address = 9\n", "address = 9\n\n[[serial.slave]]\n" + added},
		{Key("leaf").Element(0).Child("new"), "pump-1.key\"\n", "pump-1.key\"\n\n[[leaf.new]]\n" + added},
		{Key("ble", "advert"), "# the end", "# the end\n\n[[ble.advert]]\n" + added},
	} {
		want := strings.Replace(file, c.old, c.wanted, 1)
		got, err := Add([]byte(file), c.list, entries)
		if err != nil || string(got) != want {
			t.Errorf("%v: %v\n%s", c.list, err, got)
		}
		got, err = Add([]byte(strings.ReplaceAll(file, "\n", "\r\n")), c.list, entries)
		if err != nil || string(got) != strings.ReplaceAll(want, "\n", "\r\n") {
			t.Errorf("with CR LF, %v: %v\n%q", c.list, err, got)
		}
	}
	if got, err := Add(nil, Key("leaf"), entries); err != nil || string(got) != "[[leaf]]\n"+added {
		t.Errorf("to nothing: %v\n%s", err, got)
	}
}

func TestRemoveTable(t *testing.T) {
	for _, c := range []struct {
		element     Path
		old, wanted string
	}{
		{Key("leaf").Element(0), "[[leaf]]\nid = \"pump-1\"\n# its key\nkey_file = \"pump-1.key\"\n\n", "\n"},
		{Key("leaf").Element(1), "[[leaf]]\nid = 'meter 1'\ntags = [\n  \"a\", # first\n  \"b\",\n]\nlimits = { low = 1, high = 9 }\n\n", ""},
		{Key("serial").Element(0), "[[serial]]\nport = \"x\"\n[[serial.slave]]\naddress = 9\n", ""},
		{Key("serial").Element(0).Child("slave").Element(0), "[[serial.slave]]\naddress = 9\n", ""},
	} {
		got, err := Remove([]byte(file), c.element)
		if want := strings.Replace(file, c.old, c.wanted, 1); err != nil || string(got) != want {
			t.Errorf("%v: %v\n%s", c.element, err, got)
		}
	}
}

func TestTablesThatCannotBeEdited(t *testing.T) {
	inline := []byte("leaf = [ { id = 1 } ]\nhub = { a = 1 }\n")
	for _, c := range []struct {
		text []byte
		list Path
		want error
	}{
		{[]byte(file), Key("hub"), ErrWhole},
		{[]byte(file), Key("serial", "slave"), ErrWhole},
		{[]byte(file), Key("serial").Element(1).Child("slave"), ErrNoElement},
		{[]byte(file), Key("leaf").Element(0), ErrWhole},
		{inline, Key("leaf"), ErrWhole},
		{inline, Key("hub", "x"), ErrWhole},
		{inline, Key("leaf").Element(0).Child("x"), ErrNoElement},
	} {
		if got, err := Add(c.text, c.list, nil); !errors.Is(err, c.want) {
			t.Errorf("add to %v: %v, want %v\n%s", c.list, err, c.want, got)
		}
	}
	for _, c := range []struct {
		text    []byte
		element Path
		want    error
	}{
		{[]byte(file), Key("hub"), ErrWhole},
		{[]byte(file), Key("leaf"), ErrWhole},
		{[]byte(file), Key("leaf").Element(2), ErrNoElement},
		{inline, Key("leaf").Element(0), ErrWhole},
	} {
		if got, err := Remove(c.text, c.element); !errors.Is(err, c.want) {
			t.Errorf("remove %v: %v, want %v\n%s", c.element, err, c.want, got)
		}
	}
	for _, e := range []NewEntry{{Key("a"), "1\nb = 2"}, {Key(), "1"}, {Key("a"), ""}} {
		if _, err := Add(nil, Key("leaf"), []NewEntry{e}); err == nil {
			t.Errorf("%v is an entry", e)
		}
	}
}

// A table that comes or goes changes nothing else in what the document says, and one
// that was added and is removed leaves nothing behind but an empty line.
func TestOnlyOneTableChanges(t *testing.T) {
	lists := []Path{Key("list"), Key("list").Element(0).Child("inner"), Key("list").Element(1).Child("inner"), Key("four", "new"), Key("one"), Key("list", "inner")}
	rapid.Check(t, func(t *rapid.T) {
		text := []byte(document(t))
		list := rapid.SampledFrom(lists).Draw(t, "list")
		spelt := value(t)
		got, err := Add(text, list, []NewEntry{{Key("a"), spelt}, {Key("c", "x"), "1"}})
		if err != nil {
			if !errors.Is(err, ErrNoElement) && !errors.Is(err, ErrWhole) {
				t.Fatalf("%v: %v", list, err)
			}
			return
		}
		var before, after, one map[string]any
		if err := errors.Join(toml.Unmarshal(text, &before), toml.Unmarshal(got, &after), toml.Unmarshal([]byte("a = "+spelt+"\nc.x = 1"), &one)); err != nil {
			t.Fatal(err)
		}
		l, err := read(text)
		if err != nil {
			t.Fatal(err)
		}
		n := l.count[list.String()]
		old, _ := reach(before, list).([]any)
		put(before, list, append(old, any(one)))
		if !reflect.DeepEqual(before, after) {
			t.Fatalf("%v: the document says\n%v\nwant\n%v\n%s\nbecame\n%s", list, after, before, text, got)
		}
		less, err := Remove(got, list.Element(n))
		if err != nil {
			t.Fatalf("%v: %v\n%s", list.Element(n), err, got)
		}
		squeeze := func(text []byte) string { return strings.Join(strings.Fields(string(text)), " ") }
		if squeeze(less) != squeeze(text) {
			t.Fatalf("added to %v and removed:\n%s\nbecame\n%s\nand then\n%s", list, text, got, less)
		}
	})
}

// reach returns what is at a path of a decoded document.
func reach(m map[string]any, path Path) any {
	var at any = m
	for _, s := range path {
		table, _ := at.(map[string]any)
		at = table[s.Name]
		if list, ok := at.([]any); ok && s.Index != NoIndex {
			at = list[s.Index]
		}
	}
	return at
}

// document draws a text with tables, arrays of tables, dotted keys, comments and
// spacing of all kinds, and no key twice.
func document(t *rapid.T) string {
	space := rapid.SampledFrom([]string{"", " ", "  ", "\t"})
	comment := rapid.SampledFrom([]string{"", "", " # why", "\t#[hub] x = 1", " # ü \""})
	filler := rapid.SampledFrom([]string{"", "\n", "# a = 1\n", "\n# [[leaf]]\n\n", "  \n"})
	var b strings.Builder
	lines := func(names ...string) {
		for _, name := range names {
			if rapid.Bool().Draw(t, "here") {
				fmt.Fprintf(&b, "%s%s%s%s=%s%s%s\n", filler.Draw(t, "filler"), space.Draw(t, "indent"), name,
					space.Draw(t, "before"), space.Draw(t, "behind"), value(t), comment.Draw(t, "comment"))
			}
		}
	}
	lines("a", "deep.a", `"deep" . b`)
	for _, head := range []string{"[one]", "[ two.three ]", "[[list]]", "[list.sub]", "[[list]]", "[[list.inner]]", "[four]"} {
		b.WriteString(filler.Draw(t, "filler") + space.Draw(t, "indent") + head + comment.Draw(t, "comment") + "\n")
		lines("a", "b", "c.a", "'d e'", "c.b")
	}
	b.WriteString(filler.Draw(t, "filler"))
	text := b.String()
	if rapid.Bool().Draw(t, "no line end") {
		text = strings.TrimRight(text, "\r\n")
	}
	if rapid.Bool().Draw(t, "crlf") {
		text = strings.ReplaceAll(strings.ReplaceAll(text, "\r", ""), "\n", "\r\n")
	}
	return text
}

func value(t *rapid.T) string {
	return rapid.SampledFrom([]string{
		"1", "-2.5", "true", `"text"`, `'C:\'`, `"# no comment"`, "[1, 2]", "[\n  1, # one ]\n  2,\n]", `["]", '"']`,
		`{ x = 1, y = { z = "}" } }`, `[{ x = 1 }, { x = 2 }]`, "\"\"\"\nmany\n[lines]\n\"\"\"", "'''a'b''c'''", "2026-01-02T03:04:05Z",
	}).Draw(t, "value")
}

// paths are what is set and unset: what may be there, and what never is.
func paths() []Path {
	list := func(i int) Path { return Key("list").Element(i) }
	return []Path{
		Key("a"), Key("z"), Key("deep", "a"), Key("deep", "z"), Key("deep", "b", "x"), Key("one", "a"), Key("one", "d e"), Key("one", "z"),
		Key("one", "c", "a"), Key("one", "c", "z"), Key("two", "a"), Key("two", "three", "b"), Key("two", "three", "c", "z"), Key("four"),
		Key("five", "six"), Key("four", "a", "x"), list(0).Child("a"), list(0).Child("c").Child("z"), list(0).Child("sub").Child("a"),
		list(0).Child("new").Child("a"), list(1).Child("b"), list(1).Child("sub").Child("a"), list(2).Child("a"), Key("list", "a"),
		list(1).Child("inner").Element(0).Child("a"), list(1).Child("inner").Element(0).Child("z").Child("y"), list(0),
	}
}

// One range of the text changes and nothing else does; no comment is lost but those
// within a value; and the document then says what it said before but for that key.
func TestOnlyOneKeyChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := []byte(document(t))
		var model map[string]any
		if err := toml.Unmarshal(text, &model); err != nil {
			t.Fatalf("the document is none: %v\n%s", err, text)
		}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			path, old := rapid.SampledFrom(paths()).Draw(t, "path"), bytes.Clone(text)
			spelt, set := "", rapid.Bool().Draw(t, "set")
			var got []byte
			var err error
			if set {
				spelt = value(t)
				got, err = Set(text, path, spelt)
			} else {
				got, err = Unset(text, path)
			}
			if !bytes.Equal(text, old) {
				t.Fatal("the text that was given has changed")
			}
			if err != nil {
				if !errors.Is(err, ErrNotSet) && !errors.Is(err, ErrNoElement) && !errors.Is(err, ErrWhole) {
					t.Fatalf("%v = %s: %v", path, spelt, err)
				}
				continue
			}
			checkOneRange(t, text, got, path, set, spelt)
			text = got
		}
	})
}

func checkOneRange(t *rapid.T, old, got []byte, path Path, set bool, spelt string) {
	l, err := read(old)
	if err != nil {
		t.Fatal(err)
	}
	// What may be replaced: the value, or a line; else something is only added.
	room := span{}
	for _, e := range l.entries {
		if e.path.equal(path) {
			if room = l.room(e); set {
				room = e.value
			}
		}
	}
	head := common(old, got)
	if room.end > 0 {
		head = min(head, room.start)
	}
	tail := min(common(reverse(old), reverse(got)), len(got)-head, len(old)-head)
	if gone := (span{head, len(old) - tail}); gone.end > gone.start && (gone.start < room.start || gone.end > room.end) {
		t.Fatalf("%v = %s: bytes %v were replaced, not only %v\n%s\nbecame\n%s", path, spelt, gone, room, old, got)
	}
	var before, after map[string]any
	if err := errors.Join(toml.Unmarshal(old, &before), toml.Unmarshal(got, &after)); err != nil {
		t.Fatalf("%v = %s: %v\n%s\nbecame\n%s", path, spelt, err, old, got)
	}
	if set {
		var one map[string]any
		if err := toml.Unmarshal([]byte("x = "+spelt), &one); err != nil {
			t.Fatal(err)
		}
		put(before, path, one["x"])
	} else {
		take(before, path)
	}
	if !reflect.DeepEqual(tidy(before), tidy(after)) {
		t.Fatalf("%v = %s: the document says\n%v\nwant\n%v\n%s\nbecame\n%s", path, spelt, after, before, old, got)
	}
}

func common(a, b []byte) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

func reverse(text []byte) []byte {
	r := make([]byte, len(text))
	for i, c := range text {
		r[len(text)-1-i] = c
	}
	return r
}

// put sets a value in a decoded document.
func put(m map[string]any, path Path, v any) {
	for _, s := range path[:len(path)-1] {
		if s.Index != NoIndex {
			m = m[s.Name].([]any)[s.Index].(map[string]any)
			continue
		}
		inner, ok := m[s.Name].(map[string]any)
		if !ok {
			inner = make(map[string]any)
			m[s.Name] = inner
		}
		m = inner
	}
	m[path[len(path)-1].Name] = v
}

func take(m map[string]any, path Path) {
	for _, s := range path[:len(path)-1] {
		if s.Index != NoIndex {
			m = m[s.Name].([]any)[s.Index].(map[string]any)
		} else {
			m = m[s.Name].(map[string]any)
		}
	}
	delete(m, path[len(path)-1].Name)
}

// tidy takes out empty tables: a dotted key that goes takes its table along.
func tidy(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			if inner = tidy(inner); inner == nil {
				delete(v, key)
			}
		}
		if len(v) == 0 {
			return nil
		}
	case []any:
		for _, inner := range v {
			tidy(inner)
		}
	}
	return v
}

// FuzzSet: whatever the document and the path, the result is TOML again and the key
// is set in it, or there is an error.
func FuzzSet(f *testing.F) {
	f.Add(file, "hub", "host", 0, "1")
	f.Add("a = { b = [ {c=1} ] }\n[[x]]\n[[x.y]]\n", "x", "y", 1, "{a=1}")
	f.Add("\xef\xbb\xbfa.b = 1", "a", "c", 0, "'''\n'''")
	f.Fuzz(func(t *testing.T, text, table, key string, index int, value string) {
		for _, path := range []Path{Key(key), Key(table, key), Key(table).Element(index).Child(key)} {
			got, err := Set([]byte(text), path, value)
			if err != nil {
				continue
			}
			l, err := read(got)
			if err != nil {
				t.Fatalf("%v = %s: %v\n%q\nbecame\n%q", path, value, err, text, got)
			}
			found := false
			for _, e := range l.entries {
				found = found || e.path.equal(path) && string(got[e.value.start:e.value.end]) == value
			}
			if !found {
				t.Errorf("%v = %s is not in\n%q", path, value, got)
			}
		}
		_, _ = Unset([]byte(text), Key(table, key))
	})
}

// FuzzTables: whatever the document and the list, the result is TOML again with one
// table more, which can be removed, or there is an error.
func FuzzTables(f *testing.F) {
	f.Add(file, "leaf", "", 0, "1")
	f.Add(file, "serial", "slave", 0, "\"x\"")
	f.Add("[[x]]\n[y]\n[[x.z]]", "x", "z", 0, "[1]")
	f.Fuzz(func(t *testing.T, text, table, inner string, index int, value string) {
		list := Key(table)
		if inner != "" {
			list = list.Element(index).Child(inner)
		}
		got, err := Add([]byte(text), list, []NewEntry{{Key("k"), value}})
		if err != nil {
			return
		}
		l, err := read(got)
		if err != nil {
			t.Fatalf("%q became %q: %v", text, got, err)
		}
		less, err := Remove(got, list.Element(l.count[list.String()]-1))
		if err != nil {
			t.Fatalf("%q became %q, and then: %v", text, got, err)
		}
		if _, err := read(less); err != nil {
			t.Fatalf("%q became %q, and then %q: %v", text, got, less, err)
		}
	})
}
