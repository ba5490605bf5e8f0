// Package amqp carries leaves to an IoT hub over AMQP 1.0: one connection, on TLS
// or in a WebSocket (package dial makes it), one token per leaf, one sending link per leaf, several leaves per session. It
// is a transport of package uplink and the only importer of go-amqp.
//
//	transport.go   dials, and says what is needed for it
//	guard.go       below go-amqp: what it writes and reads
//	conn.go        the connection, and how a leaf is opened on it
//	cbs.go         tokens on the wire: one request, one answer
//	identity.go    the token of one leaf, and its renewal in place
//	sessions.go    which leaf shares a session with which
//	link.go        the sending link of one leaf, and receipts
//	fault.go       what go-amqp's errors ask for
//
// A thing to know about go-amqp: when a link is closed while the hub has not
// settled everything that was sent on it, the late answer closes the session and
// with it the links of other leaves. So a link is closed only when it is quiet;
// when the hub itself closes one in the middle, the loss ends at the session, which
// is why a session holds only a few leaves.
package amqp
