package strict

import (
	"encoding"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Nearest returns the known word that was most likely meant, "" for none: one
// with the same parts in another order, one that is few typing errors away, one
// with some parts more or less, one that only goes on longer.
func Nearest(word string, known []string) string {
	known = slices.Sorted(slices.Values(known))
	for _, k := range known {
		if len(parts(k)) == len(parts(word)) && sharesParts(word, k) {
			return k
		}
	}
	best, least := "", 2+len(word)/3
	for _, k := range known {
		if d := distance(word, k); d < least {
			best, least = k, d
		}
	}
	if best != "" {
		return best
	}
	for _, alike := range []func(a, b string) bool{sharesParts, sharesStart} {
		if i := slices.IndexFunc(known, func(k string) bool { return alike(word, k) }); i >= 0 {
			return known[i]
		}
	}
	return ""
}

// parts splits max_packet_size.
func parts(name string) []string {
	return strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return r == '_' || r == '-' })
}

// sharesParts says whether one name has all the parts of the other, like
// cert and cert_file, or packet_size and max_packet_size.
func sharesParts(a, b string) bool {
	short, long := parts(a), parts(b)
	if len(short) > len(long) {
		short, long = long, short
	}
	for _, part := range short {
		if !slices.Contains(long, part) {
			return false
		}
	}
	return len(short) > 0
}

// sharesStart says whether one name goes on where the other ends, like baud and
// baudrate.
func sharesStart(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	return min(len(a), len(b)) >= 4 && (strings.HasPrefix(a, b) || strings.HasPrefix(b, a))
}

