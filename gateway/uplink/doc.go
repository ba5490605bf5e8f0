// Package uplink is the life of the one connection to the hub: it dials, serves
// every leaf over that connection, notices when it is lost, waits, and dials
// again. It does not know how a message looks on the wire; a Transport does.
//
// Read it in the order in which it happens:
//
//	uplink.go     one connection after the other
//	pump.go       one connection: from the outbox to the line of each leaf
//	line.go       one leaf: open its link, send, recover
//	stream.go     one open link: what is in flight on it, and the hub's answers
//	fault.go      what a failure asks for
//	schedule.go   how long to wait after it
//
// Messages of a leaf that wait together are sent and settled together. When the hub
// refuses them the leaf goes on one message at a time, until the bad one is found.
//
// What goes wrong costs as little as possible: a refused message costs itself, a
// lost link or a refused identity costs its leaf, a throttled hub costs time, and
// only the loss of the connection costs everybody.
package uplink
