// Package hubsim is an IoT hub on the bench: it listens with TLS on an address of
// this machine and serves every endpoint of the hub's list, so that the vendor's
// own clients cannot tell it from the real one. Its faults are switches.
//
// It is written from the protocol alone and shares no code with the gateway: a
// mistake made on both sides would hide itself.
//
// This package starts and stops the parts, makes the certificates, sorts out who
// connects, and holds the switches. Package hub ties together what knows no
// protocol; amqp/server, mqtt and net/http speak the protocols and know no hub;
// amqp/routes, mqtt/routes and rest give addresses, topics and paths their
// meaning. control offers the switches over a unix socket, and reader reads
// events as a back end would. The README lists what differs from the real hub.
package hubsim
