// Package broker is where MQTT leaves meet the gateway: it listens, lets leaves
// log in, reads what they publish in two dialects, and acknowledges each
// message when, and only when, the path has it in custody. What the hub sends to
// them goes out here, and so do the answers about their twins.
//
// # A leaf's way in
//
//	network ── guard.go ── mochi ── hook.go ─┬─ CONNECT: login.go, registry.go
//	          size, time,                    └─ PUBLISH: session.go (publish)
//	          structure (packet.go)                 │  dialect.go: topic to message
//	                                                ▼
//	network ◄─ session.go (acknowledge) ◄─ inbox ◄─ gateway.Handler, later Done
//
// The MQTT server underneath is mochi, and this is the only package that knows
// it. It decodes packets and answers CONNECT and pings; it is not trusted with
// strangers, nor with custody, nor with sessions. The guard passes it only
// packets whose structure has been checked, and a publication is taken from it
// before it could acknowledge it.
//
// # The way to a leaf
//
//	gateway.Down ──── reach.go ─┐
//	                            ├─ desk.go ── outflow.go ── guard.go ── network
//	gateway.Twins ── request.go ┘  sessions    window, packet ids,
//	                                           PUBACK
//
// Each leaf has a desk of its own. There is no tree of topics: what is for a leaf
// is matched against the subscriptions of that leaf's own sessions, so that no
// mistake in a pattern can bring it to another. Sessions that outlive their
// connection are noted on flash when their subscriptions change (notebook.go).
//
// # Logins
//
// A user name that is a leaf's id comes with that leaf's password. Its client
// id is free, except that it must not be another leaf's id; who publishes is
// told by the user name alone. A user name of the IoT Hub form
// ({hub}/{id}/?api-version=…) comes with a shared access signature, and its
// client id must be {id}. In both forms a client certificate can stand in the
// place of the secret: one whose thumbprint is known, or one of an authority,
// with the leaf's id as its common name. A session outlives its connection only
// if the client id is the leaf's id.
//
// Listeners speak MQTT over TLS, or MQTT in WebSockets over TLS (socket.go).
//
// # Dialects
//
// A leaf publishes only as itself: devices/{id}/messages/events/{bag} as a stock
// device SDK does, or leaf/{id}/telemetry[/{channel}] and
// leaf/{id}/alarm[/{channel}], and the requests of request.go. Anything else is
// refused and counted: in MQTT 5 by PUBACK, in MQTT 3.1.1 by closing the
// connection, as the hub does. QoS 2 is not offered; a retain flag becomes the
// property mqtt-retain. A leaf subscribes to the filters of the stock SDKs, and to
// anything below leaf/{id}/; docs/down.md lists what comes where.
package broker
