package mqtt_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
)

// client is the other end of a served connection, with another codec than ours.
type client struct {
	t      *testing.T
	nc     net.Conn
	in     chan packets.ControlPacket // closed when the connection ends
	served chan error                 // what Serve returns
}

// serve serves one end of a pipe and returns the other. Everything has ended
// when the test has: in a bubble of synctest that is checked.
func serve(t *testing.T, cfg mqtt.Config, connect func(*mqtt.Conn, mqtt.Login) (mqtt.Routes, bool, byte)) *client {
	t.Helper()
	near, far := net.Pipe()
	c := &client{t: t, nc: near, in: make(chan packets.ControlPacket, 1000), served: make(chan error, 1)}
	var parts sync.WaitGroup
	parts.Go(func() { c.served <- mqtt.Serve(far, cfg, connect) })
	parts.Go(func() {
		defer close(c.in)
		for {
			p, err := packets.ReadPacket(near)
			if err != nil {
				return
			}
			c.in <- p
		}
	})
	t.Cleanup(func() {
		_ = near.Close()
		for range c.in { // the reader may hold a packet that nobody wanted
		}
		parts.Wait()
	})
	return c
}

// routed serves a connection with routes that let everyone in.
func routed(t *testing.T, cfg mqtt.Config) (*client, *routes) {
	t.Helper()
	r := &routes{closed: make(chan bool, 1)}
	c := serve(t, cfg, func(conn *mqtt.Conn, l mqtt.Login) (mqtt.Routes, bool, byte) {
		r.conn, r.login = conn, l
		return r, false, mqtt.Accepted
	})
	return c, r
}

// join connects and waits for CONNACK.
func join(t *testing.T, cfg mqtt.Config) (*client, *routes) {
	t.Helper()
	c, r := routed(t, cfg)
	c.send(hello(60))
	if p, ok := c.next().(*packets.ConnackPacket); !ok || p.ReturnCode != mqtt.Accepted {
		t.Fatalf("got %v, want CONNACK 0", p)
	}
	return c, r
}

func hello(keepAlive uint16) *packets.ConnectPacket {
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion, p.Keepalive, p.ClientIdentifier = "MQTT", 4, keepAlive, "pump-1"
	return p
}

func publish(topic string, qos byte, id uint16) *packets.PublishPacket {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Qos, p.MessageID, p.Payload = topic, qos, id, []byte("body")
	return p
}

func puback(id uint16) *packets.PubackPacket {
	p := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
	p.MessageID = id
	return p
}

func subscribe(id uint16, filters ...string) *packets.SubscribePacket {
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	p.MessageID, p.Topics, p.Qoss = id, filters, make([]byte, len(filters))
	return p
}

// send writes packets in one piece. A server that is gone is no error here.
func (c *client) send(list ...packets.ControlPacket) {
	c.t.Helper()
	var b bytes.Buffer
	for _, p := range list {
		if err := p.Write(&b); err != nil {
			c.t.Fatal(err)
		}
	}
	c.write(b.Bytes())
}

func (c *client) write(b []byte) {
	c.t.Helper()
	if _, err := c.nc.Write(b); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		c.t.Fatal(err)
	}
}

// next returns the next packet; nil when the connection has ended.
func (c *client) next() packets.ControlPacket { return <-c.in }

// acks returns the ids of the next n packets, which must be PUBACKs.
func (c *client) acks(n int) []uint16 {
	c.t.Helper()
	var ids []uint16
	for range n {
		p, ok := c.next().(*packets.PubackPacket)
		if !ok {
			c.t.Fatalf("got %v after the acknowledgements %v, want another one", p, ids)
		}
		ids = append(ids, p.MessageID)
	}
	return ids
}

// ended waits for the end of the connection and returns what Serve said.
func (c *client) ended() error {
	c.t.Helper()
	for p := range c.in {
		c.t.Logf("before the end: %v", p)
	}
	return <-c.served
}

// routes do what their fields say; nil ones accept everything.
type routes struct {
	conn        *mqtt.Conn
	login       mqtt.Login
	publish     func(p mqtt.Publish, done func(error))
	subscribe   func(filter string, qos byte) (byte, error)
	unsubscribe func(filter string)
	closed      chan bool
}

func (r *routes) Publish(p mqtt.Publish, done func(error)) {
	if r.publish == nil {
		done(nil)
		return
	}
	r.publish(p, done)
}

func (r *routes) Subscribe(filter string, qos byte) (byte, error) {
	if r.subscribe == nil {
		return qos, nil
	}
	return r.subscribe(filter, qos)
}

func (r *routes) Unsubscribe(filter string) {
	if r.unsubscribe != nil {
		r.unsubscribe(filter)
	}
}

func (r *routes) Closed(orderly bool) { r.closed <- orderly }
