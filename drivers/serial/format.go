package serial

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fieldgate/fieldgate/drivers/serial/nmea"
	"github.com/fieldgate/fieldgate/drivers/serial/port"
	"github.com/fieldgate/fieldgate/drivers/serial/senml"
	"github.com/fieldgate/fieldgate/gateway"
)

// reading is what a format makes of a line.
type reading struct {
	leaf        string // id of the leaf that sent it
	seq         string // the leaf's own number of the line, in decimal; "" if it has none
	contentType string
	body        []byte // may alias the line
}

// A format turns the text of one line into readings, of one leaf each, or says why
// there is none in it. now is when the line came. It keeps no state: a bad line
// cannot harm the next one. A new line protocol is one more function of this type.
type format func(l line, now gateway.Instant) (rs []reading, why Discard)

// newFormat picks the format that the configuration names.
func newFormat(cfg Config) format {
	one := func(f func(l line) (reading, Discard)) format {
		return func(l line, _ gateway.Instant) ([]reading, Discard) {
			r, why := f(l)
			return []reading{r}, why
		}
	}
	switch cfg.Format {
	case FormatText:
		return one(func(l line) (reading, Discard) { return textLine(l, cfg.Leaf) })
	case FormatNMEA:
		return one(func(l line) (reading, Discard) { return nmeaLine(l, cfg.Leaf, cfg.Sentences) })
	case FormatSenML:
		return func(l line, now gateway.Instant) ([]reading, Discard) {
			return senmlLine(l, cfg.Leaf, now, cfg.MaxTimeOff.D())
		}
	}
	return one(func(l line) (reading, Discard) { return jsonLine(l, cfg.Leaf, cfg.LeafField) })
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
		if json.Unmarshal(fields[leafField], &leaf) != nil || !port.ValidLeaf(leaf) {
			return reading{}, DiscardNoLeaf
		}
	}
	return reading{leaf: leaf, seq: sequence(fields["seq"]), contentType: "application/json", body: text}, ""
}

// nmeaLine takes a sentence with a good checksum, which a tail of one has not, nor
// noise. Sentences that nobody asked for are not worth a message: a receiver sends
// ten a second.
func nmeaLine(l line, leaf string, wanted []string) (reading, Discard) {
	if len(bytes.TrimSpace(l.text)) == 0 {
		return reading{}, blank
	}
	s, err := nmea.Parse(l.text)
	switch {
	case err != nil && l.torn:
		return reading{}, DiscardTorn
	case errors.Is(err, nmea.ErrChecksum):
		return reading{}, DiscardChecksum
	case err != nil:
		return reading{}, DiscardNoise
	case !slices.Contains(wanted, s.Type):
		return reading{}, DiscardOther
	}
	return reading{leaf: leaf, contentType: "application/json", body: s.JSON()}, ""
}

// senmlLine takes a pack and resolves it. Without a leaf the records belong to the
// leaf that their base name names, each leaf's together, in the order of the pack;
// then a pack in which one record has no such name is none.
func senmlLine(l line, leaf string, now gateway.Instant, maxOff time.Duration) ([]reading, Discard) {
	text := bytes.TrimSpace(l.text)
	if len(text) == 0 {
		return nil, blank
	}
	at := now.Wall
	if now.Quality == gateway.Unsynced {
		at = time.Time{}
	}
	records, err := senml.Resolve(text, at)
	switch {
	case err != nil && l.torn:
		return nil, DiscardTorn
	case err != nil && (!utf8.Valid(text) || bytes.ContainsFunc(text, isControl)):
		return nil, DiscardNoise
	case err != nil:
		return nil, DiscardNotSenML
	}
	var leaves []string
	byLeaf := make(map[string][]senml.Record)
	for _, r := range records {
		id := leaf
		if id == "" {
			if id = strings.TrimRight(r.Base, "-:./_"); !port.ValidLeaf(id) {
				return nil, DiscardNoLeaf
			}
		}
		if byLeaf[id] == nil {
			leaves = append(leaves, id)
		}
		byLeaf[id] = append(byLeaf[id], r)
	}
	var rs []reading
	for _, id := range leaves {
		rs = append(rs, reading{leaf: id, contentType: "application/senml+json", body: senml.Encode(byLeaf[id], at, maxOff)})
	}
	return rs, ""
}

// sequence returns the number if it is one that is written back as it came: an
// integer from 0 to 2^64-1 without fraction or exponent.
func sequence(raw json.RawMessage) string {
	if _, err := strconv.ParseUint(string(raw), 10, 64); err != nil {
		return ""
	}
	return string(raw)
}
