package store

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
)

// anyMessage draws messages with every field in use or not.
func anyMessage() *rapid.Generator[*gateway.Message] {
	return rapid.Custom(func(t *rapid.T) *gateway.Message {
		m := &gateway.Message{
			Kind:    gateway.Kind(rapid.Byte().Draw(t, "kind")),
			Lane:    gateway.Lane(rapid.Byte().Draw(t, "lane")),
			Start:   rapid.Uint32().Draw(t, "start"),
			Seq:     rapid.Uint64().Draw(t, "seq"),
			Dropped: rapid.Uint64().Draw(t, "dropped"),
			Captured: gateway.Instant{
				Wall:    anyTime().Draw(t, "wall"),
				Quality: gateway.TimeQuality(rapid.IntRange(0, 2).Draw(t, "quality")),
				Boot:    rapid.Uint64().Draw(t, "boot"),
				Uptime:  time.Duration(rapid.Int64().Draw(t, "uptime")),
			},
		}
		m.System.Expiry = anyTime().Draw(t, "expiry")
		for _, text := range texts(m) {
			*text = rapid.String().Draw(t, "text")
		}
		for range rapid.IntRange(0, 4).Draw(t, "properties") {
			m.Properties = append(m.Properties, gateway.Property{
				Name: rapid.String().Draw(t, "name"), Value: rapid.String().Draw(t, "value"),
			})
		}
		if body := rapid.SliceOf(rapid.Byte()).Draw(t, "body"); len(body) > 0 {
			m.Body = body
		}
		return m
	})
}

func anyTime() *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		if rapid.Bool().Draw(t, "zero") {
			return time.Time{}
		}
		return time.Unix(rapid.Int64Range(-1<<35, 1<<40).Draw(t, "sec"), rapid.Int64Range(0, 999_999_999).Draw(t, "nsec")).UTC()
	})
}

func TestMessageRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := anyMessage().Draw(t, "message")
		data := appendMessage(nil, m)
		if len(data) > m.Size() {
			t.Fatalf("%d bytes for a message of size %d", len(data), m.Size())
		}
		got, err := decodeMessage(data)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, m) {
			t.Fatalf("got %+v, want %+v", got, m)
		}
		if _, err := decodeMessage(data[:rapid.IntRange(0, len(data)-1).Draw(t, "cut")]); err == nil {
			t.Fatal("a shortened message decodes")
		}
		if _, err := decodeMessage(append(data, 0)); err == nil {
			t.Fatal("a lengthened message decodes")
		}
	})
}

func FuzzDecodeMessage(f *testing.F) {
	f.Add([]byte{})
	f.Add(appendMessage(nil, &gateway.Message{}))
	f.Add(appendMessage(nil, message("leaf", 7, 40)))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeMessage(data)
		if err != nil {
			return
		}
		again, err := decodeMessage(appendMessage(nil, m))
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("%x decodes to %+v, which does not survive: %v", data, m, err)
		}
	})
}

// makeFrame frames messages at an address.
func makeFrame(a address, ms []*gateway.Message) []byte {
	var payload []byte
	var ends []int
	for _, m := range ms {
		payload = appendMessage(payload, m)
		ends = append(ends, len(payload))
	}
	return appendFrame(nil, a, 0, payload, ends)
}

func every(int) bool { return true }

func TestFrameRoundTrip(t *testing.T) {
	a := address{lane: gateway.LaneTelemetry, segment: 7<<32 + 1, block: 3}
	ms := messages("a", 0, 5, 30)
	data := makeFrame(a, ms)
	f, err := parseFrame(append(bytes.Clone(data), "what stands behind it"...))
	if err != nil || f.address != a || f.count != 5 || f.size != len(data) {
		t.Fatalf("got %+v, %v", f, err)
	}
	n := 0
	f.each(every, func(i int, data []byte, err error) bool {
		if m, derr := decodeMessage(data); err != nil || derr != nil || !reflect.DeepEqual(m, ms[i]) {
			t.Errorf("message %d: %v, %v", i, err, derr)
		}
		n++
		return n < 4
	})
	if n != 4 {
		t.Errorf("use returned false at the fourth message, but was called %d times", n)
	}
}

// TestBitFlipsNeverGiveAWrongMessage turns every bit of a block over in turn.
// One bit costs at most what it belongs to: one message, except in the lengths.
func TestBitFlipsNeverGiveAWrongMessage(t *testing.T) {
	a := address{lane: gateway.LaneTelemetry, segment: 1 << 32, block: 0}
	ms := messages("a", 0, 4, 20)
	clean := makeFrame(a, ms)
	body := frameHeader + len(ms)*frameSlot + frameSum
	for bit := range len(clean) * 8 {
		data := bytes.Clone(clean)
		data[bit/8] ^= 1 << (bit % 8)
		f, err := parseFrameAt(data, a, len(ms))
		if err != nil {
			t.Fatalf("bit %d: %v", bit, err)
		}
		intact := 0
		f.each(every, func(i int, data []byte, err error) bool {
			if err != nil {
				return true
			}
			m, err := decodeMessage(data)
			if err != nil || !reflect.DeepEqual(m, ms[i]) {
				t.Errorf("bit %d: message %d is wrong: %+v, %v", bit, i, m, err)
			}
			intact++
			return true
		})
		switch {
		case bit/8 >= body && intact != 3:
			t.Errorf("bit %d in a message: %d of the others intact, want 3", bit, intact)
		case bit/8 < frameHeader && intact != 4:
			t.Errorf("bit %d in the fixed header: %d intact, want 4", bit, intact)
		}
	}
}

