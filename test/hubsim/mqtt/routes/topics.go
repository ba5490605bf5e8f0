package routes

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// purpose is what a subscription is for.
type purpose uint8

// The purposes (section 2.1).
const (
	unknown    purpose = iota
	commandsTo         // C2D messages
	inputsTo           // messages from other modules, which a hub does not have
	answersTo          // of twin requests
	desiredTo          // notifications of desired properties
	methodsTo
)

// filterPurpose returns what a filter of an identity is for. Ids stand in
// filters as they are, also when they hold what MQTT has a meaning for (trap
// 9.40).
func filterPurpose(id registry.ID, filter string) purpose {
	switch filter {
	case "$iothub/twin/res/#":
		return answersTo
	case "$iothub/twin/PATCH/properties/desired/#":
		return desiredTo
	case "$iothub/methods/POST/#":
		return methodsTo
	}
	rest, ok := ownTopic(id, filter)
	switch {
	case ok && id.Module == "" && rest == "/messages/devicebound/#":
		return commandsTo
	case ok && id.Module != "" && (rest == "/inputs/#" || rest == "/#"):
		return inputsTo
	}
	return unknown
}

// ownTopic cuts the identity off a topic that begins with its path, written as
// it is or percent-encoded.
func ownTopic(id registry.ID, topic string) (rest string, ok bool) {
	if rest, ok = strings.CutPrefix(topic, id.Path()); ok && (rest == "" || rest[0] == '/') {
		return rest, true
	}
	escaped := registry.ID{Device: url.PathEscape(id.Device), Module: url.PathEscape(id.Module)}
	rest, ok = strings.CutPrefix(topic, escaped.Path())
	return rest, ok && (rest == "" || rest[0] == '/')
}

// eventBag returns the property bag of a telemetry topic, "" when it has none;
// false when it is another topic. The variants are those of section 2.1.
func eventBag(id registry.ID, topic string) (bag string, ok bool) {
	rest, ok := ownTopic(id, topic)
	if !ok {
		return "", false
	}
	bag, ok = strings.CutPrefix(rest, "/messages/events")
	if !ok || (bag != "" && bag[0] != '/') {
		return "", false
	}
	bag = strings.TrimSuffix(strings.TrimPrefix(bag, "/"), "/")
	return strings.TrimPrefix(bag, "?"), !strings.Contains(bag, "/")
}

// The requests on topics without ids.
const (
	twinGet = iota
	twinPatch
	methodAnswer
)

// request is what a topic of $iothub asks for.
type request struct {
	kind      int
	requestID string // as the client wrote it
	version   int64  // of reported that the client believes in; 0 for any
	status    int32  // of a method's answer
}

// parseRequest reads a topic of $iothub that a device publishes to.
func parseRequest(topic string) (r request, err error) {
	path, query, _ := strings.Cut(topic, "?")
	path = strings.TrimSuffix(path, "/")
	for field := range strings.SplitSeq(query, "&") {
		switch name, value, _ := strings.Cut(field, "="); name {
		case "$rid":
			r.requestID = value
		case "$version":
			if r.version, err = strconv.ParseInt(value, 10, 64); err != nil {
				return r, fmt.Errorf("the version in topic %q is no number", topic)
			}
		}
	}
	status, answer := strings.CutPrefix(path, "$iothub/methods/res/")
	switch {
	case path == "$iothub/twin/GET":
		r.kind = twinGet
	case path == "$iothub/twin/PATCH/properties/reported":
		r.kind = twinPatch
	case answer:
		r.kind = methodAnswer
		n, err := strconv.ParseInt(status, 10, 32)
		if err != nil {
			return r, fmt.Errorf("the status in topic %q is no number", topic)
		}
		r.status = int32(n)
	default:
		return r, fmt.Errorf("nothing may be published to topic %q", topic)
	}
	if r.requestID == "" {
		return r, fmt.Errorf("there is no $rid in topic %q", topic)
	}
	return r, nil
}
