package message

import (
	"crypto/rand"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
)

// NewGUID returns a random GUID (RFC 9562, version 4), with which the hub names
// what it hands out and expects back: lock tokens and requests.
func NewGUID() string {
	var id amqp.UUID
	_, _ = rand.Read(id[:]) // never fails
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}
