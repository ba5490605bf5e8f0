package broker

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// transcript is a log that a test reads. Safe for concurrent use.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (x *transcript) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.text.Write(p)
}

// lines are those that have all the parts.
func (x *transcript) lines(parts ...string) (all []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
next:
	for line := range strings.Lines(x.text.String()) {
		for _, p := range parts {
			if !strings.Contains(line, p) {
				continue next
			}
		}
		all = append(all, line)
	}
	return all
}

// logged starts the bench's broker anew with a log that is read.
func (b *bench) logged() *transcript {
	x := new(transcript)
	b.end()
	b.log = slog.NewTextHandler(x, nil)
	b.start()
	return x
}

// garbler damages what is written from the second flight on.
type garbler struct {
	net.Conn
	flights int
}

func (g *garbler) Write(p []byte) (int, error) {
	if g.flights++; g.flights > 1 {
		p = bytes.Clone(p)
		p[len(p)-1] ^= 1
	}
	return g.Conn.Write(p)
}

// The log says of a handshake that has failed who has broken it off, and why, in words
// that tell an operator what to do.
func TestBrokenHandshakes(t *testing.T) {
	b := newBench(t, nil)
	b.table.Put(pairing.Leaf{ID: "pinned", Thumbprints: [2]pairing.Thumbprint{thumbprint(t, hex.EncodeToString(make([]byte, 20)))}})
	log := b.logged()
	wrongKey := (*signer)(nil).leaf(t, "pump-1\nleaf=forged", time.Hour, x509.ExtKeyUsageClientAuth)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wrongKey.PrivateKey = other
	shake := func(cfg *tls.Config, wrap func(net.Conn) net.Conn) func(net.Conn) {
		cfg.ServerName = "gw.local"
		return func(c net.Conn) {
			if wrap != nil {
				c = wrap(c)
			}
			s := tls.Client(c, cfg)
			if s.Handshake() == nil { // TLS 1.3 lets the client be the first to believe in it
				_, _ = s.Read(make([]byte, 1))
			}
		}
	}
	say := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = c.Write([]byte(text))
			_, _ = c.Read(make([]byte, 1))
		}
	}
	for i, tc := range []struct {
		name string
		do   func(net.Conn)
		want []string
	}{
		{"no trust", shake(&tls.Config{RootCAs: x509.NewCertPool()}, nil), []string{"broken_off_by=client", "it does not take the gateway's certificate"}},
		{"another name", shake(&tls.Config{RootCAs: b.roots, VerifyConnection: func(tls.ConnectionState) error { return x509.HostnameError{} }}, nil), []string{"broken_off_by=client", "it does not take the gateway's certificate"}},
		{"an old version", shake(&tls.Config{RootCAs: b.roots, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, nil), []string{"broken_off_by=gateway", "no version of TLS that the gateway speaks (1.2 or 1.3)"}},
		{"damaged", shake(&tls.Config{RootCAs: b.roots}, func(c net.Conn) net.Conn { return &garbler{Conn: c} }), []string{"broken_off_by=gateway", "damaged on the way", "bad record MAC"}},
		{"the key of another certificate", shake(&tls.Config{RootCAs: b.roots, Certificates: []tls.Certificate{wrongKey}}, nil), []string{"broken_off_by=gateway", "does not hold the key", "certificate=", "CN=pump-1"}},
		{"MQTT in plain text", say("\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02me"), []string{"broken_off_by=gateway", "the client speaks MQTT without TLS"}},
		{"HTTP", say("GET / HTTP/1.1\r\n\r\n"), []string{"broken_off_by=gateway", "the client speaks HTTP without TLS"}},
		{"noise", say("\x00\x00\x00\x00\x00"), []string{"broken_off_by=gateway", "the client does not speak TLS"}},
		{"hung up", func(net.Conn) {}, []string{"broken_off_by=client", "hung up in the middle of the handshake"}},
	} {
		source := &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(20+i))}
		for range 3 { // it is said once
			c, err := (&net.Dialer{LocalAddr: source, Timeout: patience}).Dial("tcp", b.tls)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			tc.do(c)
			c.Close()
		}
		want := append(tc.want, "level=WARN", "no secure connection", "listener="+b.tls)
		b.until(tc.name, func() bool { return len(log.lines("source="+source.IP.String()+" ")) > 0 })
		if all := log.lines("source=" + source.IP.String() + " "); len(all) != 1 || len(log.lines(want...)) == 0 {
			t.Errorf("%s: the log says %q, want one line with %q", tc.name, all, want)
		}
	}
	if forged := log.lines("\nleaf=forged"); len(forged) > 0 {
		t.Errorf("a certificate has made a line of its own: %q", forged)
	}
}

// Why a connection has ended is said in the leaf's terms, with the topic if it is one.
func TestWhyALeafWasDisconnected(t *testing.T) {
	b := newBench(t, nil)
	log := b.logged()
	w := b.leaf("pump-1", 4)
	w.publish(1, "leaf/pump-2/telemetry", "x")
	w.expectClosed()
	b.until("the line", func() bool { return len(log.lines("leaf disconnected")) > 0 })
	if len(log.lines("leaf disconnected", "a topic that is not its own: leaf/pump-2/telemetry")) != 1 {
		t.Errorf("the log says %q", log.lines("leaf disconnected"))
	}
	former := b.leaf("pump-2", 4)
	b.leaf("pump-2", 4)
	former.expectClosed()
	b.until("the line", func() bool {
		return len(log.lines("leaf disconnected", "leaf=pump-2", "another connection has taken its place")) == 1
	})
}

// However handshakes end, the turnstile is free behind them, and who stalls in the middle
// is not in it.
func TestTurnstile(t *testing.T) {
	b := newBench(t, nil)
	var stalled []net.Conn
	for range 2 * cap(b.b.handshakes) {
		c, err := net.Dial("tcp", b.tls)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte{0x16, 3, 1, 0, 200, 1}) // the beginning of a ClientHello
		stalled = append(stalled, c)
	}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			roots := b.roots
			if i%2 == 0 {
				roots = x509.NewCertPool() // it will not trust the gateway
			}
			c, err := tls.Dial("tcp", b.tls, &tls.Config{RootCAs: roots})
			if err == nil {
				c.Close()
			}
			if (err == nil) != (i%2 == 1) {
				t.Errorf("handshake %d: %v", i, err)
			}
		})
	}
	all.Wait()
	b.leaf("pump-1", version311).alive()
	for _, c := range stalled {
		c.Close()
	}
	b.until("nobody in the turnstile", func() bool { return len(b.b.handshakes) == 0 })
}
