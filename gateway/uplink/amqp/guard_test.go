package amqp

import (
	"bytes"
	"io"
	"net"
	"testing"
)

// frame makes a frame as go-amqp writes it: a performative that is an empty list.
func frame(channel, code byte) []byte {
	return []byte{0, 0, 0, 12, 2, 0, 0, channel, 0x00, 0x53, code, 0x45}
}

func TestSessionBeginsAfterTheOneBeforeHasEnded(t *testing.T) {
	const transfer = 0x14
	near, far := net.Pipe()
	g := newGuard(near, near)
	read := make(chan []byte)
	go func() {
		all, _ := io.ReadAll(far)
		read <- all
	}()
	written := [][]byte{
		[]byte("AMQP\x00\x01\x00\x00"),
		frame(0, performativeBegin), frame(1, performativeBegin),
		frame(1, performativeBegin), // too early
		frame(1, transfer), frame(2, performativeBegin),
		frame(1, performativeEnd),
		frame(1, transfer), frame(1, performativeEnd),
		frame(1, performativeBegin),
	}
	for _, f := range written {
		if n, err := g.Write(f); n != len(f) || err != nil {
			t.Fatalf("%x: %d, %v", f, n, err)
		}
	}
	near.Close()
	want := bytes.Join(append(append(written[:3:3], written[4:7]...), append([][]byte{written[3]}, written[7:]...)...), nil)
	if got := <-read; !bytes.Equal(got, want) {
		t.Errorf("\ngot  %x\nwant %x", got, want)
	}
}

func TestFailureInOneDirectionClosesTheLine(t *testing.T) {
	for name, fail := range map[string]func(*guard){
		"read":  func(g *guard) { _, _ = g.Read(make([]byte, 1)) },
		"write": func(g *guard) { _, _ = g.Write([]byte("x")) },
		"held":  func(g *guard) { g.begun[1] = []byte("x"); _, _ = g.Write(frame(1, performativeEnd)) },
	} {
		broken, _ := net.Pipe()
		broken.Close()
		tcp, hub := net.Pipe()
		fail(newGuard(broken, tcp))
		if _, err := hub.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: the hub still reads: %v", name, err)
		}
	}
}

func TestFrameOf(t *testing.T) {
	for text, want := range map[string]struct {
		channel uint16
		code    byte
	}{
		"\x00\x00\x00\x0c\x02\x00\x01\x02\x00\x53\x11\x45":                 {0x102, 0x11},
		"\x00\x00\x00\x10\x03\x00\x00\x02\x00\x00\x00\x00\x00\x53\x17\x45": {2, 0x17}, // a longer header
		"\x00\x00\x00\x0c\x02\x01\x00\x00\x00\x53\x41\x45":                 {},        // SASL
		"\x00\x00\x00\x08\x02\x00\x00\x00":                                 {},        // sign of life
		"\x00\x00\x00\x0d\x02\x00\x00\x00\x00\x53\x11\x45":                 {},        // half a frame
		"\x00\x00\x00\x0c\xff\x00\x00\x00\x00\x53\x11\x45":                 {},
		"AMQP\x00\x01\x00\x00":                                             {},
		"":                                                                 {},
	} {
		if channel, code := frameOf([]byte(text)); channel != want.channel || code != want.code {
			t.Errorf("%x: channel %d, code %#x", text, channel, code)
		}
	}
}
