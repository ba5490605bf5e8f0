package amqp

import (
	"encoding/binary"
	"net"
)

// guard stands between go-amqp and the TLS connection, and keeps two things from
// costing more than they must.
//
// It closes the whole connection when one direction of it has failed. go-amqp
// waits for its writer before it reports what its reader saw; on a line that was
// cut silently the writer would hang in a full socket long after the reader has
// noticed.
//
// It keeps the frames of a channel in order. When the hub ends a session, go-amqp
// gives the channel to the next session at once, and answers the END a moment
// later: the BEGIN of the next session may go out before that answer. The hub
// calls that a framing error, and closes the connection under all leaves.
type guard struct {
	net.Conn          // TLS
	tcp      net.Conn // below it: closing this never waits

	// Channels that go-amqp has begun and not ended. The frame is the BEGIN that
	// waits for the END of the session before it, nil for none. Only the one
	// goroutine that writes touches it.
	begun map[uint16][]byte
}

func newGuard(tls, tcp net.Conn) *guard {
	return &guard{Conn: tls, tcp: tcp, begun: make(map[uint16][]byte)}
}

// Read reads what the hub says.
func (g *guard) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if err != nil {
		g.tcp.Close()
	}
	return n, err
}

// Write takes one frame, as go-amqp writes them.
func (g *guard) Write(frame []byte) (int, error) {
	channel, code := frameOf(frame)
	waiting, begun := g.begun[channel]
	switch code {
	case performativeBegin:
		if begun {
			g.begun[channel] = append([]byte(nil), frame...)
			return len(frame), nil // on its way, as with any buffer
		}
		g.begun[channel] = nil
	case performativeEnd:
		if waiting == nil {
			delete(g.begun, channel)
			break
		}
		g.begun[channel] = nil
		if _, err := g.write(append(append([]byte(nil), frame...), waiting...)); err != nil {
			return 0, err
		}
		return len(frame), nil
	}
	return g.write(frame)
}

func (g *guard) write(b []byte) (int, error) {
	n, err := g.Conn.Write(b)
	if err != nil {
		g.tcp.Close()
	}
	return n, err
}

// What a session begins and ends with: codes of performatives (AMQP 1.0, part 2,
// sections 2.7.2 and 2.7.6).
const (
	performativeBegin = 0x11
	performativeEnd   = 0x17
)

// frameOf returns the channel of an AMQP frame and the code of its performative;
// the code is 0 for anything else that is written (AMQP 1.0, part 2, section
// 2.3: size, offset of the body in words, type 0, channel; then a described type
// whose descriptor is a small number).
func frameOf(b []byte) (channel uint16, code byte) {
	if len(b) < 8 || uint64(binary.BigEndian.Uint32(b)) != uint64(len(b)) || b[5] != 0 {
		return 0, 0
	}
	body := 4 * int(b[4])
	if len(b) < body+3 || b[body] != 0x00 || b[body+1] != 0x53 {
		return 0, 0
	}
	return binary.BigEndian.Uint16(b[6:]), b[body+2]
}
