// Package dial makes the one stream of bytes to the hub: TLS over TCP, or a
// WebSocket over TLS, each directly or through an HTTP proxy. What is spoken on it
// is the transports' business. It is the only importer of a WebSocket library on
// the gateway's way up.
//
//	config.go      where the hub is and how it is reached, for every transport
//	dialer.go      TCP, TLS, and what a failure of each says
//	hearing.go     a far side whose TCP does not hear us
//	proxy.go       HTTP CONNECT
//	websocket.go   a WebSocket as a stream
//
// An error that says that the hub itself was not reached is *uplink.Unreachable:
// another way may still lead to it. What the hub has said is none.
package dial
