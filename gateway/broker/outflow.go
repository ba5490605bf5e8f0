package broker

import (
	"encoding/binary"
	"log/slog"
	"slices"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fieldgate/fieldgate/gateway"
)

// maxUnsent bounds what waits for one connection, in bytes, commands apart, and
// maxUnsentCommands how many of these do: more than the hub has for one leaf (50,
// wire contract, section 5.7) and local callers can wait for (64) together. A leaf
// that lets more pile up does not read, or acknowledges nothing, and is cut off; it
// finds what it has missed when it is back.
const (
	maxUnsent         = 1 << 20
	maxUnsentCommands = 128
)

// parcel is one publication for a leaf. answer is called once, with no lock held:
// Completed says that the leaf has it.
type parcel struct {
	topic      string
	payload    []byte
	properties []byte // of MQTT 5, encoded, without their length
	qos        byte
	answer     func(gateway.Verdict)

	command  *commandName // nil: not a command
	retained bool         // it was there before the leaf asked for it
	id       uint16       // packet id, once it is sent with QoS 1
	dup      bool
}

// outflow is what is on its way to one connection. Packet ids and their
// acknowledgements are kept here and not in mochi, which mixes them up with those
// of the leaf's own publications. Guarded by desk.mu.
//
// A goroutine writes while there is something to write, and none waits for
// something to come: a leaf at rest costs none.
type outflow struct {
	window    int       // of parcels with QoS 1 in flight
	maxPacket int       // in bytes, asked for by an MQTT 5 leaf; 0: none
	quick     []*parcel // QoS 0
	slow      []*parcel // QoS 1, waiting for room in the window
	flight    []*parcel // QoS 1, sent or being sent, in this order
	unsent    int       // bytes in quick and slow, commands apart
	requests  int       // of the leaf, that are being answered
	open      bool      // CONNACK was sent
	ended     bool      // nothing is sent any more
	running   bool      // somebody is writing
}

// end closes the outflow and returns what had not reached the leaf, in the order
// in which it was sent.
func (o *outflow) end() (lost []*parcel) {
	lost = slices.Concat(o.flight, o.slow, o.quick)
	o.quick, o.slow, o.flight, o.unsent = nil, nil, nil, 0
	o.open, o.ended = false, true
	return lost
}

func (p *parcel) size() int {
	if p.command != nil {
		return 0
	}
	return len(p.topic) + len(p.payload) + len(p.properties)
}

// postLocked puts a parcel on its way. It returns false, and the parcel is not
// answered, if nothing is sent to the session any more.
func (d *desk) postLocked(s *session, p *parcel) bool {
	o := &s.out
	if !o.open || o.ended {
		return false
	}
	if o.unsent += p.size(); o.unsent > maxUnsent || p.command != nil && len(o.slow) >= maxUnsentCommands {
		d.b.notices.warn(s.leaf+" unsent", "leaf does not read, closing connection", slog.String("leaf", s.leaf))
		d.b.running.Go(func() { s.stop(packets.ErrQuotaExceeded, "it does not read what is for it") })
		return false
	}
	if p.qos == 0 {
		o.quick = append(o.quick, p)
	} else {
		o.slow = append(o.slow, p)
	}
	d.writeLocked(s)
	return true
}

// writeLocked has somebody write, if there is something to write. The session's
// WaitGroup is waited for only after the outflow has ended.
func (d *desk) writeLocked(s *session) {
	o := &s.out
	if !o.running && !o.ended && (len(o.quick) > 0 || len(o.slow) > 0 && len(o.flight) < o.window) {
		o.running = true
		s.writing.Go(func() { d.write(s) })
	}
}

// write writes parcels until there are none, or none that may be sent yet.
func (d *desk) write(s *session) {
	var buf []byte
	for {
		d.mu.Lock()
		p := d.nextLocked(s)
		if p == nil {
			s.out.running = false
			d.mu.Unlock()
			return
		}
		d.mu.Unlock()
		buf = appendPublish(buf[:0], s.version(), p)
		d.written(s, p, d.send(s, buf))
	}
}

// send writes one packet, unless the leaf has said that it cannot take it
// (MQTT 5.0, section 3.1.2.11.4).
func (d *desk) send(s *session, packet []byte) gateway.Verdict {
	if s.out.maxPacket > 0 && len(packet) > s.out.maxPacket {
		return gateway.Rejected
	}
	if _, err := s.conn.Write(packet); err != nil {
		return gateway.Undelivered
	}
	return gateway.Completed
}

// written goes on after a parcel was written, or could not be. With QoS 1 it is
// the leaf that says when it has it, and the end of the connection when it has
// not.
func (d *desk) written(s *session, p *parcel, v gateway.Verdict) {
	if p.qos > 0 && v != gateway.Rejected {
		return
	}
	if p.qos > 0 {
		d.mu.Lock()
		inFlight := s.out.landed(p.id) != nil
		if inFlight {
			s.box.acknowledged(p.id)
		}
		d.mu.Unlock()
		if !inFlight {
			return // it has been answered
		}
	}
	p.answer(v)
	if v == gateway.Undelivered {
		d.again()
	}
}

