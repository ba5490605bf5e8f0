// Package gatt reads and writes the values of GATT characteristics: the formats of
// the Bluetooth SIG, with a scale and a unit, and the characteristics of sensors whose
// format everybody knows. It is pure: it knows no radio.
package gatt

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Why a value cannot be read or written.
var (
	ErrLength = errors.New("has another length than its format")
	ErrRange  = errors.New("does not fit into its format")
	ErrType   = errors.New("is of another type than its format")
)

// Value says how a value is written. The zero Value is bytes, as hexadecimal.
type Value struct {
	Format  string  // one of Formats; "" is "bytes"
	Scale   float64 // by which a number on air is multiplied; 0 is 1
	Unit    string  // of the result, as it is written
	Unknown *int64  // the number on air that stands for "not known"; nil: there is none
}

// integers are the whole numbers: how many octets, and whether signed. All are little
// endian (Core Specification, volume 3, part G, section 2.4).
var integers = map[string]struct {
	octets int
	signed bool
}{
	"uint8": {1, false}, "uint16": {2, false}, "uint24": {3, false}, "uint32": {4, false}, "uint48": {6, false},
	"sint8": {1, true}, "sint16": {2, true}, "sint24": {3, true}, "sint32": {4, true}, "sint48": {6, true}, "sint64": {8, true},
}

// Formats are the names of all formats: whole numbers; IEEE 754 (float32, float64) and
// IEEE 11073-20601 (sfloat, float) numbers; boolean, text, and bytes, which are written
// as hexadecimal.
var Formats = append(slices.Sorted(maps.Keys(integers)), "float32", "float64", "sfloat", "float", "boolean", "utf8", "bytes")

// Decode reads a value: a float64, an int64, a bool or a string; nil for one that is
// marked as not known. b is not kept.
func (v Value) Decode(b []byte) (any, error) {
	if f, ok := integers[v.Format]; ok {
		if len(b) != f.octets {
			return nil, ErrLength
		}
		n := integer(b, f.signed)
		if v.Unknown != nil && n == *v.Unknown {
			return nil, nil
		}
		if v.Scale == 0 || v.Scale == 1 {
			return n, nil
		}
		return v.scaled(float64(n)), nil
	}
	switch v.Format {
	case "boolean":
		if len(b) != 1 {
			return nil, ErrLength
		}
		return b[0] != 0, nil
	case "utf8":
		s := strings.TrimRight(string(b), "\x00")
		if !utf8.ValidString(s) {
			return nil, ErrType
		}
		return s, nil
	case "", "bytes":
		return hex.EncodeToString(b), nil
	}
	return v.decodeFloat(b)
}

func (v Value) decodeFloat(b []byte) (any, error) {
	var x float64
	switch {
	case v.Format == "float32" && len(b) == 4:
		// The shortest decimal that is this number, not the longest.
		x, _ = strconv.ParseFloat(strconv.FormatFloat(float64(math.Float32frombits(binary.LittleEndian.Uint32(b))), 'g', -1, 32), 64)
	case v.Format == "float64" && len(b) == 8:
		x = math.Float64frombits(binary.LittleEndian.Uint64(b))
	case v.Format == "sfloat" && len(b) == 2:
		x = medical(int64(binary.LittleEndian.Uint16(b)), 12)
	case v.Format == "float" && len(b) == 4:
		x = medical(int64(binary.LittleEndian.Uint32(b)), 24)
	default:
		return nil, ErrLength
	}
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil, nil // no number that JSON could carry
	}
	return v.scaled(x), nil
}

// medical reads a number of IEEE 11073-20601: an exponent to the base of ten above a
// mantissa of so many bits. The five values around the smallest mantissa are no
// numbers (ISO/IEEE 11073-20601, section 12.6).
func medical(raw int64, bits uint) float64 {
	mantissa := raw << (64 - bits) >> (64 - bits)
	largest := int64(1)<<(bits-1) - 1
	if mantissa >= largest-1 || mantissa <= -largest+1 {
		return math.NaN()
	}
	exponent := raw >> bits
	if limit := int64(1) << (bits/3 - 1); exponent >= limit { // 4 bits above 12, 8 above 24
		exponent -= 2 * limit
	}
	return decimal(float64(mantissa) * math.Pow(10, float64(exponent)))
}

func (v Value) scaled(x float64) float64 {
	if v.Scale != 0 {
		x *= v.Scale
	}
	return decimal(x)
}

// decimal takes away what binary fractions add behind the twelfth digit.
func decimal(x float64) float64 {
	y, err := strconv.ParseFloat(strconv.FormatFloat(x, 'g', 12, 64), 64)
	if err != nil {
		return x
	}
	return y
}

// integer reads a little-endian integer of 1 to 8 octets.
func integer(b []byte, signed bool) int64 {
	var n uint64
	for i, x := range b {
		n |= uint64(x) << (8 * i)
	}
	if shift := 64 - 8*len(b); signed {
		return int64(n) << shift >> shift
	}
	return int64(n)
}

