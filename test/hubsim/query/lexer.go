package query

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// kind is what a token is.
type kind uint8

const (
	end    kind = iota // of the text
	word               // a name or a keyword
	text               // a string
	number             // a number
	symbol             // an operator, a bracket or a comma
)

// token is the smallest part of a query.
type token struct {
	kind     kind
	text     string  // as written; of a string what it means
	number   float64 // of a number
	position int     // in characters, from 1
}

// String writes the token for an error.
func (t token) String() string {
	if t.kind == end {
		return "the end"
	}
	return strconv.Quote(t.text)
}

func wrong(format string, args ...any) *refusal.Error {
	return refusal.New(400004, "the query is wrong: "+fmt.Sprintf(format, args...))
}

// wrongAt is wrong with the place, in characters from 1.
func wrongAt(position int, format string, args ...any) *refusal.Error {
	return wrong("%s at character %d", fmt.Sprintf(format, args...), position)
}

// symbols of two characters come first, so that they are found first.
var symbols = []string{
	"!=", "<>", "<=", ">=", "=", "<", ">", "+", "-", "*", "/", "%", "(", ")", "[", "]", ",", ".",
}

// lexer cuts a text into tokens.
type lexer struct {
	rest     string // not read yet
	position int    // of rest, in characters from 1
	dot      bool   // the last token was one: a name follows, whatever it starts with
}

// tokens returns all tokens of a text; the last one is the end.
func tokens(s string) ([]token, error) {
	if !utf8.ValidString(s) {
		return nil, wrong("it is not UTF-8")
	}
	if n := utf8.RuneCountInString(s); n > MaxText {
		return nil, wrong("it has %d characters and may have %d", n, MaxText)
	}
	l := &lexer{rest: s, position: 1}
	var list []token
	for {
		t, err := l.next()
		if err != nil {
			return nil, err
		}
		l.dot = t.kind == symbol && t.text == "."
		list = append(list, t)
		if t.kind == end {
			return list, nil
		}
	}
}

// next cuts off one token.
func (l *lexer) next() (token, error) {
	l.take(len(l.rest) - len(strings.TrimLeftFunc(l.rest, unicode.IsSpace)))
	if l.rest == "" {
		return token{kind: end, position: l.position}, nil
	}
	first, _ := utf8.DecodeRuneInString(l.rest)
	switch {
	case first == '\'' || first == '"':
		return l.quoted(byte(first))
	case first >= '0' && first <= '9' && !l.dot:
		return l.numeral()
	case inWord(first):
		n := strings.IndexFunc(l.rest, func(c rune) bool { return !inWord(c) })
		if n < 0 {
			n = len(l.rest)
		}
		at := l.position
		return token{kind: word, text: l.take(n), position: at}, nil
	}
	for _, s := range symbols {
		if strings.HasPrefix(l.rest, s) {
			at := l.position
			return token{kind: symbol, text: l.take(len(s)), position: at}, nil
		}
	}
	return token{}, wrongAt(l.position, "%q means nothing", first)
}

// take moves on by n bytes and returns them.
func (l *lexer) take(n int) string {
	taken := l.rest[:n]
	l.rest = l.rest[n:]
	l.position += utf8.RuneCountInString(taken)
	return taken
}

// inWord says whether a name may hold the character. $ is in $version.
func inWord(c rune) bool {
	return c == '_' || c == '$' || unicode.IsLetter(c) || unicode.IsDigit(c)
}

// numeral cuts off a number: decimal, or hexadecimal behind 0x.
func (l *lexer) numeral() (token, error) {
	n, isExponent := 0, false
	for n < len(l.rest) {
		c := l.rest[n]
		sign := (c == '+' || c == '-') && isExponent
		if !sign && c != '.' && !inWord(rune(c)) {
			break
		}
		isExponent = (c == 'e' || c == 'E') && !strings.HasPrefix(l.rest, "0x")
		n++
	}
	at := l.position
	t := token{kind: number, text: l.take(n), position: at}
	if hex, ok := strings.CutPrefix(t.text, "0x"); ok {
		i, err := strconv.ParseUint(hex, 16, 64)
		if err != nil {
			return token{}, wrongAt(at, "%s is not a number", t)
		}
		t.number = float64(i)
		return t, nil
	}
	f, err := strconv.ParseFloat(t.text, 64)
	if err != nil || strings.ContainsAny(t.text, "xX_") { // which Go takes, but JSON does not
		return token{}, wrongAt(at, "%s is not a number", t)
	}
	t.number = f
	return t, nil
}

// quoted cuts off a string. Its quote is written twice inside; a backslash before
// a quote or a backslash, or before u and four hexadecimal digits, means that
// character. Any other backslash is itself.
func (l *lexer) quoted(quote byte) (token, error) {
	at := l.position
	var b strings.Builder
	for n := 1; n < len(l.rest); {
		c := l.rest[n]
		following := l.rest[n+1:]
		switch {
		case c == quote && strings.HasPrefix(following, string(quote)):
			b.WriteByte(quote)
			n += 2
		case c == quote:
			l.take(n + 1)
			return token{kind: text, text: b.String(), position: at}, nil
		case c == '\\':
			meaning, length := escaped(following)
			b.WriteString(meaning)
			n += 1 + length
		default:
			b.WriteByte(c)
			n++
		}
	}
	return token{}, wrongAt(at, "the string does not end")
}

// escaped returns what stands behind a backslash, and how many bytes of it that
// takes.
func escaped(s string) (meaning string, length int) {
	if s != "" && strings.IndexByte(`'"\`, s[0]) >= 0 {
		return s[:1], 1
	}
	if len(s) >= 5 && s[0] == 'u' {
		if code, err := strconv.ParseUint(s[1:5], 16, 16); err == nil {
			return string(rune(code)), 5
		}
	}
	return `\`, 0
}
