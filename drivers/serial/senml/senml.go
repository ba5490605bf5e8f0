// Package senml reads packs of SenML (RFC 8428) in JSON and resolves them: base
// fields are worked into each record, so that each stands for itself (section
// 4.6). It does no I/O and keeps no state.
package senml

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Version is the highest that is understood (section 4.1).
const Version = 10

// MaxRecords bounds a pack.
const MaxRecords = 1024

// relative: a time below it is one relative to now (section 4.5.3).
const relative = 1 << 28

// Why a text is no pack that can be used.
var (
	ErrNotJSON = errors.New("not a JSON array of objects")
	ErrVersion = errors.New("a version of SenML that is not known")
	ErrUnknown = errors.New("a field that must be understood and is not")
	ErrName    = errors.New("a record without a name, or with one that is not allowed")
	ErrValue   = errors.New("a record without exactly one value")
	ErrNumber  = errors.New("a number that is none")
	ErrSize    = errors.New("too many records")
)

// Record is one resolved reading. Exactly one of the values is set, or none where
// there is a sum.
type Record struct {
	Base  string // the base name in force: "" for none
	Name  string // whole, with the base name
	Unit  string
	Value *float64
	Text  *string
	Bool  *bool
	Data  *string // base64url without padding
	Sum   *float64

	// Time is when it was measured, by the clock of the leaf or, if that gave only a
	// distance, of whoever calls; zero when neither is known.
	Time time.Time
	// Ago is the distance of a record without a time of its own: 0, or how long
	// before now; negative in the future.
	Ago      time.Duration
	Absolute bool          // Time is of the leaf's own clock
	Update   time.Duration // at the latest after this the next one comes; 0 for not said
}

// field is one record as it stands in the text.
type field struct {
	BVer *float64 `json:"bver"`
	BN   *string  `json:"bn"`
	BT   *float64 `json:"bt"`
	BU   *string  `json:"bu"`
	BV   *float64 `json:"bv"`
	BS   *float64 `json:"bs"`
	N    *string  `json:"n"`
	U    *string  `json:"u"`
	V    *float64 `json:"v"`
	VS   *string  `json:"vs"`
	VB   *bool    `json:"vb"`
	VD   *string  `json:"vd"`
	S    *float64 `json:"s"`
	T    *float64 `json:"t"`
	UT   *float64 `json:"ut"`
}

// base are the base fields in force.
type base struct {
	name, unit       string
	time, value, sum float64
	hasValue, hasSum bool
}

// Resolve reads a pack. now is the time of its arrival, zero if that is not known;
// then records whose time is relative have none. The error is one of those above;
// of a pack with a mistake nothing is used.
func Resolve(text []byte, now time.Time) ([]Record, error) {
	var raw []map[string]json.RawMessage
	var fields []field
	if !utf8.Valid(text) || json.Unmarshal(text, &raw) != nil || json.Unmarshal(text, &fields) != nil || len(raw) == 0 {
		return nil, ErrNotJSON
	}
	if len(raw) > MaxRecords {
		return nil, ErrSize
	}
	var b base
	records := make([]Record, 0, len(fields))
	for i, f := range fields {
		for name := range raw[i] {
			if strings.HasSuffix(name, "_") {
				return nil, fmt.Errorf("%w: %q", ErrUnknown, name)
			}
		}
		if err := b.take(f); err != nil {
			return nil, err
		}
		r, err := b.resolve(f, now)
		if err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	return records, nil
}

// take puts the base fields of a record in force.
func (b *base) take(f field) error {
	if f.BVer != nil && (*f.BVer > Version || *f.BVer < 1 || *f.BVer != math.Trunc(*f.BVer)) {
		return ErrVersion
	}
	if f.BN != nil {
		b.name = *f.BN
	}
	if f.BU != nil {
		b.unit = *f.BU
	}
	if f.BT != nil {
		b.time = *f.BT
	}
	if f.BV != nil {
		b.value, b.hasValue = *f.BV, true
	}
	if f.BS != nil {
		b.sum, b.hasSum = *f.BS, true
	}
	return nil
}

func (b *base) resolve(f field, now time.Time) (r Record, err error) {
	r.Base, r.Name, r.Unit = b.name, b.name, b.unit
	if f.N != nil {
		r.Name += *f.N
	}
	if !ValidName(r.Name) {
		return r, ErrName
	}
	if f.U != nil {
		r.Unit = *f.U
	}
	values := 0
	for _, set := range []bool{f.V != nil, f.VS != nil, f.VB != nil, f.VD != nil} {
		if set {
			values++
		}
	}
	if values > 1 || values == 0 && f.S == nil {
		return r, ErrValue
	}
	r.Text, r.Bool, r.Data = f.VS, f.VB, f.VD
	if f.VD != nil {
		if _, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(*f.VD, "=")); err != nil {
			return r, ErrValue
		}
	}
	if f.V != nil {
		v := exact(*f.V + b.value)
		r.Value = &v
	}
	if f.S != nil {
		s := exact(*f.S + b.sum)
		r.Sum = &s
	}
	if f.UT != nil {
		r.Update = seconds(*f.UT)
	}
	return r, b.when(&r, f, now)
}

