package edit

import (
	"bytes"
	"slices"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// span is a range of bytes.
type span struct{ start, end int }

// entry is a key with its value.
type entry struct {
	path    Path
	whole   span // from the key to the end of the value
	value   span
	section int  // in which section it is written
	inline  bool // within braces or brackets
}

// section is what a header begins, and section 0 what stands before the first.
type section struct {
	path Path
	from int // start of the header
	end  int // end of the header, then of its last entry
	last int // its last entry, -1 without any
}

// layout is where everything stands in a text.
type layout struct {
	text     []byte
	sections []section
	entries  []entry
	count    map[string]int // elements of an array of tables so far
}

// read finds everything in a text that is TOML.
func read(text []byte) (*layout, error) {
	var all map[string]any
	if err := toml.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	l := &layout{text: slices.Clip(text), sections: []section{{last: -1}}, count: make(map[string]int)}
	if bytes.HasPrefix(text, []byte("\xef\xbb\xbf")) {
		l.sections[0].end = 3
	}
	var p unstable.Parser
	p.Reset(l.text)
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			l.header(e, e.Kind == unstable.ArrayTable)
		case unstable.KeyValue:
			in := &l.sections[len(l.sections)-1]
			in.last = len(l.entries)
			l.keyValue(in.path, e, false)
			in.end = l.entries[in.last].whole.end
		}
	}
	return l, p.Error()
}

// header notes a [table] or [[array.of.tables]]. A header below an array of tables
// means its last element (TOML 1.0, "Array of Tables").
func (l *layout) header(e *unstable.Node, array bool) {
	var path Path
	from, end := -1, 0
	for parts := e.Key(); parts.Next(); {
		part := parts.Node()
		path = path.Child(string(part.Data))
		if from < 0 {
			from = int(part.Raw.Offset)
		}
		end = int(part.Raw.Offset + part.Raw.Length)
		name := path.String()
		switch n := l.count[name]; {
		case array && parts.IsLast():
			l.count[name]++
			path = path.Element(n)
		case n > 0:
			path = path.Element(n - 1)
		}
	}
	from = bytes.LastIndexByte(l.text[:from], '\n') + 1
	end += 1 + bytes.IndexByte(l.text[end:], ']')
	if array {
		end += 1 + bytes.IndexByte(l.text[end:], ']')
	}
	l.sections = append(l.sections, section{path, from, end, -1})
}

func (l *layout) keyValue(table Path, e *unstable.Node, inline bool) {
	path, end := table, 0
	for parts := e.Key(); parts.Next(); {
		part := parts.Node()
		path = path.Child(string(part.Data))
		end = int(part.Raw.Offset + part.Raw.Length)
	}
	whole := span{int(e.Raw.Offset), int(e.Raw.Offset + e.Raw.Length)}
	start := end + bytes.IndexByte(l.text[end:], '=') + 1
	start += len(l.text[start:whole.end]) - len(bytes.TrimLeft(l.text[start:whole.end], " \t"))
	l.entries = append(l.entries, entry{path, whole, span{start, whole.end}, len(l.sections) - 1, inline})
	l.within(path, e.Value())
}

// within notes what is in an array or an inline table.
func (l *layout) within(path Path, v *unstable.Node) {
	switch v.Kind {
	case unstable.InlineTable:
		for fields := v.Children(); fields.Next(); {
			if fields.Node().Kind == unstable.KeyValue {
				l.keyValue(path, fields.Node(), true)
			}
		}
	case unstable.Array:
		i := 0
		for elements := v.Children(); elements.Next(); {
			if elements.Node().Kind == unstable.Comment {
				continue
			}
			if path[len(path)-1].Index == NoIndex { // a list in a list has no path
				l.within(path.Element(i), elements.Node())
			}
			i++
		}
	}
}

// lineEnd is where the line ends on which offset at is: behind its line feed.
func (l *layout) lineEnd(at int) int {
	if n := bytes.IndexByte(l.text[at:], '\n'); n >= 0 {
		return at + n + 1
	}
	return len(l.text)
}

// line is the number of the line on which offset at is, from 1.
func (l *layout) line(at int) int { return 1 + bytes.Count(l.text[:at], []byte("\n")) }

// newline is how the document ends its lines.
func (l *layout) newline() string {
	if bytes.Contains(l.text, []byte("\r\n")) {
		return "\r\n"
	}
	return "\n"
}
