package broker

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unicode/utf8"
)

// This file checks the structure of what leaves send, before mochi decodes it:
// a packet that passes is one that mochi's decoders take. The rules are those
// of MQTT 3.1.1 and MQTT 5.0; section numbers are of the latter.

// The packet types that a client sends.
const (
	typeConnect     = 1
	typePublish     = 3
	typePuback      = 4
	typePubrec      = 5
	typePubrel      = 6
	typePubcomp     = 7
	typeSubscribe   = 8
	typeUnsubscribe = 10
	typePingreq     = 12
	typeDisconnect  = 14
)

// The protocol levels that are spoken (section 3.1.2.2). 0 stands for a
// connection that has not sent its CONNECT.
const (
	version311 = 4
	version5   = 5
)

// maxFilters bounds the topic filters of one packet: mochi needs some hundred
// bytes for each.
const maxFilters = 128

// fault says why a packet is not MQTT. Its code is what MQTT 5 says about it
// in a DISCONNECT (section 3.14.2.1).
type fault struct {
	code byte
	text string
}

func (f *fault) Error() string { return f.text }

var (
	errMalformed    = &fault{0x81, "malformed packet"}
	errProtocol     = &fault{0x82, "protocol error"}
	errVersion      = &fault{0x84, "unsupported protocol version"}
	errPacketSize   = &fault{0x95, "packet too large"}
	errTopicAlias   = &fault{0x94, "topic alias not offered"}
	errFirstConnect = &fault{0x82, "first packet is not CONNECT"}
)

// checkPacket checks one whole packet: the first byte of its fixed header and
// everything after the remaining length. version is 0 for the first packet of a
// connection; the version that holds from then on is returned, and for how many bytes the
// packet counts that it has not (pace.go).
func checkPacket(version, first byte, body []byte) (_ byte, extra int, _ error) {
	kind, flags := first>>4, first&0x0f
	if (version == 0) != (kind == typeConnect) {
		return version, 0, errFirstConnect // sections 3.1.0-1 and 3.1.0-2
	}
	s := scanner{rest: body}
	var want byte // of the flags, section 2.1.3
	switch kind {
	case typeConnect:
		version = s.connect()
	case typePublish:
		want = flags
		s.publish(version, flags)
	case typePubrel:
		want = 0b0010
		s.acknowledgement(version, kind)
	case typePuback, typePubrec, typePubcomp:
		s.acknowledgement(version, kind)
	case typeSubscribe, typeUnsubscribe:
		want = 0b0010
		s.filters(version, kind)
	case typePingreq:
	case typeDisconnect:
		s.disconnect(version)
	default: // what only servers send, and AUTH: no method is ever agreed
		return version, 0, errProtocol
	}
	if flags != want || len(s.rest) > 0 {
		s.fail(errMalformed)
	}
	if s.err != nil {
		return version, 0, s.err
	}
	return version, s.extra, nil
}

// scanner walks over a packet. After the first fault everything reads as empty.
type scanner struct {
	rest  []byte
	err   *fault
	extra int // for how many bytes it counts that are not there
}

func (s *scanner) fail(err *fault) {
	if s.err == nil {
		s.err = err
	}
	s.rest = nil
}

// require fails unless ok. Nothing else is known after a fault.
func (s *scanner) require(ok bool, err *fault) {
	if !ok {
		s.fail(err)
	}
}

func (s *scanner) take(n int) []byte {
	if len(s.rest) < n {
		s.fail(errMalformed)
		return nil
	}
	taken := s.rest[:n]
	s.rest = s.rest[n:]
	return taken
}

