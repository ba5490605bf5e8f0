package broker

import (
	"bufio"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// maxConnectPacket bounds the first packet, which anybody can send. A SAS
	// token with a long user name fits, and so does a short will.
	maxConnectPacket = 8 << 10
	// smallPacket is what a connection keeps as a buffer; the buffer of a
	// larger packet is given back after it.
	smallPacket = 4 << 10
	// readBuffer is the size of the buffer in front of the network.
	readBuffer = 1 << 10
)

// guardedConn stands between a leaf's connection and mochi. It passes on only
// whole packets whose structure has been checked, each within its size and its
// time, and keeps both deadlines itself. A PUBLISH never reaches mochi, which would
// acknowledge it before it is in custody, and spend more on it than all of the rest
// here. Reads come from one goroutine, writes from any.
type guardedConn struct {
	net.Conn
	session      *session
	publish      func(first byte, body []byte) error // takes each PUBLISH; body is good until it returns
	writeTimeout time.Duration
	onClose      func()
	close        sync.Once

	// Used by the reading goroutine only; version and the limits are set before
	// any other goroutine knows the connection.
	network   *bufio.Reader
	packet    []byte        // the packet being read or passed on
	unread    []byte        // what mochi has not fetched of packet
	weight    int           // of packet, in bytes and what counts as such
	version   byte          // 0 before CONNECT
	maxPacket int           // in bytes, of the whole packet
	idle      time.Duration // silence that is allowed; 0: the deadline set at the start holds
	until     time.Time     // the read deadline, once idle is set
	fault     error         // why the leaf's bytes were not passed on
	goodbye   bool          // a DISCONNECT was passed on that takes the will with it
}

// guard wraps the connection of a session. onClose is called once, before the
// connection is closed.
func guard(c net.Conn, s *session, writeTimeout time.Duration, onClose func()) *guardedConn {
	return &guardedConn{
		Conn:         c,
		session:      s,
		publish:      s.takePublish,
		writeTimeout: writeTimeout,
		onClose:      onClose,
		network:      bufio.NewReaderSize(c, readBuffer),
		maxPacket:    maxConnectPacket,
	}
}

// admit lifts the limits of a stranger when the leaf has logged in.
func (c *guardedConn) admit(maxPacket int, idle time.Duration) {
	c.maxPacket, c.idle = maxPacket, idle
}

// Read returns bytes of a checked packet.
func (c *guardedConn) Read(p []byte) (int, error) {
	for len(c.unread) == 0 {
		header, err := c.next()
		if err != nil {
			return 0, err
		}
		first := c.packet[0]
		if c.idle != 0 && !c.session.keepPace(first>>4, c.weight) {
			return 0, errStopped
		}
		if first>>4 != typePublish {
			c.unread = c.packet
		} else if err := c.publish(first, c.packet[header:]); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.unread)
	c.unread = c.unread[n:]
	return n, nil
}

// next reads one packet, checks it and returns the length of its fixed header.
func (c *guardedConn) next() (header int, err error) {
	if err := c.allowSilence(); err != nil {
		return 0, err
	}
	if cap(c.packet) > smallPacket {
		c.packet = nil
	}
	c.packet = c.packet[:0]
	if header, err = c.header(); err != nil {
		return 0, err
	}
	version, extra, err := checkPacket(c.version, c.packet[0], c.packet[header:])
	if err != nil {
		return 0, c.reject(err)
	}
	c.weight = len(c.packet) + extra
	if c.version == 0 { // from now on others read it
		c.version = version
	}
	if c.packet[0]>>4 == typeDisconnect {
		// Any reason but 0, "normal disconnection", leaves the will in force
		// (section 3.14.4). mochi does not see the reason of a short packet.
		c.goodbye = len(c.packet) == header || c.packet[header] == 0
	}
	return header, nil
}

// allowSilence moves the read deadline so that the leaf may be silent for idle, and
// at most an eighth longer: moving it for each packet costs more than reading one.
func (c *guardedConn) allowSilence() error {
	if c.idle == 0 {
		return nil
	}
	now := time.Now()
	if c.until.Sub(now) >= c.idle {
		return nil
	}
	c.until = now.Add(c.idle + c.idle/8)
	return c.Conn.SetReadDeadline(c.until)
}

