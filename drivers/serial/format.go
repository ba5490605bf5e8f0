package serial

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// reading is what a format makes of a line.
type reading struct {
	leaf        string // id of the leaf that sent it
	seq         string // the leaf's own number of the line, in decimal; "" if it has none
	contentType string
	body        []byte // aliases the line
}

// A format turns the text of one line into a reading, or says why there is none
// in it. It keeps no state: a bad line cannot harm the next one. A new line protocol is one more function of this type.
type format func(l line) (r reading, why Discard)

// newFormat picks the format that the configuration names.
func newFormat(cfg Config) format {
	if cfg.Format == FormatText {
		return func(l line) (reading, Discard) { return textLine(l, cfg.Leaf) }
	}
	return func(l line) (reading, Discard) { return jsonLine(l, cfg.Leaf, cfg.LeafField) }
}

// blank is the Discard of a line with nothing in it. Leaves print such lines
// between others; they are neither a reading nor noise.
const blank Discard = "blank"

// textLine takes a line as it is. What is not text, or holds control characters
// other than tab, is what a wrong baud rate or a loose wire looks like. A line
// that may be a tail is discarded: nothing in a text says that its head is
// missing.
func textLine(l line, leaf string) (reading, Discard) {
	switch {
	case len(bytes.TrimSpace(l.text)) == 0:
		return reading{}, blank
	case !utf8.Valid(l.text) || bytes.ContainsFunc(l.text, isControl):
		return reading{}, DiscardNoise
	case l.torn:
		return reading{}, DiscardTorn
	}
	return reading{leaf: leaf, contentType: "text/plain", body: l.text}, ""
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// jsonLine takes a line that is one JSON object. The body stays as the leaf wrote
// it. A line that may be a tail needs no special care: the tail of an object has
// closing braces left over and is not JSON.
func jsonLine(l line, leaf, leafField string) (reading, Discard) {
	text := bytes.TrimSpace(l.text)
	if len(text) == 0 {
		return reading{}, blank
	}
	var fields map[string]json.RawMessage
	ok := text[0] == '{' && utf8.Valid(text) && json.Unmarshal(text, &fields) == nil
	switch {
	case !ok && l.torn:
		return reading{}, DiscardTorn
	case !ok && (!utf8.Valid(text) || bytes.ContainsFunc(text, isControl)):
		return reading{}, DiscardNoise
	case !ok:
		return reading{}, DiscardNotJSON
	}
	if leafField != "" {
		if json.Unmarshal(fields[leafField], &leaf) != nil || !validLeaf(leaf) {
			return reading{}, DiscardNoLeaf
		}
	}
	return reading{leaf: leaf, seq: sequence(fields["seq"]), contentType: "application/json", body: text}, ""
}

// sequence returns the number if it is one that is written back as it came: an
// integer from 0 to 2^64-1 without fraction or exponent.
func sequence(raw json.RawMessage) string {
	if _, err := strconv.ParseUint(string(raw), 10, 64); err != nil {
		return ""
	}
	return string(raw)
}
