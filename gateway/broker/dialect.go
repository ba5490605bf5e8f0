package broker

import (
	"errors"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
)

// errTopic says that a leaf may not publish to a topic.
var errTopic = errors.New("not a topic of this leaf")

// publication is what a leaf publishes, as MQTT words it: from a PUBLISH, or
// from the will in a CONNECT.
type publication struct {
	topic      string
	payload    []byte
	properties packets.Properties // MQTT 5
	qos        byte
	retain     bool
}

// message reads a publication in the dialect that its topic tells: a message
// of that leaf, or errTopic. The message keeps the payload.
func (p *publication) message(leaf string, now gateway.Instant) (*gateway.Message, error) {
	m, err := parseTopic(leaf, p.topic)
	if err != nil {
		return nil, err
	}
	m.Body = p.payload
	if p.retain {
		// Not stored, but said, as the hub does (wire contract, section 2.7).
		m.Properties = append(m.Properties, gateway.Property{Name: "mqtt-retain", Value: "true"})
	}
	p.addProperties(m, now)
	return m, nil
}

// addProperties adds what MQTT 5 says about a publication.
func (p *publication) addProperties(m *gateway.Message, now gateway.Instant) {
	for _, u := range p.properties.User {
		m.Properties = append(m.Properties, gateway.Property{Name: u.Key, Value: u.Val})
	}
	if p.properties.ContentType != "" {
		m.System.ContentType = p.properties.ContentType
	}
	if id := p.properties.CorrelationData; len(id) > 0 && utf8.Valid(id) {
		m.System.CorrelationID = string(id)
	}
	// Time to live counts trusted time only.
	if s := p.properties.MessageExpiryInterval; s > 0 && now.Quality != gateway.Unsynced {
		m.System.Expiry = now.Wall.Add(time.Duration(s) * time.Second)
	}
}

// parseTopic reads the topic of a publication by leaf:
//
//	devices/{leaf}/messages/events/{bag}   IoT Hub dialect
//	leaf/{leaf}/telemetry[/{channel}]      plain dialect
//	leaf/{leaf}/alarm[/{channel}]
//
// A channel may have several levels.
func parseTopic(leaf, topic string) (*gateway.Message, error) {
	m := &gateway.Message{Leaf: leaf, Kind: gateway.Telemetry, Lane: gateway.LaneTelemetry}
	if device, module, bag, ok := hub.ParseEventsTopic(topic); ok {
		if module != "" || !names(device, leaf) {
			return nil, errTopic
		}
		m.System, m.Properties = hub.DecodeBag(bag)
		return m, nil
	}
	id, rest, ok := cutPlain(topic)
	if !ok || !names(id, leaf) {
		return nil, errTopic
	}
	kind, channel, _ := strings.Cut(rest, "/")
	switch kind {
	case "telemetry":
	case "alarm":
		m.Lane = gateway.LaneAlarm
	default:
		return nil, errTopic
	}
	m.Channel = channel
	return m, nil
}

// cutPlain splits leaf/{id}/{rest} of the plain dialect.
func cutPlain(topic string) (id, rest string, ok bool) {
	if rest, ok = strings.CutPrefix(topic, "leaf/"); !ok {
		return "", "", false
	}
	return strings.Cut(rest, "/")
}

// names says whether a topic level is the leaf's id, as it stands or
// percent-encoded: an id may hold + and #, which topics cannot (wire contract,
// section 9.40).
func names(level, leaf string) bool {
	if level == leaf {
		return true
	}
	decoded, err := url.PathUnescape(level)
	return err == nil && decoded == leaf
}

// unanswered says that a topic is one on which a stock device SDK asks for its
// twin, reports to it or answers a method. It carries no id: it is the
// connection's leaf that speaks.
func unanswered(topic string) bool {
	rest, ok := strings.CutPrefix(topic, "$iothub/")
	return ok && (strings.HasPrefix(rest, "twin/GET/") ||
		strings.HasPrefix(rest, "twin/PATCH/properties/reported/") ||
		strings.HasPrefix(rest, "methods/res/"))
}

// maySubscribe says whether a filter is one of a leaf's own: those of the stock
// device SDKs, and anything below leaf/{leaf}/.
func maySubscribe(leaf, filter string) bool {
	switch filter {
	case "$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/#":
		return true
	}
	if rest, ok := strings.CutPrefix(filter, "devices/"); ok {
		id, rest, _ := strings.Cut(rest, "/")
		return rest == "messages/devicebound/#" && names(id, leaf)
	}
	id, rest, ok := cutPlain(filter)
	return ok && rest != "" && names(id, leaf)
}
