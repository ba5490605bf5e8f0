package gatt

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Vectors of leaf-protocols, section 4, then ones computed from the definition of each
// format.
func TestDecode(t *testing.T) {
	for _, tt := range []struct {
		uuid, format string
		scale        float64
		data         string
		want         any
	}{
		{"2a6e", "", 0, "5c08", 21.4},
		{"2a6e", "", 0, "0cfe", -5.0},
		{"2a6e", "", 0, "0080", nil},
		{"2a6f", "", 0, "a616", 57.98},
		{"2a6f", "", 0, "ffff", nil},
		{"2a6d", "", 0, "50770f00", 101358.4},
		{"2a6c", "", 0, "f0d8ff", -100.0},
		{"2a19", "", 0, "64", int64(100)},
		{"2a29", "", 0, "52757576690000", "Ruuvi"},
		{"", "uint8", 0, "ff", int64(255)},
		{"", "sint8", 0, "ff", int64(-1)},
		{"", "uint48", 0, "010000000080", int64(0x800000000001)},
		{"", "sint48", 0, "ffffffffffff", int64(-1)},
		{"", "sint64", 0, "feffffffffffffff", int64(-2)},
		{"", "uint16", 10, "0300", 30.0},
		{"", "float32", 0, "cdcccc3d", 0.1},
		{"", "float32", 0, "0000c07f", nil},
		{"", "float64", 0, "000000000000f83f", 1.5},
		{"", "sfloat", 0, "72f1", 37.0},  // mantissa 0x172, exponent -1
		{"", "sfloat", 0, "ffff", -0.1},  // mantissa -1, exponent -1
		{"", "sfloat", 0, "ff07", nil},   // NaN
		{"", "sfloat", 0, "0008", nil},   // not at this resolution
		{"", "sfloat", 0, "0208", nil},   // minus infinity
		{"", "sfloat", 0, "0508", -2043}, // the smallest number
		{"", "float", 0, "6c0100ff", 36.4},
		{"", "float", 0, "ffff7f00", nil},
		{"", "boolean", 0, "01", true},
		{"", "bytes", 0, "00ff", "00ff"},
		{"", "", 0, "", ""},
	} {
		v := Value{Format: tt.format, Scale: tt.scale}
		if tt.uuid != "" {
			var ok bool
			if _, v, ok = Known("0000" + tt.uuid + "-0000-1000-8000-00805f9b34fb"); !ok {
				t.Fatalf("%s is not known", tt.uuid)
			}
		}
		if n, ok := tt.want.(int); ok {
			tt.want = float64(n)
		}
		got, err := v.Decode(unhex(t, tt.data))
		if err != nil || got != tt.want {
			t.Errorf("%s%s %s: %v (%T), %v; want %v", tt.uuid, tt.format, tt.data, got, got, err, tt.want)
		}
	}
}

func TestWrongLengthsAreErrors(t *testing.T) {
	for _, format := range Formats {
		if format == "utf8" || format == "bytes" {
			continue
		}
		right := 0
		for n := range 12 {
			if _, err := (Value{Format: format}).Decode(make([]byte, n)); err == nil {
				right++
			} else if !errors.Is(err, ErrLength) {
				t.Errorf("%s with %d octets: %v", format, n, err)
			}
		}
		if right != 1 {
			t.Errorf("%s takes %d lengths, want one", format, right)
		}
	}
	if _, err := (Value{Format: "utf8"}).Decode([]byte{0xff}); !errors.Is(err, ErrType) {
		t.Errorf("text that is none: %v", err)
	}
}

func TestEncode(t *testing.T) {
	for _, tt := range []struct {
		format string
		scale  float64
		value  any
		want   string
		err    error
	}{
		{"uint8", 0, 1.0, "01", nil},
		{"uint8", 0, 256.0, "", ErrRange},
		{"uint8", 0, -1.0, "", ErrRange},
		{"sint16", 0.01, 21.4, "5c08", nil},
		{"sint16", 0.01, -5.0, "0cfe", nil},
		{"sint24", 0, -8388608.0, "000080", nil},
		{"sint24", 0, 8388608.0, "", ErrRange},
		{"float32", 0, 0.1, "cdcccc3d", nil},
		{"float32", 0, 1e300, "", ErrRange},
		{"float64", 0, 1.5, "000000000000f83f", nil},
		{"sfloat", 0, 37.0, "72f1", nil},
		{"sfloat", 0, 1e12, "", ErrRange},
		{"boolean", 0, true, "01", nil},
		{"boolean", 0, 1.0, "", ErrType},
		{"utf8", 0, "on", "6f6e", nil},
		{"utf8", 0, 1.0, "", ErrType},
		{"bytes", 0, "00FF", "00ff", nil},
		{"bytes", 0, "0", "", ErrType},
		{"", 0, nil, "", ErrType},
	} {
		got, err := Value{Format: tt.format, Scale: tt.scale}.Encode(tt.value)
		if !errors.Is(err, tt.err) || err == nil && !bytes.Equal(got, unhex(t, tt.want)) {
			t.Errorf("%s %v: %x, %v; want %s, %v", tt.format, tt.value, got, err, tt.want, tt.err)
		}
	}
}

// FuzzValue: whatever a device says is read without a fault, and a number that is read
// can be written again and is then the same.
func FuzzValue(f *testing.F) {
	f.Add(uint8(0), []byte{1})
	f.Add(uint8(12), []byte{0x72, 0xf1})
	f.Add(uint8(13), []byte{0x6c, 1, 0, 0xff})
	f.Fuzz(func(t *testing.T, format uint8, b []byte) {
		v := Value{Format: Formats[int(format)%len(Formats)]}
		got, err := v.Decode(b)
		if err != nil || got == nil {
			return
		}
		if n, ok := got.(int64); ok {
			if n > 1<<52 || n < -1<<52 {
				return // more than a float64, which JSON's numbers are, holds exactly
			}
			got = float64(n)
		}
		again, err := v.Encode(got)
		if err != nil {
			if x, ok := got.(float64); ok && (x > 1e19 || x < -1e19) {
				return // at the very edge, rounded beyond it
			}
			t.Fatalf("%s %x is %v, which cannot be written: %v", v.Format, b, got, err)
		}
		if same, err := v.Decode(again); err != nil || !equal(same, got) {
			t.Errorf("%s %x is %v, written and read again it is %v, %v", v.Format, b, got, same, err)
		}
	})
}

func equal(a, b any) bool {
	if n, ok := a.(int64); ok {
		a = float64(n)
	}
	x, isX := a.(float64)
	y, isY := b.(float64)
	if isX && isY {
		d := x - y
		return d == 0 || d < 0 && -d <= 1e-9*abs(x) || d > 0 && d <= 1e-9*abs(x)
	}
	return a == b
}

func abs(x float64) float64 {
	if x < 0 {
		return -x
	}
	return x
}
