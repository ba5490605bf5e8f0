package routes_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/routes"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// patience bounds every wait. It is not a claim about speed.
const patience = 30 * time.Second

// hostName is what the hub of these tests is called.
const hostName = "bench.test"

// The identities of these tests.
var (
	pump   = registry.ID{Device: "pump-1"}
	other  = registry.ID{Device: "pump-2"}
	module = registry.ID{Device: "pump-1", Module: "valve"}
)

// bench is a hub whose AMQP connections are pipes in memory.
type bench struct {
	t      testing.TB
	hub    *hub.Hub
	routes *routes.Hub
	served sync.WaitGroup
}

func newBench(t testing.TB) *bench {
	var policies []registry.Policy
	for name, rights := range registry.PolicyRights {
		policies = append(policies, registry.Policy{
			Name: name, PrimaryKey: registry.NewKey(), SecondaryKey: registry.NewKey(), Rights: rights,
		})
	}
	b := &bench{t: t, hub: hub.New(hub.Config{
		Host: hostName, Policies: policies, Partitions: 1, Log: slog.New(slog.DiscardHandler),
	})}
	b.routes = routes.New(b.hub)
	t.Cleanup(func() {
		b.routes.Close(nil)
		b.served.Wait()
		b.hub.Close()
	})
	for _, id := range []registry.ID{pump, other, module} {
		b.add(id)
	}
	return b
}

// add adds an identity with a made-up key.
func (b *bench) add(id registry.ID) {
	b.t.Helper()
	if _, err := b.hub.Registry.Create(registry.Identity{ID: id}); err != nil {
		b.t.Fatal(err)
	}
}

// token returns a token with the identity's own key.
func (b *bench) token(id registry.ID, life time.Duration) string {
	b.t.Helper()
	i, err := b.hub.Registry.Find(id)
	if err != nil {
		b.t.Fatal(err)
	}
	return sas.New(hostName+"/"+id.Path(), "", decode(b.t, i.Auth.PrimaryKey), time.Now().Add(life))
}

// policyToken returns a token of a policy about a resource.
func (b *bench) policyToken(policy, resource string) string {
	b.t.Helper()
	key := decode(b.t, b.hub.Registry.Policy(policy).PrimaryKey)
	return sas.New(resource, policy, key, time.Now().Add(time.Hour))
}

func decode(t testing.TB, key string) []byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// client is a stock go-amqp client with one session.
type client struct {
	t       testing.TB
	bench   *bench
	conn    *goamqp.Conn
	session *goamqp.Session
	cbs     *goamqp.Sender
	answers *goamqp.Receiver
}

