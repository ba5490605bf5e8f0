// Package hdlc frames messages on a line of bytes: RFC 1662 byte stuffing and
// FCS-16, without address and control. It is the link layer of MQTT-SN over a
// UART and over BLE's Nordic UART Service.
package hdlc

import "encoding/binary"

// Octets with a meaning (RFC 1662, section 4).
const (
	flag    = 0x7E
	escape  = 0x7D
	flip    = 0x20
	xon     = 0x11
	xoff    = 0x13
	fcsInit = 0xFFFF
	fcsGood = 0xF0B8 // of content and its FCS (RFC 1662, appendix C.2)
)

// MaxContent is the longest content of a frame, in octets (leaf protocols, section
// 5).
const MaxContent = 1024

// fcs goes on with the frame check sequence, CRC-16/X-25 before its complement.
func fcs(sum uint16, b []byte) uint16 {
	for _, x := range b {
		sum ^= uint16(x)
		for range 8 {
			low := sum & 1
			sum >>= 1
			if low != 0 {
				sum ^= 0x8408
			}
		}
	}
	return sum
}

// Append appends a frame with the content, which has 1 to MaxContent octets. With
// flow, the octets of software flow control are escaped as well.
func Append(b, content []byte, flow bool) []byte {
	b = append(b, flag)
	b = stuff(b, content, flow)
	b = stuff(b, binary.LittleEndian.AppendUint16(nil, ^fcs(fcsInit, content)), flow)
	return append(b, flag)
}

func stuff(b, content []byte, flow bool) []byte {
	for _, x := range content {
		if x == flag || x == escape || flow && (x == xon || x == xoff) {
			b = append(b, escape, x^flip)
		} else {
			b = append(b, x)
		}
	}
	return b
}

// Discards count what a Reader has thrown away.
type Discards struct {
	Noise   uint64 // octets before the first flag
	Short   uint64 // frames with fewer octets than an FCS and one more
	Sum     uint64 // frames whose FCS is wrong
	Long    uint64 // frames longer than MaxContent
	Aborted uint64 // frames that their sender gave up
}

// Reader finds frames in a stream of bytes. The zero value is ready. It needs no
// more memory than one frame.
type Reader struct {
	Discards Discards
	buf      []byte
	inside   bool // behind a flag
	escaped  bool // the last octet was an escape
	long     bool // the frame is too long, and passed over
}

// Feed takes bytes as they come and calls take for each whole frame. content is
// valid until take returns.
func (r *Reader) Feed(b []byte, take func(content []byte)) {
	for _, x := range b {
		switch {
		case x == flag:
			r.end(take)
		case !r.inside:
			r.Discards.Noise++
		case r.escaped:
			r.escaped = false
			r.add(x ^ flip)
		case x == escape:
			r.escaped = true
		default:
			r.add(x)
		}
	}
}

func (r *Reader) add(x byte) {
	if len(r.buf) >= MaxContent+2 {
		r.long = true
		return
	}
	r.buf = append(r.buf, x)
}

// end is a flag: the end of a frame and the beginning of the next.
func (r *Reader) end(take func([]byte)) {
	content, inside, escaped, long := r.buf, r.inside, r.escaped, r.long
	r.buf, r.inside, r.escaped, r.long = r.buf[:0], true, false, false
	switch {
	case !inside, len(content) == 0 && !escaped:
	case escaped:
		r.Discards.Aborted++
	case long:
		r.Discards.Long++
	case len(content) < 3:
		r.Discards.Short++
	case fcs(fcsInit, content) != fcsGood:
		r.Discards.Sum++
	default:
		take(content[:len(content)-2])
	}
}
