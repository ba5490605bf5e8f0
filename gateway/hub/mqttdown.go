package hub

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/fieldgate/fieldgate/gateway"
)

// The filters of the way down in the MQTT dialect (wire contract, section 2.1).
// They carry no id: it is the connection's leaf that they are about.
const (
	TwinAnswersFilter = "$iothub/twin/res/#"
	DesiredFilter     = "$iothub/twin/PATCH/properties/desired/#"
	MethodsFilter     = "$iothub/methods/POST/#"
)

// ParseCommandsFilter reads the filter of a device's commands,
// devices/{device}/messages/devicebound/#. The id is returned as it stands: it
// may be percent-encoded.
func ParseCommandsFilter(filter string) (device string, ok bool) {
	rest, ok := strings.CutPrefix(filter, "devices/")
	if !ok {
		return "", false
	}
	device, rest, _ = strings.Cut(rest, "/")
	return device, device != "" && rest == "messages/devicebound/#"
}

// CommandTopic returns the topic of a command: device is the id as it stands in
// the leaf's filter.
func CommandTopic(device string, c *gateway.Command) string {
	return "devices/" + device + "/messages/devicebound/" + EncodeBag(c)
}

// isoTime is how the hub writes times in bags (wire contract, section 2.2).
const isoTime = "2006-01-02T15:04:05.9999999Z"

// EncodeBag writes the properties of a command as the hub does: the address
// first, then the hub's own names, then the application's. Every name has its
// "=": some clients cannot do without (wire contract, section 9.15).
func EncodeBag(c *gateway.Command) string {
	var b strings.Builder
	add := func(name, value string) {
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(escape(name))
		b.WriteByte('=')
		b.WriteString(escape(value))
	}
	add("$.to", "/devices/"+c.Leaf+"/messages/deviceBound")
	for _, p := range SystemProperties(c) {
		add(p.Name, p.Value)
	}
	for _, p := range c.Properties {
		add(p.Name, p.Value)
	}
	return b.String()
}

// SystemProperties lists what the hub itself knows of a command, except for its
// address, under the names that it has in bags.
func SystemProperties(c *gateway.Command) []gateway.Property {
	expiry := ""
	if !c.System.Expiry.IsZero() {
		expiry = c.System.Expiry.UTC().Format(isoTime)
	}
	var set []gateway.Property
	for _, p := range []gateway.Property{
		{Name: "$.mid", Value: c.System.MessageID},
		{Name: "$.cid", Value: c.System.CorrelationID},
		{Name: "$.uid", Value: c.System.UserID},
		{Name: "$.exp", Value: expiry},
		{Name: "$.ct", Value: c.System.ContentType},
		{Name: "$.ce", Value: c.System.ContentEncoding},
		{Name: "iothub-ack", Value: c.Ack},
	} {
		if p.Value != "" {
			set = append(set, p)
		}
	}
	return set
}

// escape percent-encodes everything but letters, digits and "-._~".
func escape(text string) string {
	return strings.ReplaceAll(url.QueryEscape(text), "+", "%20") // a plus in text is %2B by now
}

// MethodTopic returns the topic of a direct method. The usual names stay as they
// are; one with a wildcard of MQTT would be no topic.
func MethodTopic(name, rid string) string {
	return "$iothub/methods/POST/" + escape(name) + "/?$rid=" + rid
}

// DesiredTopic returns the topic of a change of desired properties.
func DesiredTopic(version int64) string {
	return "$iothub/twin/PATCH/properties/desired/?$version=" + strconv.FormatInt(version, 10)
}

// TwinAnswerTopic returns the topic of the answer to a twin request, with more
// parameters behind the request's id: some clients expect it first.
func TwinAnswerTopic(status int, rid string, more ...gateway.Property) string {
	var topic strings.Builder
	topic.WriteString("$iothub/twin/res/" + strconv.Itoa(status) + "/?$rid=" + rid)
	for _, p := range more {
		topic.WriteString("&" + p.Name + "=" + p.Value)
	}
	return topic.String()
}

// Request is what a device publishes on a topic of $iothub/.
type Request struct {
	Kind   RequestKind
	RID    string // as it stands in the topic, never empty
	Status int    // of a method's answer
}

// RequestKind says what is asked for.
type RequestKind uint8

// The requests of a device (wire contract, section 2.1).
const (
	GetTwin RequestKind = iota + 1
	PatchReported
	AnswerMethod
)

// ParseRequest reads the topic of a request:
//
//	$iothub/twin/GET/?$rid={rid}
//	$iothub/twin/PATCH/properties/reported/?$rid={rid}
//	$iothub/methods/res/{status}/?$rid={rid}
//
// Other parameters are ignored.
func ParseRequest(topic string) (Request, bool) {
	path, query, found := strings.Cut(topic, "/?")
	if !found || !strings.HasPrefix(path, "$iothub/") {
		return Request{}, false
	}
	r := Request{RID: requestID(query)}
	switch path {
	case "$iothub/twin/GET":
		r.Kind = GetTwin
	case "$iothub/twin/PATCH/properties/reported":
		r.Kind = PatchReported
	default:
		status, found := strings.CutPrefix(path, "$iothub/methods/res/")
		if !found {
			return Request{}, false
		}
		var ok bool
		if r.Status, ok = ParseStatus(status); !ok {
			return Request{}, false
		}
		r.Kind = AnswerMethod
	}
	return r, r.RID != ""
}

// ParseStatus reads the status that a device gives its answer to a method: a
// decimal number that fits AMQP's int.
func ParseStatus(text string) (int, bool) {
	n, err := strconv.ParseInt(text, 10, 32)
	return int(n), err == nil
}

func requestID(query string) string {
	for pair := range strings.SplitSeq(query, "&") {
		if name, value, _ := strings.Cut(pair, "="); unescape(name) == "$rid" {
			return value
		}
	}
	return ""
}