// Encode writes a value as JSON has it: a float64, a bool or a string. The slice is
// the caller's.
func (v Value) Encode(value any) ([]byte, error) {
	switch x := value.(type) {
	case float64:
		return v.encodeNumber(x)
	case bool:
		switch {
		case v.Format == "boolean" && x:
			return []byte{1}, nil
		case v.Format == "boolean":
			return []byte{0}, nil
		}
	case string:
		switch v.Format {
		case "utf8":
			return []byte(x), nil
		case "", "bytes":
			b, err := hex.DecodeString(x)
			if err != nil {
				return nil, fmt.Errorf("%w: it is not hexadecimal", ErrType)
			}
			return b, nil
		}
	}
	return nil, fmt.Errorf("%w %s", ErrType, v.name())
}

func (v Value) name() string {
	if v.Format == "" {
		return "bytes"
	}
	return v.Format
}

func (v Value) encodeNumber(x float64) ([]byte, error) {
	if v.Scale != 0 {
		x /= v.Scale
	}
	if f, ok := integers[v.Format]; ok {
		low, high := 0.0, math.Ldexp(1, 8*f.octets)
		if f.signed {
			low, high = -high/2, high/2
		}
		x = math.Round(x)
		if !(x >= low && x < high) {
			return nil, ErrRange
		}
		return binary.LittleEndian.AppendUint64(nil, uint64(int64(x)))[:f.octets], nil
	}
	switch v.Format {
	case "float32":
		if math.Abs(x) > math.MaxFloat32 {
			return nil, ErrRange
		}
		return binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(x))), nil
	case "float64":
		return binary.LittleEndian.AppendUint64(nil, math.Float64bits(x)), nil
	case "sfloat":
		n, err := toMedical(x, 12)
		return binary.LittleEndian.AppendUint16(nil, uint16(n)), err
	case "float":
		n, err := toMedical(x, 24)
		return binary.LittleEndian.AppendUint32(nil, uint32(n)), err
	}
	return nil, fmt.Errorf("%w %s", ErrType, v.name())
}

// toMedical writes a number with as many digits as the mantissa holds.
func toMedical(x float64, bits uint) (int64, error) {
	largest := float64(int64(1)<<(bits-1) - 3)
	lowest := -(1 << (bits/3 - 1))
	for exponent := lowest; exponent <= -lowest-1; exponent++ {
		m := math.Round(x * math.Pow(10, float64(-exponent)))
		if math.Abs(m) <= largest {
			return int64(m)&(1<<bits-1) | int64(exponent)<<bits, nil
		}
	}
	return 0, ErrRange
}

// Known returns how a characteristic of the SIG is written, by its full UUID in lower
// case, and what it is called here.
func Known(uuid string) (name string, v Value, ok bool) {
	k, ok := known[uuid]
	return k.name, k.Value, ok
}

// known are the characteristics of the Environmental Sensing Service, of Battery and
// of Device Information (Bluetooth SIG, GATT Specification Supplement).
var known = func() map[string]struct {
	name string
	Value
} {
	all := make(map[string]struct {
		name string
		Value
	})
	unknown := func(n int64) *int64 { return &n }
	for _, k := range []struct {
		uuid uint16
		name string
		v    Value
	}{
		{0x2A6E, "temperature", Value{"sint16", 0.01, "°C", unknown(-0x8000)}},
		{0x2A6F, "humidity", Value{"uint16", 0.01, "%", unknown(0xFFFF)}},
		{0x2A6D, "pressure", Value{"uint32", 0.1, "Pa", nil}},
		{0x2A6C, "elevation", Value{"sint24", 0.01, "m", nil}},
		{0x2A7B, "dew_point", Value{"sint8", 0, "°C", nil}},
		{0x2A79, "wind_chill", Value{"sint8", 0, "°C", nil}},
		{0x2A7A, "heat_index", Value{"sint8", 0, "°C", nil}},
		{0x2A76, "uv_index", Value{"uint8", 0, "", nil}},
		{0x2A77, "irradiance", Value{"uint16", 0.1, "W/m²", nil}},
		{0x2A70, "wind_speed", Value{"uint16", 0.01, "m/s", nil}},
		{0x2A72, "apparent_wind_speed", Value{"uint16", 0.01, "m/s", nil}},
		{0x2A71, "wind_direction", Value{"uint16", 0.01, "°", nil}},
		{0x2A73, "apparent_wind_direction", Value{"uint16", 0.01, "°", nil}},
		{0x2A74, "gust_factor", Value{"uint8", 0.1, "", nil}},
		{0x2A75, "pollen", Value{"uint24", 0, "1/m³", nil}},
		{0x2A78, "rainfall", Value{"uint16", 0, "mm", nil}},
		{0x2AA3, "barometric_trend", Value{"uint8", 0, "", nil}},
		{0x2A19, "battery", Value{"uint8", 0, "%", nil}},
		{0x2A24, "model", Value{Format: "utf8"}},
		{0x2A25, "serial", Value{Format: "utf8"}},
		{0x2A26, "firmware", Value{Format: "utf8"}},
		{0x2A27, "hardware", Value{Format: "utf8"}},
		{0x2A29, "manufacturer", Value{Format: "utf8"}},
	} {
		all[fmt.Sprintf("0000%04x-0000-1000-8000-00805f9b34fb", k.uuid)] = struct {
			name string
			Value
		}{k.name, k.v}
	}
	return all
}()
