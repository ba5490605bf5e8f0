package amqp

import "time"

// FormatBatch is the message format of the vendor's batches: each data section
// holds one whole encoded message (wire contract, section 3.5).
const FormatBatch = 0x80013700

// Properties are the immutable properties of a message (part 3, section 3.2.4).
type Properties struct {
	MessageID       any // nil, string, uint64, UUID or []byte
	UserID          []byte
	To              string
	Subject         string
	ReplyTo         string
	CorrelationID   any // as MessageID
	ContentType     Symbol
	ContentEncoding Symbol
	Expiry          time.Time // zero when absent
	Creation        time.Time // zero when absent
	GroupID         string
	GroupSequence   any // nil or uint32
	ReplyToGroup    string
}

// Message is a message taken apart. Byte slices alias the input.
type Message struct {
	DeliveryAnnotations Map
	Annotations         Map
	Properties          *Properties // nil when absent
	Application         Map
	Data                [][]byte // data sections, in order
	HasValue            bool     // the body is one AMQP value
	Value               any
	Sequences           []List
}

// Body returns the payload as bytes: the data sections joined, or the text or
// bytes of an AMQP value. With one data section it aliases the message.
func (m *Message) Body() []byte {
	switch v := m.Value.(type) {
	case string:
		return []byte(v)
	case []byte:
		return v
	}
	if len(m.Data) == 1 {
		return m.Data[0]
	}
	var body []byte
	for _, part := range m.Data {
		body = append(body, part...)
	}
	return body
}

// ParseMessage reads one bare or annotated message. Sections may come in any
// order; the last one of a kind counts, and data sections add up.
func ParseMessage(b []byte) (*Message, error) {
	d := NewDecoder(b)
	m := &Message{}
	for len(d.b) > 0 && d.err == nil {
		m.section(d)
	}
	if d.err != nil {
		return nil, d.err
	}
	return m, nil
}

func (m *Message) section(d *Decoder) {
	switch code := d.descriptor(); code {
	case codeHeader, codeFooter:
		d.value(0) // durable, priority, ttl and checksums mean nothing to a hub
	case codeDeliveryNotes:
		m.DeliveryAnnotations = d.mapped()
	case codeMessageNotes:
		m.Annotations = d.mapped()
	case codeProperties:
		m.Properties = readProperties(d)
	case codeApplication:
		m.Application = d.mapped()
	case codeData:
		data, ok := d.value(0).([]byte)
		if !ok {
			d.fail("data section without bytes")
		}
		m.Data = append(m.Data, data)
	case codeSequence:
		list, ok := d.value(0).(List)
		if !ok {
			d.fail("sequence section without list")
		}
		m.Sequences = append(m.Sequences, list)
	case codeAMQPValue:
		m.Value, m.HasValue = d.value(0), true
	default:
		d.fail("message section 0x%02x", code)
	}
}

// mapped reads a map; null counts as an empty one.
func (d *Decoder) mapped() Map {
	switch v := d.value(0).(type) {
	case Map:
		return v
	case nil:
		return nil
	default:
		d.fail("%T instead of a map", v)
		return nil
	}
}

func readProperties(d *Decoder) *Properties {
	f := openFields(d)
	p := &Properties{
		MessageID:       f.any(),
		UserID:          f.binary(),
		To:              f.address(),
		Subject:         f.string(),
		ReplyTo:         f.address(),
		CorrelationID:   f.any(),
		ContentType:     f.symbol(),
		ContentEncoding: f.symbol(),
		Expiry:          f.time(),
		Creation:        f.time(),
		GroupID:         f.string(),
		GroupSequence:   f.any(),
		ReplyToGroup:    f.string(),
	}
	f.close()
	return p
}

// address reads a field that may hold an address in any of its types.
func (f *fieldReader) address() string { return Text(f.any()) }

// Append appends the encoding of m.
func (m *Message) Append(b []byte) []byte {
	b = appendSection(b, codeDeliveryNotes, m.DeliveryAnnotations)
	b = appendSection(b, codeMessageNotes, m.Annotations)
	if m.Properties != nil {
		b = m.Properties.append(b)
	}
	b = appendSection(b, codeApplication, m.Application)
	for _, part := range m.Data {
		b = AppendValue(appendDescriptor(b, codeData), part)
	}
	for _, list := range m.Sequences {
		b = AppendValue(appendDescriptor(b, codeSequence), list)
	}
	if m.HasValue {
		b = AppendValue(appendDescriptor(b, codeAMQPValue), m.Value)
	}
	return b
}

func appendSection(b []byte, code byte, m Map) []byte {
	if m == nil {
		return b
	}
	return AppendValue(appendDescriptor(b, code), m)
}

func (p *Properties) append(b []byte) []byte {
	w := openComposite(b, codeProperties)
	w.value(p.MessageID)
	w.bytes(p.UserID)
	w.text(p.To)
	w.text(p.Subject)
	w.text(p.ReplyTo)
	w.value(p.CorrelationID)
	w.symbolText(p.ContentType)
	w.symbolText(p.ContentEncoding)
	w.time(p.Expiry)
	w.time(p.Creation)
	w.text(p.GroupID)
	w.value(p.GroupSequence)
	w.text(p.ReplyToGroup)
	return w.close()
}
