package routes_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/events"
	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
	"github.com/fieldgate/fieldgate/test/hubsim/mqtt/routes"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// hostName is what the hub of these tests is called.
const hostName = "bench.test"

// The identities of these tests.
var (
	pump  = registry.ID{Device: "pump-1"}
	other = registry.ID{Device: "pump-2"}
	valve = registry.ID{Device: "pump-1", Module: "valve"}
)

// The filters of section 2.1.
const (
	commandFilter = "devices/pump-1/messages/devicebound/#"
	answerFilter  = "$iothub/twin/res/#"
	desiredFilter = "$iothub/twin/PATCH/properties/desired/#"
	methodFilter  = "$iothub/methods/POST/#"
	eventTopic    = "devices/pump-1/messages/events/"
)

// bench is a hub that is served with MQTT.
type bench struct {
	t      testing.TB
	hub    *hub.Hub
	server *routes.Server
	log    *record
	served sync.WaitGroup
}

func newBench(t testing.TB) *bench {
	t.Helper()
	var policies []registry.Policy
	for name, rights := range registry.PolicyRights {
		policies = append(policies, registry.Policy{Name: name, PrimaryKey: registry.NewKey(), Rights: rights})
	}
	b := &bench{t: t, log: &record{}}
	b.hub = hub.New(hub.Config{Host: hostName, Policies: policies, Partitions: 1, Log: slog.New(b.log)})
	b.server = routes.New(b.hub)
	t.Cleanup(func() {
		b.server.Close(errors.New("the test is over"))
		b.served.Wait()
		b.hub.Close()
	})
	for _, id := range []registry.ID{pump, other, valve} {
		b.add(registry.Identity{ID: id})
	}
	return b
}

// inBubble runs a test whose time passes only when everything waits.
func inBubble(t *testing.T, test func(*testing.T, *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newBench(t)) })
}

func (b *bench) add(i registry.Identity) {
	b.t.Helper()
	if _, err := b.hub.Registry.Create(i); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) serve(nc net.Conn, chain ...*x509.Certificate) {
	b.served.Go(func() {
		_ = mqtt.Serve(nc, mqtt.Config{Certificates: chain, Log: slog.New(b.log)}, b.server.Connect)
	})
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

// events returns what has been stored, oldest first.
func (b *bench) events() (list []stored) {
	b.t.Helper()
	for e := range b.hub.Events.All() {
		m, err := amqp.ParseMessage(e.Message)
		if err != nil {
			b.t.Fatal(err)
		}
		list = append(list, stored{e, message.FromAMQP(m)})
	}
	return list
}

// stored is an event with its message taken apart.
type stored struct {
	events.Event
	message *message.Message
}

// record keeps what was logged.
type record struct {
	mu    sync.Mutex
	lines strings.Builder
}

func (r *record) Enabled(context.Context, slog.Level) bool { return true }
func (r *record) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *record) WithGroup(string) slog.Handler            { return r }

func (r *record) Handle(_ context.Context, line slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprint(&r.lines, line.Message)
	line.Attrs(func(a slog.Attr) bool {
		fmt.Fprint(&r.lines, " ", a)
		return true
	})
	fmt.Fprintln(&r.lines)
	return nil
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lines.String()
}

// client is a device, with another codec than ours.
type client struct {
	b  *bench
	nc net.Conn
	in chan packets.ControlPacket // closed when the connection ends
}

// dial opens a connection in memory.
func (b *bench) dial(chain ...*x509.Certificate) *client {
	near, far := net.Pipe()
	b.serve(far, chain...)
	c := &client{b: b, nc: near, in: make(chan packets.ControlPacket, 1000)}
	b.served.Go(func() {
		defer close(c.in)
		for {
			p, err := packets.ReadPacket(near)
			if err != nil {
				return
			}
			c.in <- p
		}
	})
	b.t.Cleanup(func() { _ = near.Close() })
	return c
}

