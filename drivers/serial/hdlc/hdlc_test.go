package hdlc

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// frames returns what a reader finds.
func frames(b []byte) (all [][]byte, d Discards) {
	var r Reader
	r.Feed(b, func(content []byte) { all = append(all, bytes.Clone(content)) })
	return all, r.Discards
}

func TestCheckSequence(t *testing.T) {
	if got := ^fcs(fcsInit, []byte("123456789")); got != 0x906E {
		t.Errorf("got %04X, want the published 906E", got)
	}
}

func TestFrames(t *testing.T) {
	for _, c := range []struct {
		content, frame string
		flow           bool
	}{
		{"0216", "7E02164049 7E", false},
		{"030500", "7E0305001057 7E", false},
		{"0D0CD252421C1D7A6570687972", "7E0D0CD252421C1D7A657068797270A3 7E", false},
		{"017E7D1113FF", "7E017D5E7D5D7D317D33FFED39 7E", true},
	} {
		content := unhex(t, c.content)
		if got := Append(nil, content, c.flow); !bytes.Equal(got, unhex(t, c.frame)) {
			t.Errorf("%s: got %X, want %s", c.content, got, c.frame)
		}
		if all, _ := frames(unhex(t, c.frame)); len(all) != 1 || !bytes.Equal(all[0], content) {
			t.Errorf("%s: read %X", c.frame, all)
		}
	}
}

func TestDiscards(t *testing.T) {
	long := Append(nil, make([]byte, MaxContent+1), false)
	for _, c := range []struct {
		name  string
		bytes []byte
		want  Discards
		count int
	}{
		{"boot messages", append([]byte("boot v1\r\n"), unhex(t, "7E021640497E")...), Discards{Noise: 9}, 1},
		{"one flag between frames", unhex(t, "7E021640497E021640497E"), Discards{}, 2},
		{"many flags", unhex(t, "7E7E7E7E021640497E7E"), Discards{}, 1},
		{"wrong sum", unhex(t, "7E021640487E021640497E"), Discards{Sum: 1}, 1},
		{"short", unhex(t, "7E02167E7E027E"), Discards{Short: 2}, 0},
		{"aborted", unhex(t, "7E02167D7E021640497E"), Discards{Aborted: 1}, 1},
		{"too long", append(long, unhex(t, "021640497E")...), Discards{Long: 1}, 1},
		{"cut off", unhex(t, "7E021640"), Discards{}, 0},
		{"any octet escaped", unhex(t, "7E7D2216 4049 7E"), Discards{}, 1},
	} {
		all, d := frames(c.bytes)
		if len(all) != c.count || d != c.want {
			t.Errorf("%s: %d frames, %+v; want %d, %+v", c.name, len(all), d, c.count, c.want)
		}
	}
}

// What is sent comes out, in order, however the line cuts it up, with noise between
// that has no flag.
func TestEverythingComesThrough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		contents := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 1, 40), 0, 8).Draw(t, "contents")
		flow := rapid.Bool().Draw(t, "flow")
		var line []byte
		for _, c := range contents {
			line = Append(line, c, flow)
		}
		var got [][]byte
		var r Reader
		for len(line) > 0 {
			n := min(rapid.IntRange(1, 10).Draw(t, "piece"), len(line))
			r.Feed(line[:n], func(c []byte) { got = append(got, bytes.Clone(c)) })
			line = line[n:]
		}
		if len(got) != len(contents) || r.Discards != (Discards{}) {
			t.Fatalf("got %d frames of %d, %+v", len(got), len(contents), r.Discards)
		}
		for i := range got {
			if !bytes.Equal(got[i], contents[i]) {
				t.Fatalf("frame %d: got %X, want %X", i, got[i], contents[i])
			}
		}
	})
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("noise\x7e\x02\x16\x40\x49\x7e\x7d\x7e"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Reader
		r.Feed(b, func(content []byte) {
			if len(content) < 1 || len(content) > MaxContent {
				t.Errorf("content of %d octets", len(content))
			}
			again, _ := frames(Append(nil, content, true))
			if len(again) != 1 || !bytes.Equal(again[0], content) {
				t.Errorf("%X does not come through", content)
			}
		})
		if cap(r.buf) > 4*MaxContent {
			t.Errorf("holds %d octets", cap(r.buf))
		}
	})
}
