package serial

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
)

// collect feeds chunks to a splitter and returns the lines with texts of their
// own.
func collect(t interface{ Fatal(...any) }, s *splitter, chunks ...[]byte) []line {
	var all []line
	for _, chunk := range chunks {
		err := s.feed(chunk, func(l line) error {
			l.text = bytes.Clone(l.text)
			all = append(all, l)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func TestSplitter(t *testing.T) {
	const limit = 4
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"ab", ""},
		{"ab\n", "ab(3)"},
		{"ab\r\ncd\n", "ab(4) cd(3)"},
		{"\n\r\n", "(1) (2)"},
		{"abcd\nx\n", "abcd(5) x(2)"},
		{"abcd\r\nx\n", "abcd(6) x(2)"},
		{"abcde\nx\n", "long(6) x(2)"},
		{"abcde\r\nx\n", "long(7) x(2)"},
		{"abcdefghij\r\nx\n", "long(12) x(2)"},
		{"a\rb\n", "a\rb(4)"},
		{"\x00\xff\nx\n", "\x00\xff(3) x(2)"},
	} {
		var got []string
		for _, l := range collect(t, newSplitter(limit), []byte(tt.in)) {
			text := string(l.text)
			if l.tooLong {
				text += "long"
			}
			got = append(got, fmt.Sprintf("%s(%d)", text, l.size))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%q: got %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestOnlyTheFirstLineMayBeTorn(t *testing.T) {
	lines := collect(t, newSplitter(10), []byte("a\nb\n"))
	if !lines[0].torn || lines[1].torn {
		t.Errorf("got %+v, want only the first one torn", lines)
	}

	s := newSplitter(10)
	s.quiet()
	if lines := collect(t, s, []byte("a\n")); lines[0].torn {
		t.Error("a line after silence is torn")
	}

	s = newSplitter(10)
	collect(t, s, []byte("a"))
	s.quiet() // in the middle of the line: its head may still be missing
	if lines := collect(t, s, []byte("b\n")); !lines[0].torn {
		t.Error("a silence within a line made it whole")
	}
}

func TestSplitterKeepsNoMoreThanALine(t *testing.T) {
	s := newSplitter(64)
	noise := bytes.Repeat([]byte{0xff}, 1000)
	for range 1000 {
		collect(t, s, noise)
	}
	if cap(s.text) > 256 {
		t.Errorf("holds %d bytes for lines of 64", cap(s.text))
	}
	if s.rest() != 1000*1000 {
		t.Errorf("counts %d bytes of an endless line, want 1000000", s.rest())
	}
	if lines := collect(t, s, []byte("\nok\n")); !lines[0].tooLong || string(lines[1].text) != "ok" {
		t.Errorf("got %+v, want one that is too long, then ok", lines)
	}
}

func TestFeedStopsAtTheFirstError(t *testing.T) {
	stop, calls := errors.New("stop"), 0
	err := newSplitter(10).feed([]byte("a\nb\nc\n"), func(line) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("got %v after %d lines, want the error after 1", err, calls)
	}
}

// cut cuts data into pieces at random.
func cut(rnd *rand.Rand, data []byte) [][]byte {
	var pieces [][]byte
	for len(data) > 0 {
		n := 1 + rnd.IntN(min(len(data), 40))
		pieces = append(pieces, data[:n])
		data = data[n:]
	}
	return pieces
}

// What a port delivers in one read is chance: it must not change the lines.
func FuzzSplitter(f *testing.F) {
	f.Add([]byte("{\"a\":1}\r\nabc\n\n"), uint64(1))
	f.Add([]byte("\xff\x00\xff\n0123456789abcdef0123456789\r\nx\n"), uint64(2))
	f.Add(bytes.Repeat([]byte{0}, 100), uint64(3))
	f.Add([]byte("0123456789abcdef\r\r\n"), uint64(4))
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		const limit = 16
		whole, pieces := newSplitter(limit), newSplitter(limit)
		want := collect(t, whole, data)
		got := collect(t, pieces, cut(rand.New(rand.NewPCG(seed, 0)), data)...)
		if !slices.EqualFunc(got, want, func(a, b line) bool {
			return bytes.Equal(a.text, b.text) && a.size == b.size && a.torn == b.torn && a.tooLong == b.tooLong
		}) {
			t.Fatalf("in pieces %+v, in one %+v", got, want)
		}
		total := whole.rest()
		for _, l := range want {
			total += l.size
			if len(l.text) > limit || bytes.IndexByte(l.text, '\n') >= 0 || l.tooLong && len(l.text) > 0 {
				t.Fatalf("bad line %+v", l)
			}
		}
		if total != len(data) {
			t.Fatalf("%d bytes accounted for, %d fed", total, len(data))
		}
	})
}

// Valid lines come through exactly once and in order, whatever noise there is
// between them.
func TestValidLinesSurviveNoise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		noise := rapid.OneOf(
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 80), func(b []byte) []byte {
				return append([]byte{0xff}, bytes.ReplaceAll(b, []byte("\n"), nil)...)
			}),
			rapid.Just(bytes.Repeat([]byte{0}, 30)),
			rapid.Just([]byte(`{"n":1`)),
			rapid.Just([]byte("[1,2]")),
			rapid.Just([]byte("I (312) boot: started")),
			rapid.Just(bytes.Repeat([]byte("x"), 500)),
		)
		var stream []byte
		n := rapid.IntRange(0, 30).Draw(t, "lines")
		for i := range n {
			for range rapid.IntRange(0, 2).Draw(t, "noises") {
				stream = append(append(stream, noise.Draw(t, "noise")...), '\n')
			}
			stream = fmt.Appendf(stream, `{"n":%d}%s`, i, rapid.SampledFrom([]string{"\n", "\r\n", " \r\n"}).Draw(t, "end"))
		}
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		parse := newFormat(Config{Format: FormatJSON, Leaf: "x"})
		var got []string
		for _, l := range collect(t, newSplitter(100), cut(rnd, stream)...) {
			if rs, why := parse(l, testClock()); why == "" && !l.tooLong {
				got = append(got, string(rs[0].body))
			}
		}
		for i := range n {
			if want := fmt.Sprintf(`{"n":%d}`, i); i >= len(got) || got[i] != want {
				t.Fatalf("line %d: got %q, want %s", i, got, want)
			}
		}
		if len(got) != n {
			t.Fatalf("%d lines, want %d", len(got), n)
		}
	})
}

// A line at 1 Mbaud carries 0.1 MB/s; the noise must cost little of a core.
func BenchmarkNoise(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 4096)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	s, parse := newSplitter(4096), newFormat(Config{Format: FormatJSON, Leaf: "x"})
	b.SetBytes(int64(len(noise)))
	b.ReportAllocs()
	for b.Loop() {
		_ = s.feed(noise, func(l line) error { parse(l, gateway.Instant{}); return nil })
	}
}
