// Package broker is where MQTT leaves meet the gateway: it listens, lets leaves
// log in, reads what they publish in two dialects, and acknowledges each
// message when, and only when, the path has it in custody.
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
// it. It decodes packets and keeps sessions; it is not trusted with strangers,
// nor with custody. The guard passes it only packets whose structure has been
// checked, and a publication is taken from it before it could acknowledge it.
//
// # Logins
//
// A user name that is a leaf's id comes with that leaf's password. Its client
// id is free, except that it must not be another leaf's id; who publishes is
// told by the user name alone. A user name of the IoT Hub form
// ({hub}/{id}/?api-version=…) comes with a shared access signature, and its
// client id must be {id}. A session outlives its connection only if the client
// id is the leaf's id.
//
// # Dialects
//
// A leaf publishes only as itself: devices/{id}/messages/events/{bag} as a stock
// device SDK does, or leaf/{id}/telemetry[/{channel}] and
// leaf/{id}/alarm[/{channel}]. Anything else is refused and counted: in MQTT 5
// by PUBACK, in MQTT 3.1.1 by closing the connection, as the hub does. QoS 2 is
// not offered; a retain flag becomes the property mqtt-retain.
//
// Nothing is sent downstream in this version. A leaf's own filters, those of
// the stock SDKs and leaf/{id}/…, are granted and stay silent; twin requests
// and method answers are counted and not answered.
package broker
