package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// messageVersion is the first byte of every encoded message. A message of a
// later version is not understood and counts as damaged.
const messageVersion = 1

// Bits of the byte that follows the version.
const (
	hasWall = 1 << iota
	hasExpiry
	knownBits = hasWall | hasExpiry
)

// appendMessage appends the stored form of m to buf. Lengths and numbers are
// variable-length integers; text and body stand as they are.
func appendMessage(buf []byte, m *gateway.Message) []byte {
	var flags byte
	if !m.Captured.Wall.IsZero() {
		flags |= hasWall
	}
	if !m.System.Expiry.IsZero() {
		flags |= hasExpiry
	}
	buf = append(buf, messageVersion, flags, byte(m.Kind), byte(m.Lane), byte(m.Captured.Quality))
	if flags&hasWall != 0 {
		buf = appendTime(buf, m.Captured.Wall)
	}
	buf = binary.AppendUvarint(buf, m.Captured.Boot)
	buf = binary.AppendVarint(buf, int64(m.Captured.Uptime))
	buf = binary.AppendUvarint(buf, uint64(m.Start))
	buf = binary.AppendUvarint(buf, m.Seq)
	buf = binary.AppendUvarint(buf, m.Dropped)
	if flags&hasExpiry != 0 {
		buf = appendTime(buf, m.System.Expiry)
	}
	for _, text := range texts(m) {
		buf = appendText(buf, *text)
	}
	buf = binary.AppendUvarint(buf, uint64(len(m.Properties)))
	for _, p := range m.Properties {
		buf = appendText(buf, p.Name)
		buf = appendText(buf, p.Value)
	}
	buf = binary.AppendUvarint(buf, uint64(len(m.Body)))
	return append(buf, m.Body...)
}

// texts lists the text fields of a message in the order in which they are
// stored. The order is part of the format.
func texts(m *gateway.Message) [12]*string {
	s := &m.System
	return [...]*string{
		&m.Leaf, &m.Channel, &s.MessageID, &s.CorrelationID, &s.UserID, &s.ContentType,
		&s.ContentEncoding, &s.CreationTime, &s.OutputName, &s.Schema, &s.InterfaceID, &s.Component,
	}
}

func appendText(buf []byte, s string) []byte {
	buf = binary.AppendUvarint(buf, uint64(len(s)))
	return append(buf, s...)
}

func appendTime(buf []byte, t time.Time) []byte {
	buf = binary.AppendVarint(buf, t.Unix())
	return binary.AppendUvarint(buf, uint64(t.Nanosecond()))
}

// decodeMessage reads what appendMessage wrote. The message shares no memory
// with data. Any other bytes are an error.
func decodeMessage(data []byte) (*gateway.Message, error) {
	if len(data) < 5 || data[0] != messageVersion || data[1]&^knownBits != 0 {
		return nil, errors.New("not a message of this format")
	}
	flags := data[1]
	m := &gateway.Message{Kind: gateway.Kind(data[2]), Lane: gateway.Lane(data[3])}
	m.Captured.Quality = gateway.TimeQuality(data[4])
	d := decoder{rest: data[5:]}
	if flags&hasWall != 0 {
		m.Captured.Wall = d.time()
	}
	m.Captured.Boot = d.uvarint(math.MaxUint64)
	m.Captured.Uptime = time.Duration(d.varint())
	m.Start = uint32(d.uvarint(math.MaxUint32))
	m.Seq = d.uvarint(math.MaxUint64)
	m.Dropped = d.uvarint(math.MaxUint64)
	if flags&hasExpiry != 0 {
		m.System.Expiry = d.time()
	}
	for _, text := range texts(m) {
		*text = string(d.bytes())
	}
	m.Properties = d.properties()
	if body := d.bytes(); len(body) > 0 {
		m.Body = append([]byte(nil), body...)
	}
	if d.err == nil && len(d.rest) > 0 {
		d.err = fmt.Errorf("%d bytes too many", len(d.rest))
	}
	if d.err != nil {
		return nil, d.err
	}
	return m, nil
}

// decoder takes values from the front of rest. After the first error it yields
// zero values, so that the caller checks once, at the end.
type decoder struct {
	rest []byte
	err  error
}

var errTruncated = errors.New("ends too early")

func (d *decoder) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > limit {
		d.fail(errTruncated)
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail(errTruncated)
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// bytes returns a length-prefixed piece of the input, which it aliases.
func (d *decoder) bytes() []byte {
	n := d.uvarint(uint64(len(d.rest)))
	if n > uint64(len(d.rest)) {
		d.fail(errTruncated)
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) time() time.Time {
	sec, nsec := d.varint(), d.uvarint(uint64(time.Second-1))
	if d.err != nil {
		return time.Time{}
	}
	return time.Unix(sec, int64(nsec)).UTC()
}

func (d *decoder) properties() []gateway.Property {
	// A property takes two bytes at least: a bigger count is damage, and must
	// not make us allocate for it.
	n := d.uvarint(uint64(len(d.rest) / 2))
	if d.err != nil || n == 0 {
		return nil
	}
	ps := make([]gateway.Property, n)
	for i := range ps {
		ps[i].Name = string(d.bytes())
		ps[i].Value = string(d.bytes())
	}
	return ps
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.rest = nil
}
