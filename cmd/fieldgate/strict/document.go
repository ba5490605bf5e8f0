package strict

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/fieldgate/fieldgate/gateway"
)

// Problem is one mistake in a document, for the person who wrote it.
type Problem struct {
	File   string
	Line   int // counted from 1
	Column int // counted in characters, from 1
	// Message says what is wrong and, where that is known, what to write
	// instead.
	Message string
}

func (p Problem) Error() string {
	return p.Place() + ": " + p.Message
}

// Place is where the problem is, like "fieldgate.toml:12:1".
func (p Problem) Place() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column) }

// Document is a parsed TOML file. It collects the problems that are found while
// it is decoded. Not safe for concurrent use.
type Document struct {
	name     string
	values   map[string]any
	keys     map[string]position // where a key or a table header stands, by path
	bodies   map[string]position // where a value stands, by path
	problems []Problem
	reported map[string]bool     // paths that have a problem already
	unread   map[string]bool     // paths whose value could not be read, or that were misspelt
	homes    map[string][]string // tables of the whole document that know a key
}

type position struct{ line, column int }

// Parse reads a document. name is the file name that problems are reported
// under. A document that is not TOML has one problem, and nothing else in it.
func Parse(name string, text []byte) *Document {
	d := &Document{
		name:     name,
		keys:     make(map[string]position),
		bodies:   make(map[string]position),
		reported: make(map[string]bool),
		unread:   make(map[string]bool),
	}
	// Positions are offsets from the start of the array that holds the text.
	text = slices.Clip(text)
	if err := toml.Unmarshal(text, &d.values); err != nil {
		d.syntax(text, err)
		d.values = nil
		return d
	}
	locate(d, text)
	return d
}

// Root returns the document's outermost table.
func (d *Document) Root() Table { return Table{doc: d, values: d.values} }

// Problems returns what was found so far, in the order of the lines.
func (d *Document) Problems() []Problem {
	slices.SortStableFunc(d.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return d.problems
}

// report adds a problem at the path, or at the nearest table around it that
// stands in the document. One path has one problem: the first.
func (d *Document) report(path, format string, args ...any) {
	if d.reported[path] {
		return
	}
	d.reported[path] = true
	d.add(d.find(path), fmt.Sprintf(format, args...))
}

func (d *Document) add(at position, message string) {
	d.problems = append(d.problems, Problem{d.name, at.line, at.column, message})
}

// misread is report for a value that could not be read.
func (d *Document) misread(path, format string, args ...any) {
	d.unread[path] = true
	d.report(path, format, args...)
}

// explains says whether something that could not be read may be the reason why
// the key of path is not set.
func (d *Document) explains(path string) bool {
	if d.unread[path] {
		return true
	}
	if _, set := d.bodies[path]; set {
		return false
	}
	for p := range d.unread {
		if around(p) == around(path) || strings.HasPrefix(path, p+".") {
			return true
		}
	}
	return false
}

// around returns the path of the table that a path is in.
func around(path string) string { return path[:max(strings.LastIndexByte(path, '.'), 0)] }

// find returns where the value of path stands, or its key, or what is around it.
func (d *Document) find(path string) position {
	for {
		if at, ok := d.bodies[path]; ok {
			return at
		}
		if at, ok := d.keys[path]; ok {
			return at
		}
		if path == "" {
			return position{1, 1}
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
}

// syntax reports that the text is not TOML.
func (d *Document) syntax(text []byte, err error) {
	at, message := position{1, 1}, err.Error()
	if bad, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, column := bad.Position()
		line := lineOf(text, row)
		at = position{row, 1 + utf8.RuneCount(line[:min(column-1, len(line))])}
		message = strings.TrimPrefix(bad.Error(), "toml: ")
		if hint := syntaxHint(string(line)); hint != "" {
			message += ": " + hint
		}
	}
	d.add(at, message)
}

func lineOf(text []byte, row int) []byte {
	lines := bytes.SplitN(text, []byte("\n"), row+1)
	if row < 1 || row > len(lines) {
		return nil
	}
	return bytes.TrimSuffix(lines[row-1], []byte("\r"))
}

// locate walks the syntax tree and notes where every key and value stands.
func locate(d *Document, text []byte) {
	l := locator{Document: d, text: text, count: make(map[string]int)}
	var p unstable.Parser
	p.Reset(text)
	table := ""
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table:
			table = l.header(e, false)
		case unstable.ArrayTable:
			table = l.header(e, true)
		case unstable.KeyValue:
			l.keyValue(table, e)
		}
	}
}

