package modbus_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/drivers/serial/modbus"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestChecksum(t *testing.T) {
	if got := modbus.Checksum([]byte("123456789")); got != 0x4B37 {
		t.Errorf("got %04X, want the published 4B37", got)
	}
}

func bits(text string) (all []bool) {
	for _, c := range text {
		all = append(all, c == '1')
	}
	return all
}

// Frames captured between other implementations, or computed from the text of the
// specification.
func TestFrames(t *testing.T) {
	w := func(f modbus.Function, address uint16, bits []bool, values ...uint16) *modbus.Request {
		return &modbus.Request{Unit: 0x11, Function: f, Address: address, Count: uint16(len(bits) + len(values)), Bits: bits, Values: values}
	}
	for _, c := range []struct {
		request       *modbus.Request
		frame, answer string
		want          string
		wantErr       error
	}{
		{modbus.Read(0x11, modbus.ReadHolding, 107, 3), "11 03 006B 0003 7687", "11 03 06 AE41 5652 4340 49AD", "[] [44609 22098 17216]", nil},
		{modbus.Read(0x11, modbus.ReadHolding, 107, 3), "11 03 006B 0003 7687", "11 03 06 0000 AE41 5652 2214", "[] [0 44609 22098]", nil},
		{modbus.Read(0x11, modbus.ReadHolding, 0x257, 1), "11 03 0257 0001 36F2", "11 83 02 C134", "", modbus.IllegalAddress},
		{w(modbus.WriteCoil, 172, bits("1")), "11 05 00AC FF00 4E8B", "11 05 00AC FF00 4E8B", "[] []", nil},
		{w(modbus.WriteRegister, 1, nil, 3), "11 06 0001 0003 9A9B", "11 06 0001 0003 9A9B", "[] []", nil},
		{w(modbus.WriteRegisters, 1, nil, 10, 0x102), "11 10 0001 0002 04 000A 0102 C6F0", "11 10 0001 0002 1298", "[] []", nil},
		{modbus.Read(0x11, modbus.ReadCoils, 19, 37), "11 01 0013 0025 0E84", "", "", modbus.ErrShort},
		{modbus.Read(0x11, modbus.ReadInputs, 0xC4, 22), "11 02 00C4 0016 BAA9", "", "", modbus.ErrShort},
		{modbus.Read(0x11, modbus.ReadRegisters, 8, 1), "11 04 0008 0001 B298", "11 04 02 000A F8F4", "[] [10]", nil},
		{w(modbus.WriteCoils, 0x13, bits("1011001110")), "11 0F 0013 000A 02 CD01 BF0B", "11 0F 0013 000A 2699", "[] []", nil},
		{modbus.Read(0x0A, modbus.ReadCoils, 1, 1), "", "0A 81 02 B053", "", modbus.IllegalAddress},
		{modbus.Read(0x11, modbus.ReadHolding, 107, 3), "", "11 03 06 AE41 5652 4340 49AE", "", modbus.ErrChecksum},
		{modbus.Read(0x12, modbus.ReadHolding, 107, 3), "", "11 03 06 AE41 5652 4340 49AD", "", modbus.ErrOther},
		{modbus.Read(0x11, modbus.ReadHolding, 107, 2), "", "11 03 06 AE41 5652 4340 49AD", "", modbus.ErrOther},
		{w(modbus.WriteRegister, 1, nil, 4), "", "11 06 0001 0003 9A9B", "", modbus.ErrOther},
	} {
		if err := c.request.Validate(); err != nil {
			t.Errorf("%+v: %v", c.request, err)
			continue
		}
		if got := c.request.Frame(); c.frame != "" && !reflect.DeepEqual(got, unhex(t, c.frame)) {
			t.Errorf("%+v: got % X, want %s", c.request, got, c.frame)
		}
		a, err := c.request.Parse(unhex(t, c.answer))
		if !errors.Is(err, c.wantErr) {
			t.Errorf("%s: got %v, want %v", c.answer, err, c.wantErr)
			continue
		}
		if err == nil {
			if got := fmt.Sprint(a.Bits, a.Registers); got != c.want {
				t.Errorf("%s: got %s, want %s", c.answer, got, c.want)
			}
		}
	}
	a, err := modbus.Read(1, modbus.ReadCoils, 0, 10).Parse(seal("01 01 02 CD01"))
	if err != nil || fmt.Sprint(a.Bits) != fmt.Sprint(bits("1011001110")) {
		t.Errorf("coils: %v, %v", a, err)
	}
}

// seal appends the checksum to a frame written in hex.
func seal(text string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		panic(err)
	}
	crc := modbus.Checksum(b)
	return append(b, byte(crc), byte(crc>>8))
}

