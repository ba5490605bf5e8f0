package hub

import (
	"errors"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fieldgate/fieldgate/gateway"
)

// Username is what a leaf that speaks the hub's MQTT dialect says in its user
// name. The host is the hub's name, also when the leaf talks to a gateway (wire
// contract, section 1.6).
type Username struct {
	Host       string
	Device     string
	Module     string // "" for a device
	APIVersion string // the date, not judged
	ModelID    string // "" for none
}

// ErrUsername says that a text is not a user name of the hub's MQTT dialect.
var ErrUsername = errors.New("not a user name of the IoT Hub dialect")

// ParseUsername reads all forms of the user name in the field:
//
//	host/device/?api-version=…&…          and with /module
//	host/device?api-version=…             and with /module
//	host/device/api-version=…&…           older clients
//	host/device/module/api-version=…/DeviceClientType=…   one frozen preview
func ParseUsername(user string) (Username, error) {
	path, query, ok := splitUsername(user)
	if !ok {
		return Username{}, ErrUsername
	}
	var u Username
	for pair := range strings.FieldsFuncSeq(query, func(r rune) bool { return r == '&' || r == '/' }) {
		switch name, value, _ := strings.Cut(pair, "="); name {
		case "api-version":
			u.APIVersion = unescape(value)
		case "model-id":
			u.ModelID = unescape(value)
		}
	}
	parts := strings.Split(path, "/")
	if u.APIVersion == "" || len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return Username{}, ErrUsername
	}
	u.Host, u.Device = parts[0], parts[1]
	if len(parts) == 3 {
		if parts[2] == "" {
			return Username{}, ErrUsername
		}
		u.Module = parts[2]
	}
	return u, nil
}

// splitUsername separates the ids from the parameters. A device id may hold a
// question mark itself, so the marks are tried from the surest to the least.
func splitUsername(user string) (path, query string, ok bool) {
	if i := strings.LastIndex(user, "/?"); i >= 0 {
		return user[:i], user[i+2:], true
	}
	if i := strings.LastIndexByte(user, '?'); i >= 0 {
		return user[:i], user[i+1:], true
	}
	if i := strings.Index(user, "/api-version="); i >= 0 {
		return user[:i], user[i+1:], true
	}
	return "", "", false
}

// ParseEventsTopic reads the topic on which a device, or a module of it, sends
// telemetry: devices/{device}/messages/events/{bag} or
// devices/{device}/modules/{module}/messages/events/{bag}. The bag is one level
// and may be missing, with or without its slash; a slash behind it is ignored
// (wire contract, section 2.1). The ids are returned as they stand: they may be
// percent-encoded.
func ParseEventsTopic(topic string) (device, module, bag string, ok bool) {
	rest, ok := strings.CutPrefix(topic, "devices/")
	if !ok {
		return "", "", "", false
	}
	device, rest, _ = strings.Cut(rest, "/")
	if tail, found := strings.CutPrefix(rest, "modules/"); found {
		if module, rest, _ = strings.Cut(tail, "/"); module == "" {
			return "", "", "", false
		}
	}
	bag, ok = strings.CutPrefix(rest, "messages/events")
	if !ok || device == "" {
		return "", "", "", false
	}
	if bag == "" {
		return device, module, "", true
	}
	if bag[0] != '/' {
		return "", "", "", false
	}
	bag = strings.TrimSuffix(bag[1:], "/")
	if strings.Contains(bag, "/") {
		return "", "", "", false
	}
	return device, module, bag, true
}

// DecodeBag reads a property bag: percent-encoded name=value pairs joined by &,
// where names that begin with $. are the hub's own (wire contract, section
// 2.2). A name alone has an empty value; of equal names the last one counts.
//
// It takes everything. An escape that is none, or that does not yield text,
// stays as it stands, so that every name and value is valid UTF-8 if the bag
// is. $.to, $.cdid and $.cmid are left out, as they claim an identity that only
// the connection can prove; system properties that are unknown, or not in their
// form, are kept as application properties.
func DecodeBag(bag string) (gateway.System, []gateway.Property) {
	var d bagDecoder
	for pair := range strings.SplitSeq(strings.TrimPrefix(bag, "?"), "&") {
		name, value, _ := strings.Cut(pair, "=")
		if name = unescape(name); name != "" {
			d.add(name, unescape(value))
		}
	}
	return d.system, d.properties
}

// fewProperties is how many properties are searched one by one for an equal
// name; beyond it an index is built, so that a bag of thousands of names costs
// no more than its length.
const fewProperties = 16

type bagDecoder struct {
	system     gateway.System
	properties []gateway.Property
	index      map[string]int // into properties; nil while there are few
}

func (d *bagDecoder) add(name, value string) {
	if strings.HasPrefix(name, "$.") && d.addSystem(name, value) {
		return
	}
	if i, found := d.find(name); found {
		d.properties[i].Value = value
		return
	}
	d.properties = append(d.properties, gateway.Property{Name: name, Value: value})
	if d.index != nil {
		d.index[name] = len(d.properties) - 1
	}
}

func (d *bagDecoder) find(name string) (int, bool) {
	if d.index == nil {
		if len(d.properties) <= fewProperties {
			for i, p := range d.properties {
				if p.Name == name {
					return i, true
				}
			}
			return 0, false
		}
		d.index = make(map[string]int)
		for i, p := range d.properties {
			d.index[p.Name] = i
		}
	}
	i, found := d.index[name]
	return i, found
}

// addSystem says whether name was one of the hub's own and is dealt with.
func (d *bagDecoder) addSystem(name, value string) bool {
	s := &d.system
	switch name {
	case "$.mid":
		s.MessageID = value
	case "$.cid":
		s.CorrelationID = value
	case "$.uid":
		s.UserID = value
	case "$.ct":
		s.ContentType = value
	case "$.ce":
		s.ContentEncoding = value
	case "$.ctime":
		s.CreationTime = value
	case "$.on":
		s.OutputName = value
	case "$.schema":
		s.Schema = value
	case "$.ifid":
		s.InterfaceID = value
	case "$.sub":
		s.Component = value
	case "$.exp":
		t, ok := parseTime(value)
		if ok {
			s.Expiry = t
		}
		return ok
	case "$.to", "$.cdid", "$.cmid":
	default:
		return false
	}
	return true
}

// parseTime reads ISO 8601 as the SDKs write it. Without a zone it is UTC.
func parseTime(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}

// unescape decodes percent-encoding; a plus is a plus. What does not decode to
// text stays as it stands: properties travel on as AMQP strings, and one that
// is not UTF-8 would cost every leaf the connection.
func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	d, err := url.PathUnescape(s)
	if err != nil || !utf8.ValidString(d) || strings.IndexByte(d, 0) >= 0 {
		return s
	}
	return d
}
