package edit

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// NewEntry is a key of a new table, with its value spelt in TOML.
type NewEntry struct {
	Path  Path // in the table; without indices
	Value string
}

// Add returns the text with a table more at the end of a list of tables. The text is not
// changed. It comes behind the last table of the list with all that is in that, else
// behind the table of a list around it, else at the end.
func Add(text []byte, list Path, entries []NewEntry) ([]byte, error) {
	for _, e := range entries {
		if err := CheckValue(e.Value); err != nil {
			return nil, err
		}
		if !utf8.ValidString(e.Path.String()) || len(e.Path) == 0 {
			return nil, fmt.Errorf("%q is no key", e.Path)
		}
	}
	l, err := read(text)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 || list[len(list)-1].Index != NoIndex {
		return nil, fmt.Errorf("%v: an element of a list %w", list, ErrWhole)
	}
	for i, step := range list {
		if step.Index == NoIndex {
			continue
		}
		if _, found := l.end(list[:i+1]); !found {
			return nil, fmt.Errorf("%v: %w", list[:i+1], ErrNoElement)
		}
	}
	element := list.Element(l.count[list.String()])
	nl, at := l.newline(), l.place(element)
	var b strings.Builder
	if len(bytes.TrimSpace(text[:at])) > 0 {
		b.WriteString(nl)
	}
	b.WriteString("[[" + list.keys() + "]]" + nl)
	for _, e := range entries {
		b.WriteString(e.Path.keys() + " = " + e.Value + nl)
	}
	got := l.insertAt(at, b.String())
	// Whatever stands in the way, an array in brackets or a table of that name, makes of
	// it something else than one table more.
	after, err := read(got)
	if err != nil {
		return nil, fmt.Errorf("%v: it %w: %v", list, ErrWhole, err)
	}
	if _, found := after.end(element); !found || after.count[list.String()] != element[len(element)-1].Index+1 {
		return nil, fmt.Errorf("%v: it %w", list, ErrWhole)
	}
	return got, nil
}

// place is where a new element of a list goes.
func (l *layout) place(element Path) int {
	last := slices.Clone(element)
	last[len(last)-1].Index--
	if end, found := l.end(last); found {
		return l.lineEnd(end)
	}
	for i := len(element) - 1; i > 0; i-- {
		if end, found := l.end(element[:i]); found && element[i-1].Index != NoIndex {
			return l.lineEnd(end)
		}
	}
	return len(l.text)
}

// end is where a table of a list ends with all that is in it.
func (l *layout) end(element Path) (end int, found bool) {
	for _, s := range l.sections[1:] {
		if element.holds(s.path) {
			end, found = s.end, true
		}
	}
	return end, found
}

// Remove returns the text without a table of a list, and what is in that. The text is not
// changed. Comments above the table and behind its last key stay.
func Remove(text []byte, element Path) ([]byte, error) {
	l, err := read(text)
	if err != nil {
		return nil, err
	}
	if len(element) == 0 || element[len(element)-1].Index == NoIndex {
		return nil, fmt.Errorf("%v: a table %w", element, ErrWhole)
	}
	if !slices.ContainsFunc(l.sections, func(s section) bool { return s.path.equal(element) }) {
		for _, e := range l.entries {
			if e.path.holds(element) || element.holds(e.path) {
				return nil, fmt.Errorf("%v: line %d holds more than this, so it %w", element, l.line(e.whole.start), ErrWhole)
			}
		}
		return nil, fmt.Errorf("%v: %w", element, ErrNoElement)
	}
	for i := len(l.sections) - 1; i > 0; i-- { // from the last, so that places before stay
		s := l.sections[i]
		if !element.holds(s.path) {
			continue
		}
		end := l.lineEnd(s.end)
		if alone(text[:s.from]) {
			end += blank(text[end:])
		}
		text = splice(text, span{s.from, end}, "")
	}
	return text, nil
}

// alone says that what begins here has an empty line above it, or nothing.
func alone(before []byte) bool {
	trimmed := bytes.TrimRight(before, " \t\r\n")
	return len(trimmed) == 0 || bytes.Count(before[len(trimmed):], []byte("\n")) > 1
}

// blank is how many bytes of empty lines a text begins with.
func blank(text []byte) (n int) {
	for line := range bytes.Lines(text) {
		if len(bytes.TrimSpace(line)) > 0 {
			break
		}
		n += len(line)
	}
	return n
}
