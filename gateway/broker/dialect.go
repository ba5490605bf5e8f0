package broker

import (
	"bytes"
	"errors"
	"time"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

// errTopic says that a leaf may not publish to a topic.
var errTopic = errors.New("not a topic of this leaf")

// publication is what a leaf publishes, as MQTT words it: from a PUBLISH, or
// from the will in a CONNECT.
type publication struct {
	topic      string
	payload    []byte
	properties *packets.Properties // of MQTT 5; never nil
	qos        byte
	retain     bool
	dup        bool
	id         uint16 // of the packet, with QoS 1
}

var noProperties packets.Properties

// readPublication decodes a PUBLISH that checkPacket has passed: the first byte of
// its fixed header and everything behind that (section 3.3). The publication keeps
// body.
func readPublication(version, first byte, body []byte) (*publication, error) {
	s := scanner{rest: body}
	p := &publication{qos: first >> 1 & 3, retain: first&1 != 0, dup: first&8 != 0, properties: &noProperties}
	p.topic = string(s.binary())
	if p.qos > 0 {
		p.id = s.uint16()
	}
	if version == version5 {
		p.properties = new(packets.Properties)
		n, err := p.properties.Decode(packets.Publish, bytes.NewBuffer(s.rest))
		if err != nil {
			return nil, err
		}
		s.take(n)
	}
	p.payload = s.rest
	return p, nil
}

// read reads a publication of the leaf that is logged in, in the dialect that its
// topic tells or by a rule: a message, or errTopic. The message keeps the payload.
func (b *Broker) read(login string, p *publication) (*gateway.Message, error) {
	m, err := parseTopic(login, p.topic)
	if err != nil {
		m, err = b.readMapped(login, p.topic)
	}
	if err != nil {
		return nil, err
	}
	p.fill(m, b.clock)
	return m, nil
}

// fill makes a message of what its topic has told.
func (p *publication) fill(m *gateway.Message, clock gateway.Clock) {
	m.Body = p.payload
	if p.retain {
		// Not stored, but said, as the hub does (wire contract, section 2.7).
		m.Properties = append(m.Properties, gateway.Property{Name: "mqtt-retain", Value: "true"})
	}
	p.addProperties(m, clock)
}

// addProperties adds what MQTT 5 says about a publication.
func (p *publication) addProperties(m *gateway.Message, clock gateway.Clock) {
	for _, u := range p.properties.User {
		m.Properties = append(m.Properties, gateway.Property{Name: u.Key, Value: u.Val})
	}
	if p.properties.ContentType != "" {
		m.System.ContentType = p.properties.ContentType
	}
	if id := p.properties.CorrelationData; len(id) > 0 && utf8.Valid(id) {
		m.System.CorrelationID = string(id)
	}
	// Time to live counts trusted time only: by a clock that nothing steers the
	// message might seem to have ended before it began.
	if s := p.properties.MessageExpiryInterval; s > 0 {
		if now := clock(); now.Quality == gateway.Synced {
			m.System.Expiry = now.Wall.Add(time.Duration(s) * time.Second)
		}
	}
}

// parseTopic reads the topic of a publication by leaf:
//
//	devices/{leaf}/messages/events/{bag}   IoT Hub dialect
//	leaf/{leaf}/…                          plain dialect, see plain.ParseMessage
func parseTopic(leaf, topic string) (*gateway.Message, error) {
	if device, module, bag, ok := hub.ParseEventsTopic(topic); ok {
		if module != "" || !plain.Names(device, leaf) {
			return nil, errTopic
		}
		m := &gateway.Message{Leaf: leaf, Kind: gateway.Telemetry, Lane: gateway.LaneTelemetry}
		m.System, m.Properties = hub.DecodeBag(bag)
		return m, nil
	}
	m, ok := plain.ParseMessage(leaf, topic)
	if !ok {
		return nil, errTopic
	}
	return m, nil
}
