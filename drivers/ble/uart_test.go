package ble

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/test/fakebluez"
)

// echo is a protocol that sends back what it reads, in one piece if it is as long as a
// line, and hands it to the gateway.
type echo struct {
	mu    sync.Mutex
	ways  gateway.Ways // guarded by mu, like what follows
	count int          // connections
	left  int          // writes that have failed
	ended bool
}

func (e *echo) Run(ctx context.Context, ways gateway.Ways, line func(context.Context)) {
	e.mu.Lock()
	e.ways = ways
	e.mu.Unlock()
	line(ctx)
	e.mu.Lock()
	e.ended = true
	e.mu.Unlock()
}

func (e *echo) Serve(c io.ReadWriteCloser) error {
	e.mu.Lock()
	e.count++
	ways := e.ways
	e.mu.Unlock()
	defer c.Close()
	var line []byte
	buf := make([]byte, 1000)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		for _, x := range buf[:n] {
			if line = append(line, x); x != '\n' {
				continue
			}
			m := &gateway.Message{Leaf: "node", Body: bytes.TrimSpace(line)}
			ways.Up.Handle(context.Background(), m, func(error) {})
			_, err := c.Write(line)
			e.mu.Lock()
			if err != nil {
				e.left++
			}
			e.mu.Unlock()
			line = nil
		}
	}
}

func (e *echo) Fill(s *gateway.DriverState) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s.Counts = map[string]int64{"connections": int64(e.count)}
	s.Discarded = map[string]int64{"left": int64(e.left)}
	s.Peers = []gateway.PeerState{{Leaf: "node", Up: e.count > 1, Err: "shy"}}
}

func node(p Protocol, address, leaf string) NodeConfig {
	n := DefaultNode("echo")
	n.Address, n.Leaf, n.Pairing, n.Protocol = address, leaf, PairingNone, p
	return n
}

func oneNode(e *echo) Config {
	cfg := DefaultConfig()
	cfg.Nodes = []NodeConfig{node(e, valve, "node")}
	return cfg
}

// say notifies until somebody listens: what is said before that is lost.
func say(t *testing.T, u *fakebluez.UART, text string) {
	t.Helper()
	until(t, "somebody listening", u.Listened)
	if _, err := io.WriteString(u, text); err != nil {
		t.Fatal(err)
	}
}

// hears reads as many octets as there are in what is wanted.
func hears(t *testing.T, u *fakebluez.UART, want string) {
	t.Helper()
	limit := time.AfterFunc(30*time.Second, func() { u.Close() })
	defer limit.Stop()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(u, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

// What is notified is read and what is written is heard, whole and in order, in packets of
// any size, with and without responses, and by old firmware with its numbers the wrong
// way round.
func TestStreamOverUART(t *testing.T) {
	t.Parallel()
	swapped := func(u *fakebluez.UART) {
		c := u.Services[0].Characteristics
		c[0].UUID, c[1].UUID = c[1].UUID, c[0].UUID
	}
	for _, tt := range []struct {
		name  string
		mtu   int
		flags []string
		kind  string // of writes
		set   func(*fakebluez.UART)
	}{
		{"small packets", 23, []string{"write", "write-without-response"}, "command", nil},
		{"large packets", 247, []string{"write-without-response"}, "command", nil},
		{"largest packets", 517, []string{"write-without-response"}, "command", nil},
		{"with responses", 23, []string{"write"}, "request", nil},
		{"old firmware", 65, []string{"write", "write-without-response"}, "command", swapped},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			z := startBlueZ(t, fakebluez.Options{})
			e := new(echo)
			r := start(t, z, oneNode(e))
			u := fakebluez.NewUART(valve, tt.mtu, tt.flags...)
			if tt.set != nil {
				tt.set(u)
			}
			z.Add(u.Device)
			keepAdvertising(t, u.Device)
			text := strings.Repeat("0123456789", 100) + "\n"
			for range 3 {
				say(t, u, text)
				hears(t, u, text)
			}
			for _, w := range u.Written() {
				if w.Type != tt.kind || len(w.Value) > min(tt.mtu-3, maxOctets) {
					t.Errorf("%d octets were written as a %s", len(w.Value), w.Type)
				}
			}
			if m := r.last("node"); trustOf(m) != gateway.TrustUnpaired {
				t.Errorf("message %+v", m)
			}
			r.stop()
			if !e.ended || u.Connected() {
				t.Error("the protocol has not ended, or the device is connected still")
			}
		})
	}
}