// hello is CONNECT of an identity with a good token and clean session 0.
func (b *bench) hello(id registry.ID) *packets.ConnectPacket {
	b.t.Helper()
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion, p.Keepalive, p.ClientIdentifier = "MQTT", 4, 1000, id.String()
	p.UsernameFlag, p.Username = true, hostName+"/"+id.String()+"/?api-version=2021-04-12"
	p.PasswordFlag, p.Password = true, []byte(b.token(id, 24*time.Hour))
	return p
}

// join connects an identity, which must succeed.
func (b *bench) join(id registry.ID) *client {
	b.t.Helper()
	c, _ := b.enter(b.hello(id))
	return c
}

// enter connects, which must succeed, and returns the session present flag.
func (b *bench) enter(p *packets.ConnectPacket) (c *client, present bool) {
	b.t.Helper()
	c = b.dial()
	c.send(p)
	got, ok := c.next().(*packets.ConnackPacket)
	if !ok || got.ReturnCode != mqtt.Accepted {
		b.t.Fatalf("got %v, want CONNACK 0; log:\n%s", got, b.log)
	}
	return c, got.SessionPresent
}

// send writes packets in one piece. A server that is gone is no error here.
func (c *client) send(list ...packets.ControlPacket) {
	c.b.t.Helper()
	var out bytes.Buffer
	for _, p := range list {
		if err := p.Write(&out); err != nil {
			c.b.t.Fatal(err)
		}
	}
	if _, err := c.nc.Write(out.Bytes()); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		c.b.t.Fatal(err)
	}
}

// next returns the next packet; nil when the connection has ended.
func (c *client) next() packets.ControlPacket { return <-c.in }

// message returns the next packet, which must be a PUBLISH.
func (c *client) message() *packets.PublishPacket {
	c.b.t.Helper()
	p, ok := c.next().(*packets.PublishPacket)
	if !ok {
		c.b.t.Fatalf("got %v, want PUBLISH; log:\n%s", p, c.b.log)
	}
	return p
}

// nothing checks that nothing is on its way to the client.
func (c *client) nothing() {
	c.b.t.Helper()
	synctest.Wait()
	if len(c.in) > 0 {
		c.b.t.Errorf("got %v, want nothing", c.next())
	}
}

// ended waits for the end of the connection.
func (c *client) ended() {
	for range c.in {
	}
	synctest.Wait() // the hub has noticed too
}

// subscribe subscribes with a QoS, and returns the codes.
func (c *client) subscribe(qos byte, filters ...string) []byte {
	c.b.t.Helper()
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	p.MessageID, p.Topics, p.Qoss = 1, filters, bytes.Repeat([]byte{qos}, len(filters))
	c.send(p)
	got, ok := c.next().(*packets.SubackPacket)
	if !ok {
		c.b.t.Fatalf("got %v, want SUBACK; log:\n%s", got, c.b.log)
	}
	return got.ReturnCodes
}

func (c *client) disconnect() {
	c.b.t.Helper()
	c.send(packets.NewControlPacket(packets.Disconnect))
	c.ended()
}

// publish sends a message and waits for PUBACK when it has QoS 1.
func (c *client) publish(topic, body string, qos byte) {
	c.b.t.Helper()
	c.send(publish(topic, body, qos))
	if qos == 0 {
		synctest.Wait()
		return
	}
	if p, ok := c.next().(*packets.PubackPacket); !ok || p.MessageID != 7 {
		c.b.t.Fatalf("got %v, want PUBACK 7; log:\n%s", p, c.b.log)
	}
}

func publish(topic, body string, qos byte) *packets.PublishPacket {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.Qos = topic, []byte(body), qos
	if qos > 0 {
		p.MessageID = 7
	}
	return p
}

func (c *client) puback(id uint16) {
	c.b.t.Helper()
	p := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
	p.MessageID = id
	c.send(p)
	synctest.Wait()
}
