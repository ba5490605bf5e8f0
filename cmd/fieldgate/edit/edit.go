package edit

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
)

// Errors of Set and Unset, to be compared with errors.Is.
var (
	// ErrNotSet: the key does not stand in the document.
	ErrNotSet = errors.New("is not set here")
	// ErrNoElement: the array has no such element.
	ErrNoElement = errors.New("there is no such element")
	// ErrWhole: the key is part of something that can only be changed as a whole,
	// or is a table.
	ErrWhole = errors.New("cannot be changed by itself")
)

// Set returns the text with a key set to a value, which is spelt in TOML. The text is
// not changed. Where the key stands, its value is replaced; else it comes behind the
// last key of its table, in the same spelling, and a table that does not stand in
// the document comes last.
func Set(text []byte, path Path, value string) ([]byte, error) {
	if err := CheckValue(value); err != nil {
		return nil, err
	}
	if !utf8.ValidString(path.String()) {
		return nil, fmt.Errorf("%q is not UTF-8", path)
	}
	l, err := read(text)
	if err != nil {
		return nil, err
	}
	if len(path) == 0 || path[len(path)-1].Index != NoIndex {
		return nil, fmt.Errorf("%v: an element of a list %w", path, ErrWhole)
	}
	for _, e := range l.entries {
		if e.path.equal(path) {
			return splice(text, e.value, value), nil
		}
	}
	if err := l.settable(path); err != nil {
		return nil, err
	}
	return l.insert(path, value)
}

// CheckValue says whether the text is one value of TOML and nothing else.
func CheckValue(value string) error {
	var one map[string]any
	if err := toml.Unmarshal([]byte("x = "+value), &one); err != nil || len(one) != 1 {
		return fmt.Errorf("%q is not a value of TOML", value)
	}
	if l, err := read([]byte("x = " + value)); err != nil || l.entries[0].value != (span{4, 4 + len(value)}) {
		return fmt.Errorf("%q is not one value of TOML and nothing else", value)
	}
	return nil
}

// settable looks whether something stands in the way of a key that is not there.
func (l *layout) settable(path Path) error {
	for _, e := range l.entries {
		if e.path.holds(path) {
			return fmt.Errorf("%v: line %d holds all of %v, which %w", path, l.line(e.whole.start), e.path, ErrWhole)
		}
		if path.holds(e.path) {
			return fmt.Errorf("%v: a table %w", path, ErrWhole)
		}
	}
	for _, s := range l.sections {
		if path.holds(s.path) {
			return fmt.Errorf("%v: a table %w", path, ErrWhole)
		}
	}
	for i, s := range path {
		if s.Index == NoIndex {
			// A header without an index would mean the last element.
			if l.count[path[:i+1].String()] > 0 {
				return fmt.Errorf("%v: %v is an array, %w", path, path[:i+1], ErrNoElement)
			}
			continue
		}
		element := path[:i+1]
		if !slices.ContainsFunc(l.sections, func(s section) bool { return s.path.equal(element) }) {
			return fmt.Errorf("%v: %w", path, ErrNoElement)
		}
	}
	return nil
}

// insert adds a key that is not there.
func (l *layout) insert(path Path, value string) ([]byte, error) {
	table := path[:len(path)-1]
	for i := range l.sections {
		s := &l.sections[i]
		if s.path.equal(table) && (len(table) > 0 || s.last >= 0) {
			return l.insertLine(s, path[len(table):].keys()+" = "+value), nil
		}
	}
	if e := l.dotted(path); e != nil {
		s := section{end: e.whole.end, last: slices.IndexFunc(l.entries, func(o entry) bool { return o.whole == e.whole })}
		return l.insertLine(&s, path[len(l.sections[e.section].path):].keys()+" = "+value), nil
	}
	line := path[len(table):].keys() + " = " + value
	if len(table) == 0 {
		return splice(l.text, span{l.sections[0].end, l.sections[0].end}, line+l.newline()), nil
	}
	return l.insertTable(table, line), nil
}

// dotted finds the last key that made a table around path by being written with dots.
// Such a table cannot have a header as well (TOML 1.0, "Table").
func (l *layout) dotted(path Path) *entry {
	var found *entry
	deepest := 0
	for i := range l.entries {
		e := &l.entries[i]
		from := len(l.sections[e.section].path)
		depth := 0
		for depth < min(len(e.path)-1, len(path)-1) && e.path[depth] == path[depth] {
			depth++
		}
		elements := slices.ContainsFunc(path[min(from, len(path)):], func(s Step) bool { return s.Index != NoIndex })
		if !e.inline && !elements && depth > from && depth >= deepest {
			found, deepest = e, depth
		}
	}
	return found
}

// insertLine adds a line behind the last entry of a section, indented like it.
func (l *layout) insertLine(s *section, line string) []byte {
	indent := ""
	if s.last >= 0 {
		at := l.entries[s.last].whole.start
		before := string(l.text[bytes.LastIndexByte(l.text[:at], '\n')+1 : at])
		indent = before[:len(before)-len(strings.TrimLeft(before, " \t"))]
	}
	return l.insertAt(l.lineEnd(s.end), indent+line+l.newline())
}

// insertTable adds a table: at the end, or behind the element of an array that it is
// in.
func (l *layout) insertTable(table Path, line string) []byte {
	at := len(l.text)
	for i := len(table); i > 0; i-- {
		if table[i-1].Index == NoIndex {
			continue
		}
		n := slices.IndexFunc(l.sections, func(s section) bool { return s.path.equal(table[:i]) })
		at = l.lineEnd(l.sections[n].end)
		break
	}
	nl := l.newline()
	text := "[" + table.keys() + "]" + nl + line + nl
	if len(bytes.TrimSpace(l.text[:at])) > 0 {
		text = nl + text
	}
	return l.insertAt(at, text)
}

// insertAt adds lines at the start of a line or the end of the text.
func (l *layout) insertAt(at int, lines string) []byte {
	if at == len(l.text) && at > 0 && l.text[at-1] != '\n' && !bytes.Equal(l.text, []byte("\xef\xbb\xbf")) {
		lines = l.newline() + lines
	}
	return splice(l.text, span{at, at}, lines)
}

// Unset returns the text without a key. The text is not changed. A comment behind
// the value stays.
func Unset(text []byte, path Path) ([]byte, error) {
	l, err := read(text)
	if err != nil {
		return nil, err
	}
	for _, e := range l.entries {
		switch {
		case e.path.equal(path) && !e.inline:
			return splice(text, l.room(e), ""), nil
		case e.path.equal(path):
			return nil, fmt.Errorf("%v: line %d holds more than this, so it %w", path, l.line(e.whole.start), ErrWhole)
		}
	}
	if err := l.settable(path); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%v: %w", path, ErrNotSet)
}

// room is what a key takes: its line, or up to the comment behind it.
func (l *layout) room(e entry) span {
	end := l.lineEnd(e.whole.end)
	rest := l.text[e.whole.end:end]
	if comment := bytes.TrimLeft(rest, " \t"); len(comment) > 0 && comment[0] == '#' {
		return span{e.whole.start, end - len(comment)}
	}
	start := e.whole.start
	for start > 0 && (l.text[start-1] == ' ' || l.text[start-1] == '\t') {
		start--
	}
	return span{start, end}
}

// splice returns the text with a range of it replaced.
func splice(text []byte, at span, by string) []byte {
	return slices.Concat(text[:at.start], []byte(by), text[at.end:])
}
