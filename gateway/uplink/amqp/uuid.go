package amqp

import (
	"crypto/rand"

	goamqp "github.com/Azure/go-amqp"
)

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() goamqp.UUID {
	var u goamqp.UUID
	rand.Read(u[:]) // never fails
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}
