package mqtt

import (
	"context"
	"errors"
	"fmt"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// link is the way of one leaf. The hub knows nothing of it.
type link struct{ conn *conn }

// Open is described at uplink.Conn. There is nothing to prove for a leaf.
func (c *conn) Open(context.Context, string) (uplink.Link, error) {
	if err := c.Err(); err != nil {
		return nil, err
	}
	return &link{c}, nil
}

// Send puts one message on its way: MQTT knows no batches.
func (l *link) Send(ctx context.Context, ms []*gateway.Message) (uplink.Receipt, int, error) {
	c, m := l.conn, ms[0]
	topic, body, problem := c.dialect.word(m, c.clock())
	if problem != "" {
		return nil, 0, &uplink.Fault{Remedy: uplink.Poison, Err: errors.New("the message cannot be sent over MQTT: " + problem)}
	}
	r := &receipt{conn: c, name: nameOf(m), settled: make(chan struct{})}
	var err error
	if r.alone, err = c.suspects.admit(r.name); err != nil {
		return nil, 0, err
	}
	if err := c.publish(ctx, r, topic, body); err != nil {
		return nil, 0, err
	}
	return r, 1, nil
}

// nameOf names a message for as long as the gateway runs.
func nameOf(m *gateway.Message) string {
	return fmt.Sprint(m.Leaf, "/", m.Start, "/", m.Lane, "/", m.Seq)
}

// publish sends with QoS 1. One that is to be alone waits for its turn first.
func (c *conn) publish(ctx context.Context, r *receipt, topic string, body []byte) error {
	if r.alone {
		select {
		case c.turns <- struct{}{}:
		case <-c.done:
			return c.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.Qos, p.TopicName, p.Payload = 1, topic, body
	c.mu.Lock()
	p.MessageID = c.nextIDLocked()
	if p.MessageID != 0 {
		c.pending[p.MessageID] = r
	}
	c.mu.Unlock()
	if p.MessageID == 0 {
		if r.alone {
			<-c.turns
		}
		return errNoID
	}
	return c.send(p)
}

// Abort ends the connection: there is nothing smaller that could be given up.
func (l *link) Abort(uplink.Rung) { l.conn.lose(errors.New("the hub does not answer a message")) }

// Close is described at uplink.Link.
func (l *link) Close(context.Context) {}

// receipt is the hub's answer to one message.
type receipt struct {
	conn    *conn
	name    string
	alone   bool          // no other message is with the hub meanwhile
	settled chan struct{} // closed when the hub has it
}

// Wait returns nil when the hub has the message.
func (r *receipt) Wait(ctx context.Context) error {
	select {
	case <-r.settled:
		return nil
	case <-r.conn.done:
	case <-ctx.Done():
	}
	select {
	case <-r.settled: // both
		return nil
	case <-r.conn.done:
		return r.conn.err
	default:
		return ctx.Err()
	}
}
