package mqtt

import (
	"io"
	"net"
	"time"
)

// Close ends the connection after what was sent before, and logs the reason: the
// client does not learn it (trap 9.19). It does not wait for the end.
func (c *Conn) Close(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeLocked(reason)
}

func (c *Conn) closeLocked(reason error) {
	if c.closing || c.ended {
		return
	}
	c.closing, c.reason = true, reason
	_ = c.nc.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
}

// Abort ends the connection at once, with RST where the socket can.
func (c *Conn) Abort() {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	abort(c.nc)
}

// abort closes what lies under TLS and WebSocket, without their goodbyes. What
// waits in the socket is lost.
func abort(nc net.Conn) {
	for {
		if socket, ok := nc.(interface{ SetLinger(seconds int) error }); ok {
			_ = socket.SetLinger(0)
			break
		}
		outer, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		nc = outer.NetConn()
	}
	_ = nc.Close()
}

// stop marks the end of the reading, and returns why it came: our own reason
// before the error of a read that it caused.
func (c *Conn) stop(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason != nil {
		err = c.reason
	}
	if err != nil {
		c.cfg.Log.Info("connection closed", "client", c.client, "reason", err)
	}
	c.ended = true
	close(c.done)
	return err
}

// finish lets the writer end and closes the socket. When it was our decision
// that the connection ends, the client gets time to read the last words: closing
// at once would reset the connection under them when anything is unread.
func (c *Conn) finish() {
	c.mu.Lock()
	ours := c.closing
	_ = c.nc.SetWriteDeadline(time.Now().Add(closeTimeout))
	c.mu.Unlock()
	c.parts.Wait()
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok && ours && half.CloseWrite() == nil {
		_ = c.nc.SetReadDeadline(time.Now().Add(closeTimeout))
		_, _ = io.Copy(io.Discard, c.nc) // until the client closes too, or has had its time
	}
	_ = c.nc.Close()
}
