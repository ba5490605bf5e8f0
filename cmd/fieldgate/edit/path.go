package edit

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Step is one step of a path: a key, and with an Index of 0 or more the element of
// the array that the key holds.
type Step struct {
	Name  string
	Index int // NoIndex where the key itself is meant
}

// NoIndex is the Index of a step that is no element of an array.
const NoIndex = -1

// Path is the way to a value from the outermost table.
type Path []Step

// Key makes a path of plain keys.
func Key(names ...string) Path {
	p := make(Path, len(names))
	for i, name := range names {
		p[i] = Step{name, NoIndex}
	}
	return p
}

// Child returns the path of a key in the table p. It shares nothing with p.
func (p Path) Child(name string) Path {
	return append(append(make(Path, 0, len(p)+1), p...), Step{name, NoIndex})
}

// Element returns the path of an element of the array p. It shares nothing with p.
func (p Path) Element(i int) Path {
	e := append(make(Path, 0, len(p)), p...)
	e[len(e)-1].Index = i
	return e
}

// String spells the path like gateway.KeyError does: listener[0].address.
func (p Path) String() string {
	parts := make([]string, len(p))
	for i, s := range p {
		parts[i] = spell(s.Name)
		if s.Index != NoIndex {
			parts[i] += "[" + strconv.Itoa(s.Index) + "]"
		}
	}
	return strings.Join(parts, ".")
}

// holds says whether p is what, or is around what: a table that it is in, or the
// array whose element it is.
func (p Path) holds(what Path) bool {
	if len(p) > len(what) {
		return false
	}
	for i, s := range p {
		if s != what[i] && (i < len(p)-1 || s.Name != what[i].Name || s.Index != NoIndex) {
			return false
		}
	}
	return true
}

func (p Path) equal(other Path) bool { return len(p) == len(other) && p.holds(other) && other.holds(p) }

// keys spells a path without indices as a key of TOML.
func (p Path) keys() string {
	parts := make([]string, len(p))
	for i, s := range p {
		parts[i] = spell(s.Name)
	}
	return strings.Join(parts, ".")
}

// spell writes one part of a key, in quotes where it needs them.
func spell(name string) string {
	for _, c := range name {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return Quote(name)
		}
	}
	if name == "" {
		return `""`
	}
	return name
}

// Quote writes text as a string of TOML.
func Quote(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(text); { // byte by byte where it is no UTF-8, which is then seen
		c, n := utf8.DecodeRuneInString(text[i:])
		part := text[i : i+n]
		i += n
		switch {
		case c == '"' || c == '\\':
			b.WriteString(`\` + part)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, c)
		default:
			b.WriteString(part)
		}
	}
	b.WriteByte('"')
	return b.String()
}
