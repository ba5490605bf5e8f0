// Package nmea reads sentences of NMEA 0183 and makes JSON of those that say
// where and when: RMC, GGA, GSA and ZDA, of any talker. Others become their fields
// as they are. It does no I/O and keeps no state.
package nmea

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
)

// Why a text is no sentence.
var (
	ErrNone     = errors.New("no sentence")
	ErrChecksum = errors.New("a wrong checksum, or none")
)

// Sentence is one with a good checksum.
type Sentence struct {
	Talker string // "GP"; "P" for a maker's own
	Type   string // "RMC"
	Fields []string
}

// Parse finds the sentence at the end of a line: noise may stand before it, since
// its first character is in no other place of a sentence.
func Parse(line []byte) (*Sentence, error) {
	start := bytes.LastIndexAny(line, "$!")
	if start < 0 {
		return nil, ErrNone
	}
	text := bytes.TrimRight(line[start+1:], " \r")
	for _, c := range text {
		if c < 0x20 || c > 0x7E {
			return nil, ErrNone
		}
	}
	star := bytes.LastIndexByte(text, '*')
	if star < 0 || len(text) != star+3 {
		return nil, ErrChecksum
	}
	want, err := strconv.ParseUint(string(text[star+1:]), 16, 8)
	if err != nil {
		return nil, ErrChecksum
	}
	if Checksum(text[:star]) != byte(want) {
		return nil, ErrChecksum
	}
	address, rest, _ := strings.Cut(string(text[:star]), ",")
	s := &Sentence{Fields: strings.Split(rest, ",")}
	switch {
	case strings.HasPrefix(address, "P") && len(address) > 1:
		s.Talker, s.Type = "P", address[1:]
	case len(address) == 5:
		s.Talker, s.Type = address[:2], address[2:]
	default:
		return nil, ErrNone
	}
	return s, nil
}

// Checksum is the exclusive or of all characters between the first one and the
// asterisk.
func Checksum(text []byte) (sum byte) {
	for _, c := range text {
		sum ^= c
	}
	return sum
}

// message is what becomes of a sentence. What the receiver leaves empty is
// absent.
type message struct {
	Sentence   string   `json:"sentence"`
	Talker     string   `json:"talker"`
	Time       string   `json:"time,omitempty"` // RFC 3339, or of the day alone
	Valid      *bool    `json:"valid,omitempty"`
	Latitude   *float64 `json:"lat,omitempty"`        // degrees, north positive
	Longitude  *float64 `json:"lon,omitempty"`        // degrees, east positive
	Altitude   *float64 `json:"altitude,omitempty"`   // m above mean sea level
	Speed      *float64 `json:"speed,omitempty"`      // m/s over ground
	Course     *float64 `json:"course,omitempty"`     // degrees, true
	Quality    *float64 `json:"quality,omitempty"`    // of GGA: 0 none, 1 GPS, 2 differential …
	Satellites *float64 `json:"satellites,omitempty"` // in use
	Fix        *float64 `json:"fix,omitempty"`        // of GSA: 1 none, 2 flat, 3 in space
	PDOP       *float64 `json:"pdop,omitempty"`
	HDOP       *float64 `json:"hdop,omitempty"`
	VDOP       *float64 `json:"vdop,omitempty"`
	Fields     []string `json:"fields,omitempty"` // of sentences that are not known
}

// metersPerSecond is a knot (1852 m in an hour).
const metersPerSecond = 1852.0 / 3600

// JSON is the sentence as a JSON object.
func (s *Sentence) JSON() []byte {
	m := message{Sentence: s.Type, Talker: s.Talker}
	switch s.Type {
	case "RMC":
		valid := s.field(1) == "A"
		m.Valid = &valid
		m.Time = dated(s.field(0), s.field(8))
		m.Latitude, m.Longitude = s.degrees(2), s.degrees(4)
		if m.Speed = s.number(6); m.Speed != nil {
			*m.Speed = round(*m.Speed*metersPerSecond, 3)
		}
		m.Course = s.number(7)
	case "GGA":
		m.Time = clock(s.field(0))
		m.Latitude, m.Longitude = s.degrees(1), s.degrees(3)
		m.Quality, m.Satellites, m.HDOP = s.number(5), s.number(6), s.number(7)
		if s.field(9) == "M" {
			m.Altitude = s.number(8)
		}
	case "GSA":
		m.Fix = s.number(1)
		m.PDOP, m.HDOP, m.VDOP = s.number(14), s.number(15), s.number(16)
		n := 0.0
		for i := 2; i < 14; i++ {
			if s.field(i) != "" {
				n++
			}
		}
		m.Satellites = &n
	case "ZDA":
		if day, month, year := s.field(1), s.field(2), s.field(3); len(day) == 2 && len(month) == 2 && len(year) == 4 {
			m.Time = joined(year, month, day, clock(s.field(0)))
		}
	default:
		m.Fields = s.Fields
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil // numbers are finite, texts printable
	}
	return b
}

func (s *Sentence) field(i int) string {
	if i >= len(s.Fields) {
		return ""
	}
	return s.Fields[i]
}

func (s *Sentence) number(i int) *float64 {
	text := s.field(i)
	if text == "" || strings.Trim(text, "0123456789.-+") != "" {
		return nil
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// degrees reads ddmm.mmm and the letter of the hemisphere behind it.
func (s *Sentence) degrees(i int) *float64 {
	v := s.number(i)
	if v == nil || *v < 0 {
		return nil
	}
	whole := math.Floor(*v / 100)
	d := whole + (*v-100*whole)/60
	limit := 90.0
	switch s.field(i + 1) {
	case "N":
	case "S":
		d = -d
	case "E":
		limit = 180
	case "W":
		limit, d = 180, -d
	default:
		return nil
	}
	if math.Abs(d) > limit || *v-100*whole >= 60 {
		return nil
	}
	d = round(d, 7)
	return &d
}

func round(v float64, digits int) float64 {
	p := math.Pow10(digits)
	return math.Round(v*p) / p
}

func isDigits(text string) bool { return text != "" && strings.Trim(text, "0123456789") == "" }

// clock reads hhmmss.ss; "" if it is none.
func clock(text string) string {
	whole, fraction, _ := strings.Cut(text, ".")
	if len(whole) != 6 || !isDigits(whole) || fraction != "" && !isDigits(fraction) ||
		whole[:2] > "23" || whole[2:4] > "59" || whole[4:] > "60" {
		return ""
	}
	out := whole[:2] + ":" + whole[2:4] + ":" + whole[4:]
	if fraction = strings.TrimRight(fraction, "0"); fraction != "" {
		out += "." + fraction
	}
	return out
}

// dated joins the time with a date ddmmyy. Its years are those from 1980, when
// there were receivers.
func dated(text, date string) string {
	if len(date) != 6 || !isDigits(date) {
		return clock(text)
	}
	century := "20"
	if date[4:] >= "80" {
		century = "19"
	}
	return joined(century+date[4:], date[2:4], date[:2], clock(text))
}

func joined(year, month, day, clock string) string {
	ok := isDigits(year + month + day)
	if !ok || clock == "" || month < "01" || month > "12" || day < "01" || day > "31" {
		return clock
	}
	return year + "-" + month + "-" + day + "T" + clock + "Z"
}
