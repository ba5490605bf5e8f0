package packet

import "encoding/binary"

// AppendConnack appends CONNACK with the session present flag and the return
// code (section 3.2).
func AppendConnack(b []byte, present bool, code byte) []byte {
	flags := byte(0)
	if present {
		flags = 1
	}
	return append(b, connack<<4, 2, flags, code)
}

// AppendPublish appends p. Its topic has at most 65535 bytes, and all of it fits
// the 256 MiB of a packet: the caller sees to that.
func AppendPublish(b []byte, p *Publish) []byte {
	first := byte(publish<<4) | p.QoS<<1
	if p.Duplicate {
		first |= 8
	}
	if p.Retain {
		first |= 1
	}
	n := 2 + len(p.Topic) + len(p.Body)
	if p.QoS > 0 {
		n += 2
	}
	b = appendLength(append(b, first), n)
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.Topic)))
	b = append(b, p.Topic...)
	if p.QoS > 0 {
		b = binary.BigEndian.AppendUint16(b, p.ID)
	}
	return append(b, p.Body...)
}

// AppendPuback appends PUBACK.
func AppendPuback(b []byte, id uint16) []byte {
	return binary.BigEndian.AppendUint16(append(b, puback<<4, 2), id)
}

// Refused is the return code of SUBACK for a filter that is refused.
const Refused = 0x80

// AppendSuback appends SUBACK with a code for each filter: the granted QoS or
// Refused (section 3.9).
func AppendSuback(b []byte, id uint16, codes []byte) []byte {
	b = appendLength(append(b, suback<<4), 2+len(codes))
	return append(binary.BigEndian.AppendUint16(b, id), codes...)
}

// AppendUnsuback appends UNSUBACK.
func AppendUnsuback(b []byte, id uint16) []byte {
	return binary.BigEndian.AppendUint16(append(b, unsuback<<4, 2), id)
}

// AppendPingresp appends PINGRESP.
func AppendPingresp(b []byte) []byte { return append(b, pingresp<<4, 0) }

// appendLength appends the remaining length (section 2.2.3).
func appendLength(b []byte, n int) []byte {
	for n > 0x7f {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}
