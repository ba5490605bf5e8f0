package amqp

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// AppendValue appends the encoding of v, which must be one of the Go forms of
// AMQP values (see Symbol and its neighbours) or a []Symbol, which becomes an
// array. Any other type is a bug of this program and panics.
func AppendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, codeNull)
	case bool:
		return appendBool(b, v)
	case string:
		return appendVariable(b, codeString8, v)
	case Symbol:
		return appendVariable(b, codeSymbol8, string(v))
	case []byte:
		return appendVariable(b, codeBinary8, v)
	case time.Time:
		return binary.BigEndian.AppendUint64(append(b, codeTimestamp), uint64(v.UnixMilli()))
	case UUID:
		return append(append(b, codeUUID), v[:]...)
	case List:
		return appendList(b, v)
	case Map:
		return appendMap(b, v)
	case Described:
		b = AppendValue(append(b, codeDescribed), v.Descriptor)
		return AppendValue(b, v.Value)
	case Array:
		return appendArray(b, v)
	case []Symbol:
		items := make([]any, len(v))
		for i, s := range v {
			items[i] = s
		}
		return appendArray(b, Array{Code: codeSymbol32, Items: items})
	}
	return appendNumber(b, v)
}

// StringArray returns texts as an AMQP array of strings.
func StringArray(texts ...string) Array {
	items := make([]any, len(texts))
	for i, s := range texts {
		items[i] = s
	}
	return Array{Code: codeString32, Items: items}
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, codeTrue)
	}
	return append(b, codeFalse)
}

func appendNumber(b []byte, v any) []byte {
	switch v := v.(type) {
	case uint8:
		return append(b, codeUbyte, v)
	case int8:
		return append(b, codeByte, byte(v))
	case uint32:
		return appendUint(b, v)
	case uint64:
		return appendUlong(b, v)
	case int32:
		if int32(int8(v)) == v {
			return append(b, codeSmallInt, byte(v))
		}
	case int64:
		if int64(int8(v)) == v {
			return append(b, codeSmallLong, byte(v))
		}
	}
	code := fixedCode(v)
	return appendFixed(append(b, code), v)
}

func appendUint(b []byte, v uint32) []byte {
	switch {
	case v == 0:
		return append(b, codeUint0)
	case v <= math.MaxUint8:
		return append(b, codeSmallUint, byte(v))
	}
	return binary.BigEndian.AppendUint32(append(b, codeUint), v)
}

func appendUlong(b []byte, v uint64) []byte {
	switch {
	case v == 0:
		return append(b, codeUlong0)
	case v <= math.MaxUint8:
		return append(b, codeSmallUlong, byte(v))
	}
	return binary.BigEndian.AppendUint64(append(b, codeUlong), v)
}

// fixedCode returns the constructor of the full-width form of a number.
func fixedCode(v any) byte {
	switch v := v.(type) {
	case uint16:
		return codeUshort
	case int16:
		return codeShort
	case int32:
		return codeInt
	case int64:
		return codeLong
	case float32:
		return codeFloat
	case float64:
		return codeDouble
	case Char:
		return codeChar
	case Decimal:
		switch len(v) {
		case 4:
			return codeDecimal32
		case 8:
			return codeDecimal64
		case 16:
			return codeDecimal128
		}
	}
	panic(fmt.Sprintf("amqp: no encoding for %T", v))
}

