// Package server is the AMQP 1.0 engine of hubsim: connections, sessions and
// links, seen from the side that accepts them. It knows windows, credit,
// settlement and heartbeats; what an address means is left to Routes.
//
// A connection is a socket a client opened. A session is an ordered
// conversation on it with its own windows. A link carries messages one way
// between a client and an address. A delivery is one message on a link, and
// settling it is saying how it ended.
//
// One goroutine reads a connection and does all of its protocol work. Before
// each read that may block it says everything the bytes so far call for, in one
// go: settlements merged into ranges, credit topped up, one wake-up of the
// writer. This is what makes the engine cheap under load, and prompt without.
package server
