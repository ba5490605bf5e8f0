// Package message is what passes through the hub, in the terms that all its
// protocols share (wire contract, sections 2.2, 3.5 and 4.1). Names and values
// of system properties differ per protocol; each protocol's routes translate.
package message

import "time"

// Message is one message, device-to-cloud or cloud-to-device. Who makes it owns
// it until it is handed on; after that nobody changes it, Body included.
type Message struct {
	ID              string
	CorrelationID   string
	UserID          string
	To              string
	ContentType     string
	ContentEncoding string
	Expiry          time.Time // absolute; zero for none
	Created         time.Time // iothub-creation-time-utc; zero for none
	Ack             string    // iothub-ack: "", none, positive, negative or full
	Output          string    // iothub-outputname
	Schema          string    // iothub-message-schema
	InterfaceID     string    // iothub-interface-id
	Component       string    // dt-subject
	Properties      []Property
	Body            []byte
}

// Property is one of the application's own. Names should be unique; the last
// of two counts.
type Property struct{ Name, Value string }

// Property returns the value of the application property with the name, and
// whether there is one.
func (m *Message) Property(name string) (string, bool) {
	for i := len(m.Properties) - 1; i >= 0; i-- {
		if m.Properties[i].Name == name {
			return m.Properties[i].Value, true
		}
	}
	return "", false
}

// Size is what counts against the size limits: the body, the values of system
// properties, and names and values of the application's (section 6.2).
func (m *Message) Size() int {
	n := len(m.Body)
	for _, s := range []string{
		m.ID, m.CorrelationID, m.UserID, m.To, m.ContentType, m.ContentEncoding,
		m.Ack, m.Output, m.Schema, m.InterfaceID, m.Component,
	} {
		n += len(s)
	}
	for _, p := range m.Properties {
		n += len(p.Name) + len(p.Value)
	}
	return n
}
