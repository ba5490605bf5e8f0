package leafsim

import "context"

// Line is a way to the gateway: MQTT, Serial or SN. A leaf owns its Line.
type Line interface {
	// dial makes a connection that stands, for at most window messages in
	// flight.
	dial(ctx context.Context, leaf string, window int) (conn, error)
	// window is how many messages may be in flight where the leaf asks for so
	// many.
	window(asked int) int
	// close gives back what outlives a single connection.
	close()
}

// conn is one connection of a leaf.
type conn interface {
	// send puts m on the wire, after everything sent before. It may block as
	// long as the wire does; ctx ends that. An error means that the connection
	// is lost.
	send(ctx context.Context, m *Message) error
	// acks returns the acknowledged messages. The channel is closed when the
	// connection is lost or the gateway refused a message.
	acks() <-chan *Message
	// close ends the connection and waits for everything it started.
	close()
}
