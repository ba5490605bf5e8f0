package amqp

import (
	"slices"
	"testing"
)

func TestEmptyFramesAreFoundInAnyPieces(t *testing.T) {
	empty := []byte{0, 0, 0, 8, 2, 0, 0, 0}
	full := []byte{0, 0, 0, 12, 2, 0, 0, 0, 0, 0, 0, 8}
	all := slices.Concat([]byte("AMQP\x03\x01\x00\x00AMQP\x00\x01\x00\x00"), empty, full, full, empty, empty, full)
	for size := 1; size <= len(all); size++ {
		var f frames
		var got int64
		for piece := range slices.Chunk(all, size) {
			got += f.empty(piece)
		}
		if got != 24 {
			t.Errorf("in pieces of %d: %d bytes of keep-alive, want 24", size, got)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 8, 2, 0, 0, 0, 0, 0, 0, 3}, 3)
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		at = max(0, min(at, len(b)))
		var whole, split frames
		want := whole.empty(b)
		if got := split.empty(b[:at]) + split.empty(b[at:]); got != want {
			t.Errorf("%d in two pieces, %d in one", got, want)
		}
	})
}
