package hub

import (
	"maps"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Fixed words of the AMQP dialect (wire contract, sections 1.8 and 3.3).
const (
	CBSAddress   = "$cbs"
	CBSReplyTo   = "cbs"
	CBSOperation = "put-token"
	CBSTokenType = "servicebus.windows.net:sastoken"

	LinkClientVersion = "com.microsoft:client-version"
	LinkAPIVersion    = "com.microsoft:api-version"
	APIVersion        = "2021-04-12"
)

// BatchFormat is the message format of a transfer that carries several messages,
// each encoded whole in a data section of its own (wire contract, section 3.5).
const BatchFormat = 0x80013700

// MaxIdentities is how many leaves one connection may carry. The hub closes the
// door at 999 tokens; what others count as a token may differ by a few (wire
// contract, sections 3.9 and 12.1).
const MaxIdentities = 950

// Application properties with which the gateway tells the back end what it did
// to a message, so that the back end can sort and prove that nothing is missing.
// A leaf cannot set them.
const (
	PropertyLane     = "fieldgate-lane"     // name of the lane
	PropertySeq      = "fieldgate-seq"      // 1, 2, 3 … per leaf, lane and start
	PropertyStart    = "fieldgate-start"    // the gateway start that numbered it
	PropertyDropped  = "fieldgate-dropped"  // how many numbers below it were given up, as far as is known; absent for 0
	PropertyCaptured = "fieldgate-captured" // when the gateway received it, RFC 3339, UTC
	PropertyClock    = "fieldgate-clock"    // quality of that time: synced, estimated, unsynced
	PropertyChannel  = "fieldgate-channel"  // stream within the leaf; absent for none
	PropertyLeaf     = "fieldgate-leaf"     // the leaf's id, where the message goes under the gateway's identity; else absent
)

// Names that the hub itself gives a meaning (wire contract, section 3.5).
const (
	propertyCreationTime = "iothub-creation-time-utc"
	propertyOutputName   = "iothub-outputname"
	propertySchema       = "iothub-message-schema"
	propertyMessageType  = "iothub-MessageType"
	messageTypeWill      = "Will"

	annotationInterface = "iothub-interface-id"
	annotationComponent = "dt-subject"
)

// TelemetryAddress returns the target of the link on which a leaf sends (wire
// contract, section 3.2).
func TelemetryAddress(leaf string) string {
	return "/devices/" + url.PathEscape(leaf) + "/messages/events"
}

// Audience returns what a put-token is for, in the plain form (wire contract,
// section 1.8).
func Audience(host, leaf string) string { return host + "/devices/" + leaf }

// AMQPMessage is a message in the places of AMQP, without any library's types.
// Empty values are not set. The body is shared with the message it was made from.
type AMQPMessage struct {
	MessageID       string
	CorrelationID   string
	UserID          []byte
	ContentType     string // a symbol: ASCII only
	ContentEncoding string // a symbol: ASCII only
	Expiry          time.Time
	Properties      map[string]string // application properties
	Annotations     map[string]string // message annotations, keys are symbols
	Body            []byte
}

// ToAMQP returns the message as the hub wants it (wire contract, section 3.5).
// The capture time is repaired with now where the clock was not to be trusted
// then and is now.
func ToAMQP(m *gateway.Message, now gateway.Instant) AMQPMessage {
	s := &m.System
	a := AMQPMessage{
		MessageID:       text(s.MessageID),
		CorrelationID:   text(s.CorrelationID),
		ContentType:     symbol(s.ContentType),
		ContentEncoding: symbol(s.ContentEncoding),
		Expiry:          s.Expiry,
		Properties:      make(map[string]string, len(m.Properties)+10),
		Body:            m.Body,
	}
	if s.UserID != "" {
		a.UserID = []byte(s.UserID)
	}
	for _, p := range m.Properties {
		a.Properties[text(p.Name)] = text(p.Value)
	}
	set(a.Properties, propertyCreationTime, s.CreationTime)
	set(a.Properties, propertyOutputName, s.OutputName)
	set(a.Properties, propertySchema, s.Schema)
	if m.Kind == gateway.Will {
		a.Properties[propertyMessageType] = messageTypeWill
	}
	prove(a.Properties, m, now)
	if s.InterfaceID != "" || s.Component != "" {
		a.Annotations = make(map[string]string, 2)
		set(a.Annotations, annotationInterface, s.InterfaceID)
		set(a.Annotations, annotationComponent, s.Component)
	}
	return a
}

// prove adds what the gateway knows of the message.
func prove(properties map[string]string, m *gateway.Message, now gateway.Instant) {
	// A leaf that uses our names does not get them past us.
	maps.DeleteFunc(properties, func(name, value string) bool {
		return isProof(name) && !gateway.LowersTrust(gateway.Property{Name: name, Value: value})
	})
	captured := m.Captured.Repair(now)
	properties[PropertyLane] = m.Lane.String()
	properties[PropertySeq] = strconv.FormatUint(m.Seq, 10)
	properties[PropertyStart] = strconv.FormatUint(uint64(m.Start), 10)
	properties[PropertyCaptured] = captured.Wall.UTC().Format(time.RFC3339Nano)
	properties[PropertyClock] = captured.Quality.String()
	if m.Dropped > 0 {
		properties[PropertyDropped] = strconv.FormatUint(m.Dropped, 10)
	}
	set(properties, PropertyChannel, m.Channel)
}

// set stores a value that is not empty.
func set(m map[string]string, name, value string) {
	if value != "" {
		m[name] = text(value)
	}
}

// text makes a string fit for AMQP, which takes valid UTF-8 only: a leaf's
// percent-encoding can produce anything.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// symbol returns s if it may stand in an AMQP symbol, "" otherwise: a content
// type that is not ASCII means nothing to the hub, and a malformed symbol would
// cost the whole connection.
func symbol(s string) string {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return ""
		}
	}
	return s
}
