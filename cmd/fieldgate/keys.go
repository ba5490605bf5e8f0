package main

import (
	"encoding"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/strict"
	"github.com/fieldgate/fieldgate/drivers/ble"
	"github.com/fieldgate/fieldgate/drivers/serial/modbus/master"
	"github.com/fieldgate/fieldgate/gateway/broker/mapping"
	"github.com/fieldgate/fieldgate/gateway/identity"
)

//go:generate go test -run ^TestKeyDocs$ -update-docs .
//go:generate go test -run ^TestManPages$ -update-docs .
//go:generate go test -run ^TestCatalog$ -update-docs .

// The keys of the configuration, read off the types that it is decoded into: what is
// a key there is one here.

// shape is what a table can hold.
type shape struct {
	path string // "serial[]", "" for the outermost
	keys []*key // in the order in which they are declared
	// What a table holds can depend on one of its keys: on format, say. Then there is
	// a shape for each of its words, and keys holds those of all.
	by       string
	kinds    map[string]*shape
	fallback string // the word that counts where the key is not set
}

// key is one key of a table.
type key struct {
	name  string
	path  string        // "serial[].baud"
	value reflect.Value // the default
	field string        // "drivers/serial/port.Config.Baud", where it is declared
	table *shape        // of a table, or of the tables of a list
	list  bool          // of tables
	only  []string      // words of shape.by for which there is the key, nil for all
}

const modulePath = "github.com/fieldgate/fieldgate/"