// The protocol outlives connections, and the state says how it is with the leaf.
func TestUARTIsLostAndComesBack(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, oneNode(new(echo)))
	u := fakebluez.NewUART(valve, 23, "write")
	z.Add(u.Device)
	keepAdvertising(t, u.Device)
	say(t, u, "one\n")
	hears(t, u, "one\n")
	s := r.until("shy", func(s gateway.DriverState) bool { return s.Peers[0].Err == "echo: shy" })
	if s.Peers[0].Up || s.Leaves != 0 || s.Counts["connections"] != 1 {
		t.Errorf("state %+v", s)
	}
	u.OutOfRange(true)
	r.until("lost", func(s gateway.DriverState) bool { return s.Peers[0].Err != "echo: shy" })
	u.OutOfRange(false)
	s = r.until("back", func(s gateway.DriverState) bool { return s.Peers[0].Up })
	if s.Leaves != 1 || s.Counts["connections"] != 2 || s.Peers[0].Err != "" {
		t.Errorf("state %+v", s)
	}
	say(t, u, "two\n")
	hears(t, u, "two\n")
	z.Crash()
	if err := z.Start(); err != nil {
		t.Fatal(err)
	}
	say(t, u, "three\n")
	hears(t, u, "three\n")
	r.untilGot("node", "one", "two", "three")
}

// A device that reads nothing any more holds up nobody but itself.
func TestUARTThatStalls(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	cfg := DefaultConfig()
	protocols := make([]*echo, 3)
	uarts := make([]*fakebluez.UART, 3)
	for i := range uarts {
		protocols[i] = new(echo)
		address := fmt.Sprintf("C8:00:00:00:05:%02X", i)
		cfg.Nodes = append(cfg.Nodes, node(protocols[i], address, fmt.Sprintf("node-%d", i)))
		uarts[i] = fakebluez.NewUART(address, 23, "write")
		z.Add(uarts[i].Device)
		keepAdvertising(t, uarts[i].Device)
	}
	r := start(t, z, cfg)
	for i, u := range uarts {
		text := fmt.Sprintf("hello %d\n", i)
		say(t, u, text)
		hears(t, u, text)
	}
	uarts[0].Stall(true)
	say(t, uarts[0], "anybody there?\n")
	for i := range 20 {
		for _, u := range uarts[1:] {
			text := fmt.Sprintf("line %d\n", i)
			say(t, u, text)
			hears(t, u, text)
		}
	}
	uarts[0].Drop()
	uarts[0].Stall(false)
	r.until("the write given up", func(s gateway.DriverState) bool { return s.Discarded["left"] == 1 })
	say(t, uarts[0], "back\n")
	hears(t, uarts[0], "back\n")
}

// A device without the service is said to be so, and tried again.
func TestDeviceWithoutUART(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, oneNode(new(echo)))
	d := z.Add(newValve(valve))
	d.Services = d.Services[:2]
	keepAdvertising(t, d)
	r.until("it is said", func(s gateway.DriverState) bool {
		return !s.Peers[0].Up && s.Peers[0].Err == "it has no Nordic UART Service"
	})
}

// What comes faster than it is read is bounded, and counted.
func TestUARTIsBounded(t *testing.T) {
	lost := 0
	ctx, cancel := context.WithCancelCause(t.Context())
	u := &uart{ctx: ctx, end: cancel, news: make(chan struct{}, 1), lost: func(n int) { lost += n }}
	piece := make([]byte, 244)
	for range 2 * maxUnread / len(piece) {
		u.heard(piece)
	}
	if kept := maxUnread / len(piece) * len(piece); len(u.unread) != kept || lost != 2*maxUnread/len(piece)*len(piece)-kept {
		t.Errorf("%d octets unread, %d lost", len(u.unread), lost)
	}
	buf := make([]byte, 1000)
	total := 0
	for len(u.unread) > 0 {
		n, err := u.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	cancel(nil)
	if n, err := u.Read(buf); n != 0 || err != io.EOF || total+lost != 2*maxUnread/len(piece)*len(piece) {
		t.Errorf("in the end %d, %v; %d octets read", n, err, total)
	}
}
