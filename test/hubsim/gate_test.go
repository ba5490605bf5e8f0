package hubsim

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// A hub that gives up a connection during a cut, as with a handshake that takes
// too long, lets go of it; its client hears of that when the network is back.
func TestClosedDuringCut(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	g := newGate()
	g.close()
	c := g.wrap(accepted)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, errDead) {
		t.Errorf("reading after the end: got %v", err)
	}
	if err := client.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("client during the cut: got %v, want silence", err)
	}
	g.open()
	if err := client.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("client after the cut: got %v, want the end", err)
	}
	if len(g.conns) != 0 {
		t.Errorf("%d sockets are left behind the gate", len(g.conns))
	}
}