var (
	tablesType = reflect.TypeFor[[]strict.Table]()
	textType   = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// configShape is the whole configuration.
func configShape() *shape { return shapeOf("", defaults()) }

// shapeOf reads the keys off structs that hold the defaults.
func shapeOf(path string, configs ...any) *shape {
	s := &shape{path: path}
	for _, c := range configs {
		v := reflect.Indirect(reflect.ValueOf(c))
		for _, f := range strict.Fields(v.Type()) {
			k := &key{
				name: f.Key, path: strings.TrimPrefix(path+"."+f.Key, "."), value: v.FieldByIndex(f.Index),
				field: packageName(f.In) + "." + f.In.Name() + "." + f.Name,
			}
			k.addTable()
			s.keys = append(s.keys, k)
		}
	}
	return s
}

// packageName is the folder of the package that a type is declared in.
func packageName(t reflect.Type) string {
	if t.PkgPath() == "main" { // as it is called in the program, but not in its tests
		return "cmd/fieldgate"
	}
	return strings.TrimPrefix(t.PkgPath(), modulePath)
}

// addTable looks whether the key is a table or a list of them.
func (k *key) addTable() {
	t := k.value.Type()
	switch {
	case t == tablesType:
		k.list, k.table = true, listShape(k.path)
	case t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(textType):
		k.table = shapeOf(k.path, k.value.Interface())
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && !reflect.PointerTo(t.Elem()).Implements(textType):
		k.list, k.table = true, shapeOf(k.path+"[]", elementDefault(t.Elem()))
	}
}

// listShape is what the tables of a list hold that is decoded one by one.
func listShape(path string) *shape {
	at := path + "[]"
	switch path {
	case "leaf":
		return shapeOf(at, leafConfig{Auth: identity.AuthKey})
	case "map":
		return shapeOf(at, mapping.DefaultRule())
	case "ble.advert":
		return shapeOf(at, ble.DefaultAdvert())
	case "ble.device":
		s := &shape{path: at, by: "format", fallback: ble.FormatGATT, kinds: make(map[string]*shape)}
		for word, config := range deviceFormats {
			s.kinds[word] = shapeOf(at, config())
		}
		return s.join()
	case "serial":
		s := &shape{path: at, by: "format", fallback: defaultFormat, kinds: make(map[string]*shape)}
		for word, format := range portFormats {
			s.kinds[word] = shapeOf(at, format.config())
		}
		return s.join()
	case "module":
		s := &shape{path: at, by: "name", kinds: make(map[string]*shape)}
		for word, kind := range moduleKinds {
			s.kinds[word] = shapeOf(at, moduleName{}, kind.config)
		}
		return s.join()
	}
	panic("nothing says what the tables of " + path + " hold")
}

// elementDefault is what a table of a list in a list holds that is empty.
func elementDefault(t reflect.Type) any {
	// The defaults of these are filled in when the table is checked.
	c := master.DefaultConfig()
	c.Port = "/dev/ttyS1"
	c.Slaves = []master.SlaveConfig{{Address: 1, Leaf: "x", Registers: []master.RegisterConfig{{Name: "x", Table: "holding"}}}}
	if err := c.Validate(); err != nil {
		panic(err)
	}
	slave := c.Slaves[0]
	register := slave.Registers[0]
	slave.Address, slave.Leaf, slave.Registers = 0, "", nil
	register.Name, register.Table, register.Type = "", "", "" // the default type depends on the table
	for _, filled := range []any{slave, register} {
		if reflect.TypeOf(filled) == t {
			return filled
		}
	}
	return reflect.Zero(t).Interface()
}

// join makes one list of the keys of all kinds.
func (s *shape) join() *shape {
	words := slices.Sorted(maps.Keys(s.kinds))
	for _, word := range words {
		for _, k := range s.kinds[word].keys {
			same := slices.IndexFunc(s.keys, func(o *key) bool {
				return o.path == k.path && (k.name == s.by || o.field == k.field && reflect.DeepEqual(o.fallback(), k.fallback()))
			})
			if same < 0 {
				one := *k
				same, s.keys = len(s.keys), append(s.keys, &one)
			}
			s.keys[same].only = append(s.keys[same].only, word)
		}
	}
	for _, k := range s.keys {
		if len(k.only) == len(words) {
			k.only = nil
		}
	}
	return s
}

// kind returns the shape of one table: values is what is set in it.
func (s *shape) kind(values map[string]any) *shape {
	if s.by == "" {
		return s
	}
	word, ok := values[s.by].(string)
	if !ok {
		word = s.fallback
	}
	if one := s.kinds[word]; one != nil {
		return one
	}
	return s
}

// key returns the key of that name, nil if the table has none.
func (s *shape) key(name string) *key {
	i := slices.IndexFunc(s.keys, func(k *key) bool { return k.name == name })
	if i < 0 {
		return nil
	}
	return s.keys[i]
}

// names are the names of all keys.
func (s *shape) names() []string {
	all := make([]string, len(s.keys))
	for i, k := range s.keys {
		all[i] = k.name
	}
	return all
}

// isText says whether the key takes text in quotes.
func (k *key) isText() bool {
	t := k.value.Type()
	return t.Kind() == reflect.String || reflect.PointerTo(t).Implements(textType)
}

// takes says in words what the key takes.
func (k *key) takes() string { return typeWord(k.value.Type()) }

func typeWord(t reflect.Type) string {
	switch name := t.Name(); {
	case t.PkgPath() == modulePath+"gateway" && name == "Duration", t.PkgPath() == modulePath+"gateway" && name == "Size":
		return strings.ToLower(name)
	case reflect.PointerTo(t).Implements(textType), t.Kind() == reflect.String:
		return "text"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "number"
	case reflect.Slice:
		return "list of " + typeWord(t.Elem())
	case reflect.Map:
		return "table of " + typeWord(t.Elem())
	case reflect.Interface:
		return "any value"
	}
	return "whole number"
}

// fallback is the default as the TOML decoder would give it.
func (k *key) fallback() any { return plainValue(k.value) }

// plainValue turns a field into what a TOML file would have in its place.
func plainValue(v reflect.Value) any {
	switch m := v.Interface().(type) {
	case slog.Level:
		return strings.ToLower(m.String())
	case encoding.TextMarshaler:
		if text, err := m.MarshalText(); err == nil {
			return string(text)
		}
	}
	switch {
	case v.Kind() == reflect.Interface:
		return v.Interface()
	case v.Kind() == reflect.String:
		return v.String()
	case v.Kind() == reflect.Bool:
		return v.Bool()
	case v.CanInt():
		return v.Int()
	case v.CanUint():
		return int64(v.Uint())
	case v.CanFloat():
		return v.Float()
	case v.Kind() == reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = plainValue(v.Index(i))
		}
		return list
	case v.Kind() == reflect.Map:
		all := make(map[string]any)
		for _, name := range v.MapKeys() {
			all[name.String()] = plainValue(v.MapIndex(name))
		}
		return all
	}
	return fmt.Sprint(v.Interface())
}
