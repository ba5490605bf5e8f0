package amqp

import (
	"io"
	"net"
	"slices"
	"testing"

	"github.com/fieldgate/fieldgate/gateway/uplink"
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

// The hub can have answered before a write returns. What is under way then is
// payload and protocol, not TLS.
func TestAWriteIsCountedBeforeItReturns(t *testing.T) {
	m := &meter{}
	stub := &writeStub{meter: m}
	c := &plainConn{Conn: stub, meter: m}
	full := []byte{0, 0, 0, 12, 2, 0, 0, 0, 0, 0, 0, 8}
	empty := []byte{0, 0, 0, 8, 2, 0, 0, 0}
	if _, err := c.Write(slices.Concat(full, empty)); err != io.ErrShortWrite {
		t.Fatal(err)
	}
	if want := (uplink.Traffic{Plain: 20, KeepAlive: 8}); stub.seen != want {
		t.Errorf("while it is written: %+v, want %+v", stub.seen, want)
	}
	if got := m.Traffic().Plain; got != 17 {
		t.Errorf("%d bytes after a write that was cut short, want 17", got)
	}
}

// writeStub notes what is counted while it writes, and writes three bytes less.
type writeStub struct {
	net.Conn
	meter *meter
	seen  uplink.Traffic
}

func (s *writeStub) Write(b []byte) (int, error) {
	s.seen = s.meter.Traffic()
	return len(b) - 3, io.ErrShortWrite
}
