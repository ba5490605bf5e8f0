package amqp

import (
	"crypto/x509"
	"encoding/binary"
	"net"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// meter counts the bytes of all connections, below TLS and above it. In a WebSocket
// what frames it counts as TLS.
type meter struct {
	wire, plain, keepAlive atomic.Int64
	certificate            atomic.Int64 // when the hub's expires, Unix seconds; 0 before the first handshake
}

// Traffic implements uplink.Metered.
func (m *meter) Traffic() uplink.Traffic {
	return uplink.Traffic{Wire: m.wire.Load(), Plain: m.plain.Load(), KeepAlive: m.keepAlive.Load()}
}

// HubCertificateExpiry returns when the certificate that the hub showed last
// expires, zero before the first connection.
func (m *meter) HubCertificateExpiry() time.Time {
	if at := m.certificate.Load(); at != 0 {
		return time.Unix(at, 0)
	}
	return time.Time{}
}

// below counts what goes over a socket.
func (m *meter) below(socket net.Conn) net.Conn { return &wireConn{socket, m} }

// shown notes the certificate that the hub has shown.
func (m *meter) shown(c *x509.Certificate) { m.certificate.Store(c.NotAfter.Unix()) }

// wireConn counts what goes over TCP.
type wireConn struct {
	net.Conn
	meter *meter
}

func (c *wireConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.meter.wire.Add(int64(n))
	return n, err
}

func (c *wireConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.meter.wire.Add(int64(n))
	return n, err
}

// plainConn counts what goes through TLS, and empty frames among it.
type plainConn struct {
	net.Conn
	meter   *meter
	in, out frames // one goroutine reads, one writes
}

func (c *plainConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.meter.keepAlive.Add(c.in.empty(b[:n]))
	c.meter.plain.Add(int64(n))
	return n, err
}

// Write counts before it writes: the hub may have answered before the write
// returns, and who looks then would take what is not yet counted here for TLS.
func (c *plainConn) Write(b []byte) (int, error) {
	c.meter.keepAlive.Add(c.out.empty(b))
	c.meter.plain.Add(int64(len(b)))
	n, err := c.Conn.Write(b)
	c.meter.plain.Add(int64(n - len(b)))
	return n, err
}

// frames follows the frames of one direction, in whatever pieces they come.
type frames struct {
	head [4]byte
	have int   // bytes of head
	rest int64 // bytes of the frame after its head
}

// frameHead is the least size of a frame, that of one without a body: a
// keep-alive (AMQP 1.0, part 2, sections 2.3.1 and 2.4.5). A protocol header has
// the same size and begins with letters that are no size of a frame.
const frameHead = 8

// empty takes the next piece and returns the bytes of empty frames that begin in it.
func (f *frames) empty(b []byte) (bytes int64) {
	for len(b) > 0 {
		if f.rest > 0 {
			n := min(f.rest, int64(len(b)))
			f.rest -= n
			b = b[n:]
			continue
		}
		n := copy(f.head[f.have:], b)
		f.have += n
		b = b[n:]
		if f.have < len(f.head) {
			return bytes
		}
		f.have = 0
		size := int64(binary.BigEndian.Uint32(f.head[:]))
		switch {
		case string(f.head[:]) == "AMQP":
			size = frameHead
		case size <= frameHead: // less is garbage, which go-amqp will not take
			size = frameHead
			bytes += frameHead
		}
		f.rest = size - int64(len(f.head))
	}
	return bytes
}
