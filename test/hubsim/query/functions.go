package query

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// function takes from least to most values.
type function struct {
	least, most int
	eval        func(args []any) any
}

// functions by their names in lower case: those of section 5.5, and the others
// that the article on the query language names for routes.
var functions = map[string]function{
	"is_defined":   {1, 1, func(a []any) any { return a[0] != undefined }},
	"is_null":      {1, 1, func(a []any) any { return a[0] == nil }},
	"is_bool":      {1, 1, func(a []any) any { return is[bool](a[0]) }},
	"is_string":    {1, 1, func(a []any) any { return is[string](a[0]) }},
	"is_array":     {1, 1, func(a []any) any { return is[[]any](a[0]) }},
	"is_object":    {1, 1, func(a []any) any { return is[map[string]any](a[0]) }},
	"is_number":    {1, 1, func(a []any) any { return isNumber(a[0]) }},
	"is_primitive": {1, 1, func(a []any) any { return isPrimitive(a[0]) }},

	"starts_with": ofTexts(func(s, part string) any { return strings.HasPrefix(s, part) }),
	"ends_with":   ofTexts(func(s, part string) any { return strings.HasSuffix(s, part) }),
	"contains":    ofTexts(func(s, part string) any { return strings.Contains(s, part) }),
	"index_of":    ofTexts(indexOf),
	"length":      ofText(func(s string) any { return float64(utf8.RuneCountInString(s)) }),
	"upper":       ofText(func(s string) any { return strings.ToUpper(s) }),
	"lower":       ofText(func(s string) any { return strings.ToLower(s) }),
	"substring":   {2, 3, substring},
	"concat":      {2, math.MaxInt, concat},
	"as_number":   {1, 1, asNumber},

	"abs":     ofNumber(math.Abs),
	"exp":     ofNumber(math.Exp),
	"sqrt":    ofNumber(math.Sqrt),
	"ceiling": ofNumber(math.Ceil),
	"floor":   ofNumber(math.Floor),
	"square":  ofNumber(func(x float64) float64 { return x * x }),
	"sign":    ofNumber(sign),
	"power":   {2, 2, power},
}

// ofText is a function of one string.
func ofText(f func(string) any) function {
	return function{1, 1, func(a []any) any {
		if s, ok := a[0].(string); ok {
			return f(s)
		}
		return undefined
	}}
}

// ofTexts is a function of two strings.
func ofTexts(f func(s, part string) any) function {
	return function{2, 2, func(a []any) any {
		s, ok := a[0].(string)
		part, both := a[1].(string)
		if !ok || !both {
			return undefined
		}
		return f(s, part)
	}}
}

// ofNumber is a function of one number.
func ofNumber(f func(float64) float64) function {
	return function{1, 1, func(a []any) any {
		if x, ok := float(a[0]); ok {
			return defined(f(x))
		}
		return undefined
	}}
}

func is[T any](value any) any {
	_, ok := value.(T)
	return ok
}

func isNumber(value any) bool {
	_, ok := float(value)
	return ok
}

func isPrimitive(value any) bool {
	return value == nil || isNumber(value) || is[bool](value) == true || is[string](value) == true
}

func sign(x float64) float64 {
	switch {
	case x > 0:
		return 1
	case x < 0:
		return -1
	}
	return 0
}

func power(a []any) any {
	x, ok := float(a[0])
	y, both := float(a[1])
	if !ok || !both {
		return undefined
	}
	return defined(math.Pow(x, y))
}

// indexOf counts characters; -1 when the part is not there.
func indexOf(s, part string) any {
	before, _, found := strings.Cut(s, part)
	if !found {
		return -1.0
	}
	return float64(utf8.RuneCountInString(before))
}

// substring takes characters from a place, counted from 0, up to the end or so
// many.
func substring(a []any) any {
	s, ok := a[0].(string)
	start, isPlace := float(a[1])
	if !ok || !isPlace {
		return undefined
	}
	characters := []rune(s)
	count := float64(len(characters))
	if len(a) == 3 {
		if count, ok = float(a[2]); !ok {
			return undefined
		}
	}
	if start < 0 || count < 0 {
		return undefined
	}
	from := min(start, float64(len(characters)))
	to := min(from+count, float64(len(characters)))
	return string(characters[int(from):int(to)])
}

func concat(a []any) any {
	var b strings.Builder
	for _, value := range a {
		s, ok := value.(string)
		if !ok {
			return undefined
		}
		b.WriteString(s)
	}
	return b.String()
}

// asNumber reads a string as a number.
func asNumber(a []any) any {
	if x, ok := float(a[0]); ok {
		return x
	}
	if s, ok := a[0].(string); ok {
		if x, err := strconv.ParseFloat(s, 64); err == nil {
			return defined(x)
		}
	}
	return undefined
}
