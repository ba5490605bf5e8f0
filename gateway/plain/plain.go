// Package plain is the topics of the plain dialect, leaf/{id}/…, as pure
// functions: what a leaf publishes and subscribes to there means the same over
// MQTT and over MQTT-SN. Who sends what when is for others.
package plain

import (
	"net/url"
	"strings"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
)

// Cut splits leaf/{id}/{rest}.
func Cut(topic string) (id, rest string, ok bool) {
	if rest, ok = strings.CutPrefix(topic, "leaf/"); !ok {
		return "", "", false
	}
	return strings.Cut(rest, "/")
}

// Topic is leaf/{level}/{rest}.
func Topic(level, rest string) string { return "leaf/" + level + "/" + rest }

// Names says whether a topic level is the leaf's id, as it stands or
// percent-encoded: an id may hold + and #, which topics cannot (wire contract,
// section 9.40).
func Names(level, leaf string) bool {
	if level == leaf {
		return true
	}
	decoded, err := url.PathUnescape(level)
	return err == nil && decoded == leaf
}

// Level makes a text one level of a topic.
func Level(text string) string {
	if !strings.ContainsAny(text, "/+#%\x00") {
		return text
	}
	return strings.NewReplacer("%", "%25", "/", "%2F", "+", "%2B", "#", "%23", "\x00", "%00").Replace(text)
}

// ParseMessage reads the topic of a message by leaf:
//
//	leaf/{leaf}/telemetry[/{channel}]
//	leaf/{leaf}/alarm[/{channel}]
//
// A channel may have several levels.
func ParseMessage(leaf, topic string) (*gateway.Message, bool) {
	id, rest, ok := Cut(topic)
	if !ok || !Names(id, leaf) {
		return nil, false
	}
	m := &gateway.Message{Leaf: leaf, Kind: gateway.Telemetry, Lane: gateway.LaneTelemetry}
	kind, channel, _ := strings.Cut(rest, "/")
	switch kind {
	case "telemetry":
	case "alarm":
		m.Lane = gateway.LaneAlarm
	default:
		return nil, false
	}
	m.Channel = channel
	return m, true
}

// ParseRequest reads the topic of a request by leaf:
//
//	leaf/{leaf}/twin/get
//	leaf/{leaf}/twin/reported
//	leaf/{leaf}/reply/{rid}[/{status}]
//
// Without a status the answer is a success. There is a RID in answers to methods
// only.
func ParseRequest(leaf, topic string) (hub.Request, bool) {
	id, rest, ok := Cut(topic)
	if !ok || !Names(id, leaf) {
		return hub.Request{}, false
	}
	switch rest {
	case "twin/get":
		return hub.Request{Kind: hub.GetTwin}, true
	case "twin/reported":
		return hub.Request{Kind: hub.PatchReported}, true
	}
	rest, ok = strings.CutPrefix(rest, "reply/")
	rid, status, given := strings.Cut(rest, "/")
	r := hub.Request{Kind: hub.AnswerMethod, RID: rid, Status: 200}
	if given {
		if r.Status, given = hub.ParseStatus(status); !given {
			return hub.Request{}, false
		}
	}
	return r, ok && rid != ""
}

// The topics on the way down, behind leaf/{id}/. A plus stands for a level that
// is free.
const (
	Command  = "command/+"   // a cloud-to-device message, by name
	Call     = "command/+/+" // a direct method, by name, with the id of the request
	Desired  = "twin/desired"
	Document = "twin/document"
	Error    = "twin/error"
)

// Interest is what a leaf asks for by subscribing to leaf/{id}/{rest}.
func Interest(rest string) (wants gateway.Interest) {
	for _, t := range [...]struct {
		topic string
		wants gateway.Interest
	}{
		{Command, gateway.WantsCommands},
		{Call, gateway.WantsCalls},
		{Desired, gateway.WantsDesired},
	} {
		if Overlap(rest, t.topic) {
			wants |= t.wants
		}
	}
	return wants
}

// The name under which a command appears on leaf/{id}/command/{name}: the value
// of the property command, else a fixed word.
const (
	commandProperty = "command"
	commandDefault  = "message"
)

// CommandName is the {name} of a command.
func CommandName(c *gateway.Command) string {
	for _, p := range c.Properties {
		if p.Name == commandProperty && p.Value != "" {
			return Level(p.Value)
		}
	}
	return commandDefault
}

// Overlap says whether a filter matches a topic (MQTT 5.0, section 4.7), or, if
// the topic has levels that are a plus, whether it matches for some value of
// these.
func Overlap(filter, topic string) bool {
	for {
		f, filterRest, moreFilter := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		t, topicRest, moreTopic := strings.Cut(topic, "/")
		if f != t && f != "+" && t != "+" {
			return false
		}
		if !moreTopic {
			return !moreFilter || filterRest == "#" // which matches the parent too
		}
		if !moreFilter {
			return false
		}
		filter, topic = filterRest, topicRest
	}
}
