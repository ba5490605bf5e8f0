package mqttsn

import (
	"encoding/binary"
	"errors"
)

// Type is the type of a message (section 5.2.2).
type Type byte

// The types.
const (
	Advertise     Type = 0x00
	SearchGW      Type = 0x01
	GWInfo        Type = 0x02
	Connect       Type = 0x04
	ConnAck       Type = 0x05
	WillTopicReq  Type = 0x06
	WillTopic     Type = 0x07
	WillMsgReq    Type = 0x08
	WillMsg       Type = 0x09
	Register      Type = 0x0A
	RegAck        Type = 0x0B
	Publish       Type = 0x0C
	PubAck        Type = 0x0D
	PubComp       Type = 0x0E
	PubRec        Type = 0x0F
	PubRel        Type = 0x10
	Subscribe     Type = 0x12
	SubAck        Type = 0x13
	Unsubscribe   Type = 0x14
	UnsubAck      Type = 0x15
	PingReq       Type = 0x16
	PingResp      Type = 0x17
	Disconnect    Type = 0x18
	WillTopicUpd  Type = 0x1A
	WillTopicResp Type = 0x1B
	WillMsgUpd    Type = 0x1C
	WillMsgResp   Type = 0x1D
)

// TopicKind says what a topic field holds (section 5.3.4).
type TopicKind byte

// The kinds of topics.
const (
	TopicID    TopicKind = 0 // registered; in SUBSCRIBE and UNSUBSCRIBE a name
	Predefined TopicKind = 1
	ShortName  TopicKind = 2 // two characters
)

// Flags are the flags of a message (section 5.3.4).
type Flags struct {
	DUP    bool
	QoS    int8 // 0 to 2; -1 publishes without a connection
	Retain bool
	Will   bool
	Clean  bool
	Topic  TopicKind
}

// ReturnCode is the word on a request (section 5.3.10).
type ReturnCode byte

// The return codes.
const (
	Accepted     ReturnCode = 0x00
	Congestion   ReturnCode = 0x01
	InvalidTopic ReturnCode = 0x02
	NotSupported ReturnCode = 0x03
)

// Protocol is the protocol id in CONNECT (section 5.3.8).
const Protocol = 0x01

// Bounds of a client id (section 5.3.1).
const (
	MinClientID = 1
	MaxClientID = 23
)

// Message is one message. Which fields count depends on its type; the others are
// zero. Text and Data share memory with the bytes they were read from.
type Message struct {
	Type      Type
	Flags     Flags      // CONNECT, WILLTOPIC, WILLTOPICUPD, PUBLISH, SUBSCRIBE, SUBACK, UNSUBSCRIBE
	TopicID   uint16     // also a short name, its two characters
	MessageID uint16     // 0 for none
	Code      ReturnCode // of acknowledgements
	Duration  uint16     // seconds: CONNECT, ADVERTISE, DISCONNECT (with HasDuration)
	Protocol  byte       // CONNECT
	Gateway   byte       // ADVERTISE, GWINFO
	Radius    byte       // SEARCHGW
	Text      []byte     // client id, topic name, or address of a gateway
	Data      []byte     // PUBLISH, WILLMSG, WILLMSGUPD

	HasDuration bool // DISCONNECT: the leaf goes to sleep
	Named       bool // SUBSCRIBE, UNSUBSCRIBE: Text is the topic
}

// ErrMalformed says that bytes are no message.
var ErrMalformed = errors.New("not an MQTT-SN message")

// flags as bits.
const (
	bitDUP    = 1 << 7
	shiftQoS  = 5
	bitRetain = 1 << 4
	bitWill   = 1 << 3
	bitClean  = 1 << 2
)

func parseFlags(b byte) (Flags, bool) {
	f := Flags{
		DUP: b&bitDUP != 0, QoS: int8(b >> shiftQoS & 3), Retain: b&bitRetain != 0,
		Will: b&bitWill != 0, Clean: b&bitClean != 0, Topic: TopicKind(b & 3),
	}
	if f.QoS == 3 {
		f.QoS = -1
	}
	return f, f.Topic <= ShortName
}

func (f Flags) bits() byte {
	b := byte(f.QoS&3)<<shiftQoS | byte(f.Topic&3)
	for _, x := range []struct {
		set bool
		bit byte
	}{{f.DUP, bitDUP}, {f.Retain, bitRetain}, {f.Will, bitWill}, {f.Clean, bitClean}} {
		if x.set {
			b |= x.bit
		}
	}
	return b
}

// Parse reads the one message that a frame holds.
func Parse(frame []byte) (*Message, error) {
	body, err := cutLength(frame)
	if err != nil {
		return nil, err
	}
	m := &Message{Type: Type(body[0])}
	in := reader{rest: body[1:]}
	m.read(&in)
	if in.failed || len(in.rest) > 0 {
		return nil, ErrMalformed
	}
	return m, nil
}

// cutLength takes the length off: one octet, or 01 and two more (section 5.2.1).
func cutLength(frame []byte) ([]byte, error) {
	n, head := 0, 1
	switch {
	case len(frame) >= 3 && frame[0] == 0x01:
		n, head = int(binary.BigEndian.Uint16(frame[1:])), 3
	case len(frame) >= 1 && frame[0] != 0x01:
		n = int(frame[0])
	}
	if n != len(frame) || n <= head {
		return nil, ErrMalformed
	}
	return frame[head:], nil
}

