package amqp

import (
	"encoding/binary"
	"fmt"
)

// ProtocolHeader is what each side sends first (part 2, section 2.2). The fifth
// byte says which layer follows.
type ProtocolHeader [8]byte

// The layers a client may ask for.
var (
	HeaderAMQP = ProtocolHeader{'A', 'M', 'Q', 'P', 0, 1, 0, 0}
	HeaderSASL = ProtocolHeader{'A', 'M', 'Q', 'P', 3, 1, 0, 0}
)

// Frame types (part 2, section 2.3; part 5, section 5.3.1).
const (
	FrameAMQP = 0
	FrameSASL = 1
)

// FrameHeader is the size in bytes of what stands in front of a frame's body.
const FrameHeader = 8

// MinMaxFrame is the smallest largest frame that a peer may ask for, in bytes.
const MinMaxFrame = 512

// Frame is one frame as it came. Body aliases the input; an empty body is a
// heartbeat.
type Frame struct {
	Type    byte
	Channel uint16
	Body    []byte
}

// FrameSize returns how many bytes the frame at the start of b takes. With
// fewer than FrameHeader bytes it returns 0 and no error. A frame of more than
// max bytes, or of an impossible size, is an error.
func FrameSize(b []byte, max uint32) (int, error) {
	if len(b) < FrameHeader {
		return 0, nil
	}
	size := binary.BigEndian.Uint32(b)
	if size < FrameHeader || size > max {
		return 0, fmt.Errorf("%w: frame of %d bytes", ErrDecode, size)
	}
	return int(size), nil
}

// ParseFrame reads b, which holds exactly one frame.
func ParseFrame(b []byte) (Frame, error) {
	if len(b) < FrameHeader || uint64(binary.BigEndian.Uint32(b)) != uint64(len(b)) {
		return Frame{}, fmt.Errorf("%w: frame of another size", ErrDecode)
	}
	offset := 4 * int(b[4])
	if offset < FrameHeader || offset > len(b) {
		return Frame{}, fmt.Errorf("%w: frame body at %d of %d", ErrDecode, offset, len(b))
	}
	if b[5] > FrameSASL {
		return Frame{}, fmt.Errorf("%w: frame type 0x%02x", ErrDecode, b[5])
	}
	return Frame{Type: b[5], Channel: binary.BigEndian.Uint16(b[6:]), Body: b[offset:]}, nil
}

// AppendFrame appends a frame of a connection with performative p and payload.
func AppendFrame(b []byte, channel uint16, p Performative, payload []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, 2, FrameAMQP, byte(channel>>8), byte(channel))
	b = append(p.append(b), payload...)
	return putSize(b, start)
}

// AppendHeartbeat appends an empty frame.
func AppendHeartbeat(b []byte) []byte {
	return append(b, 0, 0, 0, FrameHeader, 2, FrameAMQP, 0, 0)
}

// SASLInit is the client's choice (part 5, section 5.3.3.2).
type SASLInit struct {
	Mechanism Symbol
	Response  []byte
}

// SASL outcome codes (part 5, section 5.3.3.6).
const (
	SASLOK   = 0
	SASLAuth = 1
)

// AppendMechanisms appends the SASL frame that offers mechanisms.
func AppendMechanisms(b []byte, mechanisms ...Symbol) []byte {
	return appendSASL(b, codeSASLMechanism, mechanisms)
}

// AppendOutcome appends the SASL frame that ends the negotiation with code.
func AppendOutcome(b []byte, code uint8) []byte { return appendSASL(b, codeSASLOutcome, code) }

func appendSASL(b []byte, descriptor uint64, field any) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, 2, FrameSASL, 0, 0)
	w := openComposite(b, descriptor)
	w.value(field)
	return putSize(w.close(), start)
}

// ParseSASLInit reads the body of a SASL frame in which a client chooses its
// mechanism.
func ParseSASLInit(body []byte) (*SASLInit, error) {
	d := NewDecoder(body)
	if d.descriptor() != codeSASLInit && d.err == nil {
		d.fail("not a SASL choice")
	}
	f := openFields(d)
	init := &SASLInit{Mechanism: f.symbol(), Response: f.binary()}
	f.close()
	if d.err != nil {
		return nil, d.err
	}
	return init, nil
}
