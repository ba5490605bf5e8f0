package packet

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// parse takes a packet apart. The result shares the body.
func parse(first byte, body []byte) (any, error) {
	kind, flags := first>>4, first&0x0f
	if want, ok := fixedFlags[kind]; ok && flags != want {
		return nil, fmt.Errorf("%w: flags %#x of packet type %d", ErrMalformed, flags, kind)
	}
	f := &fields{rest: body}
	var p any
	switch kind {
	case connect:
		p = parseConnect(f)
	case publish:
		p = parsePublish(f, flags)
	case puback:
		p = &Puback{ID: f.id()}
	case subscribe:
		p = parseSubscribe(f)
	case unsubscribe:
		p = parseUnsubscribe(f)
	case pingreq:
		p = &Pingreq{}
	case disconnect:
		p = &Disconnect{}
	default:
		return nil, fmt.Errorf("%w: packet type %d", ErrMalformed, kind)
	}
	if len(f.rest) > 0 {
		f.fail("bytes after the end")
	}
	if f.err != nil {
		return nil, fmt.Errorf("%w: packet type %d: %s", ErrMalformed, kind, f.err)
	}
	return p, nil
}

// fixedFlags are the lower halves of the first bytes; those of PUBLISH mean
// something (section 2.2.2).
var fixedFlags = map[byte]byte{
	connect: 0, puback: 0, subscribe: 2, unsubscribe: 2, pingreq: 0, disconnect: 0,
}

// Bits of the connect flags (section 3.1.2.3).
const (
	reservedFlag = 0x01
	cleanFlag    = 0x02
	willFlag     = 0x04
	willQoS      = 0x18
	willRetain   = 0x20
	passwordFlag = 0x40
	userFlag     = 0x80
)

func parseConnect(f *fields) *Connect {
	name := f.text()
	c := &Connect{Level: f.byte()}
	switch {
	case name == "MQIsdp" && c.Level == 3: // MQTT 3.1
	case name != "MQTT":
		f.fail("protocol name")
	}
	if c.Level != Level {
		f.rest = nil
		return c
	}
	flags := f.byte()
	c.CleanSession = flags&cleanFlag != 0
	c.KeepAlive = f.uint16()
	c.ClientID = f.text()
	if flags&reservedFlag != 0 || (flags&passwordFlag != 0 && flags&userFlag == 0) {
		f.fail("connect flags")
	}
	c.Will = parseWill(f, flags)
	if flags&userFlag != 0 {
		c.HasUser, c.User = true, f.text()
	}
	if flags&passwordFlag != 0 {
		c.Password = f.bytes()
	}
	return c
}

func parseWill(f *fields, flags byte) *Publish {
	if flags&willFlag == 0 {
		if flags&(willQoS|willRetain) != 0 {
			f.fail("will flags without a will")
		}
		return nil
	}
	w := &Publish{QoS: flags & willQoS >> 3, Retain: flags&willRetain != 0, Topic: f.text(), Body: f.bytes()}
	if w.QoS > 2 {
		f.fail("QoS of the will")
	}
	return w
}

func parsePublish(f *fields, flags byte) *Publish {
	p := &Publish{
		Topic:     f.text(),
		QoS:       flags >> 1 & 3,
		Retain:    flags&1 != 0,
		Duplicate: flags&8 != 0,
	}
	if p.QoS > 2 || (p.QoS == 0 && p.Duplicate) {
		f.fail("flags of PUBLISH")
	}
	if p.Topic == "" {
		f.fail("empty topic")
	}
	if p.QoS > 0 {
		p.ID = f.id()
	}
	p.Body, f.rest = f.rest, nil
	return p
}

func parseSubscribe(f *fields) *Subscribe {
	s := &Subscribe{ID: f.id()}
	for f.err == nil && (len(f.rest) > 0 || len(s.Filters) == 0) {
		filter := Filter{Topic: f.text(), QoS: f.byte()}
		if filter.QoS > 2 || filter.Topic == "" {
			f.fail("filter")
		}
		s.Filters = append(s.Filters, filter)
	}
	return s
}

func parseUnsubscribe(f *fields) *Unsubscribe {
	u := &Unsubscribe{ID: f.id()}
	for f.err == nil && (len(f.rest) > 0 || len(u.Topics) == 0) {
		topic := f.text()
		if topic == "" {
			f.fail("filter")
		}
		u.Topics = append(u.Topics, topic)
	}
	return u
}

// fields reads the parts of a packet one after the other. After the first error
// everything is zero.
type fields struct {
	rest []byte
	err  error
}

func (f *fields) fail(what string) {
	if f.err == nil {
		f.err = fmt.Errorf("bad %s", what)
	}
	f.rest = nil
}

func (f *fields) take(n int) []byte {
	if len(f.rest) < n {
		f.fail("length")
		return nil
	}
	b := f.rest[:n:n]
	f.rest = f.rest[n:]
	return b
}

func (f *fields) byte() byte {
	if b := f.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (f *fields) uint16() uint16 {
	if b := f.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// id reads a packet identifier, which is never 0 (section 2.3.1).
func (f *fields) id() uint16 {
	id := f.uint16()
	if id == 0 {
		f.fail("packet identifier")
	}
	return id
}

func (f *fields) bytes() []byte { return f.take(int(f.uint16())) }

// text reads a string, which must be UTF-8 without NUL (section 1.5.3).
func (f *fields) text() string {
	s := string(f.bytes())
	if !utf8.ValidString(s) || strings.Contains(s, "\x00") {
		f.fail("text")
	}
	return s
}
