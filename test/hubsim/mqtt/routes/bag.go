package routes

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// isoTime is how the hub writes times in bags (section 2.2).
const isoTime = "2006-01-02T15:04:05.9999999Z"

// encodeBag writes the properties of a command as the last level of its topic
// (section 2.3).
func encodeBag(id registry.ID, m *message.Message) string {
	var pairs []string
	add := func(name, value string) { // every name has its "=": some clients cannot do without (trap 9.15)
		pairs = append(pairs, escape(name)+"="+escape(value))
	}
	expiry := ""
	if !m.Expiry.IsZero() {
		expiry = m.Expiry.UTC().Format(isoTime)
	}
	add("$.to", "/"+id.Path()+"/messages/deviceBound")
	for _, p := range []message.Property{
		{Name: "$.mid", Value: m.ID},
		{Name: "$.cid", Value: m.CorrelationID},
		{Name: "$.uid", Value: m.UserID},
		{Name: "$.exp", Value: expiry},
		{Name: "$.ct", Value: m.ContentType},
		{Name: "$.ce", Value: m.ContentEncoding},
		{Name: "iothub-ack", Value: m.Ack},
	} {
		if p.Value != "" {
			add(p.Name, p.Value)
		}
	}
	for _, p := range m.Properties {
		add(p.Name, p.Value)
	}
	return strings.Join(pairs, "&")
}

// escape percent-encodes everything but letters, digits and "-._~".
func escape(text string) string {
	return strings.ReplaceAll(url.QueryEscape(text), "+", "%20") // a plus in text is %2B by now
}

// decodeBag reads the properties of a telemetry message. The body is for the
// caller to add. The error is a *refusal.Error.
func decodeBag(bag string) (*message.Message, error) {
	m := &message.Message{}
	index := make(map[string]int) // of the application's properties: the last of two counts
	for pair := range strings.SplitSeq(bag, "&") {
		if pair == "" {
			continue
		}
		name, value, err := decodePair(pair)
		if err != nil {
			return nil, err
		}
		system, err := setSystem(m, name, value)
		if err != nil {
			return nil, err
		}
		if system {
			continue
		}
		if i, ok := index[name]; ok {
			m.Properties[i].Value = value
			continue
		}
		index[name] = len(m.Properties)
		m.Properties = append(m.Properties, message.Property{Name: name, Value: value})
	}
	return m, nil
}

// decodePair reads "name=value" or a bare name, whose value is null to the
// client and empty to us.
func decodePair(pair string) (name, value string, err error) {
	name, value, _ = strings.Cut(pair, "=")
	for _, part := range []*string{&name, &value} {
		decoded, err := url.PathUnescape(*part)
		if err != nil {
			return "", "", refusal.New(400004, fmt.Sprintf("the property %q is not percent-encoded", pair))
		}
		*part = decoded
	}
	return name, value, nil
}

// setSystem sets the system property with the name; false when it is one of the
// application's. Names of system properties begin with "$." (section 2.2).
func setSystem(m *message.Message, name, value string) (system bool, err error) {
	texts := map[string]*string{
		"$.mid": &m.ID, "$.cid": &m.CorrelationID, "$.uid": &m.UserID, "$.to": &m.To,
		"$.ct": &m.ContentType, "$.ce": &m.ContentEncoding,
		"$.on": &m.Output, "$.schema": &m.Schema, "$.ifid": &m.InterfaceID, "$.sub": &m.Component,
	}
	if field := texts[name]; field != nil {
		*field = value
		return true, nil
	}
	times := map[string]*time.Time{"$.exp": &m.Expiry, "$.ctime": &m.Created}
	field := times[name]
	if field == nil {
		return false, nil
	}
	if *field, err = time.Parse(time.RFC3339Nano, value); err != nil {
		return true, refusal.New(400004, fmt.Sprintf("the property %s is no ISO 8601 time: %q", name, value))
	}
	return true, nil
}