// reader takes fields off a message.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) bytes(n int) []byte {
	if len(r.rest) < n {
		r.failed = true
		return make([]byte, n)
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) u8() byte    { return r.bytes(1)[0] }
func (r *reader) u16() uint16 { return binary.BigEndian.Uint16(r.bytes(2)) }

func (r *reader) all() []byte { return r.bytes(len(r.rest)) }

func (r *reader) flags() Flags {
	f, ok := parseFlags(r.u8())
	r.failed = r.failed || !ok
	return f
}

// read reads the fields of the type (section 5.4).
func (m *Message) read(in *reader) {
	switch m.Type {
	case Advertise:
		m.Gateway, m.Duration = in.u8(), in.u16()
	case SearchGW:
		m.Radius = in.u8()
	case GWInfo:
		m.Gateway, m.Text = in.u8(), in.all()
	case Connect:
		m.Flags, m.Protocol, m.Duration, m.Text = in.flags(), in.u8(), in.u16(), in.all()
		in.failed = in.failed || len(m.Text) < MinClientID || len(m.Text) > MaxClientID
	case ConnAck, WillTopicResp, WillMsgResp:
		m.Code = ReturnCode(in.u8())
	case WillTopicReq, WillMsgReq, PingResp:
	case WillTopic, WillTopicUpd:
		if len(in.rest) > 0 { // empty: there is no will any more
			m.Flags, m.Text = in.flags(), in.all()
			in.failed = in.failed || len(m.Text) == 0
		}
	case WillMsg, WillMsgUpd:
		m.Data = in.all()
	case Register:
		m.TopicID, m.MessageID, m.Text = in.u16(), in.u16(), in.all()
		in.failed = in.failed || len(m.Text) == 0
	case RegAck, PubAck:
		m.TopicID, m.MessageID, m.Code = in.u16(), in.u16(), ReturnCode(in.u8())
	case Publish:
		m.Flags, m.TopicID, m.MessageID, m.Data = in.flags(), in.u16(), in.u16(), in.all()
	case PubRec, PubRel, PubComp, UnsubAck:
		m.MessageID = in.u16()
	case Subscribe, Unsubscribe:
		m.readSubscription(in)
	case SubAck:
		m.Flags, m.TopicID, m.MessageID, m.Code = in.flags(), in.u16(), in.u16(), ReturnCode(in.u8())
	case PingReq:
		m.Text = in.all()
	case Disconnect:
		if m.HasDuration = len(in.rest) > 0; m.HasDuration {
			m.Duration = in.u16()
		}
	default:
		in.failed = true
	}
}

func (m *Message) readSubscription(in *reader) {
	m.Flags, m.MessageID = in.flags(), in.u16()
	if m.Named = m.Flags.Topic == TopicID; m.Named {
		m.Text = in.all()
		in.failed = in.failed || len(m.Text) == 0
		return
	}
	m.TopicID = in.u16()
}

// Append appends the message to b. It must be one that Parse could return, and have
// at most 65535 octets.
func (m *Message) Append(b []byte) []byte {
	body := m.appendBody([]byte{byte(m.Type)})
	if n := len(body) + 1; n <= 0xFF && n != 0x01 {
		return append(append(b, byte(n)), body...)
	}
	b = binary.BigEndian.AppendUint16(append(b, 0x01), uint16(len(body)+3))
	return append(b, body...)
}

func (m *Message) appendBody(b []byte) []byte {
	u16 := binary.BigEndian.AppendUint16
	switch m.Type {
	case Advertise:
		return u16(append(b, m.Gateway), m.Duration)
	case SearchGW:
		return append(b, m.Radius)
	case GWInfo:
		return append(append(b, m.Gateway), m.Text...)
	case Connect:
		return append(u16(append(b, m.Flags.bits(), m.Protocol), m.Duration), m.Text...)
	case ConnAck, WillTopicResp, WillMsgResp:
		return append(b, byte(m.Code))
	case WillTopic, WillTopicUpd:
		if len(m.Text) == 0 {
			return b
		}
		return append(append(b, m.Flags.bits()), m.Text...)
	case WillMsg, WillMsgUpd:
		return append(b, m.Data...)
	case Register:
		return append(u16(u16(b, m.TopicID), m.MessageID), m.Text...)
	case RegAck, PubAck:
		return append(u16(u16(b, m.TopicID), m.MessageID), byte(m.Code))
	case Publish:
		return append(u16(u16(append(b, m.Flags.bits()), m.TopicID), m.MessageID), m.Data...)
	case PubRec, PubRel, PubComp, UnsubAck:
		return u16(b, m.MessageID)
	case Subscribe, Unsubscribe:
		b = u16(append(b, m.Flags.bits()), m.MessageID)
		if m.Named {
			return append(b, m.Text...)
		}
		return u16(b, m.TopicID)
	case SubAck:
		return append(u16(u16(append(b, m.Flags.bits()), m.TopicID), m.MessageID), byte(m.Code))
	case PingReq:
		return append(b, m.Text...)
	case Disconnect:
		if m.HasDuration {
			return u16(b, m.Duration)
		}
	}
	return b
}
