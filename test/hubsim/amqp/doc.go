// Package amqp is the AMQP 1.0 wire format as a server needs it: values,
// frames, performatives and messages, to and from bytes. It does no I/O and
// keeps no state; package server moves the bytes.
//
// Reading is strict about structure and never panics: every length is checked
// against the bytes at hand, nesting is bounded, and text must be UTF-8. Byte
// slices in decoded values alias the input, strings are copies.
//
// The numbers come from the OASIS standard of 2012-10-29, "AMQP Version 1.0",
// parts 1 (types), 2 (transport), 3 (messaging) and 5 (security).
package amqp
