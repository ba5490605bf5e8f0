package suite

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
	"github.com/fieldgate/fieldgate/test/hubsim"
)

// firewall stands before a port of the hub and lets through or does not.
type firewall struct {
	address string
	parts   sync.WaitGroup

	mu       sync.Mutex     // guards everything below
	listener net.Listener   // nil: connections are refused
	treat    func(net.Conn) // what is done to a new connection
	conns    []net.Conn
}

// newFirewall makes one that refuses connections. Nobody else has its port
// meanwhile: the system gives ports out in turn.
func newFirewall(t *testing.T) *firewall {
	f := &firewall{address: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
	t.Cleanup(f.close)
	return f
}

// set has new connections treated so.
func (f *firewall) set(t *testing.T, treat func(net.Conn)) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.treat = treat
	if f.listener != nil {
		return
	}
	l, err := net.Listen("tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	f.listener = l
	f.parts.Go(func() { f.serve(l) })
}

func (f *firewall) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns = append(f.conns, c)
		treat := f.treat
		f.mu.Unlock()
		f.parts.Go(func() { treat(c) })
	}
}

func (f *firewall) close() {
	f.mu.Lock()
	if f.listener != nil {
		f.listener.Close()
	}
	for _, c := range f.conns {
		c.Close()
	}
	f.mu.Unlock()
	f.parts.Wait()
}

// through leads to the address.
func (f *firewall) through(address string) func(net.Conn) {
	return func(c net.Conn) {
		far, err := net.Dial("tcp", address)
		if err != nil {
			c.Close()
			return
		}
		f.mu.Lock()
		f.conns = append(f.conns, far)
		f.mu.Unlock()
		f.parts.Go(func() {
			_, _ = io.Copy(c, far)
			c.Close()
		})
		_, _ = io.Copy(far, c)
		far.Close()
	}
}

// swallow takes everything and says nothing.
func swallow(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

func TestFallsBackToWebSocketAndReturns(t *testing.T) {
	other, err := hubsim.Start(hubsim.Config{Dir: t.TempDir(), Host: Host})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	strange := net.JoinHostPort(other.Info().Bind, fmt.Sprint(other.Info().AMQPPort))
	for _, c := range []struct {
		name   string
		block  func(f *firewall) func(net.Conn) // nil: refused
		reason string
	}{
		{"refused", nil, "connection refused"},
		{"swallowed", func(*firewall) func(net.Conn) { return swallow }, "no answer in time"},
		{"intercepted", func(f *firewall) func(net.Conn) { return f.through(strange) }, "unknown authority"},
		{"closed at once", func(*firewall) func(net.Conn) { return func(c net.Conn) { c.Close() } }, "cannot secure the connection"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // it waits most of the time
			f := newFirewall(t)
			if c.block != nil {
				f.set(t, c.block(f))
			}
			leaves := Leaves(5)
			b := NewBench(t, dial.Auto, leaves, func(s *Settings) {
				s.Way.Address = f.address
				s.Way.ProbeInterval = gateway.Duration(time.Second)
				if c.name == "swallowed" { // it waits for this; what is answered has its time
					s.Way.Timeout = gateway.Duration(5 * time.Second)
				}
			})
			b.Await("the WebSocket", func() bool {
				s := b.Uplink.State()
				return s.Connected && s.Transport == dial.AMQPWebSocket
			})
			if s := b.Uplink.State(); !strings.HasPrefix(s.Reason, "amqp: ") || !strings.Contains(s.Reason, c.reason) {
				t.Errorf("the reason is %q, want %q", s.Reason, c.reason)
			}
			for _, leaf := range leaves {
				b.Publish(leaf, 20)
			}
			b.AwaitAll(leaves...)
			b.Hub.SlowSettle(50 * time.Millisecond) // messages are on their way when the way changes
			f.set(t, f.through(net.JoinHostPort(b.Hub.Info().Bind, fmt.Sprint(b.Hub.Info().AMQPPort))))
			b.Await("the better way", func() bool {
				for _, leaf := range leaves {
					b.Publish(leaf, 1)
				}
				s := b.Uplink.State()
				return s.Connected && s.Transport == dial.AMQP && s.Reason == ""
			})
			for _, leaf := range leaves {
				b.Publish(leaf, 10)
			}
			b.AwaitAll(leaves...)
			for _, leaf := range leaves {
				if d := b.CheckOrder(leaf); d > 0 {
					t.Errorf("%s: %d duplicates", leaf, d)
				}
			}
			checkOneAfterTheOther(t, b)
			if s := b.Uplink.State(); s.Connects[uplink.ConnectOK] != 2 || s.Recalls != 0 {
				t.Errorf("state %+v", s)
			}
		})
	}
}

// checkOneAfterTheOther fails unless messages came on two connections, all of the
// one before all of the other. To the hub there was one connection more: the
// handshake of the probe that found the way open.
func checkOneAfterTheOther(t *testing.T, b *Bench) {
	t.Helper()
	var used []uint64
	for a := range b.Hub.Arrivals() {
		if len(used) == 0 || used[len(used)-1] != a.Connection {
			used = append(used, a.Connection)
		}
	}
	if ever := b.Hub.Stats().ConnectionsEver; len(used) != 2 || ever != 3 {
		t.Errorf("messages came on the connections %v, and %d were made", used, ever)
	}
}

func TestAutoKeepsToTheBetterWay(t *testing.T) {
	b := NewBench(t, dial.Auto, Leaves(1))
	b.Publish("leaf-001", 10)
	b.AwaitAll("leaf-001")
	b.Hub.Reset()
	b.Publish("leaf-001", 10)
	b.AwaitAll("leaf-001")
	b.CheckOrder("leaf-001")
	if s := b.Uplink.State(); s.Transport != dial.AMQP || s.Reason != "" {
		t.Errorf("state %+v", s)
	}
	b.Hub.RefuseToken("leaf-001", true)
	b.Hub.Reset()
	b.Publish("leaf-001", 1)
	b.Await("the refusal", func() bool { return b.Uplink.State().Refused["leaf-001"] != "" })
	if s := b.Uplink.State(); s.Transport != dial.AMQP {
		t.Errorf("a refusal is no reason for another way: %+v", s)
	}
}
