package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/edit"
	"github.com/fieldgate/fieldgate/cmd/fieldgate/strict"
)

// setting is a key with its value in one configuration.
type setting struct {
	key   *key // nil: there is no such key, somebody has written one all the same
	name  string
	value any  // as the TOML decoder gives it; the default where it is not set
	set   bool // in the file
	file  string
	path  edit.Path // in the file
	steps []step
}

// step is one step of the way to a setting. In a list of tables it has an element.
type step struct {
	name    string
	element *element
}

// element is one table of a list.
type element struct {
	index  int // over all files
	id     string
	values map[string]any
}

// idKeys are the keys by which the tables of a list are told apart, by the list.
var idKeys = map[string]string{
	"broker.listener": "address", "leaf": "id", "serial": "port", "map": "topic", "module": "name",
	"ble.advert": "address", "ble.device": "address", "ble.device[].characteristic": "uuid",
	"serial[].slave": "address", "serial[].slave[].register": "name",
}

// settings are all settings of a configuration, in the order of its types.
type settings struct {
	all   []*setting
	files []string          // the configuration file first
	texts map[string][]byte // of them, as they were read
	count map[string]int    // tables of a list so far, by its name
	// Which table of a list has a name first, and whether another one has it as well.
	first  map[string]int
	shared map[string]bool
}

// readSettings reads the configuration file and, if they count, the files of leaf.d
// beside it. The error is of type invalid if one is not TOML; whether keys and values
// are right does not matter here.
func readSettings(file string, dropIns bool) (*settings, error) {
	return readSettingsWith(file, dropIns, nil)
}

// readSettingsWith is readSettings with texts in the place of those of files.
func readSettingsWith(file string, dropIns bool, texts map[string][]byte) (*settings, error) {
	files := []string{file}
	if dropIns {
		more, err := dropInsOf(file, texts)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	docs := make([]map[string]any, len(files))
	read := make(map[string][]byte, len(files))
	var mistakes invalid
	for i, name := range files {
		text, given := texts[name]
		if !given {
			var err error
			if text, err = os.ReadFile(name); err != nil {
				return nil, err
			}
		}
		read[name] = text
		doc := strict.Parse(name, text)
		mistakes = append(mistakes, doc.Problems()...)
		docs[i] = doc.Root().Values()
	}
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	s := &settings{files: files, texts: read, first: make(map[string]int), shared: make(map[string]bool)}
	shape := configShape()
	for range 2 { // names of tables are known when all have been seen
		s.all, s.count = nil, make(map[string]int)
		for i, doc := range docs {
			w := walk{s, files[i], i == 0}
			w.table(shape, doc, setting{})
		}
	}
	return s, nil
}

// with returns what it would be with another text of one file; nil takes the file out.
func (s *settings) with(file string, text []byte) (*settings, error) {
	texts := maps.Clone(s.texts)
	texts[file] = text
	now, err := dropInsOf(s.files[0], texts)
	if err != nil {
		return nil, err
	}
	for _, name := range now { // they were not there, or not read
		if _, known := texts[name]; !known {
			texts[name] = nil
		}
	}
	return readSettingsWith(s.files[0], true, texts)
}

// walk goes through one file.
type walk struct {
	*settings
	file     string
	defaults bool // what is not set counts as well
}

// table adds what is in a table and, behind it, in the tables within.
func (w walk) table(s *shape, values map[string]any, at setting) {
	s = s.kind(values)
	for _, k := range s.keys {
		if value, set := values[k.name]; k.table == nil && (set || w.defaults) {
			if !set {
				value = k.fallback()
			}
			w.add(at.child(k.name), k, value, set)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if s.key(name) == nil {
			w.add(at.child(name), nil, values[name], true)
		}
	}
	for _, k := range s.keys {
		value, set := values[k.name]
		inner, isTable := value.(map[string]any)
		list, isList := value.([]any)
		switch {
		case k.table == nil:
		case set && (k.list && !isList || !k.list && !isTable):
			w.add(at.child(k.name), nil, value, true)
		case k.list:
			w.list(k, list, at.child(k.name))
		default:
			w.table(k.table, inner, at.child(k.name))
		}
	}
}

func (w walk) add(one setting, k *key, value any, set bool) {
	one.key, one.value, one.set, one.file = k, value, set, w.file
	w.settings.all = append(w.settings.all, &one)
}

func (w walk) list(k *key, list []any, at setting) {
	for i, one := range list {
		values, _ := one.(map[string]any)
		id := ""
		if v, ok := values[idKeys[k.path]]; ok {
			id = fmt.Sprint(v)
		}
		e := &element{w.count[at.name], id, values}
		w.count[at.name]++
		inner := at
		inner.path = at.path.Element(i)
		inner.steps = slices.Clone(at.steps)
		inner.steps[len(inner.steps)-1].element = e
		inner.name = w.nameOf(at.name, idKeys[k.path], e)
		walk{w.settings, w.file, true}.table(k.table, values, inner)
	}
}

// nameOf is how a table of a list is called: by its id where only one has that.
func (s *settings) nameOf(list, idKey string, e *element) string {
	byID := list + "." + e.id
	for _, c := range e.id {
		if c != '-' && c != '_' && !(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') {
			byID = list + "[" + idKey + "=" + e.id + "]"
			if strings.ContainsAny(e.id, "]\"") {
				byID = list + "[" + idKey + "=" + edit.Quote(e.id) + "]"
			}
		}
	}
	first, known := s.first[byID]
	if !known {
		s.first[byID] = e.index
	} else if first != e.index {
		s.shared[byID] = true
	}
	if e.id == "" || s.shared[byID] {
		return list + "[" + strconv.Itoa(e.index) + "]"
	}
	return byID
}

func (s setting) child(name string) setting {
	s.name = strings.TrimPrefix(s.name+"."+edit.Key(name).String(), ".")
	s.path = s.path.Child(name)
	s.steps = append(slices.Clone(s.steps), step{name: name})
	return s
}

// hidden is in the place of what is not shown.
const hidden = "(hidden)"

// secret says that the value is not for everybody's eyes. What is no key at all may
// be one that was written wrong, with a secret behind it.
func (s *setting) secret() bool {
	if s.key == nil {
		return true
	}
	return s.key.data() == dataSecret && s.value != "" && s.value != nil
}

// shown is the value in the spelling of TOML, if it may be seen.
func (s *setting) shown() string {
	if s.secret() {
		return hidden
	}
	return spellValue(s.value)
}

// seen is the value for JSON, if it may be seen.
func (s *setting) seen() any {
	if s.secret() {
		return hidden
	}
	return s.value
}

// spellValue writes a value in TOML, on one line.
func spellValue(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case string:
		return edit.Quote(v)
	case float64:
		text := strconv.FormatFloat(v, 'g', -1, 64)
		if !strings.ContainsAny(text, ".eni") {
			text += ".0"
		}
		return text
	case []any:
		parts := make([]string, len(v))
		for i, one := range v {
			parts[i] = spellValue(one)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case map[string]any:
		if len(v) == 0 {
			return "{}"
		}
		var parts []string
		for _, name := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, edit.Key(name).String()+" = "+spellValue(v[name]))
		}
		return "{ " + strings.Join(parts, ", ") + " }"
	}
	return fmt.Sprint(v)
}
