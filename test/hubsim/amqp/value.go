package amqp

import "fmt"

// The Go forms of AMQP values are: nil, bool, uint8 to uint64, int8 to int64,
// float32, float64, string, []byte (binary), time.Time (timestamp, whole
// milliseconds), and the types below.
type (
	// Symbol is a name from a constrained domain, in ASCII.
	Symbol string
	// UUID is a universally unique id in RFC 4122 byte order.
	UUID [16]byte
	// Char is one Unicode character.
	Char rune
	// Decimal is an IEEE 754 decimal number of 4, 8 or 16 bytes, kept as it
	// came.
	Decimal []byte
	// List is a sequence of values of any type.
	List []any
	// Map is a sequence of pairs. The order is kept, and a key is looked up
	// with Get.
	Map []Pair
	// Pair is one entry of a Map.
	Pair struct{ Key, Value any }
	// Array is a sequence of values of one type.
	Array struct {
		Code       byte // the constructor that all items share
		Descriptor any  // of the items; nil when they are not described
		Items      []any
	}
	// Described is a value with a descriptor in front that says what it means.
	Described struct{ Descriptor, Value any }
)

// String writes the id in the usual form with four hyphens.
func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// Get returns the value of the first pair whose key is the text name, as a
// symbol or as a string; nil when there is none.
func (m Map) Get(name string) any {
	for _, p := range m {
		switch k := p.Key.(type) {
		case Symbol:
			if string(k) == name {
				return p.Value
			}
		case string:
			if k == name {
				return p.Value
			}
		}
	}
	return nil
}

// Text returns the value of the pair named name when it is text, else "".
func (m Map) Text(name string) string { return Text(m.Get(name)) }

// Text returns v when it is a string or a symbol, a UUID in its usual form,
// and "" for everything else.
func Text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case Symbol:
		return string(v)
	case UUID:
		return v.String()
	}
	return ""
}

// Constructors of the primitive types (part 1, section 1.6).
const (
	codeDescribed  = 0x00
	codeNull       = 0x40
	codeTrue       = 0x41
	codeFalse      = 0x42
	codeUint0      = 0x43
	codeUlong0     = 0x44
	codeList0      = 0x45
	codeUbyte      = 0x50
	codeByte       = 0x51
	codeSmallUint  = 0x52
	codeSmallUlong = 0x53
	codeSmallInt   = 0x54
	codeSmallLong  = 0x55
	codeBoolean    = 0x56
	codeUshort     = 0x60
	codeShort      = 0x61
	codeUint       = 0x70
	codeInt        = 0x71
	codeFloat      = 0x72
	codeChar       = 0x73
	codeDecimal32  = 0x74
	codeUlong      = 0x80
	codeLong       = 0x81
	codeDouble     = 0x82
	codeTimestamp  = 0x83
	codeDecimal64  = 0x84
	codeDecimal128 = 0x94
	codeUUID       = 0x98
	codeBinary8    = 0xa0
	codeString8    = 0xa1
	codeSymbol8    = 0xa3
	codeBinary32   = 0xb0
	codeString32   = 0xb1
	codeSymbol32   = 0xb3
	codeList8      = 0xc0
	codeMap8       = 0xc1
	codeList32     = 0xd0
	codeMap32      = 0xd1
	codeArray8     = 0xe0
	codeArray32    = 0xf0
)
