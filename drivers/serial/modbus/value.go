package modbus

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Type is how a value lies in registers.
type Type string

// The types.
const (
	Int16   Type = "int16"
	Uint16  Type = "uint16"
	Int32   Type = "int32"
	Uint32  Type = "uint32"
	Int64   Type = "int64"
	Uint64  Type = "uint64"
	Float32 Type = "float32"
	Float64 Type = "float64"
	Bool    Type = "bool"   // one register: on unless it is 0; written as 1 and 0
	Bits    Type = "bits"   // the 16 bits of a register, the lowest first
	Text    Type = "string" // two characters a register, filled up with zeros or spaces
)

// sizes are how many registers a type takes; Text says it itself.
var sizes = map[Type]int{Int16: 1, Uint16: 1, Bool: 1, Bits: 1, Int32: 2, Uint32: 2, Float32: 2, Int64: 4, Uint64: 4, Float64: 4}

// Registers returns how many registers a value of the type takes, 0 for Text and
// for what is no type.
func (t Type) Registers() int { return sizes[t] }

// Order is in which order the bytes of a value lie in its registers, as device
// manuals write it: A is the highest byte.
type Order string

// The orders of 32-bit values; longer values follow the same two rules.
const (
	ABCD Order = "ABCD" // high register first, high byte first: the protocol's own
	CDAB Order = "CDAB" // low register first
	BADC Order = "BADC" // low byte first in each register
	DCBA Order = "DCBA" // both
)

// Valid says whether the order is one of the four.
func (o Order) Valid() bool { return o == ABCD || o == CDAB || o == BADC || o == DCBA }

// bytesOf returns the bytes of registers, highest first. It is its own inverse.
func (o Order) bytesOf(b []byte) []byte {
	b = slices.Clone(b)
	if o == BADC || o == DCBA {
		for i := 0; i+1 < len(b); i += 2 {
			b[i], b[i+1] = b[i+1], b[i]
		}
	}
	if o == CDAB || o == DCBA {
		for i, j := 0, len(b)-2; i < j; i, j = i+2, j-2 {
			b[i], b[i+1], b[j], b[j+1] = b[j], b[j+1], b[i], b[i+1]
		}
	}
	return b
}

// Decode reads a value from registers: an int64, a uint64, a float64, a bool, a
// []bool or a string.
// registers must be as many as the type takes. What is not a number (NaN) is nil:
// meters say with it that there is no reading.
func Decode(t Type, o Order, registers []uint16) (any, error) {
	if n := t.Registers(); n != len(registers) && (t != Text || len(registers) == 0) {
		return nil, fmt.Errorf("%w: %s in %d registers", ErrRange, t, len(registers))
	}
	raw := make([]byte, 0, 2*len(registers))
	for _, r := range registers {
		raw = binary.BigEndian.AppendUint16(raw, r)
	}
	if t == Text {
		if o == BADC || o == DCBA {
			raw = BADC.bytesOf(raw)
		}
		text, _, _ := strings.Cut(string(raw), "\x00")
		return strings.ToValidUTF8(strings.TrimRight(text, " "), "\uFFFD"), nil
	}
	b := o.bytesOf(raw)
	switch t {
	case Bool:
		return registers[0] != 0, nil
	case Bits:
		v := binary.BigEndian.Uint16(b)
		bits := make([]bool, 16)
		for i := range bits {
			bits[i] = v>>i&1 != 0
		}
		return bits, nil
	case Int16:
		return int64(int16(binary.BigEndian.Uint16(b))), nil
	case Uint16:
		return uint64(binary.BigEndian.Uint16(b)), nil
	case Int32:
		return int64(int32(binary.BigEndian.Uint32(b))), nil
	case Uint32:
		return uint64(binary.BigEndian.Uint32(b)), nil
	case Int64:
		return int64(binary.BigEndian.Uint64(b)), nil
	case Uint64:
		return binary.BigEndian.Uint64(b), nil
	case Float32:
		return number(float64(math.Float32frombits(binary.BigEndian.Uint32(b)))), nil
	default:
		return number(math.Float64frombits(binary.BigEndian.Uint64(b))), nil
	}
}