func TestFrameInTheWrongPlaceYieldsNothing(t *testing.T) {
	a := address{lane: gateway.LaneTelemetry, segment: 9, block: 4}
	data := makeFrame(a, messages("a", 0, 3, 20))
	for _, wrong := range []address{{gateway.LaneAlarm, 9, 4}, {gateway.LaneTelemetry, 8, 4}, {gateway.LaneTelemetry, 9, 5}} {
		f, err := parseFrameAt(data, wrong, 3)
		if err != nil {
			t.Fatal(err)
		}
		f.each(every, func(i int, _ []byte, err error) bool {
			if err == nil {
				t.Errorf("at %+v: message %d passes", wrong, i)
			}
			return true
		})
	}
}

func FuzzParseFrame(f *testing.F) {
	a := address{lane: gateway.LaneTelemetry, segment: 5, block: 2}
	f.Add(makeFrame(a, messages("a", 0, 3, 10)), uint16(3))
	f.Add(makeFrame(a, nil), uint16(0))
	f.Add([]byte(frameMagic), uint16(9))
	f.Fuzz(func(t *testing.T, data []byte, count uint16) {
		if fr, err := parseFrame(data); err == nil {
			fr.each(every, func(int, []byte, error) bool { return true })
		}
		if fr, err := parseFrameAt(data, a, int(count)); err == nil {
			fr.each(every, func(_ int, data []byte, err error) bool {
				if err == nil && len(data) == 0 {
					t.Error("an empty message passes")
				}
				return true
			})
		}
		_, _ = findFrameAt(data, a)
		_, _ = parseEntry(data)
		_ = writtenToTheEnd(data, reach(data))
		findFrames(data, 0, newSegment(a.lane, a.segment, ""), func(_ uint32, at int, frame []byte) {
			if !bytes.Equal(data[at:at+len(frame)], frame) {
				t.Errorf("a frame of %d bytes is not at %d", len(frame), at)
			}
		})
	})
}

func TestIndexAndJournalRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newSegment(gateway.LaneTelemetry, rapid.Uint64().Draw(rt, "number"), t.TempDir())
		s.thinned = rapid.Bool().Draw(rt, "thinned")
		counts := rapid.SliceOfN(rapid.IntRange(0, 40), 0, 30).Draw(rt, "counts")
		for i, n := range counts {
			s.add(n, gateway.Unread)
			s.saw(message("a", i, 0))
		}
		if err := writeIndex(s.dir, s); err != nil {
			rt.Fatal(err)
		}
		s.each(func(block uint32, index int, _ gateway.StoredState) {
			if rapid.Bool().Draw(rt, "settle") {
				s.set(block, index, settled)
			}
		})
		var blocks []uint32
		for block := range uint32(len(counts)) {
			blocks = append(blocks, block)
		}
		if err := appendJournal(s.dir, s.takeNews(blocks), false); err != nil {
			rt.Fatal(err)
		}
		// What a power cut leaves behind the last record must not matter.
		if err := appendJournal(s.dir, []byte("torn record"), false); err != nil {
			rt.Fatal(err)
		}

		got := newSegment(s.lane, s.number, s.dir)
		if err := readIndex(got); err != nil {
			rt.Fatal(err)
		}
		if err := replayJournal(got); err != nil {
			rt.Fatal(err)
		}
		if got.unsettled != s.unsettled || got.unread != s.unread || got.messages != s.messages ||
			got.thinned != s.thinned || got.first != s.first || got.last != s.last || got.maxStart != s.maxStart {
			rt.Fatalf("got %+v, want %+v", got, s)
		}
		s.each(func(block uint32, index int, state gateway.StoredState) {
			if got.state(block, index) != state {
				rt.Fatalf("message %d.%d is %d, want %d", block, index, got.state(block, index), state)
			}
		})
	})
}

func FuzzIndexAndJournal(f *testing.F) {
	s := newSegment(gateway.LaneTelemetry, 1, f.TempDir())
	s.add(3, gateway.Unread)
	s.add(1, gateway.Unread)
	s.set(0, 1, settled)
	if err := writeIndex(s.dir, s); err != nil {
		f.Fatal(err)
	}
	index := mustReadFile(f, s.dir, indexName)
	f.Add(index, s.takeNews([]uint32{0}))
	f.Add([]byte(indexMagic), []byte{})
	f.Fuzz(func(t *testing.T, index, journal []byte) {
		got := newSegment(gateway.LaneTelemetry, 1, "")
		if err := decodeIndex(got, index); err != nil {
			got = newSegment(gateway.LaneTelemetry, 1, "")
			got.add(9, gateway.Unread)
		}
		if good := applyJournal(got, journal); good > len(journal) {
			t.Errorf("%d of %d bytes are good", good, len(journal))
		}
		left := 0
		got.each(func(_ uint32, _ int, state gateway.StoredState) {
			if state != settled {
				left++
			}
		})
		if left != got.unsettled {
			t.Errorf("%d unsettled, counted as %d", left, got.unsettled)
		}
	})
}

func FuzzDecodeDeadLetter(f *testing.F) {
	f.Add(encodeDeadLetter(DeadLetter{Message: message("a", 1, 10), Reason: "no", Time: time.Unix(1, 0)}))
	f.Add([]byte{2, '{', '}'})
	f.Fuzz(func(t *testing.T, data []byte) {
		if d, err := decodeDeadLetter(data); err == nil && d.Message == nil {
			t.Error("a letter without message")
		}
	})
}
