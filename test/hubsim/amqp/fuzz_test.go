package amqp

import (
	"bytes"
	"math"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// leaf values of every type that AppendValue takes.
func drawValue(t *rapid.T, depth int) any {
	kinds := 16
	if depth == 0 {
		kinds = 14
	}
	switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
	case 0:
		return nil
	case 1:
		return rapid.Bool().Draw(t, "bool")
	case 2:
		return rapid.Uint8().Draw(t, "ubyte")
	case 3:
		return rapid.Uint16().Draw(t, "ushort")
	case 4:
		return rapid.Uint32().Draw(t, "uint")
	case 5:
		return rapid.Uint64().Draw(t, "ulong")
	case 6:
		return rapid.Int32().Draw(t, "int")
	case 7:
		return rapid.Int64().Draw(t, "long")
	case 8:
		return math.Float64frombits(rapid.Uint64Range(0, 0x7fefffffffffffff).Draw(t, "double"))
	case 9:
		return time.UnixMilli(rapid.Int64Range(-1<<40, 1<<42).Draw(t, "ms")).UTC()
	case 10:
		return rapid.String().Draw(t, "string")
	case 11:
		return rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "binary")
	case 12:
		return Symbol(rapid.StringMatching(`[a-z:.-]{0,40}`).Draw(t, "symbol"))
	case 13:
		return UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid"))
	case 14:
		list := make(List, 0)
		for range rapid.IntRange(0, 4).Draw(t, "items") {
			list = append(list, drawValue(t, depth-1))
		}
		return list
	default:
		m := make(Map, 0)
		for range rapid.IntRange(0, 4).Draw(t, "pairs") {
			m = append(m, Pair{Symbol(rapid.StringMatching(`[a-z]{1,8}`).Draw(t, "key")), drawValue(t, depth-1)})
		}
		return m
	}
}

// What is encoded is decoded as it was, and nothing is left over.
func TestValuesSurvive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawValue(t, 2)
		d := NewDecoder(AppendValue(nil, want))
		got := d.Value()
		if d.Err() != nil || len(d.Rest()) != 0 {
			t.Fatalf("%#v: %v, %d bytes left", want, d.Err(), len(d.Rest()))
		}
		if !same(got, want) {
			t.Fatalf("got %#v, want %#v", got, want)
		}
	})
}

// same compares values; empty collections are the same whether nil or not.
func same(a, b any) bool {
	switch a := a.(type) {
	case List:
		b, ok := b.(List)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !same(a[i], b[i]) {
				return false
			}
		}
		return true
	case Map:
		b, ok := b.(Map)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if a[i].Key != b[i].Key || !same(a[i].Value, b[i].Value) {
				return false
			}
		}
		return true
	case time.Time:
		b, ok := b.(time.Time)
		return ok && a.Equal(b)
	}
	return reflect.DeepEqual(a, b)
}

func FuzzValue(f *testing.F) {
	f.Add([]byte{0x40})
	f.Add([]byte{0xa1, 3, 'a', 'b', 'c'})
	f.Add([]byte{0xc0, 3, 1, 0x54, 7})
	f.Add([]byte{0xf0, 0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0xa1})
	f.Add([]byte{0, 0x53, 0x70, 0xd0, 0, 0, 0, 4, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		d := NewDecoder(b)
		v := d.Value()
		if d.Err() != nil {
			return
		}
		again := NewDecoder(AppendValue(nil, v))
		again.Value()
		if again.Err() != nil {
			t.Fatalf("%#v cannot be read back: %v", v, again.Err())
		}
	})
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte{0, 0, 0, 8, 2, 0, 0, 0})
	f.Add(AppendFrame(nil, 3, &Open{ContainerID: "c", MaxFrameSize: 512}, nil))
	f.Add(AppendFrame(nil, 0, &Transfer{Handle: 1}, []byte("payload")))
	f.Add(AppendFrame(nil, 0, &Attach{Name: "l", Target: Target("$cbs")}, nil))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if n, err := FrameSize(b, 65536); err != nil || n == 0 || n > len(b) {
			return
		}
		frame, err := ParseFrame(b)
		if err != nil {
			return
		}
		if frame.Type == FrameSASL {
			_, _ = ParseSASLInit(frame.Body)
			return
		}
		_, _, _ = ParsePerformative(frame.Body)
	})
}

func FuzzMessage(f *testing.F) {
	f.Add((&Message{Properties: &Properties{MessageID: "m"}, Data: [][]byte{[]byte("x")}}).Append(nil))
	f.Add((&Message{HasValue: true, Value: "token", Application: Map{{Symbol("a"), int32(1)}}}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage(b)
		if err != nil {
			return
		}
		again, err := ParseMessage(m.Append(nil))
		if err != nil {
			t.Fatalf("%#v cannot be read back: %v", m, err)
		}
		if !bytes.Equal(again.Body(), m.Body()) {
			t.Fatalf("body %q became %q", m.Body(), again.Body())
		}
	})
}
