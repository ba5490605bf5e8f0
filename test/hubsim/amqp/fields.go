package amqp

import (
	"encoding/binary"
	"time"
)

// fieldReader reads the fields of a composite type (part 1, section 1.4) in the
// order of the specification. A field that is null, or that the sender left
// out at the end, reads as its default.
type fieldReader struct {
	d    *Decoder // errors go here
	rest Decoder
	n    int // fields left
}

// openFields reads the head of the list that carries a composite type.
func openFields(d *Decoder) fieldReader {
	f := fieldReader{d: d}
	switch code := d.byte(); code {
	case codeList0:
	case codeList8, codeList32:
		f.rest, f.n = d.head(code)
		if f.n > len(f.rest.b) {
			d.fail("%d fields in %d bytes", f.n, len(f.rest.b))
			f.n = 0
		}
	default:
		d.fail("constructor 0x%02x instead of a list", code)
	}
	return f
}

// close skips fields that this program does not know and reports errors.
func (f *fieldReader) close() {
	for ; f.n > 0; f.n-- {
		f.rest.value(0)
	}
	if f.rest.err == nil && len(f.rest.b) > 0 {
		f.rest.fail("%d bytes after the last field", len(f.rest.b))
	}
	if f.d.err == nil && f.rest.err != nil {
		f.d.err, f.d.b = f.rest.err, nil
	}
}

// present steps to the next field and says whether it has a value.
func (f *fieldReader) present() bool {
	if f.n == 0 {
		return false
	}
	f.n--
	if len(f.rest.b) > 0 && f.rest.b[0] == codeNull {
		f.rest.b = f.rest.b[1:]
		return false
	}
	return true
}

func (f *fieldReader) bool() bool {
	if !f.present() {
		return false
	}
	switch code := f.rest.byte(); code {
	case codeTrue:
		return true
	case codeFalse:
		return false
	case codeBoolean:
		return f.rest.byte() != 0
	default:
		f.rest.fail("constructor 0x%02x instead of a boolean", code)
		return false
	}
}

func (f *fieldReader) uint(missing uint32) uint32 {
	if !f.present() {
		return missing
	}
	switch code := f.rest.byte(); code {
	case codeUint0:
		return 0
	case codeSmallUint:
		return uint32(f.rest.byte())
	case codeUint:
		return f.rest.uint32()
	default:
		f.rest.fail("constructor 0x%02x instead of an unsigned integer", code)
		return missing
	}
}

// optionalUint tells a missing field from zero.
func (f *fieldReader) optionalUint() (v uint32, ok bool) {
	if f.n > 0 && len(f.rest.b) > 0 && f.rest.b[0] != codeNull {
		return f.uint(0), true
	}
	f.present()
	return 0, false
}

// field reads a field of the Go form T; typed errors name what came instead.
func field[T any](f *fieldReader, missing T) T {
	if !f.present() {
		return missing
	}
	v := f.rest.value(0)
	t, ok := v.(T)
	if !ok && f.rest.err == nil {
		f.rest.fail("field of type %T instead of %T", v, missing)
	}
	return t
}

func (f *fieldReader) ushort(missing uint16) uint16 { return field(f, missing) }
func (f *fieldReader) ubyte(missing uint8) uint8    { return field(f, missing) }
func (f *fieldReader) ulong() uint64                { return field(f, uint64(0)) }
func (f *fieldReader) string() string               { return field(f, "") }
func (f *fieldReader) symbol() Symbol               { return field(f, Symbol("")) }
func (f *fieldReader) binary() []byte               { return field(f, []byte(nil)) }
func (f *fieldReader) mapped() Map                  { return field(f, Map(nil)) }
func (f *fieldReader) time() time.Time              { return field(f, time.Time{}) }

// any reads a field of any type; nil when it is missing.
func (f *fieldReader) any() any {
	if !f.present() {
		return nil
	}
	return f.rest.value(0)
}

