package routes_test

import (
	"errors"
	"net"
	"sync"
	"testing"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
)

// tap is a client's end of a connection that keeps what the hub says.
type tap struct {
	net.Conn
	mu    sync.Mutex // guards heard
	heard []byte
}

// Read keeps what it returns.
func (p *tap) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	p.mu.Lock()
	p.heard = append(p.heard, b[:n]...)
	p.mu.Unlock()
	return n, err
}

// dispositions counts, per delivery, how often the hub has settled it.
func (p *tap) dispositions(t *testing.T) map[uint32]int {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	settled := make(map[uint32]int)
	rest := p.heard[len(amqp.HeaderAMQP):]
	for {
		n, err := amqp.FrameSize(rest, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 || n > len(rest) {
			return settled
		}
		f, err := amqp.ParseFrame(rest[:n])
		if err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
		if len(f.Body) == 0 {
			continue
		}
		performative, _, err := amqp.ParsePerformative(f.Body)
		if err != nil {
			t.Fatal(err)
		}
		if d, ok := performative.(*amqp.Disposition); ok && d.Receiver {
			for id := d.First; id <= d.Last; id++ {
				settled[id]++
			}
		}
	}
}

// A settlement can come twice, and only telemetry's does.
func TestSettleTwice(t *testing.T) {
	b := newBench(t)
	near, far := net.Pipe()
	p := &tap{Conn: near}
	b.served.Go(func() { _ = server.Serve(far, server.Config{}, b.routes.Connect) })
	conn, err := goamqp.NewConn(within(t), p, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	session, err := conn.NewSession(within(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, bench: b, conn: conn, session: session}
	c.login(b.token(pump, patience)) // delivery 0
	s := c.sender(telemetryAddress, nil)
	b.hub.Faults.SettleTwice(true)
	c.send(s, text("twice")) // delivery 1
	b.hub.Faults.SettleTwice(false)
	c.send(s, text("once")) // delivery 2: what came before it has been said
	if got := p.dispositions(t); got[0] != 1 || got[1] != 2 || got[2] != 1 {
		t.Errorf("settlements per delivery: got %v, want 1, 2 and 1", got)
	}
}

// A broken frame goes to the connections of one device only.
func TestMalform(t *testing.T) {
	b := newBench(t)
	c, neighbour := b.device(pump), b.device(other)
	r := c.receiver(commandAddress, nil)
	s := neighbour.sender("/devices/pump-2/messages/events", nil)
	if got := b.routes.Malform("pump-1"); got != 1 {
		t.Errorf("connections: got %d, want 1", got)
	}
	_, err := r.Receive(within(t), nil)
	if e, ok := errors.AsType[*goamqp.ConnError](err); !ok || e.RemoteErr != nil {
		t.Errorf("got %v, want a connection that the client has given up", err)
	}
	neighbour.send(s, text("goes on"))
	b.eventually("the connection is gone", func() bool { return b.routes.Malform("pump-1") == 0 })
}

// Throttling and the daily quota are refusals that cost no link.
func TestLimits(t *testing.T) {
	b := newBench(t)
	c := b.device(pump)
	s := c.sender(telemetryAddress, nil)
	b.hub.Faults.Throttle(true)
	if got, _ := c.put(b.token(other, patience)); got != 429 {
		t.Errorf("put-token under throttling: got %d, want 429", got)
	}
	if got := condition(s.Send(within(t), text("x"), nil)); got != "amqp:resource-limit-exceeded" {
		t.Errorf("throttled: got %q, want amqp:resource-limit-exceeded", got)
	}
	b.hub.Faults.Throttle(false)
	b.hub.Limits.ExhaustQuota(true)
	if got := condition(s.Send(within(t), text("x"), nil)); got != "amqp:resource-limit-exceeded" {
		t.Errorf("quota: got %q, want amqp:resource-limit-exceeded", got)
	}
	b.hub.Limits.ExhaustQuota(false)
	c.send(s, text("free again"))
}

// The hub's clock decides about tokens.
func TestClockSkew(t *testing.T) {
	b := newBench(t)
	b.hub.Faults.ClockSkew(2 * patience)
	c := b.dial()
	if got, reason := c.put(b.token(pump, patience)); got != 401 {
		t.Errorf("got %d %s, want 401", got, reason)
	}
}
