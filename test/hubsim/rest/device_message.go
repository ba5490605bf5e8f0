package rest

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/commands"
	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// batchType is the media type of several messages in one request.
const batchType = "application/vnd.microsoft.iothub.json"

// appPrefix marks the names of the application's own properties.
const appPrefix = "iothub-app-"

// readTelemetry reads the messages of a request, at least one.
func readTelemetry(r *http.Request) ([]*message.Message, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == batchType {
		return parseBatch(body)
	}
	m := &message.Message{Body: body}
	// HTTP does not tell the case of header names, and neither does Go: names
	// of properties arrive in lower case unless they come in a batch.
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		values := r.Header[name]
		if err := setProperty(m, strings.ToLower(name), values[len(values)-1]); err != nil {
			return nil, err
		}
	}
	return []*message.Message{m}, nil
}

// parseBatch reads an array of messages. The C SDK marks bodies that are plain
// text; without the mark they are in Base64.
func parseBatch(body []byte) ([]*message.Message, error) {
	var items []struct {
		Body       string            `json:"body"`
		Base64     *bool             `json:"base64Encoded"`
		Properties map[string]string `json:"properties"`
	}
	if err := json.Unmarshal(body, &items); err != nil {
		return nil, refusal.New(400004, "the batch is not what it should be: "+err.Error())
	}
	if len(items) == 0 {
		return nil, refusal.New(400004, "the batch is empty")
	}
	list := make([]*message.Message, len(items))
	for n, item := range items {
		m := &message.Message{Body: []byte(item.Body)}
		if item.Base64 == nil || *item.Base64 {
			var err error
			if m.Body, err = base64.StdEncoding.DecodeString(item.Body); err != nil {
				return nil, refusal.New(400004, "message "+strconv.Itoa(n)+" of the batch is not Base64")
			}
		}
		for _, name := range slices.Sorted(maps.Keys(item.Properties)) {
			if err := setProperty(m, name, item.Properties[name]); err != nil {
				return nil, err
			}
		}
		list[n] = m
	}
	return list, nil
}

// setProperty sets what a header, or a property of a batch, means for m. Names
// without a meaning are those of HTTP itself and of later versions.
func setProperty(m *message.Message, name, value string) (err error) {
	if len(name) > len(appPrefix) && strings.EqualFold(name[:len(appPrefix)], appPrefix) {
		m.Properties = append(m.Properties, message.Property{Name: name[len(appPrefix):], Value: value})
		return nil
	}
	switch strings.ToLower(name) {
	case "iothub-messageid":
		m.ID = value
	case "iothub-correlationid":
		m.CorrelationID = value
	case "iothub-userid":
		m.UserID = value
	case "iothub-to":
		m.To = value
	case "iothub-contenttype":
		m.ContentType = value
	case "iothub-contentencoding":
		m.ContentEncoding = value
	case "iothub-ack":
		m.Ack = value
	case "iothub-interface-id":
		m.InterfaceID = value
	case "dt-subject":
		m.Component = value
	case "iothub-creation-time-utc":
		m.Created, err = parseTime(name, value)
	case "iothub-expiry":
		m.Expiry, err = parseTime(name, value)
	}
	return err
}

// timeLayouts are the forms in which clients write times: as the contract has
// them, as HTTP has them, and what Node makes of a Date that is a header.
var timeLayouts = []string{time.RFC3339Nano, http.TimeFormat, "Mon Jan 02 2006 15:04:05 GMT-0700"}

func parseTime(name, value string) (time.Time, error) {
	text, _, _ := strings.Cut(value, " (") // Node appends the name of the zone
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, refusal.New(400004, name+" is not a time: "+value)
}

// writeCommandHeaders writes what section 4.2 lists for a command. Properties
// whose names cannot be header names do not reach the device over HTTPS.
func writeCommandHeaders(h http.Header, id registry.ID, d commands.Delivery) {
	set := func(name, value string) {
		if value != "" {
			h[name] = []string{value} // in the case that the hub writes
		}
	}
	m := d.Message
	for _, p := range m.Properties {
		set(appPrefix+p.Name, p.Value)
	}
	set("iothub-messageid", m.ID)
	set("iothub-correlationid", m.CorrelationID)
	set("iothub-userid", m.UserID)
	set("iothub-to", "/devices/"+url.PathEscape(id.Device)+"/messages/devicebound")
	set("iothub-contenttype", m.ContentType)
	set("iothub-contentencoding", m.ContentEncoding)
	set("iothub-ack", m.Ack)
	set("iothub-sequencenumber", strconv.FormatUint(d.Sequence, 10))
	set("iothub-enqueuedtime", hub.Time(d.Enqueued))
	set("iothub-deliverycount", strconv.Itoa(d.Count))
	if !m.Expiry.IsZero() {
		set("iothub-expiry", hub.Time(m.Expiry))
	}
	h.Set("ETag", `"`+d.LockToken+`"`)
	h.Set("Content-Type", "application/octet-stream")
}
