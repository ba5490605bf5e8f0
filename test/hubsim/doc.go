// Package hubsim is an IoT hub on the bench: it listens with TLS on an address
// of this machine, takes devices' telemetry over AMQP 1.0, and lets a back end
// read it through the Event-Hubs-compatible endpoint, so that the vendor's own
// clients cannot tell it from the real one. Its faults are switches.
//
// It is written from the protocol alone and shares no code with the gateway: a
// mistake made on both sides would hide itself.
//
// The layers, each a package: amqp is the wire format, amqp/server the engine
// of connections, sessions and links, routes the meaning of addresses, registry
// the identities, sas the tokens, events the memory. This package starts and
// stops them, makes the certificates, and holds the switches; control offers
// the same over a unix socket, and reader reads events as a back end would.
package hubsim