// when gives the record its time.
func (b *base) when(r *Record, f field, now time.Time) error {
	t := b.time
	if f.T != nil {
		t += *f.T
	}
	if math.IsInf(t, 0) || t > 1<<40 || t < -1<<40 {
		return ErrNumber
	}
	if r.Absolute = t >= relative; r.Absolute {
		whole, fraction := math.Modf(t)
		r.Time = time.Unix(int64(whole), int64(math.Round(fraction*1e6))*1000).UTC()
		return nil
	}
	r.Ago = -seconds(t)
	if !now.IsZero() {
		r.Time = now.Add(-r.Ago).UTC()
	}
	return nil
}

func seconds(s float64) time.Duration {
	return time.Duration(max(min(s, 1<<32), -1<<32) * float64(time.Second))
}

// exact cuts what binary arithmetic adds behind the digits.
func exact(v float64) float64 {
	short, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 15, 64), 64)
	if err != nil {
		return v
	}
	return short
}

// ValidName says whether a resolved name is allowed (section 4.5.1).
func ValidName(name string) bool {
	for i, c := range name {
		letter := c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("-:./_", c)) {
			return false
		}
	}
	return name != ""
}

// output is a resolved record as it is written.
type output struct {
	N  string       `json:"n"`
	U  string       `json:"u,omitempty"`
	V  *float64     `json:"v,omitempty"`
	VS *string      `json:"vs,omitempty"`
	VB *bool        `json:"vb,omitempty"`
	VD *string      `json:"vd,omitempty"`
	S  *float64     `json:"s,omitempty"`
	T  *json.Number `json:"t,omitempty"`
	UT float64      `json:"ut,omitempty"`
	// What the leaf's clock said, where it was too far off. A receiver ignores
	// fields that it does not know (section 4.4).
	LeafTime *json.Number `json:"leaf_time,omitempty"`
}

// Encode writes resolved records as a pack. A leaf's time that is more than off
// away from now is replaced by now and kept in the field leaf_time; off 0 or a zero
// now take every time as it is.
func Encode(records []Record, now time.Time, off time.Duration) []byte {
	pack := make([]output, len(records))
	for i, r := range records {
		o := output{N: r.Name, U: r.Unit, V: r.Value, VS: r.Text, VB: r.Bool, VD: r.Data, S: r.Sum, UT: r.Update.Seconds()}
		at := r.Time
		if r.Absolute && off > 0 && !now.IsZero() && at.Sub(now).Abs() > off {
			o.LeafTime = unix(at)
			at = now
		}
		switch {
		case !at.IsZero():
			o.T = unix(at)
		case r.Ago != 0:
			n := json.Number(strconv.FormatFloat(-r.Ago.Seconds(), 'f', -1, 64))
			o.T = &n
		}
		pack[i] = o
	}
	b, err := json.Marshal(pack)
	if err != nil {
		return nil // every number was read from JSON, and is finite
	}
	return b
}

// unix is a time in seconds, to the microsecond: a float64 has no more.
func unix(t time.Time) *json.Number {
	text := fmt.Sprintf("%d.%06d", t.Unix(), t.Nanosecond()/1000)
	text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	n := json.Number(text)
	return &n
}
