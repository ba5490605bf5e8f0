// Package mqttsn is a gateway for leaves that speak MQTT-SN 1.2 (specification of
// November 2013) on one line: a serial port, or whatever else carries a stream of
// bytes both ways. Messages travel in the frames of package hdlc, one in each.
// Where sections are named without a document, they are that specification's.
//
//  1. message.go and forward.go are the messages, as bytes and as values,
//  2. link.go is the line: it unpacks frames, finds the session, and writes,
//  3. session.go is the life of a leaf's session: connect, will, sleep, loss,
//  4. topics.go gives topics their ids, subscribe.go knows what a leaf listens for,
//  5. up.go brings what a leaf publishes into custody, and answers it,
//  6. down.go brings commands, calls, twins and desired changes to the leaf,
//  7. notes.go keeps subscriptions and wills of kept sessions over a restart.
//
// # Words
//
// A leaf's client id is its leaf id, so it has at most 23 characters; its topics
// are those of the plain dialect, leaf/{id}/… (package plain). There are no
// passwords in MQTT-SN: who may speak on a line says the configuration, and a leaf
// on it can act as any other that may.
//
// # Several leaves on one line
//
// A message says nothing about its sender; the line is one leaf's, unless a
// concentrator wraps messages in the forwarder encapsulation (section 5.5), whose
// node id is then the address. A session belongs to the address from which its
// leaf connected last.
//
// # What is acknowledged
//
// PUBACK and PUBREC are sent when the message is in custody, and not before. A
// store that is full, or cannot write, is "rejected: congestion": the leaf has the
// message and sends it again. What can never be taken is "rejected: not
// supported". Of a publication with QoS 0 or -1 the leaf hears nothing.
//
// # Topic ids
//
// An id is computed from its topic. So after a restart of the gateway the id that a
// leaf still remembers cannot mean another topic: it is unknown, which the leaf is
// told ("rejected: invalid topic id"), registers, and gets the same id again. Before
// the first PUBLISH to a topic on a connection the leaf is told the id with
// REGISTER, unless it has just learnt it by REGACK or SUBACK.
//
// # Sessions
//
// A session that was begun without the clean flag is kept for seven days: what it
// subscribes to is on flash before SUBACK. One with it ends with its connection. A
// message from somebody without a session is answered by DISCONNECT, on which a
// client connects again (section 6.12): so leaves find back after a restart,
// those that slept meanwhile when they wake.
//
// Sessions outlive the line. While it is not there their leaves are asleep for the hub,
// and nothing is sent; a leaf that is silent for too long is lost as ever.
//
// What is on its way to a leaf is one message at a time, repeated after the time
// Retry (section 6.13).
package mqttsn
