// Package mqtt carries leaves to an IoT hub over MQTT 3.1.1, on TLS or in a
// WebSocket. An MQTT connection has one identity: the gateway's own. Leaves are
// named in a property, and what the hub keeps for each identity (twins, the queue
// of commands, whether it is enabled) it keeps for the gateway. docs/transports.md
// says what that allows. It is a transport of package uplink and the only importer
// of Paho, of which it uses the codec.
//
//	transport.go   dials and proves the gateway
//	conn.go        one connection: packets in and out, acknowledgements
//	link.go        the way of one leaf, and receipts
//	suspect.go     which message the hub hangs up on
//	ear.go         what the hub sends: commands and methods
//	acks.go        acknowledgements of commands, in the hub's order
//	twin.go        the gateway's own twin
//	packet.go      reading packets
//
// MQTT 3.1.1 knows no error but the end of the connection, so that everything that
// is refused costs it. The life of the connection, the resending and the bounds are
// package uplink's: this one keeps no message and dials only when it is told to.
package mqtt