func TestValidate(t *testing.T) {
	for _, r := range []*modbus.Request{
		modbus.Read(0, modbus.ReadHolding, 0, 1), modbus.Read(248, modbus.ReadHolding, 0, 1),
		modbus.Read(1, modbus.ReadHolding, 0, 0), modbus.Read(1, modbus.ReadHolding, 0, 126),
		modbus.Read(1, modbus.ReadCoils, 0, 2001), modbus.Read(1, modbus.ReadHolding, 65535, 2),
		modbus.Read(1, 0x2B, 0, 1),
		{Unit: 1, Function: modbus.WriteRegister, Count: 1},
		{Unit: 1, Function: modbus.WriteCoils, Count: 2, Bits: []bool{true}},
		{Unit: 1, Function: modbus.WriteRegister, Count: 2, Values: []uint16{1, 2}},
	} {
		if err := r.Validate(); !errors.Is(err, modbus.ErrRange) {
			t.Errorf("%+v: got %v", r, err)
		}
	}
	everybody := &modbus.Request{Function: modbus.WriteRegister, Count: 1, Values: []uint16{1}}
	if err := everybody.Validate(); err != nil || everybody.Answered() {
		t.Errorf("to everybody: %v", err)
	}
}

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		kind  modbus.Type
		order modbus.Order
		regs  []uint16
		want  any
	}{
		{modbus.Int16, modbus.ABCD, []uint16{0xFFFE}, int64(-2)},
		{modbus.Int16, modbus.DCBA, []uint16{0xFEFF}, int64(-2)},
		{modbus.Uint16, modbus.ABCD, []uint16{0xFFFE}, uint64(65534)},
		{modbus.Uint32, modbus.ABCD, []uint16{0x0102, 0x0304}, uint64(0x01020304)},
		{modbus.Uint32, modbus.CDAB, []uint16{0x0304, 0x0102}, uint64(0x01020304)},
		{modbus.Uint32, modbus.BADC, []uint16{0x0201, 0x0403}, uint64(0x01020304)},
		{modbus.Uint32, modbus.DCBA, []uint16{0x0403, 0x0201}, uint64(0x01020304)},
		{modbus.Uint64, modbus.DCBA, []uint16{0x0807, 0x0605, 0x0403, 0x0201}, uint64(0x0102030405060708)},
		{modbus.Float32, modbus.ABCD, []uint16{0x41BC, 0x0000}, 23.5},
		{modbus.Float32, modbus.ABCD, []uint16{0x7FC0, 0}, nil},
		{modbus.Float64, modbus.ABCD, []uint16{0x7FF0, 0, 0, 0}, nil},
		{modbus.Text, modbus.ABCD, []uint16{0x4142, 0x4320, 0x2000}, "ABC"},
		{modbus.Text, modbus.BADC, []uint16{0x4241, 0x0043}, "ABC"},
	} {
		got, err := modbus.Decode(c.kind, c.order, c.regs)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %s %04X: got %v, %v, want %v", c.kind, c.order, c.regs, got, err, c.want)
		}
	}
	if _, err := modbus.Decode(modbus.Int32, modbus.ABCD, []uint16{1}); !errors.Is(err, modbus.ErrRange) {
		t.Errorf("too few registers: %v", err)
	}
}

// What is written is read back, in every type and order.
func TestEncodeIsTheInverse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]modbus.Type{
			modbus.Int16, modbus.Uint16, modbus.Int32, modbus.Uint32, modbus.Int64, modbus.Uint64, modbus.Float32, modbus.Float64,
		}).Draw(t, "type")
		order := rapid.SampledFrom([]modbus.Order{modbus.ABCD, modbus.CDAB, modbus.BADC, modbus.DCBA}).Draw(t, "order")
		v := rapid.OneOf(rapid.Float64(), rapid.Map(rapid.Int64Range(-70000, 70000), func(n int64) float64 { return float64(n) }),
			rapid.Map(rapid.Int64(), func(n int64) float64 { return float64(n) })).Draw(t, "value")
		regs, err := modbus.Encode(kind, order, v)
		if err != nil {
			if !errors.Is(err, modbus.ErrRange) {
				t.Fatal(err)
			}
			return
		}
		got, err := modbus.Decode(kind, order, regs)
		if err != nil {
			t.Fatal(err)
		}
		var back float64
		switch n := got.(type) {
		case int64:
			back = float64(n)
		case uint64:
			back = float64(n)
		case float64:
			back = n
		}
		want := v
		if kind == modbus.Float32 {
			want = float64(float32(v))
		}
		if back != want && !(math.IsInf(want, 0) && got == nil) {
			t.Fatalf("%s %s: wrote %v, read %v", kind, order, v, got)
		}
	})
}

// Whatever comes back on the line: no panic, and an answer only with a good
// checksum of the right slave.
func FuzzParse(f *testing.F) {
	f.Add(byte(3), uint16(3), unhex(f, "11 03 06 AE41 5652 4340 49AD"))
	f.Add(byte(1), uint16(37), unhex(f, "11 83 02 C134"))
	f.Add(byte(16), uint16(2), unhex(f, "11 10 0001 0002 1298"))
	f.Fuzz(func(t *testing.T, function byte, count uint16, frame []byte) {
		r := &modbus.Request{Unit: 0x11, Function: modbus.Function(function), Address: 1, Count: count}
		if n := int(count % 200); function >= 5 {
			r.Count, r.Bits, r.Values = uint16(n), make([]bool, n), make([]uint16, n)
		}
		if r.Validate() != nil {
			return
		}
		if a, err := r.Parse(frame); err == nil && (a == nil || frame[0] != 0x11) {
			t.Errorf("% X is an answer", frame)
		}
	})
}