// symbols reads a field that may be one symbol or an array of them.
func (f *fieldReader) symbols() []Symbol {
	switch v := f.any().(type) {
	case nil:
		return nil
	case Symbol:
		return []Symbol{v}
	case Array:
		var list []Symbol
		for _, item := range v.Items {
			if s, ok := item.(Symbol); ok {
				list = append(list, s)
			}
		}
		return list
	default:
		f.rest.fail("field of type %T instead of symbols", v)
		return nil
	}
}

// fieldWriter writes the fields of a composite type. Nulls at the end are left
// out, as the specification allows.
type fieldWriter struct {
	b          []byte
	start      int
	n          int // fields written
	end, count int // of the last field that is not null
}

// openComposite starts a described list with the descriptor code.
func openComposite(b []byte, code uint64) *fieldWriter {
	b = append(b, codeDescribed, codeSmallUlong, byte(code))
	b, start := openCompound(b, codeList32)
	return &fieldWriter{b: b, start: start, end: start}
}

func (w *fieldWriter) close() []byte {
	return closeCompound(w.b[:w.end], w.start, w.count)
}

// value writes a field of any type; nil is null.
func (w *fieldWriter) value(v any) {
	w.b = AppendValue(w.b, v)
	w.n++
	if v != nil {
		w.end, w.count = len(w.b), w.n
	}
}

func (w *fieldWriter) uint(v uint32) {
	w.b = appendUint(w.b, v)
	w.n++
	w.end, w.count = len(w.b), w.n
}

func (w *fieldWriter) bool(v bool) {
	w.b = appendBool(w.b, v)
	w.n++
	w.end, w.count = len(w.b), w.n
}

// flag writes true, or null for false, its default.
func (w *fieldWriter) flag(v bool) {
	if v {
		w.bool(true)
		return
	}
	w.value(nil)
}

// raw writes a field that is encoded already.
func (w *fieldWriter) raw(encoded []byte) {
	w.b = append(w.b, encoded...)
	w.n++
	w.end, w.count = len(w.b), w.n
}

// text, symbolText and the others write null for the empty value.
func (w *fieldWriter) text(v string)       { w.value(unlessEmpty(v)) }
func (w *fieldWriter) symbolText(v Symbol) { w.value(unlessEmpty(v)) }

func unlessEmpty[T comparable](v T) any {
	var empty T
	if v == empty {
		return nil
	}
	return v
}

func (w *fieldWriter) bytes(v []byte) {
	if v == nil {
		w.value(nil)
		return
	}
	w.value(v)
}

func (w *fieldWriter) mapped(v Map) {
	if v == nil {
		w.value(nil)
		return
	}
	w.value(v)
}

func (w *fieldWriter) symbols(v []Symbol) {
	if len(v) == 0 {
		w.value(nil)
		return
	}
	w.value(v)
}

func (w *fieldWriter) time(v time.Time) {
	if v.IsZero() {
		w.value(nil)
		return
	}
	w.value(v)
}

// appendDescriptor appends the numeric descriptor of a section or performative.
func appendDescriptor(b []byte, code byte) []byte {
	return append(b, codeDescribed, codeSmallUlong, code)
}

// descriptor reads a numeric or symbolic descriptor and returns its number; the
// symbols are those of the hub's world, which are few.
func (d *Decoder) descriptor() uint64 {
	if d.byte() != codeDescribed || d.err != nil {
		d.fail("value without descriptor")
		return 0
	}
	if len(d.b) >= 2 && d.b[0] == codeSmallUlong { // what every client writes
		code := d.b[1]
		d.b = d.b[2:]
		return uint64(code)
	}
	switch v := d.value(0).(type) {
	case uint64:
		return v
	case Symbol:
		if code, ok := symbolic[v]; ok {
			return code
		}
		d.fail("unknown descriptor %q", v)
	default:
		d.fail("descriptor of type %T", v)
	}
	return 0
}

// sizePrefix reserves the four bytes of a frame's length.
func putSize(b []byte, start int) []byte {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}
