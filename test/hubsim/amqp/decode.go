package amqp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
	"unicode/utf8"
)

// ErrDecode is wrapped by every error about bytes that are not AMQP.
var ErrDecode = errors.New("malformed AMQP")

// Bounds against hostile input. The deepest value a client of the hub sends is
// a filter map inside a source inside an attach, four levels.
const (
	maxDepth = 24
	// Items of an array may take no byte at all, so that the length of the
	// input does not bound their number.
	maxEmptyItems = 256
)

// Decoder reads values one after the other. The first error stays: reads after
// it return zero values, so that a caller checks Err once at the end. A Decoder
// belongs to one goroutine.
type Decoder struct {
	b   []byte
	err error
}

// NewDecoder reads from b. Binary values that it returns alias b.
func NewDecoder(b []byte) *Decoder { return &Decoder{b: b} }

// Err returns the first error, which wraps ErrDecode.
func (d *Decoder) Err() error { return d.err }

// Rest returns what has not been read.
func (d *Decoder) Rest() []byte { return d.b }

func (d *Decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: "+format, append([]any{ErrDecode}, args...)...)
		d.b = nil
	}
}

// take returns the next n bytes; nil after an error.
func (d *Decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.fail("%d bytes wanted, %d left", n, len(d.b))
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

func (d *Decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("value cut short")
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *Decoder) uint16() uint16 {
	if p := d.take(2); p != nil {
		return binary.BigEndian.Uint16(p)
	}
	return 0
}

func (d *Decoder) uint32() uint32 {
	if p := d.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (d *Decoder) uint64() uint64 {
	if p := d.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

// Value reads the next value.
func (d *Decoder) Value() any { return d.value(0) }

func (d *Decoder) value(depth int) any {
	if depth > maxDepth {
		d.fail("more than %d levels", maxDepth)
		return nil
	}
	code := d.byte()
	if d.err != nil {
		return nil // a byte that is not there reads as the mark of a descriptor
	}
	if code == codeDescribed {
		descriptor := d.value(depth + 1)
		v := d.value(depth + 1)
		return Described{descriptor, v}
	}
	return d.primitive(code, depth)
}

// primitive reads the value that follows the constructor code.
func (d *Decoder) primitive(code byte, depth int) any {
	switch code >> 4 {
	case 0x4:
		return d.emptyValue(code)
	case 0x5:
		return d.oneByte(code)
	case 0x6, 0x7, 0x8, 0x9:
		return d.fixed(code)
	case 0xa:
		return d.variable(code, int(d.byte()))
	case 0xb:
		return d.variable(code, d.length32())
	case 0xc, 0xd:
		return d.compound(code, depth)
	case 0xe, 0xf:
		return d.array(code, depth)
	}
	d.fail("constructor 0x%02x", code)
	return nil
}

func (d *Decoder) emptyValue(code byte) any {
	switch code {
	case codeNull:
		return nil
	case codeTrue:
		return true
	case codeFalse:
		return false
	case codeUint0:
		return uint32(0)
	case codeUlong0:
		return uint64(0)
	case codeList0:
		return List{}
	}
	d.fail("constructor 0x%02x", code)
	return nil
}

func (d *Decoder) oneByte(code byte) any {
	v := d.byte()
	switch code {
	case codeUbyte:
		return v
	case codeByte:
		return int8(v)
	case codeSmallUint:
		return uint32(v)
	case codeSmallUlong:
		return uint64(v)
	case codeSmallInt:
		return int32(int8(v))
	case codeSmallLong:
		return int64(int8(v))
	case codeBoolean:
		if v > 1 {
			d.fail("boolean 0x%02x", v)
		}
		return v == 1
	}
	d.fail("constructor 0x%02x", code)
	return nil
}

func (d *Decoder) fixed(code byte) any {
	switch code {
	case codeUshort:
		return d.uint16()
	case codeShort:
		return int16(d.uint16())
	case codeUint:
		return d.uint32()
	case codeInt:
		return int32(d.uint32())
	case codeFloat:
		return math.Float32frombits(d.uint32())
	case codeChar:
		c := d.uint32()
		if c > utf8.MaxRune {
			d.fail("character 0x%x", c)
		}
		return Char(c)
	case codeUlong:
		return d.uint64()
	case codeLong:
		return int64(d.uint64())
	case codeDouble:
		return math.Float64frombits(d.uint64())
	case codeTimestamp:
		return time.UnixMilli(int64(d.uint64())).UTC()
	case codeDecimal32:
		return Decimal(d.take(4))
	case codeDecimal64:
		return Decimal(d.take(8))
	case codeDecimal128:
		return Decimal(d.take(16))
	case codeUUID:
		var u UUID
		copy(u[:], d.take(len(u)))
		return u
	}
	d.fail("constructor 0x%02x", code)
	return nil
}

func (d *Decoder) variable(code byte, n int) any {
	p := d.take(n)
	if d.err != nil {
		return nil
	}
	switch code {
	case codeBinary8, codeBinary32:
		return p
	case codeString8, codeString32:
		if !utf8.Valid(p) {
			d.fail("string is not UTF-8")
		}
		return string(p)
	case codeSymbol8, codeSymbol32:
		if !ascii(p) {
			d.fail("symbol is not ASCII")
		}
		return Symbol(p)
	}
	d.fail("constructor 0x%02x", code)
	return nil
}

func ascii(p []byte) bool {
	for _, c := range p {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// length32 reads a four-byte length, and fails on one that no input can have.
func (d *Decoder) length32() int {
	n := d.uint32()
	if n > math.MaxInt32 {
		d.fail("length %d", n)
		return 0
	}
	return int(n)
}

// head reads size and count of a list, map or array whose constructor is code,
// and returns a decoder over its items.
func (d *Decoder) head(code byte) (items Decoder, count int) {
	wide := code&0x10 != 0
	size := 0
	if wide {
		size = d.length32()
	} else {
		size = int(d.byte())
	}
	items = Decoder{b: d.take(size)}
	if d.err != nil {
		return items, 0
	}
	if wide {
		count = items.length32()
	} else {
		count = int(items.byte())
	}
	if items.err != nil {
		d.err = items.err
	}
	return items, count
}

func (d *Decoder) compound(code byte, depth int) any {
	items, count := d.head(code)
	isMap := false
	switch code {
	case codeMap8, codeMap32:
		isMap = true
	case codeList8, codeList32:
	default:
		d.fail("constructor 0x%02x", code)
	}
	if count > len(items.b) {
		d.fail("%d items in %d bytes", count, len(items.b))
	}
	if isMap && count%2 != 0 {
		d.fail("map with an odd number of items")
	}
	if d.err != nil {
		return nil
	}
	if isMap {
		m := make(Map, count/2)
		for i := range m {
			m[i] = Pair{items.value(depth + 1), items.value(depth + 1)}
		}
		return finish(d, &items, m)
	}
	l := make(List, count)
	for i := range l {
		l[i] = items.value(depth + 1)
	}
	return finish(d, &items, l)
}

// finish carries the items' error over to d and insists that the items filled
// the space given to them.
func finish[T any](d, items *Decoder, v T) any {
	if items.err == nil && len(items.b) > 0 {
		items.fail("%d bytes after the last item", len(items.b))
	}
	if items.err != nil {
		d.err, d.b = items.err, nil
		return nil
	}
	return v
}

func (d *Decoder) array(code byte, depth int) any {
	if code != codeArray8 && code != codeArray32 {
		d.fail("constructor 0x%02x", code)
		return nil
	}
	items, count := d.head(code)
	if d.err != nil {
		return nil
	}
	var a Array
	a.Code = items.byte()
	if a.Code == codeDescribed {
		a.Descriptor = items.value(depth + 1)
		a.Code = items.byte()
	}
	if count > max(len(items.b), maxEmptyItems) || depth >= maxDepth {
		items.fail("array of %d items", count)
		count = 0
	}
	a.Items = make([]any, count)
	for i := range a.Items {
		a.Items[i] = items.primitive(a.Code, depth+1)
	}
	return finish(d, &items, a)
}
