// Package packet reads and writes the control packets of MQTT 3.1.1, as far as a
// server without QoS 2 receives and sends them. It is strict: what the standard
// (OASIS MQTT 3.1.1, 2014) calls malformed is an error, whatever the packet.
package packet

import (
	"errors"
	"fmt"
	"io"
)

// Errors of Read, wrapped with what is wrong.
var (
	// ErrMalformed is for bytes that are no packet, or none that a client sends.
	ErrMalformed = errors.New("malformed packet")
	// ErrTooLarge is for a packet above the limit of the reader.
	ErrTooLarge = errors.New("packet too large")
)

// Level is the protocol level of MQTT 3.1.1 in CONNECT.
const Level = 4

// Connect is CONNECT (section 3.1 of the standard). When Level is not that of
// MQTT 3.1.1, only Level is set: what follows it is in another language.
type Connect struct {
	Level        byte
	CleanSession bool
	KeepAlive    uint16 // seconds; 0 for none
	ClientID     string
	Will         *Publish // nil for none; its ID is 0
	HasUser      bool
	User         string
	Password     []byte
}

// Publish is PUBLISH, in both directions (section 3.3).
type Publish struct {
	Topic     string
	ID        uint16 // 0 with QoS 0, and never otherwise
	QoS       byte   // 0 to 2
	Retain    bool
	Duplicate bool
	Body      []byte
}

// Puback is PUBACK (section 3.4).
type Puback struct{ ID uint16 }

// Subscribe is SUBSCRIBE (section 3.8).
type Subscribe struct {
	ID      uint16
	Filters []Filter // at least one
}

// Filter is a topic filter with the QoS that the client asks for, 0 to 2.
type Filter struct {
	Topic string
	QoS   byte
}

// Unsubscribe is UNSUBSCRIBE (section 3.10).
type Unsubscribe struct {
	ID     uint16
	Topics []string // at least one
}

// Pingreq is PINGREQ (section 3.12).
type Pingreq struct{}

// Disconnect is DISCONNECT (section 3.14).
type Disconnect struct{}

// The packet types in the upper half of the first byte (section 2.2.1).
const (
	connect     = 1
	connack     = 2
	publish     = 3
	puback      = 4
	subscribe   = 8
	suback      = 9
	unsubscribe = 10
	unsuback    = 11
	pingreq     = 12
	pingresp    = 13
	disconnect  = 14
)

// Reader is what packets are read from; a bufio.Reader in practice.
type Reader interface {
	io.Reader
	io.ByteReader
}

// Read reads one packet that a client sends: a pointer to one of the types of
// this package. A packet whose body has more than max bytes is not read. The
// packet's memory belongs to the caller. An end of the stream between packets is
// io.EOF, one inside a packet io.ErrUnexpectedEOF.
func Read(r Reader, max int) (any, error) {
	first, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	n, err := readLength(r)
	if err != nil {
		return nil, err
	}
	if n > max {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, unexpected(err)
	}
	return parse(first, body)
}

// readLength reads the remaining length: seven bits a byte, at most four bytes
// (section 2.2.3).
func readLength(r Reader) (int, error) {
	n := 0
	for shift := 0; shift < 28; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, unexpected(err)
		}
		n |= int(b&0x7f) << shift
		if b&0x80 == 0 {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%w: length of more than four bytes", ErrMalformed)
}

// unexpected is for an end of the stream inside a packet.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
