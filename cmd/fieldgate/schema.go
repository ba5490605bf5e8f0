package main

import (
	"maps"
	"reflect"
	"slices"

	"github.com/fieldgate/fieldgate/gateway"
)

// configSchema is the JSON Schema of a configuration file. It is made of the same
// keys as everything else.
func configSchema() map[string]any {
	s := configShape().schema()
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "Configuration of Fieldgate"
	return s
}

func (s *shape) schema() map[string]any {
	if s.by != "" {
		var kinds []any
		for _, word := range slices.Sorted(maps.Keys(s.kinds)) {
			one := s.kinds[word].schema()
			by := one["properties"].(map[string]any)[s.by].(map[string]any)
			by["const"] = word
			if word != s.fallback {
				one["required"] = []any{s.by}
			}
			kinds = append(kinds, one)
		}
		return map[string]any{"type": "object", "anyOf": kinds}
	}
	properties := make(map[string]any)
	for _, k := range s.keys {
		properties[k.name] = k.schema()
	}
	return map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
}

func (k *key) schema() map[string]any {
	var one map[string]any
	switch {
	case k.list:
		one = map[string]any{"type": "array", "items": k.table.schema()}
	case k.table != nil:
		one = k.table.schema()
	default:
		one = typeSchema(k.value.Type())
		if k.data() == dataPlain && k.path != "gateway.name" { // the default of that is the machine's own
			if fallback := k.fallback(); fallback != nil {
				one["default"] = fallback
			}
		}
	}
	one["description"] = fieldDocs[k.field]
	return one
}

func typeSchema(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[gateway.Duration]():
		return map[string]any{"type": "string", "pattern": `^([0-9.]+d|0|([0-9.]+(ns|us|µs|μs|ms|s|m|h))+)$`}
	case t == reflect.TypeFor[gateway.Size]():
		return map[string]any{"type": "string", "pattern": `^[0-9.]+ *(GiB|MiB|KiB|B)$`}
	case reflect.PointerTo(t).Implements(textType), t.Kind() == reflect.String:
		return map[string]any{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": typeSchema(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": typeSchema(t.Elem())}
	case reflect.Interface:
		return map[string]any{}
	}
	return map[string]any{"type": "integer"}
}
