package twin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// object is a JSON object: values are nil, bool, json.Number, string, object and
// []any. Once others know it, it is not changed.
type object = map[string]any

// The hub's limits for one section of a twin (wire contract, section 5.4).
const (
	maxSection = 32 << 10
	maxText    = 4 << 10
	maxKey     = 1 << 10
	maxDepth   = 10
	minInteger = -4503599627370496
	maxInteger = 4503599627370495
)

// parse reads a JSON object and nothing behind it.
func parse(text []byte) (object, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var o object
	if err := d.Decode(&o); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if o == nil {
		return nil, errors.New("not a JSON object: null")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON object")
	}
	return o, nil
}

// format writes an object; keys are sorted.
func format(o object) []byte {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err) // everything in it came from JSON
	}
	return b
}

// validate says why the hub would not take a patch, nil if it would.
func validate(patch object) error {
	if size := sizeOf(patch); size > maxSection {
		return fmt.Errorf("the patch counts %d bytes, at most %d", size, maxSection)
	}
	return validateObject(patch, 1)
}

func validateObject(o object, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	for key, v := range o {
		if err := validateKey(key); err != nil {
			return err
		}
		if err := validateValue(v, depth); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}

func validateKey(key string) error {
	switch {
	case key == "" || len(key) > maxKey:
		return fmt.Errorf("a key of %d bytes: 1 to %d", len(key), maxKey)
	case !utf8.ValidString(key) || strings.ContainsAny(key, ".$ ") || strings.ContainsFunc(key, unicode.IsControl):
		return fmt.Errorf("key %q: no control characters, '.', '$' and ' '", key)
	}
	return nil
}

func validateValue(v any, depth int) error {
	switch v := v.(type) {
	case object:
		return validateObject(v, depth+1)
	case []any:
		if depth >= maxDepth {
			return fmt.Errorf("nested deeper than %d", maxDepth)
		}
		for _, x := range v {
			if err := validateValue(x, depth+1); err != nil {
				return err
			}
		}
	case string:
		if len(v) > maxText {
			return fmt.Errorf("a text of %d bytes: at most %d", len(v), maxText)
		}
	case json.Number:
		n, err := v.Int64()
		if err == nil && (n < minInteger || n > maxInteger) || errors.Is(err, strconv.ErrRange) {
			return fmt.Errorf("integer %s is out of range", v)
		}
	}
	return nil
}

// sizeOf counts as the hub does: keys and values, without $version and $metadata.
func sizeOf(v any) int {
	switch v := v.(type) {
	case object:
		n := 0
		for key, x := range v {
			if !strings.HasPrefix(key, "$") {
				n += len(key) + sizeOf(x)
			}
		}
		return n
	case []any:
		n := 0
		for _, x := range v {
			n += sizeOf(x)
		}
		return n
	case string:
		return len(v)
	case json.Number:
		return 8
	case bool:
		return 4
	}
	return 0
}

// apply returns the document with the patch applied (RFC 7386). Both stay as they
// are, and may share what did not change.
func apply(document, patch object) object {
	out := maps.Clone(document)
	if out == nil {
		out = object{}
	}
	for key, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(out, key)
		case object:
			old, _ := out[key].(object)
			out[key] = apply(old, v)
		default:
			out[key] = v
		}
	}
	return out
}

// combine returns one patch that does what a and then b would do, whatever the
// document. There is none where a puts something else in the place of an object
// and b then goes into an object there: what a removes would stay.
func combine(a, b object) (object, bool) {
	out := maps.Clone(a)
	for key, v := range b {
		into, isObject := v.(object)
		before, known := a[key]
		if !isObject || !known {
			out[key] = v
			continue
		}
		old, wasObject := before.(object)
		if !wasObject {
			return nil, false
		}
		both, ok := combine(old, into)
		if !ok {
			return nil, false
		}
		out[key] = both
	}
	return out, true
}

// appended returns the patches followed by one more, as few as do the same.
func appended(patches []object, patch object) []object {
	if n := len(patches); n > 0 {
		if both, ok := combine(patches[n-1], patch); ok && sizeOf(both) <= maxSection {
			return append(patches[:n-1:n-1], both)
		}
	}
	return append(patches[:len(patches):len(patches)], patch)
}

// difference returns the patch that makes to out of from.
func difference(from, to object) object {
	patch := object{}
	for key := range from {
		if _, stays := to[key]; !stays {
			patch[key] = nil
		}
	}
	for key, v := range to {
		old, known := from[key]
		if known && reflect.DeepEqual(old, v) {
			continue
		}
		before, wasObject := old.(object)
		after, isObject := v.(object)
		if wasObject && isObject {
			patch[key] = difference(before, after)
		} else {
			patch[key] = v
		}
	}
	return patch
}

// Patch returns the patch that makes the object to out of from, both JSON; nil when
// they are the same. An empty from is an empty object.
func Patch(from, to []byte) ([]byte, error) {
	before := object{}
	if len(from) > 0 {
		var err error
		if before, err = parse(from); err != nil {
			return nil, err
		}
	}
	after, err := parse(to)
	if err != nil {
		return nil, err
	}
	patch := difference(before, after)
	if len(patch) == 0 {
		return nil, nil
	}
	return format(patch), nil
}
