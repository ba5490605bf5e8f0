package main

import (
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/fieldgate/fieldgate/drivers/serial/hdlc"
)

// frame is an MQTT-SN CONNECT on the line.
var frame = string(hdlc.Append(nil, []byte("\x0a\x04\x04\x01\x00\x3cpump"), false))

// What is spoken is told from what comes, in whatever pieces it comes.
func TestOverhear(t *testing.T) {
	for _, c := range []struct {
		name, bytes, format string
		sure, wrong         bool // wrong when nothing more comes
		samples             []string
	}{
		{"json after a torn line", "erature\":1}\n{\"temperature\":21.5}\r\n", "json", true, false, []string{`{"temperature":21.5}`}},
		{"json after words", "x\nboot\nversion 3\n{\"t\":1}\n", "json", true, false, []string{`{"t":1}`}},
		{"senml", "[{\"bn\":\"urn:dev:a\",\"n\":\"t\",\"v\":1}]\n", "senml", true, false, []string{`[{"bn":"urn:dev:a","n":"t","v":1}]`}},
		{"nmea", "$GPRMC,225446,A,4916.45,N,12311.12,W,000.5,054.7,191194,020.3,E*68\r\n", "nmea", true, false, []string{"$GPRMC,225446,A,4916.45,N,12311.12,W,000.5,054.7,191194,020.3,E*68"}},
		{"nmea with a wrong checksum", "\n$GPRMC,225446,A*00\r\n", "text", false, false, []string{"$GPRMC,225446,A*00"}},
		{"text, not the torn line", "rn\nT=21.5 C\n", "text", false, false, []string{"T=21.5 C"}},
		{"much text", strings.Repeat("T=21.5 C\n", 9), "text", true, false, []string{"T=21.5 C", "T=21.5 C", "T=21.5 C"}},
		{"mqtt-sn", frame, "mqtt-sn", true, false, nil},
		{"mqtt-sn after a torn frame", frame[4:] + frame, "mqtt-sn", true, false, nil},
		{"a torn line only", "erature\":1}\n", "", false, false, nil},
		{"the wrong speed", "\xf8\x00\x80\xf8", "", false, true, nil},
		{"the wrong speed with an end of a line", "\xf8\x00\n\x80\xf8", "", false, true, nil},
		{"what would move the cursor", "x\nT=1\r\x1b[2J\n", "", false, true, nil},
		{"nothing", "", "", false, false, nil},
	} {
		for _, piece := range []int{1, 7, 1 << 10} {
			var o overheard
			for b := range slices.Chunk([]byte(c.bytes), piece) {
				o.feed(b)
			}
			if o.format != c.format || o.sure() != c.sure || o.wrong(true) != c.wrong || !slices.Equal(o.samples, c.samples) {
				t.Errorf("%s, %d bytes at once: %q, sure %v, wrong %v, %q", c.name, piece, o.format, o.sure(), o.wrong(true), o.samples)
			}
		}
	}
}

// A stream of noise ends the listening at that speed without a pause in it, and costs
// no more memory than a line.
func TestOverhearNoise(t *testing.T) {
	var o overheard
	for range 1000 {
		o.feed([]byte(strings.Repeat("\xf8", 1000)))
	}
	if !o.wrong(false) || cap(o.line) > 4*longestOverheard {
		t.Errorf("wrong %v, %d bytes kept", o.wrong(false), cap(o.line))
	}
}

func FuzzOverhear(f *testing.F) {
	for _, s := range []string{"{\"t\":1}\n", "[{\"n\":\"t\",\"v\":1}]\n", "$GPRMC,225446,A*00\r\n", frame, "a\nb\n", "\xf8\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var whole, single overheard
		whole.feed(b)
		for _, x := range b {
			single.feed([]byte{x})
		}
		if whole.format != single.format || !slices.Equal(whole.samples, single.samples) || whole.noise != single.noise {
			t.Errorf("at once %q %q %d, byte by byte %q %q %d", whole.format, whole.samples, whole.noise, single.format, single.samples, single.noise)
		}
		for _, s := range whole.samples {
			if strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && r != '\t' }) {
				t.Errorf("%q goes to a terminal", s)
			}
		}
		if whole.format != "" && whole.wrong(true) {
			t.Errorf("%s, and wrong", whole.format)
		}
	})
}