// nextLocked takes the next parcel to write: what needs no acknowledgement first,
// as somebody waits for it.
func (d *desk) nextLocked(s *session) *parcel {
	o := &s.out
	if len(o.quick) > 0 {
		p := o.quick[0]
		o.quick = o.quick[1:]
		o.unsent -= p.size()
		return p
	}
	if len(o.slow) == 0 || len(o.flight) >= o.window {
		return nil
	}
	p := o.slow[0]
	o.slow = o.slow[1:]
	o.unsent -= p.size()
	s.box.number(p, o.flight)
	o.flight = append(o.flight, p)
	return p
}

// number gives a parcel its packet id: that under which the session has been sent
// it before, or a free one.
func (box *mailbox) number(p *parcel, flight []*parcel) {
	if p.command != nil {
		if i := box.sentIndex(*p.command); i >= 0 {
			p.id, p.dup = box.sent[i].id, true
			return
		}
	}
	used := func(id uint16) bool {
		return id == 0 || slices.ContainsFunc(flight, func(x *parcel) bool { return x.id == id }) ||
			slices.ContainsFunc(box.sent, func(x sentCommand) bool { return x.id == id })
	}
	for used(box.lastID) || p.id == 0 {
		box.lastID++
		p.id = box.lastID
	}
	if p.command == nil {
		return
	}
	// Of commands that the hub never offers again no more are remembered than can
	// be in flight.
	box.sent = append(box.sent, sentCommand{name: *p.command, id: p.id})
	if extra := len(box.sent) - 2*window; extra > 0 {
		box.sent = slices.Delete(box.sent, 0, extra)
	}
}

func (box *mailbox) sentIndex(name commandName) int {
	return slices.IndexFunc(box.sent, func(x sentCommand) bool { return x.name == name })
}

// acknowledged forgets that a packet id is in use.
func (box *mailbox) acknowledged(id uint16) {
	box.sent = slices.DeleteFunc(box.sent, func(x sentCommand) bool { return x.id == id })
}

// landed takes a parcel out of the flight; nil if it is not in it.
func (o *outflow) landed(id uint16) *parcel {
	i := slices.IndexFunc(o.flight, func(p *parcel) bool { return p.id == id })
	if i < 0 {
		return nil
	}
	p := o.flight[i]
	o.flight = slices.Delete(o.flight, i, i+1)
	return p
}

// acknowledge takes a PUBACK.
func (d *desk) acknowledge(s *session, id uint16, reason byte) {
	d.mu.Lock()
	if s.box.owner != s {
		d.mu.Unlock()
		return
	}
	p := s.out.landed(id)
	if p == nil {
		if reason < 0x80 {
			p = d.acknowledgeLateLocked(s, id)
		}
		d.mu.Unlock()
		if p != nil {
			p.answer(gateway.Completed)
		}
		return
	}
	s.box.acknowledged(id)
	d.writeLocked(s)
	d.mu.Unlock()
	p.answer(verdictOf(reason))
}

// acknowledgeLateLocked takes what is perhaps the acknowledgement of a command that
// a former connection sent: the leaf must not get it again. It returns the command
// if it waits to be sent on this one already.
func (d *desk) acknowledgeLateLocked(s *session, id uint16) *parcel {
	i := slices.IndexFunc(s.box.sent, func(x sentCommand) bool { return x.id == id })
	if i < 0 {
		return nil
	}
	name, o := s.box.sent[i].name, &s.out
	j := slices.IndexFunc(o.slow, func(p *parcel) bool { return p.command != nil && *p.command == name })
	if j < 0 {
		s.box.sent[i].acked = true
		return nil
	}
	p := o.slow[j]
	o.slow = slices.Delete(o.slow, j, j+1)
	s.box.acknowledged(id)
	return p
}

// verdictOf is what a leaf says with a PUBACK (MQTT 5.0, section 3.4.2.1). In
// MQTT 3.1.1 it has only one word.
func verdictOf(reason byte) gateway.Verdict {
	switch {
	case reason < 0x80:
		return gateway.Completed
	case reason == 0x93, reason == 0x97: // receive maximum or quota exceeded: later
		return gateway.Abandoned
	}
	return gateway.Rejected
}

// maxString is the longest text of MQTT, in bytes (section 1.5.4).
const maxString = 65535

// appendPublish appends a PUBLISH (section 3.3). The topic has at most maxString
// bytes.
func appendPublish(buf []byte, version byte, p *parcel) []byte {
	length := 2 + len(p.topic) + len(p.payload)
	first := byte(typePublish << 4)
	if p.qos > 0 {
		length += 2
		first |= 1 << 1
	}
	if p.dup {
		first |= 1 << 3
	}
	if p.retained {
		first |= 1
	}
	var properties [binary.MaxVarintLen32]byte
	n := 0
	if version == version5 {
		n = binary.PutUvarint(properties[:], uint64(len(p.properties))) // the same encoding, section 1.5.5
		length += n + len(p.properties)
	}
	buf = append(buf, first)
	buf = binary.AppendUvarint(buf, uint64(length))
	buf = appendText(buf, p.topic)
	if p.qos > 0 {
		buf = binary.BigEndian.AppendUint16(buf, p.id)
	}
	if version == version5 {
		buf = append(buf, properties[:n]...)
		buf = append(buf, p.properties...)
	}
	return append(buf, p.payload...)
}

func appendText(buf []byte, text string) []byte {
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(text)))
	return append(buf, text...)
}
