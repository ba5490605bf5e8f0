package amqp

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// frame makes a frame as go-amqp writes it: a performative that is an empty list.
func frame(channel, code byte) []byte {
	return []byte{0, 0, 0, 12, 2, 0, 0, channel, 0x00, 0x53, code, 0x45}
}

func TestSessionBeginsAfterTheOneBeforeHasEnded(t *testing.T) {
	const transfer = 0x14
	near, far := net.Pipe()
	g := newGuard(near, func() { near.Close() }, time.Minute)
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
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
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
		g := newGuard(broken, func() { tcp.Close() }, time.Minute)
		fail(g)
		if _, err := hub.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: the hub still reads: %v", name, err)
		}
		g.Close()
	}
}

// What is written while nobody can write is one write, and no more is taken than
// there is room for.
func TestFramesGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		g := newGuard(near, func() { near.Close() }, time.Minute)
		first, rest := frame(0, 0x14), slices.Repeat(frame(0, 0x14), 20)
		put := func(b []byte) {
			if _, err := g.Write(b); err != nil {
				t.Error(err)
			}
		}
		put(first)
		synctest.Wait() // it is being written, and the far side does not read
		for f := range slices.Chunk(rest, len(first)) {
			put(f)
		}
		large := make([]byte, maxUnsent)
		put(large)
		var over bool
		go func() {
			put(first)
			over = true
		}()
		synctest.Wait()
		if over {
			t.Error("more was taken than there is room for")
		}
		b := make([]byte, 2*maxUnsent)
		for i, want := range [][]byte{first, slices.Concat(rest, large), first} {
			if n, err := far.Read(b); err != nil || !bytes.Equal(b[:n], want) {
				t.Errorf("write %d: %d bytes, %v, want %d", i+1, n, err, len(want))
			}
			synctest.Wait()
		}
		g.Close()
	})
}

// A hub that does not read any more ends the connection, and it is known why.
func TestWriteThatTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		g := newGuard(near, func() { near.Close() }, time.Minute)
		if _, err := g.Write(frame(0, 0x14)); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the reader hears %v", err)
		}
		if _, err := g.Write(frame(0, 0x14)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the writer hears %v", err)
		}
		g.Close()
	})
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