type locator struct {
	*Document
	text  []byte
	count map[string]int // how many elements an array of tables has so far
}

func (l *locator) at(r unstable.Range) position {
	before := l.text[:r.Offset]
	start := bytes.LastIndexByte(before, '\n') + 1
	return position{1 + bytes.Count(before, []byte("\n")), 1 + utf8.RuneCount(before[start:])}
}

// header notes a [table] or [[array.of.tables]] and returns its path. A header
// below an array of tables means its last element (TOML 1.0, "Array of Tables").
func (l *locator) header(e *unstable.Node, array bool) string {
	path := ""
	for parts := e.Key(); parts.Next(); {
		part := parts.Node()
		path = join(path, string(part.Data))
		if _, known := l.keys[path]; !known {
			l.keys[path] = l.at(part.Raw)
		}
		switch n := l.count[path]; {
		case array && parts.IsLast():
			l.count[path]++
			path = index(path, n)
			l.keys[path] = l.at(part.Raw)
		case n > 0:
			path = index(path, n-1)
		}
	}
	return path
}

func (l *locator) keyValue(table string, e *unstable.Node) {
	path := table
	var at position
	for parts := e.Key(); parts.Next(); {
		part := parts.Node()
		at = l.at(part.Raw)
		path = join(path, string(part.Data))
		if _, known := l.keys[path]; !known {
			l.keys[path] = at
		}
	}
	l.value(path, e.Value(), at)
}

// value notes a value; the parser keeps no place for arrays, theirs is the key's.
func (l *locator) value(path string, v *unstable.Node, key position) {
	at := key
	if v.Raw.Length > 0 {
		at = l.at(v.Raw)
	}
	l.bodies[path] = at
	switch v.Kind {
	case unstable.InlineTable:
		for fields := v.Children(); fields.Next(); {
			l.keyValue(path, fields.Node())
		}
	case unstable.Array:
		for i, elements := 0, v.Children(); elements.Next(); i++ {
			l.value(index(path, i), elements.Node(), at)
		}
	}
}

// join and index spell paths like gateway.KeyError does: "listener[0].address".
func join(table, key string) string {
	if table == "" {
		return key
	}
	return table + "." + key
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// Table is one table of a document. The zero Table is empty and has no document.
type Table struct {
	doc    *Document
	path   string
	values map[string]any
}

// IsZero says that nothing is in the table.
func (t Table) IsZero() bool { return len(t.values) == 0 }

// Sub returns a table within this one, empty if it is not in the document.
func (t Table) Sub(path string) Table {
	inner := Table{doc: t.doc, path: join(t.path, path)}
	values := t.values
	for key := range strings.SplitSeq(path, ".") {
		values, _ = values[key].(map[string]any)
	}
	inner.values = values
	return inner
}

// Resolve returns the path of a file as seen from the document's own folder.
func (t Table) Resolve(file string) string {
	if filepath.IsAbs(file) || file == "" {
		return file
	}
	return filepath.Join(filepath.Dir(t.doc.name), file)
}

// Text returns the value of a key if it is text, and "" otherwise.
func (t Table) Text(key string) string {
	s, _ := t.values[key].(string)
	return s
}

// Values are what stands in the table, as the TOML decoder gives it. Do not change it.
func (t Table) Values() map[string]any { return t.values }

// Has says whether the key is set, to whatever.
func (t Table) Has(key string) bool { _, ok := t.values[key]; return ok }

// Where says where the value of key stands, or the table when it is not set.
func (t Table) Where(key string) Problem {
	at := t.doc.find(join(t.path, key))
	return Problem{File: t.doc.name, Line: at.line, Column: at.column}
}

// Report adds a problem with the value of key. key may be a path, and "" means
// the table itself.
func (t Table) Report(key, format string, args ...any) {
	path := t.path
	if key != "" {
		path = join(path, key)
	}
	t.doc.report(path, format, args...)
}

// Check reports what a Validate returned: each *gateway.KeyError in err at its
// key, anything else at the table. A key that is not set is not reported when
// decoding had problems around it: it may be what is misspelt.
func (t Table) Check(err error) {
	switch e := err.(type) {
	case nil:
	case *gateway.KeyError:
		if path := join(t.path, e.Key); !t.doc.explains(path) {
			t.doc.report(path, "%s: %v", e.Key, e.Err)
		}
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			t.Check(one)
		}
	default:
		if bad, ok := errors.AsType[*gateway.KeyError](err); ok {
			t.Check(bad)
			return
		}
		t.Report("", "%v", err)
	}
}
