package strict

import (
	"encoding"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
)

// Decode sets the fields of the struct that into points to. Keys that are not
// set leave their field as it is: fill in the defaults before. except names
// keys that the caller reads itself. Problems go to the document.
func (t Table) Decode(into any, except ...string) {
	if t.doc == nil {
		return
	}
	v := reflect.ValueOf(into).Elem()
	if t.path == "" {
		t.doc.homes = homes(v.Type())
	}
	t.decode(v, except)
}

var (
	tableType  = reflect.TypeFor[Table]()
	tablesType = reflect.TypeFor[[]Table]()
	textType   = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func (t Table) decode(v reflect.Value, except []string) {
	fields := fieldsOf(v.Type())
	for _, key := range slices.Sorted(maps.Keys(t.values)) {
		if slices.Contains(except, key) {
			continue
		}
		field, ok := fields[key]
		if !ok {
			t.unknown(key, slices.Concat(slices.Collect(maps.Keys(fields)), except))
			continue
		}
		t.doc.set(join(t.path, key), v.FieldByIndex(field), t.values[key])
	}
}

// Field is a key of a struct type.
type Field struct {
	Key   string
	Index []int        // of the field, for reflect's FieldByIndex
	In    reflect.Type // the struct that declares it: another one if that is inline
	reflect.StructField
}

// Fields returns the keys of a struct type, in the order in which they are declared.
func Fields(t reflect.Type) []Field {
	var all []Field
	for f := range t.Fields() {
		tag, option, _ := strings.Cut(f.Tag.Get("toml"), ",")
		switch {
		case tag == "" && option == "inline":
			for _, inner := range Fields(f.Type) {
				inner.Index = slices.Concat(f.Index, inner.Index)
				all = append(all, inner)
			}
		case tag != "" && tag != "-":
			all = append(all, Field{tag, f.Index, t, f})
		}
	}
	return all
}

// fieldsOf returns the keys of a struct type and where their fields are.
func fieldsOf(t reflect.Type) map[string][]int {
	fields := make(map[string][]int)
	for _, f := range Fields(t) {
		fields[f.Key] = f.Index
	}
	return fields
}

// unknown reports a key that the table does not have, with the nearest one that
// it has or the table that has it.
func (t Table) unknown(key string, known []string) {
	path := join(t.path, key)
	at, ok := t.doc.keys[path]
	if !ok {
		at = t.doc.find(path)
	}
	message := fmt.Sprintf("unknown key %q", key)
	if t.path != "" {
		message += fmt.Sprintf(" in [%s]", t.path)
	}
	near := Nearest(key, known)
	elsewhere := t.doc.homes[key]
	switch {
	case near != "" && (distance(key, near) <= 2 || len(elsewhere) == 0):
		message += fmt.Sprintf(": did you mean `%s`?", near)
		// What is misspelt is not missing as well.
		t.doc.unread[join(t.path, near)] = true
	case len(elsewhere) > 0:
		message += fmt.Sprintf(": it belongs in [%s]", strings.Join(elsewhere, "] or ["))
	}
	t.doc.unread[path], t.doc.reported[path] = true, true
	t.doc.add(at, message)
}

// homes says for every key of a configuration in which tables it is known.
func homes(t reflect.Type) map[string][]string {
	all := make(map[string][]string)
	var walk func(path string, t reflect.Type)
	walk = func(path string, t reflect.Type) {
		fields := fieldsOf(t)
		for _, key := range slices.Sorted(maps.Keys(fields)) {
			f := t.FieldByIndex(fields[key]).Type
			if path != "" {
				all[key] = append(all[key], path)
			}
			if f.Kind() == reflect.Slice {
				f = f.Elem()
			}
			if f.Kind() == reflect.Struct && f != tableType && !reflect.PointerTo(f).Implements(textType) {
				walk(join(path, key), f)
			}
		}
	}
	walk("", t)
	return all
}

// set puts a value of the document into a field.
func (d *Document) set(path string, field reflect.Value, value any) {
	if field.CanAddr() && field.Addr().Type().Implements(textType) {
		d.setText(path, field, value)
		return
	}
	if field.Kind() == reflect.Interface { // the caller looks at what it is
		field.Set(reflect.ValueOf(value))
		return
	}
	switch got := value.(type) {
	case map[string]any:
		d.setTable(path, field, got)
	case []any:
		d.setList(path, field, got)
	case string:
		if field.Kind() == reflect.String {
			field.SetString(got)
			return
		}
		d.wrongType(path, field, value)
	case bool:
		if field.Kind() == reflect.Bool {
			field.SetBool(got)
			return
		}
		d.wrongType(path, field, value)
	case int64:
		d.setInteger(path, field, got)
	case float64:
		if field.CanFloat() && !math.IsNaN(got) && !math.IsInf(got, 0) {
			field.SetFloat(got)
			return
		}
		d.wrongType(path, field, value)
	default:
		d.wrongType(path, field, value)
	}
}

func (d *Document) setInteger(path string, field reflect.Value, n int64) {
	switch {
	case field.CanInt() && !field.OverflowInt(n):
		field.SetInt(n)
	case field.CanUint() && n >= 0 && !field.OverflowUint(uint64(n)):
		field.SetUint(uint64(n))
	case field.CanFloat():
		field.SetFloat(float64(n))
	case field.CanInt() || field.CanUint():
		d.misread(path, "%d is out of range", n)
	default:
		d.wrongType(path, field, n)
	}
}

// setText sets a field that reads its own spelling, like a duration.
func (d *Document) setText(path string, field reflect.Value, value any) {
	var text string
	switch got := value.(type) {
	case string:
		text = got
	case int64, float64: // a number without its unit: let the field say so
		text = fmt.Sprint(got)
	default:
		d.wrongType(path, field, value)
		return
	}
	err := field.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text))
	if err == nil {
		return
	}
	message := err.Error()
	if better := withUnit(text, field.Type()); better != "" {
		message = fmt.Sprintf("%s: did you mean `%q`?", message, better)
	}
	d.misread(path, "%s", message)
}

