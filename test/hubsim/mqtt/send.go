package mqtt

import (
	"errors"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/mqtt/packet"
)

// Bounds of the output.
const (
	// outLimit is how many bytes may wait for a client that does not read.
	outLimit = 4 << 20
	// spareLimit is how large a buffer may be that is kept for the next write.
	spareLimit = 256 << 10
	// writeTimeout ends a connection whose client does not read.
	writeTimeout = 30 * time.Second
	// closeTimeout is how long the last words may take, and the client's half of
	// the end.
	closeTimeout = 2 * time.Second
)

// errSlow is why a connection is closed whose client does not read.
var errSlow = errors.New("the client does not read or acknowledge what it is sent")

// batch is output with the calls that follow its writing.
type batch struct {
	bytes   []byte
	written []func()
}

// Send sends a message, QoS 0 or 1. acked may be nil; it is called once when the
// client has acknowledged the message (QoS 1, on the reading goroutine) or when
// it was written (QoS 0), and not at all when the connection ends before. Send
// does not wait; a client that does not read is closed when too much is waiting.
// It keeps nothing of body. The topic has at most 65535 bytes; a message with a
// longer one, which nobody can receive, is not sent.
func (c *Conn) Send(topic string, body []byte, qos byte, acked func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &packet.Publish{Topic: topic, Body: body, QoS: qos}
	if qos > 0 {
		if p.ID = c.freeIDLocked(); p.ID == 0 {
			c.closeLocked(errSlow)
			return
		}
	}
	c.sendLocked(p, acked)
}

// SendAs is Send with QoS 1 and a packet id that the caller chooses, which is
// not 0, so that a message keeps its id over all connections of a session
// (section 4.4 of the standard). again says that it was sent before. An
// acknowledgement that is still due for the id counts for this message.
func (c *Conn) SendAs(id uint16, again bool, topic string, body []byte, acked func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sendLocked(&packet.Publish{Topic: topic, ID: id, Body: body, QoS: 1, Duplicate: again}, acked)
}

func (c *Conn) sendLocked(p *packet.Publish, acked func()) {
	if c.closing || c.ended || len(p.Topic) > 1<<16-1 {
		return
	}
	if acked == nil {
		acked = func() {}
	}
	b := &c.out
	if c.holding {
		b = &c.held
	}
	b.bytes = packet.AppendPublish(b.bytes, p)
	if p.QoS > 0 {
		c.sent[p.ID] = acked
	} else {
		b.written = append(b.written, acked)
	}
	c.pushLocked()
}

// freeIDLocked returns a packet id that no message in flight has; 0 when there
// is none.
func (c *Conn) freeIDLocked() uint16 {
	if len(c.sent) >= maxOpen {
		return 0
	}
	for {
		c.lastID++
		if _, used := c.sent[c.lastID]; !used && c.lastID != 0 {
			return c.lastID
		}
	}
}

// acknowledged handles PUBACK. One for an unknown id is ignored: the message may
// have been sent on an earlier connection.
func (c *Conn) acknowledged(id uint16) {
	c.mu.Lock()
	acked := c.sent[id]
	delete(c.sent, id)
	c.mu.Unlock()
	if acked != nil {
		acked()
	}
}

// Garble sends bytes that need not be a packet, between two packets. It is a
// fault for clients to cope with.
func (c *Conn) Garble(b []byte) { c.put(func(out []byte) []byte { return append(out, b...) }) }

// put appends a packet to the output.
func (c *Conn) put(encode func([]byte) []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return
	}
	c.out.bytes = encode(c.out.bytes)
	c.pushLocked()
}

// releaseLocked sends what has waited for CONNACK or SUBACK, behind it.
func (c *Conn) releaseLocked() {
	c.out.bytes = append(c.out.bytes, c.held.bytes...)
	c.out.written = append(c.out.written, c.held.written...)
	c.held, c.holding = batch{}, false
	c.pushLocked()
}

// pushLocked has the output written, or the connection closed when there is too
// much of it.
func (c *Conn) pushLocked() {
	if len(c.out.bytes)+len(c.held.bytes) > outLimit {
		c.closeLocked(errSlow)
		return
	}
	c.wakeWriter()
}

func (c *Conn) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default: // awake already
	}
}

// write writes the output until the connection has ended and everything said
// before is out.
func (c *Conn) write() {
	var spare []byte
	for {
		b, over := c.take(spare)
		spare = b.bytes
		if len(b.bytes) == 0 {
			if over {
				return
			}
			select {
			case <-c.wake:
			case <-c.done:
			}
			continue
		}
		if _, err := c.nc.Write(b.bytes); err != nil {
			_ = c.nc.Close() // the reader notices and ends the connection
			return
		}
		for _, f := range b.written {
			f()
		}
	}
}

// take returns the output there is, and puts an empty buffer in its place. over
// says that none will follow.
func (c *Conn) take(spare []byte) (b batch, over bool) {
	if cap(spare) > spareLimit {
		spare = nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b, c.out = c.out, batch{bytes: spare[:0]}
	limit := writeTimeout
	if c.ended {
		limit, b.written = closeTimeout, nil
	}
	_ = c.nc.SetWriteDeadline(time.Now().Add(limit))
	return b, c.ended
}
