package mqtt

import (
	"errors"

	"github.com/fieldgate/fieldgate/test/hubsim/mqtt/packet"
)

// receipt is the acknowledgement of one message from the client. Those of a
// connection leave in the order of the messages (section 4.6 of the standard;
// trap 9.18).
type receipt struct {
	id    uint16
	times int  // that it is to be sent
	never bool // it will not be sent
	left  bool // it was sent: further ones follow at once
}

// published hands a message to the routes.
func (c *Conn) published(p *packet.Publish) error {
	switch p.QoS {
	case 2:
		return errors.New("a message with QoS 2")
	case 0:
		c.routes.Publish(*received(p), func(err error) {
			if err != nil && !errors.Is(err, ErrUnanswered) {
				c.Close(err)
			}
		})
		return nil
	}
	r := &receipt{id: p.ID}
	c.mu.Lock()
	if len(c.receipts) == maxOpen {
		c.mu.Unlock()
		return errors.New("too many messages wait for their acknowledgement")
	}
	c.receipts = append(c.receipts, r)
	c.mu.Unlock()
	c.routes.Publish(*received(p), func(err error) { c.answer(r, err) })
	return nil
}

// answer settles a message, and sends the acknowledgements that waited for it.
func (c *Conn) answer(r *receipt, err error) {
	if err != nil && !errors.Is(err, ErrUnanswered) {
		c.Close(err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		r.never = true
	case r.left:
		c.ackLocked(r.id)
	default:
		r.times++
	}
	for len(c.receipts) > 0 && (c.receipts[0].never || c.receipts[0].times > 0) {
		first := c.receipts[0]
		c.receipts[0] = nil // it may be the last reference
		c.receipts = c.receipts[1:]
		first.left = true
		for range first.times {
			c.ackLocked(first.id)
		}
	}
}

func (c *Conn) ackLocked(id uint16) {
	if c.closing {
		return
	}
	c.out.bytes = packet.AppendPuback(c.out.bytes, id)
	c.pushLocked()
}
