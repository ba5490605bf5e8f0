package twins

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// What a twin may hold (sections 5.4 and 6.2).
const (
	maxTags       = 8 << 10  // by the size rule
	maxProperties = 32 << 10 // by the size rule; desired and reported each
	maxName       = 1 << 10  // bytes
	maxString     = 4 << 10  // bytes
	maxDepth      = 10       // objects and arrays inside a section, one in the other
	minInteger    = -1 << 52
	maxInteger    = 1<<52 - 1
)

func invalid(format string, args ...any) *refusal.Error {
	return refusal.New(400004, fmt.Sprintf(format, args...))
}

// checkMembers says what is wrong with the members of an object at a depth; a
// section has depth 0. null is good here: it removes.
func checkMembers(object map[string]any, depth int) error {
	if depth > maxDepth {
		return invalid("objects are nested deeper than %d", maxDepth)
	}
	for name, value := range object {
		if err := checkName(name); err != nil {
			return err
		}
		if value == nil {
			continue
		}
		if err := checkValue(name, value, depth); err != nil {
			return err
		}
	}
	return nil
}

func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return invalid("the name %.40q must have 1 to %d bytes", name, maxName)
	}
	for _, c := range name {
		if unicode.IsControl(c) || strings.ContainsRune(".$ ", c) {
			return invalid("the name %.40q must not hold %q", name, c)
		}
	}
	return nil
}

// checkValue says what is wrong with the value of a member.
func checkValue(name string, value any, depth int) error {
	switch v := value.(type) {
	case string:
		if len(v) > maxString {
			return invalid("the value of %.40q must have at most %d bytes", name, maxString)
		}
	case json.Number:
		return checkNumber(name, v)
	case map[string]any:
		return checkMembers(v, depth+1)
	case []any:
		return checkArray(name, v, depth+1)
	}
	return nil
}

func checkArray(name string, array []any, depth int) error {
	if depth > maxDepth {
		return invalid("arrays are nested deeper than %d", maxDepth)
	}
	for _, value := range array {
		if value == nil { // null removes members; in an array there is nothing to remove
			return invalid("the array %.40q holds null", name)
		}
		if err := checkValue(name, value, depth); err != nil {
			return err
		}
	}
	return nil
}

func checkNumber(name string, n json.Number) error {
	if strings.ContainsAny(n.String(), ".eE") {
		if f, err := n.Float64(); err != nil || math.IsInf(f, 0) {
			return invalid("the number %.40q is too large", name)
		}
		return nil
	}
	i, err := strconv.ParseInt(n.String(), 10, 64)
	if err != nil || i < minInteger || i > maxInteger {
		return invalid("the integer %.40q must be from %d to %d", name, int64(minInteger), int64(maxInteger))
	}
	return nil
}

// checkSize says whether a section has become too large. The hub answers 403100
// then, as the report Azure/iotedge 7035 shows.
func (s section) checkSize(name string, limit int) error {
	if size := s.root.size(); size > limit {
		return &refusal.Error{
			Code: 403100, Name: "TwinTooLarge", // the number is the hub's, the name ours
			Message: fmt.Sprintf("%s has %d bytes and may have %d", name, size, limit),
		}
	}
	return nil
}

// size counts as the hub does: names and values, at every level.
func (n *node) size() int {
	if n.leaf != nil {
		return size(n.leaf)
	}
	sum := 0
	for name, member := range n.members {
		sum += length(name) + member.size()
	}
	return sum
}

// size counts a value: a number is 8, a boolean 4.
func size(value any) int {
	sum := 0
	switch v := value.(type) {
	case json.Number:
		return 8
	case bool:
		return 4
	case string:
		return length(v)
	case []any:
		for _, element := range v {
			sum += size(element)
		}
	case map[string]any:
		for name, member := range v {
			sum += length(name) + size(member)
		}
	}
	return sum
}

// length counts the characters of a text that are not control characters.
func length(text string) int {
	n := 0
	for _, c := range text {
		if !unicode.IsControl(c) {
			n++
		}
	}
	return n
}
