package hub

import (
	"encoding/json"
	"hash/fnv"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// What the gateway says to the hub over MQTT, as one device that speaks for its
// leaves (wire contract, section 2). PropertyLeaf names the leaf, in telemetry and in
// the commands that a back end sends to one.

// CommandsFilter returns the filter of a device's commands.
func CommandsFilter(device string) string { return "devices/" + device + "/messages/devicebound/#" }

// FormatUsername returns the user name of a device; about says what it runs.
func FormatUsername(host, device, about string) string {
	return host + "/" + device + "/?api-version=" + APIVersion + "&DeviceClientType=" + url.QueryEscape(about)
}

// Bounds of a message over MQTT, in bytes (wire contract, sections 2.2 and 6.2).
const (
	maxTopic   = 1<<16 - 1
	maxMessage = 256 << 10
)

// ToMQTT returns the topic on which device sends a message of one of its leaves,
// with all properties in it; the message's body is the payload. The capture time
// is repaired as in ToAMQP. problem says in words why the message can never be
// sent over MQTT, "" where it can: the hub's own way to say so is to hang up.
func ToMQTT(device string, m *gateway.Message, now gateway.Instant) (topic, problem string) {
	a := ToAMQP(m, now)
	a.Properties[PropertyLeaf] = m.Leaf
	system := systemOf(m)
	size := len(m.Body)
	var b strings.Builder
	b.WriteString("devices/" + device + "/messages/events/")
	first := true
	add := func(name, value string) {
		size += len(name) + len(value)
		if !first {
			b.WriteByte('&')
		}
		first = false
		b.WriteString(escape(name))
		b.WriteByte('=')
		b.WriteString(escape(value))
	}
	for _, p := range system {
		add(p.Name, p.Value)
	}
	for _, name := range sortedNames(a.Properties) {
		add(name, a.Properties[name])
	}
	switch topic = b.String(); {
	case size > maxMessage:
		return topic, "it has " + strconv.Itoa(size) + " bytes with its properties, the hub takes " + strconv.Itoa(maxMessage)
	case len(topic) > maxTopic:
		return topic, "its properties do not fit into the topic: " + strconv.Itoa(len(topic)) + " bytes of " + strconv.Itoa(maxTopic)
	}
	return topic, ""
}

// systemOf returns the properties that the hub itself knows, by their names in a
// bag, those that are set.
func systemOf(m *gateway.Message) []gateway.Property {
	s := &m.System
	expiry := ""
	if !s.Expiry.IsZero() {
		expiry = s.Expiry.UTC().Format(time.RFC3339Nano)
	}
	created := s.CreationTime
	if _, ok := parseTime(created); !ok || !strings.HasSuffix(created, "Z") {
		created = "" // it stays where ToAMQP has put it: the hub hangs up on a time that is none
	}
	all := []gateway.Property{
		{Name: "$.mid", Value: text(s.MessageID)},
		{Name: "$.cid", Value: text(s.CorrelationID)},
		{Name: "$.uid", Value: text(s.UserID)},
		{Name: "$.ct", Value: symbol(s.ContentType)},
		{Name: "$.ce", Value: symbol(s.ContentEncoding)},
		{Name: "$.exp", Value: expiry},
		{Name: "$.ctime", Value: created},
		{Name: "$.on", Value: text(s.OutputName)},
		{Name: "$.schema", Value: text(s.Schema)},
		{Name: "$.ifid", Value: text(s.InterfaceID)},
		{Name: "$.sub", Value: text(s.Component)},
	}
	return slices.DeleteFunc(all, func(p gateway.Property) bool { return p.Value == "" })
}

// sortedNames returns the names of application properties, without those that
// would pass for the hub's own in a bag.
func sortedNames(properties map[string]string) []string {
	names := make([]string, 0, len(properties))
	for name := range properties {
		if name != "" && !strings.HasPrefix(name, "$.") && !inBag[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// inBag are the names that ToAMQP gives to what has a place of its own in a bag.
var inBag = map[string]bool{propertyOutputName: true, propertySchema: true}

// FromMQTT returns the command that came for device on the topic, and the leaf
// that it is for; ok is false when the topic is none of a command. locked is how
// long the hub keeps it for us from now on.
//
// Over MQTT the hub does not tell the number of a command, so that it is made of
// what the command says where it has an id of its own: what the hub sends again
// has the same one. A command without an id gets a number by chance: it is never
// taken for one that came before, so that the leaf may see it twice after a failure.
func FromMQTT(device, topic string, body []byte, locked time.Duration) (c *gateway.Command, ok bool) {
	bag, ok := strings.CutPrefix(topic, "devices/"+device+"/messages/devicebound/")
	if !ok {
		return nil, false
	}
	c = &gateway.Command{Body: body, To: "/devices/" + device + "/messages/devicebound", LockedTo: time.Now().Add(locked)}
	var all []gateway.Property
	c.System, all = DecodeBag(bag)
	for _, p := range all {
		switch p.Name {
		case PropertyLeaf:
			c.Leaf = p.Value
		case commandAck:
			c.Ack = p.Value
		default:
			c.Properties = append(c.Properties, p)
		}
	}
	c.Number = rand.Uint64()
	if c.System.MessageID != "" {
		h := fnv.New64a()
		_, _ = h.Write([]byte(bag))
		_, _ = h.Write([]byte{0})
		_, _ = h.Write(body)
		c.Number = h.Sum64()
	}
	return c, true
}

// Topics of requests to the hub about the device's own twin.
func TwinGetTopic(rid string) string { return "$iothub/twin/GET/?$rid=" + rid }

// TwinPatchTopic is the topic of a patch of reported properties.
func TwinPatchTopic(rid string) string { return "$iothub/twin/PATCH/properties/reported/?$rid=" + rid }

// ParseTwinAnswer reads the topic of the hub's answer to a twin request. version
// is 0 where there is none.
func ParseTwinAnswer(topic string) (rid string, status, version int64, ok bool) {
	rest, ok := strings.CutPrefix(topic, "$iothub/twin/res/")
	if !ok {
		return "", 0, 0, false
	}
	code, query, _ := strings.Cut(rest, "/?")
	status, err := strconv.ParseInt(code, 10, 32)
	rid, version = parameters(query)
	return rid, status, version, err == nil && rid != ""
}

// ParseDesired reads the topic of a change of desired properties.
func ParseDesired(topic string) (version int64, ok bool) {
	query, ok := strings.CutPrefix(topic, "$iothub/twin/PATCH/properties/desired/?")
	_, version = parameters(query)
	return version, ok
}

// ParseMethod reads the topic of a method request.
func ParseMethod(topic string) (name, rid string, ok bool) {
	rest, ok := strings.CutPrefix(topic, "$iothub/methods/POST/")
	name, query, found := strings.Cut(rest, "/?")
	rid, _ = parameters(query)
	return unescape(name), rid, ok && found && rid != ""
}

// MethodAnswerTopic is the topic of the answer to a method request.
func MethodAnswerTopic(status int, rid string) string {
	return "$iothub/methods/res/" + strconv.Itoa(status) + "/?$rid=" + rid
}

func parameters(query string) (rid string, version int64) {
	for pair := range strings.SplitSeq(query, "&") {
		switch name, value, _ := strings.Cut(pair, "="); name {
		case "$rid":
			rid = value
		case "$version":
			version, _ = strconv.ParseInt(value, 10, 64)
		}
	}
	return rid, version
}

// LeafCall is the payload of a direct method that the back end calls on the
// gateway for one of its leaves: the method's name is the leaf's own.
type LeafCall struct {
	Leaf    string          `json:"leaf"`
	Payload json.RawMessage `json:"payload"`
}

// ParseLeafCall reads the payload; ok is false when it names no leaf.
func ParseLeafCall(body []byte) (c LeafCall, ok bool) {
	if json.Unmarshal(body, &c) != nil || c.Leaf == "" {
		return LeafCall{}, false
	}
	return c, true
}