// connect lets a client in that may have shown a certificate in TLS.
func (b *bench) connect(opts *goamqp.ConnOptions, chain ...*x509.Certificate) (*client, error) {
	b.t.Helper()
	near, far := net.Pipe()
	b.served.Go(func() {
		_ = server.Serve(far, server.Config{Certificates: chain}, b.routes.Connect)
	})
	conn, err := goamqp.NewConn(within(b.t), near, opts)
	if err != nil {
		_ = near.Close()
		return nil, err
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	session, err := conn.NewSession(within(b.t), nil)
	if err != nil {
		return nil, err
	}
	return &client{t: b.t, bench: b, conn: conn, session: session}, nil
}

func (b *bench) dial(chain ...*x509.Certificate) *client {
	b.t.Helper()
	c, err := b.connect(nil, chain...)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// device connects with a token of the identity.
func (b *bench) device(id registry.ID) *client {
	b.t.Helper()
	c := b.dial()
	c.login(b.token(id, time.Hour))
	return c
}

// service connects as a back end.
func (b *bench) service() *client {
	b.t.Helper()
	c := b.dial()
	c.login(b.policyToken("service", hostName))
	return c
}

// put puts a token and returns status and description of the answer.
func (c *client) put(token string) (int32, string) {
	c.t.Helper()
	ctx := within(c.t)
	var err error
	if c.cbs == nil {
		if c.cbs, err = c.session.NewSender(ctx, "$cbs", nil); err != nil {
			c.t.Fatal(err)
		}
		if c.answers, err = c.session.NewReceiver(ctx, "$cbs", nil); err != nil {
			c.t.Fatal(err)
		}
	}
	id := goamqp.UUID{1, 2, 3}
	err = c.cbs.Send(ctx, &goamqp.Message{
		Properties: &goamqp.MessageProperties{MessageID: id},
		ApplicationProperties: map[string]any{
			"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": "whoever",
		},
		Value: token,
	}, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	answer := c.take(c.answers)
	if answer.Properties.CorrelationID != id {
		c.t.Errorf("correlation id: got %#v, want the UUID that was sent", answer.Properties.CorrelationID)
	}
	return answer.ApplicationProperties["status-code"].(int32), answer.ApplicationProperties["status-description"].(string)
}

func (c *client) login(token string) {
	c.t.Helper()
	if status, reason := c.put(token); status != 200 {
		c.t.Fatalf("put-token: got %d %s, want 200", status, reason)
	}
}

func (c *client) sender(address string, opts *goamqp.SenderOptions) *goamqp.Sender {
	c.t.Helper()
	s, err := c.session.NewSender(within(c.t), address, opts)
	if err != nil {
		c.t.Fatalf("sender to %s: %v", address, err)
	}
	return s
}

func (c *client) receiver(address string, opts *goamqp.ReceiverOptions) *goamqp.Receiver {
	c.t.Helper()
	r, err := c.session.NewReceiver(within(c.t), address, opts)
	if err != nil {
		c.t.Fatalf("receiver from %s: %v", address, err)
	}
	return r
}

// refused attaches both kinds of links and returns the conditions with which
// the hub refuses them.
func (c *client) refused(address string) (sending, receiving string) {
	c.t.Helper()
	_, err := c.session.NewSender(within(c.t), address, nil)
	_, err2 := c.session.NewReceiver(within(c.t), address, nil)
	return condition(err), condition(err2)
}

func (c *client) send(s *goamqp.Sender, m *goamqp.Message) {
	c.t.Helper()
	if err := s.Send(within(c.t), m, nil); err != nil {
		c.t.Fatalf("send to %s: %v", s.Address(), err)
	}
}

// next receives a message without settling it.
func (c *client) next(r *goamqp.Receiver) *goamqp.Message {
	c.t.Helper()
	m, err := r.Receive(within(c.t), nil)
	if err != nil {
		c.t.Fatalf("receive from %s: %v", r.Address(), err)
	}
	return m
}

// take receives a message and accepts it.
func (c *client) take(r *goamqp.Receiver) *goamqp.Message {
	c.t.Helper()
	m := c.next(r)
	if err := r.AcceptMessage(within(c.t), m); err != nil {
		c.t.Fatal(err)
	}
	return m
}

// ended waits for the end of a link on which the client receives, and returns
// the condition.
func (c *client) ended(r *goamqp.Receiver) string {
	c.t.Helper()
	_, err := r.Receive(within(c.t), nil)
	return condition(err)
}

// condition returns the condition with which the hub refused something; "" when
// it did not.
func condition(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*goamqp.LinkError](err); ok && e.RemoteErr != nil {
		return string(e.RemoteErr.Condition)
	}
	if e, ok := errors.AsType[*goamqp.SessionError](err); ok && e.RemoteErr != nil {
		return string(e.RemoteErr.Condition)
	}
	if e, ok := errors.AsType[*goamqp.ConnError](err); ok && e.RemoteErr != nil {
		return string(e.RemoteErr.Condition)
	}
	if e, ok := errors.AsType[*goamqp.Error](err); ok {
		return string(e.Condition)
	}
	return fmt.Sprint(err)
}

// text makes a message of one data section.
func text(body string) *goamqp.Message { return goamqp.NewMessage([]byte(body)) }

// eventually waits until the hub has done what it does in its own time.
func (b *bench) eventually(what string, done func() bool) {
	b.t.Helper()
	ctx := within(b.t)
	for tick := time.NewTicker(time.Millisecond); !done(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			b.t.Fatal("never: " + what)
		}
	}
}

// bodies lists what has arrived at the event endpoint.
func (b *bench) bodies() (list []string) {
	b.t.Helper()
	for e := range b.hub.Events.All() {
		m, err := amqp.ParseMessage(e.Message)
		if err != nil {
			b.t.Fatal(err)
		}
		list = append(list, string(m.Body()))
	}
	return list
}