func (d *Document) setTable(path string, field reflect.Value, values map[string]any) {
	inner := Table{d, path, values}
	switch {
	case field.Type() == tableType:
		field.Set(reflect.ValueOf(inner))
	case field.Kind() == reflect.Struct:
		inner.decode(field, nil)
	case field.Kind() == reflect.Slice && isTable(field.Type().Elem()):
		name := path[strings.LastIndex(path, ".")+1:]
		d.misread(path, "there can be several of these: write [[%s]] instead of [%s]", name, name)
	case field.Kind() == reflect.Map && field.Type().Key().Kind() == reflect.String:
		made := reflect.MakeMapWithSize(field.Type(), len(values))
		for _, key := range slices.Sorted(maps.Keys(values)) {
			one := reflect.New(field.Type().Elem()).Elem()
			d.set(join(path, key), one, values[key])
			made.SetMapIndex(reflect.ValueOf(key), one)
		}
		field.Set(made)
	default:
		d.wrongType(path, field, values)
	}
}

func (d *Document) setList(path string, field reflect.Value, values []any) {
	if field.Kind() != reflect.Slice {
		if isTable(field.Type()) {
			name := path[strings.LastIndex(path, ".")+1:]
			d.misread(path, "there is only one of these: write [%s] instead of [[%s]]", name, name)
			return
		}
		d.wrongType(path, field, values)
		return
	}
	list := reflect.MakeSlice(field.Type(), len(values), len(values))
	for i, value := range values {
		d.set(index(path, i), list.Index(i), value)
	}
	field.Set(list)
}

func isTable(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(textType)
}

func (d *Document) wrongType(path string, field reflect.Value, value any) {
	message := fmt.Sprintf("expected %s, got %s", describeType(field.Type()), describe(value))
	if hint := betterSpelling(field, value); hint != "" {
		message += fmt.Sprintf(": did you mean `%s`?", hint)
	}
	d.misread(path, "%s", message)
}

// describeType says in words what a field takes.
func describeType(t reflect.Type) string {
	switch {
	case t == tableType || isTable(t) || t.Kind() == reflect.Map:
		return "a table"
	case reflect.PointerTo(t).Implements(textType):
		return "text in quotes"
	case t == tablesType:
		return "tables"
	}
	switch t.Kind() {
	case reflect.String:
		return "text in quotes"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a list in [ ]"
	default:
		return "a whole number"
	}
}

// describe says in words what stands in the document.
func describe(value any) string {
	switch got := value.(type) {
	case string:
		return fmt.Sprintf("the text %q", got)
	case bool, int64, float64:
		return fmt.Sprint(got)
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	default:
		return "a date or time"
	}
}