// distance counts the typing errors between two words: a letter too many, too
// few, wrong, or two swapped (optimal string alignment). Case and the choice
// between - and _ do not count.
func distance(a, b string) int {
	fold := strings.NewReplacer("-", "_")
	s, t := []rune(fold.Replace(strings.ToLower(a))), []rune(fold.Replace(strings.ToLower(b)))
	if len(s) > maxWord || len(t) > maxWord {
		return maxWord
	}
	var before []int // the row before the last
	last := make([]int, len(t)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(s); i++ {
		row := make([]int, len(t)+1)
		row[0] = i
		for j := 1; j <= len(t); j++ {
			wrong := 1
			if s[i-1] == t[j-1] {
				wrong = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+wrong)
			if i > 1 && j > 1 && s[i-1] == t[j-2] && s[i-2] == t[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(t)]
}

// maxWord bounds the work that a hostile document can cause; no key is longer.
const maxWord = 64

// units that configuration values are written in, and what people write instead.
var units = []struct {
	unit    string
	aliases []string
}{
	{"ms", []string{"msec", "millis", "milliseconds", "millisecond"}},
	{"s", []string{"sec", "secs", "second", "seconds"}},
	{"m", []string{"min", "mins", "minute", "minutes"}},
	{"h", []string{"hr", "hrs", "hour", "hours"}},
	{"d", []string{"day", "days"}},
	{"B", []string{"b", "byte", "bytes"}},
	{"KiB", []string{"k", "kb", "kib", "kbyte", "kilobytes"}},
	{"MiB", []string{"m", "mb", "mib", "mbyte", "megabytes"}},
	{"GiB", []string{"g", "gb", "gib", "gbyte", "gigabytes"}},
}

var numberAndUnit = regexp.MustCompile(`^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*$`)

// withUnit returns text with its unit spelt so that a field of type t takes it,
// "" if there is no way.
func withUnit(text string, t reflect.Type) string {
	found := numberAndUnit.FindStringSubmatch(text)
	if found == nil {
		return ""
	}
	for _, u := range units {
		if !strings.EqualFold(found[2], u.unit) && !slices.Contains(u.aliases, strings.ToLower(found[2])) {
			continue
		}
		better := found[1] + u.unit
		if reflect.New(t).Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(better)) == nil {
			return better
		}
	}
	return ""
}

// betterSpelling returns how a value of the wrong type would be right for the
// field, "" if that cannot be told.
func betterSpelling(field reflect.Value, value any) string {
	switch got := value.(type) {
	case string:
		word := strings.ToLower(strings.TrimSpace(got))
		switch {
		case field.Kind() == reflect.Bool:
			return map[string]string{
				"true": "true", "yes": "true", "on": "true", "1": "true",
				"false": "false", "no": "false", "off": "false", "0": "false",
			}[word]
		case field.CanInt() || field.CanUint() || field.CanFloat():
			if _, err := strconv.ParseFloat(word, 64); err == nil {
				return word
			}
		case field.Kind() == reflect.Slice && field.Type().Elem().Kind() == reflect.String:
			return fmt.Sprintf("[%q]", got)
		}
	case int64, float64, bool:
		if field.Kind() == reflect.String {
			return strconv.Quote(fmt.Sprint(got))
		}
		if n, isInt := got.(int64); isInt && field.Kind() == reflect.Bool && (n == 0 || n == 1) {
			return strconv.FormatBool(n == 1)
		}
	case []any:
		if text, ok := single[string](got); ok && field.Kind() == reflect.String {
			return strconv.Quote(text)
		}
	}
	return ""
}

func single[T any](list []any) (T, bool) {
	if len(list) != 1 {
		var none T
		return none, false
	}
	v, ok := list[0].(T)
	return v, ok
}

var (
	bareWord  = regexp.MustCompile(`^(\s*[A-Za-z0-9_.-]+\s*=\s*)([^"'\[{#\s][^"'#]*?)\s*(#.*)?$`)
	colonPair = regexp.MustCompile(`^\s*([A-Za-z0-9_-]+)\s*:\s*(\S.*?)\s*$`)
	openTable = regexp.MustCompile(`^\s*(\[{1,2})\s*([A-Za-z0-9_.-]+)\s*\]?\s*(#.*)?$`)
	noValue   = regexp.MustCompile(`^\s*([A-Za-z0-9_.-]+)\s*=?\s*(#.*)?$`)
	openQuote = regexp.MustCompile(`^(\s*[A-Za-z0-9_.-]+\s*=\s*)"([^"]*)$`)
	moreQuote = regexp.MustCompile(`^(\s*[A-Za-z0-9_.-]+\s*=\s*)([^"'\[{#\s][^"'#]*)"\s*$`)
)

// syntaxHint says what to write instead of a line that is not TOML, for the
// mistakes that people make most.
func syntaxHint(line string) string {
	mean := func(s string) string { return fmt.Sprintf("did you mean `%s`?", strings.TrimSpace(s)) }
	if p := bareWord.FindStringSubmatch(line); p != nil {
		switch word := strings.ToLower(p[2]); word {
		case "true", "false":
			return mean(p[1] + word)
		case "yes", "on":
			return mean(p[1] + "true")
		case "no", "off":
			return mean(p[1] + "false")
		}
		return "text is written in quotes, " + mean(p[1]+strconv.Quote(p[2]))
	}
	if p := openQuote.FindStringSubmatch(line); p != nil {
		return "the closing quote is missing, " + mean(p[1]+`"`+strings.TrimSpace(p[2])+`"`)
	}
	if p := moreQuote.FindStringSubmatch(line); p != nil {
		return "the opening quote is missing, " + mean(p[1]+`"`+strings.TrimSpace(p[2])+`"`)
	}
	if p := colonPair.FindStringSubmatch(line); p != nil {
		return mean(p[1] + " = " + p[2])
	}
	if p := openTable.FindStringSubmatch(line); p != nil {
		return mean(p[1] + p[2] + strings.Repeat("]", len(p[1])))
	}
	if p := noValue.FindStringSubmatch(line); p != nil {
		return fmt.Sprintf("write a value after `%s =`", p[1])
	}
	return ""
}
