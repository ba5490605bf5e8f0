package port

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// A hub device id has up to 128 characters from letters, digits and these
// (wire contract, registry: [D: Identity registry]).
const (
	MaxLeafID  = 128
	leafIDSign = "-:.+%_#*?!(),=@$';"
)

// ValidLeaf says whether the text can be the id of a leaf.
func ValidLeaf(id string) bool {
	if id == "" || len(id) > MaxLeafID {
		return false
	}
	for _, r := range id {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && !strings.ContainsRune(leafIDSign, r) {
			return false
		}
	}
	return true
}

// MaxChannel bounds the name of a channel, in bytes. The name is also one level
// of a local MQTT topic.
const MaxChannel = 128

// ValidChannel says whether the text can be a channel; "" can.
func ValidChannel(name string) bool {
	return len(name) <= MaxChannel && !strings.ContainsAny(name, "/+#") && ValidText(name)
}

// ValidText says whether all of a text can be printed.
func ValidText(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}