func number(v float64) any {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return v
}

// EncodeBits writes a Bool, from one bit, or Bits, from 16.
func EncodeBits(t Type, o Order, bits []bool) ([]uint16, error) {
	if t == Bool && len(bits) != 1 || t == Bits && len(bits) != 16 || t != Bool && t != Bits {
		return nil, fmt.Errorf("%w: %d bits as %s", ErrRange, len(bits), t)
	}
	var v uint16
	for i, on := range bits {
		if on {
			v |= 1 << i
		}
	}
	if t == Bits {
		v = binary.BigEndian.Uint16(o.bytesOf(binary.BigEndian.AppendUint16(nil, v)))
	}
	return []uint16{v}, nil
}

// EncodeText writes a text to so many registers, filled up with zeros.
func EncodeText(o Order, text string, registers int) ([]uint16, error) {
	if len(text) > 2*registers {
		return nil, fmt.Errorf("%w: %d bytes of text in %d registers", ErrRange, len(text), registers)
	}
	raw := append(make([]byte, 0, 2*registers), text...)[:2*registers]
	if o == BADC || o == DCBA {
		raw = BADC.bytesOf(raw)
	}
	values := make([]uint16, registers)
	for i := range values {
		values[i] = binary.BigEndian.Uint16(raw[2*i:])
	}
	return values, nil
}

// EncodeInt writes a whole number to registers exactly, for integer types.
func EncodeInt(t Type, o Order, negative bool, magnitude uint64) ([]uint16, error) {
	bits := 16 * t.Registers()
	limit := uint64(math.MaxUint64) >> (64 - max(bits, 1))
	switch t {
	case Int16, Int32, Int64:
		limit >>= 1
		if negative {
			limit++
		}
	case Uint16, Uint32, Uint64:
		if negative {
			limit = 0
		}
	default:
		return nil, fmt.Errorf("%w: a whole number as %s", ErrRange, t)
	}
	if magnitude > limit {
		return nil, fmt.Errorf("%w: %d as %s", ErrRange, magnitude, t)
	}
	if negative {
		magnitude = -magnitude
	}
	return o.registers(binary.BigEndian.AppendUint64(nil, magnitude)[8-bits/8:]), nil
}

// registers cuts bytes, highest first, into registers.
func (o Order) registers(b []byte) []uint16 {
	b = o.bytesOf(b)
	registers := make([]uint16, len(b)/2)
	for i := range registers {
		registers[i] = binary.BigEndian.Uint16(b[2*i:])
	}
	return registers
}

// Encode writes a number to registers, for a numeric type. It fails with
// ErrRange when the type cannot hold the number exactly enough: integers must be
// whole and in range.
func Encode(t Type, o Order, v float64) ([]uint16, error) {
	bad := fmt.Errorf("%w: %v as %s", ErrRange, v, t)
	var b []byte
	switch t {
	case Float32:
		if math.IsNaN(v) || math.Abs(v) > math.MaxFloat32 {
			return nil, bad
		}
		b = binary.BigEndian.AppendUint32(nil, math.Float32bits(float32(v)))
	case Float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, bad
		}
		b = binary.BigEndian.AppendUint64(nil, math.Float64bits(v))
	case Int16, Uint16, Int32, Uint32, Int64, Uint64:
		bits := 16 * t.Registers()
		low, high := 0.0, math.Ldexp(1, bits)
		if t == Int16 || t == Int32 || t == Int64 {
			low, high = -math.Ldexp(1, bits-1), math.Ldexp(1, bits-1)
		}
		if v != math.Trunc(v) || v < low || v >= high {
			return nil, bad
		}
		n := uint64(v)
		if v < 0 {
			n = uint64(int64(v))
		}
		b = binary.BigEndian.AppendUint64(nil, n)[8-bits/8:]
	default:
		return nil, bad
	}
	return o.registers(b), nil
}