// appendFixed appends a number in full width, without its constructor.
func appendFixed(b []byte, v any) []byte {
	switch v := v.(type) {
	case uint8:
		return append(b, v)
	case int8:
		return append(b, byte(v))
	case uint16:
		return binary.BigEndian.AppendUint16(b, v)
	case int16:
		return binary.BigEndian.AppendUint16(b, uint16(v))
	case uint32:
		return binary.BigEndian.AppendUint32(b, v)
	case int32:
		return binary.BigEndian.AppendUint32(b, uint32(v))
	case Char:
		return binary.BigEndian.AppendUint32(b, uint32(v))
	case float32:
		return binary.BigEndian.AppendUint32(b, math.Float32bits(v))
	case uint64:
		return binary.BigEndian.AppendUint64(b, v)
	case int64:
		return binary.BigEndian.AppendUint64(b, uint64(v))
	case float64:
		return binary.BigEndian.AppendUint64(b, math.Float64bits(v))
	case time.Time:
		return binary.BigEndian.AppendUint64(b, uint64(v.UnixMilli()))
	case UUID:
		return append(b, v[:]...)
	case Decimal:
		return append(b, v...)
	}
	panic(fmt.Sprintf("amqp: no fixed width for %T", v))
}

// appendVariable appends binary, string or symbol; code is the constructor with
// a one-byte length, the one with four bytes stands 0x10 above it.
func appendVariable[T ~string | ~[]byte](b []byte, code byte, v T) []byte {
	if len(v) <= math.MaxUint8 {
		b = append(b, code, byte(len(v)))
	} else {
		b = binary.BigEndian.AppendUint32(append(b, code+0x10), uint32(len(v)))
	}
	return append(b, v...)
}

// openCompound appends a wide head for a list, map or array. closeCompound
// writes size and count into it once the items are there.
func openCompound(b []byte, code byte) ([]byte, int) {
	b = append(b, code, 0, 0, 0, 0, 0, 0, 0, 0)
	return b, len(b)
}

func closeCompound(b []byte, start, count int) []byte {
	binary.BigEndian.PutUint32(b[start-8:], uint32(len(b)-start+4))
	binary.BigEndian.PutUint32(b[start-4:], uint32(count))
	return b
}

func appendList(b []byte, l List) []byte {
	if len(l) == 0 {
		return append(b, codeList0)
	}
	b, start := openCompound(b, codeList32)
	for _, v := range l {
		b = AppendValue(b, v)
	}
	return closeCompound(b, start, len(l))
}

func appendMap(b []byte, m Map) []byte {
	b, start := openCompound(b, codeMap32)
	for _, p := range m {
		b = AppendValue(b, p.Key)
		b = AppendValue(b, p.Value)
	}
	return closeCompound(b, start, 2*len(m))
}

func appendArray(b []byte, a Array) []byte {
	b, start := openCompound(b, codeArray32)
	if a.Descriptor != nil {
		b = AppendValue(append(b, codeDescribed), a.Descriptor)
	}
	code := a.Code
	if code >= codeBinary8 {
		code |= 0x10 // lengths of four bytes fit whatever the items hold
	}
	b = append(b, code)
	for _, v := range a.Items {
		b = appendItem(b, code, v)
	}
	return closeCompound(b, start, len(a.Items))
}

// appendItem appends v in the form that the constructor code, written once for
// the whole array, asks for.
func appendItem(b []byte, code byte, v any) []byte {
	switch code {
	case codeNull, codeTrue, codeFalse, codeUint0, codeUlong0, codeList0:
		return b
	case codeBoolean:
		if v.(bool) {
			return append(b, 1)
		}
		return append(b, 0)
	case codeSmallUint:
		return append(b, byte(v.(uint32)))
	case codeSmallUlong:
		return append(b, byte(v.(uint64)))
	case codeSmallInt:
		return append(b, byte(v.(int32)))
	case codeSmallLong:
		return append(b, byte(v.(int64)))
	}
	if code < codeBinary8 {
		return appendFixed(b, v)
	}
	return appendSized(b, v)
}

// appendSized appends an array's item of variable length: what AppendValue
// writes, without the constructor and always with a length of four bytes.
func appendSized(b []byte, v any) []byte {
	full := AppendValue(nil, v)
	switch {
	case full[0] == codeList0:
		return append(b, 0, 0, 0, 4, 0, 0, 0, 0)
	case full[0]&0x10 != 0:
		return append(b, full[1:]...)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(full[1]))
	return append(b, full[2:]...)
}