func (s *scanner) uint8() byte {
	if b := s.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (s *scanner) uint16() uint16 {
	if b := s.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (s *scanner) uint32() uint32 {
	if b := s.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// varint reads a variable byte integer (section 1.5.5) in its shortest form.
func (s *scanner) varint() int {
	n := 0
	for shift := 0; shift < 28; shift += 7 {
		b := s.uint8()
		n |= int(b&0x7f) << shift
		if b < 0x80 {
			s.require(b != 0 || shift == 0, errMalformed)
			return n
		}
	}
	s.fail(errMalformed)
	return 0
}

func (s *scanner) binary() []byte { return s.take(int(s.uint16())) }

// text reads a UTF-8 string (section 1.5.4).
func (s *scanner) text() []byte {
	t := s.binary()
	s.require(utf8.Valid(t) && bytes.IndexByte(t, 0) < 0, errMalformed)
	return t
}

// topicName reads the topic of a publication or of a will (section 4.7).
func (s *scanner) topicName() {
	t := s.text()
	s.require(s.err != nil || len(t) > 0 && !bytes.ContainsAny(t, "+#"), errProtocol)
}

// connect checks section 3.1 and returns the protocol version.
func (s *scanner) connect() byte {
	name, version := string(s.text()), s.uint8()
	if s.err == nil && (name != "MQTT" || version != version311 && version != version5) {
		s.fail(errVersion)
		return 0
	}
	flags := s.uint8()
	s.uint16() // keep-alive
	will, willQoS, retain := flags&0x04 != 0, flags>>3&3, flags&0x20 != 0
	s.require(flags&1 == 0 && willQoS < 3, errMalformed)
	s.require(will || willQoS == 0 && !retain, errMalformed)
	s.properties(version, inConnect)
	s.text() // client id
	if will {
		s.properties(version, inWill)
		s.topicName()
		s.binary()
	}
	user, password := flags&0x80 != 0, flags&0x40 != 0
	s.require(user || !password || version == version5, errMalformed)
	if user {
		s.text()
	}
	if password {
		s.binary()
	}
	return version
}

// publish checks section 3.3.
func (s *scanner) publish(version, flags byte) {
	qos, dup := flags>>1&3, flags&0x08 != 0
	s.require(qos < 3 && (qos > 0 || !dup), errMalformed)
	s.topicName()
	if qos > 0 {
		s.packetID()
	}
	s.properties(version, inPublish)
	s.rest = nil // the payload
}

func (s *scanner) packetID() {
	id := s.uint16()
	s.require(id != 0, errProtocol) // section 2.2.1
}

// acknowledgement checks sections 3.4 to 3.7.
func (s *scanner) acknowledgement(version, kind byte) {
	s.uint16()
	s.reason(version, 1<<kind)
}

// disconnect checks section 3.14.
func (s *scanner) disconnect(version byte) { s.reason(version, inDisconnect) }

// reason reads what MQTT 5 may put at the end: a reason code, and after it
// properties.
func (s *scanner) reason(version byte, in uint16) {
	if version < version5 || len(s.rest) == 0 {
		return
	}
	s.uint8()
	if len(s.rest) > 0 {
		s.properties(version, in)
	}
}

// filters checks sections 3.8 and 3.10.
func (s *scanner) filters(version, kind byte) {
	s.packetID()
	s.properties(version, 1<<kind)
	n := 0
	for len(s.rest) > 0 {
		s.require(validFilter(string(s.text())), errProtocol)
		if kind == typeSubscribe {
			s.subscribeOptions(version)
		}
		n++
	}
	s.extra += n * filterBytes
	s.require(n > 0 && n <= maxFilters, errProtocol)
}

// subscribeOptions checks section 3.8.3.1.
func (s *scanner) subscribeOptions(version byte) {
	reserved := byte(0b1111_1100)
	if version == version5 {
		reserved = 0b1100_0000
	}
	options := s.uint8()
	s.require(options&reserved == 0 && options&3 < 3 && options>>4&3 < 3, errMalformed)
}

// validFilter checks section 4.7.1.
func validFilter(filter string) bool {
	if filter == "" {
		return false
	}
	for level := range strings.SplitSeq(filter, "/") {
		if len(level) > 1 && strings.ContainsAny(level, "+#") {
			return false
		}
	}
	i := strings.IndexByte(filter, '#')
	return i < 0 || i == len(filter)-1
}

// Where a property may stand: one bit for each packet type, and one for the
// will within CONNECT.
const (
	inWill        = 1 << 0
	inConnect     = 1 << typeConnect
	inPublish     = 1 << typePublish
	inSubscribe   = 1 << typeSubscribe
	inDisconnect  = 1 << typeDisconnect
	inAcks        = 1<<typePuback | 1<<typePubrec | 1<<typePubrel | 1<<typePubcomp
	inEverywhere  = inWill | inConnect | inPublish | inAcks | inSubscribe | 1<<typeUnsubscribe | inDisconnect
	propertyCount = 43 // identifiers are below
)

// The forms of a property's value.
const (
	formFlag = iota + 1 // a byte, 0 or 1
	formUint16
	formUint32
	formVarint
	formText
	formBinary
	formPair
)

const (
	propertyTopicAlias = 35
	propertyUser       = 38
)

// clientProperties lists the properties that a client may send (section
// 2.2.2.2). Zero is no value for those marked positive.
var clientProperties = [propertyCount]struct {
	form     byte
	in       uint16
	positive bool
}{
	1:                  {formFlag, inPublish | inWill, false},         // payload format indicator
	2:                  {formUint32, inPublish | inWill, false},       // message expiry interval
	3:                  {formText, inPublish | inWill, false},         // content type
	8:                  {formText, inPublish | inWill, false},         // response topic
	9:                  {formBinary, inPublish | inWill, false},       // correlation data
	11:                 {formVarint, inSubscribe, true},               // subscription identifier
	17:                 {formUint32, inConnect | inDisconnect, false}, // session expiry interval
	21:                 {formText, inConnect, false},                  // authentication method
	22:                 {formBinary, inConnect, false},                // authentication data
	23:                 {formFlag, inConnect, false},                  // request problem information
	24:                 {formUint32, inWill, false},                   // will delay interval
	25:                 {formFlag, inConnect, false},                  // request response information
	31:                 {formText, inAcks | inDisconnect, false},      // reason string
	33:                 {formUint16, inConnect, true},                 // receive maximum
	34:                 {formUint16, inConnect, false},                // topic alias maximum
	propertyTopicAlias: {formUint16, inPublish, true},
	propertyUser:       {formPair, inEverywhere, false},
	39:                 {formUint32, inConnect, true}, // maximum packet size
}

// properties checks a property section (section 2.2.2), if the version has one.
func (s *scanner) properties(version byte, in uint16) {
	if version < version5 {
		return
	}
	section := scanner{rest: s.take(s.varint()), err: s.err}
	var seen uint64
	for len(section.rest) > 0 {
		id := section.varint()
		if id >= propertyCount || clientProperties[id].in&in == 0 {
			section.fail(errProtocol)
			break
		}
		section.require(id == propertyUser || seen&(1<<id) == 0, errProtocol)
		section.require(id != propertyTopicAlias, errTopicAlias)
		seen |= 1 << id
		section.property(id)
	}
	s.extra += section.extra
	if section.err != nil {
		s.fail(section.err)
	}
}

func (s *scanner) property(id int) {
	value := uint32(1) // of those that are no numbers
	switch clientProperties[id].form {
	case formFlag:
		s.require(s.uint8() < 2, errProtocol)
	case formUint16:
		value = uint32(s.uint16())
	case formUint32:
		value = s.uint32()
	case formVarint:
		value = uint32(s.varint())
	case formText:
		s.text()
	case formBinary:
		s.binary()
	case formPair:
		s.extra += propertyBytes
		s.text()
		s.text()
	}
	s.require(value > 0 || !clientProperties[id].positive, errProtocol)
}
