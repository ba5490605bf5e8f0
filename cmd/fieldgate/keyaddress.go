package main

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/edit"
	"github.com/fieldgate/fieldgate/cmd/fieldgate/strict"
)

// How people name keys: "hub.keep_alive", and in lists of tables
// "leaf.pump-1.key_file", "leaf[id=pump-1].key_file" or "leaf[0].key_file".

// addressPart is one part of such a name.
type addressPart struct {
	word     string // a name, or the id of a table
	index    int    // in brackets, -1 for none
	key      string // in brackets, before =
	brackets bool
}

// parseAddress splits a name of a key.
func parseAddress(text string) ([]addressPart, error) {
	var all []addressPart
	for rest := text; ; {
		var t addressPart
		var err error
		switch {
		case strings.HasPrefix(rest, "["):
			t, rest, err = parseBrackets(rest[1:])
		case strings.HasPrefix(rest, `"`):
			t.word, rest, err = parseQuoted(rest)
		default:
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			t.word, rest = rest[:end], rest[end:]
			if t.word == "" {
				err = errors.New("a part of it is empty")
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%q is no name of a key: %w", text, err)
		}
		all = append(all, t)
		switch {
		case rest == "":
			return all, nil
		case rest[0] == '.':
			rest = rest[1:]
		case rest[0] != '[':
			return nil, fmt.Errorf("%q is no name of a key: write a dot before %q", text, rest)
		}
	}
}

// parseBrackets reads what is behind a [: an index, or key=id. An id may have a ] in
// it, if that is not the last of a part.
func parseBrackets(rest string) (t addressPart, behind string, err error) {
	t = addressPart{index: -1, brackets: true}
	if key, value, found := strings.Cut(rest, "="); found && !strings.ContainsAny(key, "].[") {
		t.key = key
		if strings.HasPrefix(value, `"`) {
			t.word, rest, err = parseQuoted(value)
			behind, closed := strings.CutPrefix(rest, "]")
			if err == nil && !closed {
				err = errors.New("a ] is missing")
			}
			return t, behind, err
		}
		for i := range value {
			if value[i] == ']' && (i+1 == len(value) || value[i+1] == '.' || value[i+1] == '[') {
				t.word = value[:i]
				return t, value[i+1:], nil
			}
		}
		return t, "", errors.New("a ] is missing")
	}
	inside, behind, closed := strings.Cut(rest, "]")
	n, err := strconv.Atoi(inside)
	if !closed || err != nil || n < 0 {
		return t, "", errors.New("in brackets stands a number from 0, or a key, = and its value")
	}
	t.index = n
	return t, behind, nil
}

func parseQuoted(rest string) (word, behind string, err error) {
	quoted, err := strconv.QuotedPrefix(rest)
	if err != nil {
		return "", "", errors.New("a \" is missing")
	}
	word, err = strconv.Unquote(quoted)
	return word, rest[len(quoted):], err
}

// match says how many of the parts the setting's steps use up, and whether one is at
// the end as the other is: -1 if they do not lead there.
func (s *setting) match(parts []addressPart) (used int, all bool) {
	for _, step := range s.steps {
		if used == len(parts) {
			return used, false
		}
		if t := parts[used]; t.brackets || t.word != step.name {
			return -1, false
		}
		used++
		if step.element == nil {
			continue
		}
		if used == len(parts) {
			return used, false
		}
		if !step.element.is(parts[used]) {
			return -1, false
		}
		used++
	}
	return used, true
}

// is says whether a part of a name means the table.
func (e *element) is(t addressPart) bool {
	switch {
	case t.key != "":
		v, ok := e.values[t.key]
		return ok && fmt.Sprint(v) == t.word
	case t.brackets:
		return t.index == e.index
	}
	return e.id == t.word
}

// find returns the settings that a name means: one, or those of a table. A key within
// a table of values, as in deadband.temperature, is a setting of its own, set or not.
func (s *settings) find(address string) ([]*setting, error) {
	parts, err := parseAddress(address)
	if err != nil {
		return nil, &failure{exitUsage, "cannot find the key", err, "run: fieldgate config list"}
	}
	var found []*setting
	for _, one := range s.all {
		used, all := one.match(parts)
		switch {
		case used == len(parts):
			found = append(found, one)
		case all && used == len(parts)-1 && !parts[used].brackets && one.key != nil && one.key.value.Kind() == reflect.Map:
			found = append(found, one.within(parts[used].word))
		}
	}
	if len(found) == 0 {
		return nil, &failure{exitNotFound, "there is no key " + address, s.nearest(parts), "run: fieldgate config list"}
	}
	return found, nil
}

// within is a key of a table of values.
func (s *setting) within(name string) *setting {
	one := s.child(name)
	inner := *s.key
	inner.value = reflect.New(s.key.value.Type().Elem()).Elem()
	one.key = &inner
	values, _ := s.value.(map[string]any)
	one.value, one.set = values[name], false
	if one.value != nil {
		one.set = true
	}
	return &one
}

// findOne is find for a name that must mean one setting.
func (s *settings) findOne(address string) (*setting, error) {
	found, err := s.find(address)
	if err != nil {
		return nil, err
	}
	if len(found) > 1 {
		return nil, &failure{exitUsage, address + " is more than one key", fmt.Errorf("it means %s and %d more", found[0].name, len(found)-1), "name one: fieldgate config get " + address}
	}
	return found[0], nil
}

// nearest says what is wrong with a name that means nothing.
func (s *settings) nearest(parts []addressPart) error {
	shape, path, what := configShape(), "", ""
	for i := 0; i < len(parts); i++ {
		t := parts[i]
		k := shape.key(t.word)
		if t.brackets || k == nil {
			near := strict.Nearest(t.word, shape.names())
			if near == "" {
				return fmt.Errorf("%s has no key %q", cmp.Or(path, "the configuration"), t.word)
			}
			return fmt.Errorf("%s has no key %q: did you mean `%s`?", cmp.Or(path, "the configuration"), t.word, near)
		}
		path, what = strings.TrimPrefix(path+"."+t.word, "."), t.word
		if k.table == nil {
			if i < len(parts)-1 {
				return fmt.Errorf("%s has no keys in it", path)
			}
			break
		}
		shape = k.table
		if !k.list || i == len(parts)-1 {
			continue
		}
		i++
		if !s.has(parts[:i+1]) {
			return fmt.Errorf("there is no %s %s: %s", what, parts[i].text(), s.ids(parts[:i]))
		}
		path += "[]"
	}
	return fmt.Errorf("there is no %s", path)
}

func (t addressPart) text() string {
	if t.brackets && t.key == "" {
		return strconv.Itoa(t.index)
	}
	return strconv.Quote(t.word)
}

func (s *settings) has(parts []addressPart) bool {
	return slices.ContainsFunc(s.all, func(one *setting) bool {
		used, _ := one.match(parts)
		return used == len(parts)
	})
}

// ids lists the tables that a list has.
func (s *settings) ids(list []addressPart) string {
	var all []string
	for _, one := range s.all {
		if used, _ := one.match(list); used != len(list) {
			continue
		}
		depth := 0
		for _, step := range one.steps {
			depth++
			if step.element == nil {
				continue
			}
			if depth++; depth == len(list)+1 && !slices.Contains(all, step.element.id) {
				all = append(all, step.element.id)
			}
		}
	}
	switch {
	case len(all) == 0:
		return "there are none"
	case len(all) > 8:
		return fmt.Sprintf("there are %s and %d more", strings.Join(all[:8], ", "), len(all)-8)
	}
	return "there is " + strings.Join(all, ", ")
}

// spellAs writes what somebody typed as a value in TOML. Text needs no quotes, a list
// no brackets; whether the key can have that value is looked at later.
func spellAs(k *key, typed string) string {
	switch {
	case strings.HasPrefix(typed, `"`) || strings.HasPrefix(typed, "'"):
		if edit.CheckValue(typed) == nil {
			return typed
		}
		return edit.Quote(typed)
	case k != nil && k.isText():
		return edit.Quote(typed)
	case k != nil && k.value.Kind() == reflect.Slice && !strings.HasPrefix(typed, "["):
		parts := strings.Split(typed, ",")
		for i, p := range parts {
			parts[i] = edit.Quote(strings.TrimSpace(p))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case edit.CheckValue(typed) == nil:
		return typed
	}
	return edit.Quote(typed)
}
