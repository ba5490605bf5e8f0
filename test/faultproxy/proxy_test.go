package faultproxy_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/faultproxy"
)

// patience bounds every wait of the tests. It is not a claim about speed.
const patience = 30 * time.Second

// bench is a proxy before a server that a test plays itself.
type bench struct {
	t      *testing.T
	proxy  *faultproxy.Proxy
	server net.Listener
}

func newBench(t *testing.T, cfg faultproxy.Config) *bench {
	t.Helper()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.To = server.Addr().String()
	proxy, err := faultproxy.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(proxy.Close(), server.Close()); err != nil {
			t.Error(err)
		}
	})
	return &bench{t, proxy, server}
}

// connect returns both ends of a connection through the proxy.
func (b *bench) connect() (client, server *net.TCPConn) {
	b.t.Helper()
	c, err := net.Dial("tcp", b.proxy.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	s, err := b.server.Accept()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, nc := range []net.Conn{c, s} {
		b.t.Cleanup(func() { _ = nc.Close() })
		if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
			b.t.Fatal(err)
		}
	}
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func (b *bench) change(d faultproxy.Direction, change func(*faultproxy.Link)) {
	b.t.Helper()
	if err := b.proxy.Change(d, change); err != nil {
		b.t.Fatal(err)
	}
}

// Whatever the delays, all bytes come out in order, both ways at once.
func TestOrderHolds(t *testing.T) {
	b := newBench(t, faultproxy.Config{
		Up:   faultproxy.Link{Latency: time.Millisecond, Jitter: 3 * time.Millisecond},
		Down: faultproxy.Link{Jitter: 5 * time.Millisecond, Bandwidth: 8 << 20},
	})
	client, server := b.connect()
	sent := make([]byte, 1<<20)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	var all sync.WaitGroup
	for _, end := range []*net.TCPConn{client, server} {
		all.Go(func() {
			for rest := sent; len(rest) > 0; {
				n := min(1+rand.IntN(20<<10), len(rest))
				if _, err := end.Write(rest[:n]); err != nil {
					t.Error(err)
					return
				}
				rest = rest[n:]
				b.change(faultproxy.Up, func(l *faultproxy.Link) { l.Latency = rand.N(2 * time.Millisecond) })
			}
			if err := end.CloseWrite(); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			got, err := io.ReadAll(end)
			if err != nil || sha256.Sum256(got) != sha256.Sum256(sent) {
				t.Errorf("%d of %d bytes, or not the same, %v", len(got), len(sent), err)
			}
		})
	}
	all.Wait()
	if s := b.proxy.Stats(); s.Bytes != [2]int64{1 << 20, 1 << 20} || s.Ever != 1 {
		t.Errorf("counted %+v", s)
	}
}

// A latency delays, and does not add up over pieces that follow each other.
func TestLatency(t *testing.T) {
	const latency = 50 * time.Millisecond
	b := newBench(t, faultproxy.Config{Up: faultproxy.Link{Latency: latency}})
	client, server := b.connect()
	begin := time.Now()
	if _, err := client.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(server, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < latency {
		t.Errorf("it took %v, less than %v", took, latency)
	}
}

func TestBandwidth(t *testing.T) {
	b := newBench(t, faultproxy.Config{Up: faultproxy.Link{Bandwidth: 100 << 10}})
	client, server := b.connect()
	begin := time.Now()
	if _, err := client.Write(make([]byte, 20<<10)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(server, make([]byte, 20<<10)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < 200*time.Millisecond {
		t.Errorf("20 KiB at 100 KiB/s took %v", took)
	}
}

// In a hole nothing moves and nobody is told, not even that the other side is
// gone. When it ends, what waited goes on.
func TestHole(t *testing.T) {
	b := newBench(t, faultproxy.Config{})
	client, server := b.connect()
	b.change(faultproxy.Up, func(l *faultproxy.Link) { l.Hole = true })
	if _, err := client.Write([]byte("lost?")); err != nil {
		t.Fatal(err)
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Write([]byte("down")); err != nil { // the other way is open
		t.Fatal(err)
	}
	if _, err := io.ReadFull(client, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if s := b.proxy.Stats(); s.Bytes[faultproxy.Up] != 0 {
		t.Errorf("%d bytes went through the hole", s.Bytes[faultproxy.Up])
	}
	b.change(faultproxy.Up, func(l *faultproxy.Link) { l.Hole = false })
	if got, err := io.ReadAll(server); err != nil || string(got) != "lost?" {
		t.Errorf("after the hole: %q, %v", got, err)
	}
}

// A connection that comes while there is a hole reaches the server after it.
func TestConnectInHole(t *testing.T) {
	b := newBench(t, faultproxy.Config{Down: faultproxy.Link{Hole: true}})
	client, err := net.Dial("tcp", b.proxy.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b.change(faultproxy.Down, func(l *faultproxy.Link) { l.Hole = false })
	server, err := b.server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if _, err := io.ReadFull(server, make([]byte, 5)); err != nil {
		t.Error(err)
	}
}

func TestReset(t *testing.T) {
	b := newBench(t, faultproxy.Config{})
	client, server := b.connect()
	// The server may have accepted what the proxy has not seen yet: dialling that
	// is given up ends in a FIN.
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if n := b.proxy.Reset(); n != 1 {
		t.Errorf("%d connections reset, want 1", n)
	}
	for what, end := range map[string]net.Conn{"client": client, "server": server} {
		if _, err := end.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v, want ECONNRESET", what, err)
		}
	}
	client, server = b.connect()
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); err != nil {
		t.Errorf("the next connection: %v", err)
	}
}

// answered connects and waits for a byte. A reset may come before the client
// thinks that it is connected.
func answered(address string) error {
	nc, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer nc.Close()
	_, err = nc.Read(make([]byte, 1))
	return err
}

func TestRefuse(t *testing.T) {
	b := newBench(t, faultproxy.Config{})
	old, oldServer := b.connect()
	b.proxy.Refuse(true)
	if err := answered(b.proxy.Addr().String()); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want ECONNRESET", err)
	}
	if _, err := old.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := oldServer.Read(make([]byte, 1)); err != nil {
		t.Errorf("the old connection: %v", err)
	}
	b.proxy.Refuse(false)
	b.connect()
}

// A sender that is faster than the link is held back: what waits is bounded.
func TestBackpressure(t *testing.T) {
	b := newBench(t, faultproxy.Config{Up: faultproxy.Link{Hole: true}})
	b.change(faultproxy.Up, func(l *faultproxy.Link) { l.Hole = false })
	client, _ := b.connect()
	b.change(faultproxy.Up, func(l *faultproxy.Link) { l.Hole = true })
	if err := client.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	// Beside the window the kernel's buffers of two sockets hold some.
	if n, err := client.Write(make([]byte, 256<<20)); err == nil {
		t.Errorf("the proxy swallowed %d bytes", n)
	}
}

func TestBadLink(t *testing.T) {
	if _, err := faultproxy.Start(faultproxy.Config{To: "127.0.0.1:1", Up: faultproxy.Link{Latency: -1}}); err == nil {
		t.Error("a link is faster than time")
	}
	b := newBench(t, faultproxy.Config{})
	if err := b.proxy.Change(faultproxy.Up, func(l *faultproxy.Link) { l.Bandwidth = -1 }); err == nil {
		t.Error("a link has a negative bandwidth")
	}
	if l := b.proxy.Link(faultproxy.Up); l != (faultproxy.Link{}) {
		t.Errorf("the refused change left %+v", l)
	}
}

// A client whose server is not there is told.
func TestNoServer(t *testing.T) {
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := nobody.Addr().String()
	if err := nobody.Close(); err != nil {
		t.Fatal(err)
	}
	p, err := faultproxy.Start(faultproxy.Config{To: address})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := answered(p.Addr().String()); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want ECONNRESET", err)
	}
	if s := p.Stats(); s.NoServer != 1 {
		t.Errorf("counted %+v", s)
	}
}

// A protocol with TLS on top does not notice a slow link.
func TestHTTPS(t *testing.T) {
	body := bytes.Repeat([]byte("fieldgate "), 10_000)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(got)
	}))
	defer server.Close()
	p, err := faultproxy.Start(faultproxy.Config{
		To: server.Listener.Addr().String(),
		Up: faultproxy.Link{Latency: 5 * time.Millisecond, Jitter: 5 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	client := server.Client()
	defer client.CloseIdleConnections()
	answer, err := client.Post("https://"+p.Addr().String(), "text/plain", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if got, err := io.ReadAll(answer.Body); err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes back, %v", len(got), err)
	}
}

// Close ends everything, in whatever state connections are.
func TestCloseEndsEverything(t *testing.T) {
	b := newBench(t, faultproxy.Config{Up: faultproxy.Link{Latency: time.Hour}})
	client, _ := b.connect()
	if _, err := client.Write([]byte("on the way for an hour")); err != nil {
		t.Fatal(err)
	}
	b.change(faultproxy.Down, func(l *faultproxy.Link) { l.Hole = true })
	if err := b.proxy.Close(); err != nil {
		t.Fatal(err)
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(stack, "faultproxy.(*") {
			t.Errorf("still running:\n%s", stack)
		}
	}
}
