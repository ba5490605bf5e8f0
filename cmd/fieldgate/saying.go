package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode"
)

// What people read is a line for each thing, in columns. Much of it comes from outside:
// what a hub or a proxy answers, what leaves are called, what is in a certificate. It
// must not make lines or columns of its own, nor move the cursor.

// breaks are what begins a new line or column, and the white space around it.
var breaks = regexp.MustCompile(`\s*[\t-\r\x{85}\x{2028}\x{2029}]\s*`)

// oneLine makes a text one that stays on its line.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, breaks.ReplaceAllString(strings.TrimSpace(text), " "))
}

// say writes one line, whatever is in the arguments.
func say(out io.Writer, format string, args ...any) {
	for i, a := range args {
		switch a := a.(type) {
		case string:
			args[i] = oneLine(a)
		case error:
			args[i] = oneLine(a.Error())
		}
	}
	fmt.Fprintf(out, format+"\n", args...)
}

// putRow writes one line of a table, which out aligns by tabs.
func putRow(out io.Writer, all ...any) {
	say(out, strings.TrimSuffix(strings.Repeat("%v\t", len(all)), "\t"), all...)
}