// header reads the fixed header and everything behind it into packet, and
// returns the length of the fixed header.
func (c *guardedConn) header() (int, error) {
	first, err := c.network.ReadByte()
	if err != nil {
		return 0, err
	}
	c.packet = append(c.packet, first)
	length := 0
	for shift := 0; ; shift += 7 {
		b, err := c.network.ReadByte()
		if err != nil {
			return 0, err
		}
		c.packet = append(c.packet, b)
		length |= int(b&0x7f) << shift
		if b < 0x80 {
			if b == 0 && shift > 0 { // not the shortest form, section 1.5.5
				return 0, c.reject(errMalformed)
			}
			break
		}
		if shift == 21 {
			return 0, c.reject(errMalformed)
		}
	}
	header := len(c.packet)
	if header+length > c.maxPacket {
		return 0, c.reject(errPacketSize)
	}
	return header, c.fill(length)
}

// fill appends n bytes to packet. Memory is taken as bytes arrive, not as they
// are announced.
func (c *guardedConn) fill(n int) error {
	for n > 0 {
		have := len(c.packet)
		step := min(n, max(smallPacket, have))
		c.packet = slices.Grow(c.packet, step)[:have+step]
		if _, err := io.ReadFull(c.network, c.packet[have:]); err != nil {
			return err
		}
		n -= step
	}
	return nil
}

// reject remembers the fault and tells the leaf, where its version has words
// for it.
func (c *guardedConn) reject(err error) error {
	c.fault = err
	f, _ := err.(*fault)
	switch {
	case f == errVersion:
		// The only answer that a client of any version understands.
		c.Write(connack(version311, refuseVersion))
	case f != nil && c.version == version5:
		c.Write([]byte{typeDisconnect << 4, 2, f.code, 0})
	}
	c.Close()
	return err
}

// Write sends whole packets. A leaf that does not read them in time is cut off:
// it must not hold up anybody else.
func (c *guardedConn) Write(p []byte) (int, error) {
	sent := p
	if c.version == version311 {
		if sent = forVersion311(p); sent == nil {
			return len(p), nil
		}
	}
	c.Conn.SetWriteDeadline(time.Now().Add(c.writeTimeout)) // an error shows in Write
	if _, err := c.Conn.Write(sent); err != nil {
		c.Close()
		return 0, err
	}
	return len(p), nil
}

// forVersion311 turns what mochi writes in the words of MQTT 5 into those of
// MQTT 3.1.1, in which servers send no DISCONNECT and CONNACK has five codes.
func forVersion311(p []byte) []byte {
	const connackType = 2
	switch {
	case len(p) >= 2 && p[0]>>4 == typeDisconnect:
		return nil
	case len(p) == 4 && p[0]>>4 == connackType && p[3] > 5:
		return []byte{p[0], p[1], p[2], code311(p[3])}
	}
	return p
}

// code311 returns the return code of MQTT 3.1.1 (its section 3.2.2.3) for a
// reason code of MQTT 5. What will pass is 3: leaves take 4 and 5 as final.
func code311(code byte) byte {
	switch code {
	case 0x84: // unsupported protocol version
		return 1
	case 0x85: // client identifier not valid
		return 2
	case 0x88, 0x89, 0x8b, 0x97, 0x9f: // unavailable, busy, shutting down, quota, rate
		return 3
	case 0x80, 0x81, 0x82, 0x86: // unspecified, malformed, protocol error, bad user name or password
		return 4
	}
	return 5
}

// SetDeadline does nothing: mochi would reset the write deadline of others with
// its read deadline.
func (c *guardedConn) SetDeadline(time.Time) error { return nil }

// Close closes the connection and wakes whoever waits for it.
func (c *guardedConn) Close() (err error) {
	c.close.Do(func() {
		c.onClose()
		err = c.Conn.Close()
	})
	return err
}
