package message

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
)

// Application properties and annotations with a meaning of their own (section
// 3.5).
const (
	creationName  = "iothub-creation-time-utc"
	outputName    = "iothub-outputname"
	schemaName    = "iothub-message-schema"
	ackName       = "iothub-ack"
	interfaceName = "iothub-interface-id"
	componentName = "dt-subject"
)

// AMQP returns m as an AMQP message, the form in which the event endpoint keeps
// everything. It shares the body. Text that is not UTF-8, as a topic or a header
// may bring it, is mended: no AMQP client could read it.
func (m *Message) AMQP() *amqp.Message {
	a := &amqp.Message{Data: [][]byte{m.Body}, Properties: &amqp.Properties{
		To: mended(m.To), Expiry: m.Expiry,
		ContentType: amqp.Symbol(m.ContentType), ContentEncoding: amqp.Symbol(m.ContentEncoding),
	}}
	if m.ID != "" {
		a.Properties.MessageID = mended(m.ID)
	}
	if m.CorrelationID != "" {
		a.Properties.CorrelationID = mended(m.CorrelationID)
	}
	if m.UserID != "" {
		a.Properties.UserID = []byte(m.UserID)
	}
	for _, p := range m.Properties {
		a.Application = append(a.Application, amqp.Pair{Key: mended(p.Name), Value: mended(p.Value)})
	}
	created := ""
	if !m.Created.IsZero() {
		created = m.Created.UTC().Format(time.RFC3339Nano)
	}
	for _, p := range []Property{{creationName, created}, {outputName, m.Output}, {schemaName, m.Schema}, {ackName, m.Ack}} {
		if p.Value != "" {
			a.Application = append(a.Application, amqp.Pair{Key: p.Name, Value: mended(p.Value)})
		}
	}
	for _, p := range []Property{{interfaceName, m.InterfaceID}, {componentName, m.Component}} {
		if p.Value != "" {
			a.Annotations = append(a.Annotations, amqp.Pair{Key: amqp.Symbol(p.Name), Value: mended(p.Value)})
		}
	}
	return a
}

// FromAMQP takes an AMQP message apart. The result shares the body with a.
// Ids become text whatever their type was.
func FromAMQP(a *amqp.Message) *Message {
	m := &Message{
		Body:        a.Body(),
		InterfaceID: Text(a.Annotations.Get(interfaceName)),
		Component:   Text(a.Annotations.Get(componentName)),
	}
	if p := a.Properties; p != nil {
		m.ID, m.CorrelationID = Text(p.MessageID), Text(p.CorrelationID)
		m.UserID, m.To = string(p.UserID), p.To
		m.ContentType, m.ContentEncoding = string(p.ContentType), string(p.ContentEncoding)
		m.Expiry, m.Created = p.Expiry, p.Creation
	}
	for _, p := range a.Application {
		name, value := Text(p.Key), Text(p.Value)
		switch name {
		case creationName:
			if t, err := time.Parse(time.RFC3339Nano, value); err == nil {
				m.Created = t
			}
		case outputName:
			m.Output = value
		case schemaName:
			m.Schema = value
		case ackName:
			m.Ack = value
		default:
			m.Properties = append(m.Properties, Property{name, value})
		}
	}
	return m
}

// Text writes a simple AMQP value as text: nil as nothing, bytes as they are as
// far as they are UTF-8, numbers in decimal, times in RFC 3339, anything else as
// JSON would.
func Text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case []byte:
		return mended(string(v))
	case bool:
		return strconv.FormatBool(v)
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	}
	if s := amqp.Text(v); s != "" {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil || string(b) == `""` {
		return "" // a composite type, which no client sends here
	}
	return string(b)
}

func mended(text string) string { return strings.ToValidUTF8(text, "\ufffd") }
