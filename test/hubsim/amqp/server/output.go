package server

import (
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
)

// send appends one frame to the output.
func (c *Conn) send(channel uint16, p amqp.Performative, payload []byte) {
	if c.closing || c.ended {
		return
	}
	c.out = amqp.AppendFrame(c.out, channel, p, payload)
	if !c.batching {
		c.wakeWriter()
	}
}

func (c *Conn) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default: // awake already
	}
}

// flush is called by the reader before each read that may block. It sends what
// has gathered and holds the reader while the peer does not read.
func (c *Conn) flush() {
	c.mu.Lock()
	c.flushLocked()
	c.batching = false
	if len(c.out) > 0 {
		c.wakeWriter()
	}
	if c.opened && !c.closing {
		_ = c.nc.SetReadDeadline(time.Now().Add(c.cfg.IdleTimeout))
	}
	for len(c.out) > outLimit && !c.ended {
		c.room.Wait()
	}
	c.unlock()
}

// resume is called by the reader when a read has brought bytes.
func (c *Conn) resume() {
	c.mu.Lock()
	c.batching = true
	c.mu.Unlock()
}

func (c *Conn) flushLocked() {
	for _, s := range c.dirty {
		s.flush()
	}
	c.dirty = c.dirty[:0]
}

// write sends the output, and heartbeats at half the time after which the peer
// would give up (part 2, section 2.4.5). It ends when the connection has ended
// and everything said before is out.
func (c *Conn) write() {
	var beat <-chan time.Time
	if c.peerIdle > 0 {
		t := time.NewTicker(max(c.peerIdle/2, time.Millisecond))
		defer t.Stop()
		beat = t.C
	}
	var spare []byte
	for {
		c.mu.Lock()
		out, over := c.out, c.ended || c.closing
		c.out = spare[:0]
		c.room.Broadcast()
		c.mu.Unlock()
		if len(out) > 0 {
			_ = c.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
			if _, err := c.nc.Write(out); err != nil {
				c.Abort() // the reader notices and ends the connection
				return
			}
			spare = keep(out)
			continue
		}
		spare = out
		if over {
			return
		}
		select {
		case <-c.wake:
		case <-c.done:
		case <-beat:
			c.mu.Lock()
			if len(c.out) == 0 && !c.closing {
				c.out = amqp.AppendHeartbeat(c.out)
			}
			c.mu.Unlock()
		}
	}
}

// keep returns b for use again unless a burst has made it large.
func keep(b []byte) []byte {
	if cap(b) > 2*pumpLimit {
		return nil
	}
	return b
}

// Garble sends bytes that are no AMQP, between two frames. It is for faults.
func (c *Conn) Garble(raw []byte) {
	c.mu.Lock()
	defer c.unlock()
	if c.closing || c.ended || !c.opened {
		return
	}
	c.flushLocked()
	c.out = append(c.out, raw...)
	c.wakeWriter()
}
