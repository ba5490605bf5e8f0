// Package modules holds what processing steps have in common: which messages a
// step is for, and the JSON field that it looks at. The steps themselves are
// the packages below it; each of them is a gateway.Module.
package modules

import (
	"encoding/json"
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/fieldgate/fieldgate/gateway"
)

// Scope says which messages a step is for, by patterns in the spelling of
// path.Match: * stands for any run of characters but "/", ? for one, [a-f] for
// one of these. An empty pattern matches everything.
type Scope struct {
	Leaf    string
	Channel string
}

// Has says whether the message is in the scope.
func (s Scope) Has(m *gateway.Message) bool {
	return match(s.Leaf, m.Leaf) && match(s.Channel, m.Channel)
}

// Validate checks the patterns. Errors are of type *gateway.KeyError, with the
// keys "leaf" and "channel".
func (s Scope) Validate() error {
	for key, pattern := range map[string]string{"leaf": s.Leaf, "channel": s.Channel} {
		if _, err := path.Match(pattern, ""); err != nil {
			return gateway.BadKey(key, "%q is not a pattern: write a name, or use * and ?, like \"pump-*\"; "+
				"close a [ with ], and write \\[ for a [ that is part of the name", pattern)
		}
	}
	return nil
}

func match(pattern, name string) bool {
	if pattern == "" || pattern == "*" {
		return true
	}
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// Why a field has no value.
var (
	ErrNotJSON = errors.New("body is not JSON")
	ErrNoField = errors.New("no such field")
)

// Field is the way to a value within a JSON body: the names of members from the
// outermost inwards, an element of an array by its number from 0.
type Field []string

// ParseField reads the spelling "motor.temperature" or "readings.0.value". A
// name that has a dot in it cannot be spelt.
func ParseField(text string) (Field, error) {
	f := Field(strings.Split(text, "."))
	if slices.Contains(f, "") {
		return nil, errors.New("is not the way to a field: write names with dots between them, like \"motor.temperature\"")
	}
	return f, nil
}

// Get returns the value in the JSON text body: nil, bool, float64, string, or
// a map or slice of such. Numbers keep 53 bits. The error is ErrNotJSON, if
// body as a whole is not one JSON value, or ErrNoField.
func (f Field) Get(body []byte) (any, error) {
	if !json.Valid(body) {
		return nil, ErrNotJSON
	}
	raw := json.RawMessage(body)
	for _, name := range f {
		next, ok := step(raw, name)
		if !ok {
			return nil, ErrNoField
		}
		raw = next
	}
	var v any
	if json.Unmarshal(raw, &v) != nil { // a number beyond float64
		return nil, ErrNoField
	}
	return v, nil
}

// step goes one level down, into an object or an array.
func step(raw json.RawMessage, name string) (json.RawMessage, bool) {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) == nil {
		v, ok := members[name]
		return v, ok
	}
	i, err := strconv.ParseUint(name, 10, 16)
	var elements []json.RawMessage
	if err != nil || json.Unmarshal(raw, &elements) != nil || i >= uint64(len(elements)) {
		return nil, false
	}
	return elements[i], true
}
