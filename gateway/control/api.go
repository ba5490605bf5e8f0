package control

import (
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Letter is a dead letter in a list.
type Letter struct {
	Number    uint64    `json:"number"`
	Time      time.Time `json:"time"` // when the hub refused it
	Leaf      string    `json:"leaf"`
	Lane      string    `json:"lane"`
	MessageID string    `json:"message_id"`
	Captured  time.Time `json:"captured"` // when the gateway took it
	Bytes     int       `json:"bytes"`    // of the body
	Reason    string    `json:"reason"`   // the hub's words
}

// FullLetter is a dead letter in an export.
type FullLetter struct {
	Letter
	Start uint32 `json:"start"`
	Seq   uint64 `json:"seq"`
	Content
}

// Content is what an export says of a message beyond what a list does.
type Content struct {
	Channel         string            `json:"channel,omitempty"`
	ContentType     string            `json:"content_type,omitempty"`
	ContentEncoding string            `json:"content_encoding,omitempty"`
	CorrelationID   string            `json:"correlation_id,omitempty"`
	Properties      map[string]string `json:"properties,omitempty"`
	Body            []byte            `json:"body"` // Base64
}

// Trip is a twin that was read from the hub.
type Trip struct {
	Device  string  `json:"device"`
	Seconds float64 `json:"seconds"`
}

// Event is something that went wrong, as the log has it.
type Event struct {
	Time    time.Time `json:"time"`  // of the last time
	Count   int       `json:"count"` // how often since the start of the daemon, or since it was last forgotten
	Level   string    `json:"level"` // warning or error
	Part    string    `json:"part,omitempty"`
	Leaf    string    `json:"leaf,omitempty"`
	Message string    `json:"message"`
	Facts   string    `json:"facts,omitempty"` // name=value ...
}

// Record is a line of the log.
type Record struct {
	Number  uint64    `json:"number"` // 1, 2, 3 ... since the start of the daemon
	Time    time.Time `json:"time"`
	Level   string    `json:"level"` // debug, info, warning or error
	Part    string    `json:"part,omitempty"`
	Leaf    string    `json:"leaf,omitempty"`
	Message string    `json:"message"`
	Facts   string    `json:"facts,omitempty"` // name=value ...
}

// Selection names dead letters: either some by number or all.
type Selection struct {
	Numbers []uint64 `json:"numbers,omitempty"`
	All     bool     `json:"all,omitempty"`
}

// Result says how many letters something was done with.
type Result struct {
	Count int `json:"count"`
}

// Problem is the answer to what could not be done.
type Problem struct {
	Error string `json:"error"`
}

func letterOf(d gateway.DeadLetter) Letter {
	m := d.Message
	return Letter{
		Number: d.Number, Time: d.Time.UTC(), Leaf: m.Leaf, Lane: m.Lane.String(), MessageID: m.System.MessageID,
		Captured: m.Captured.Wall.UTC(), Bytes: len(m.Body), Reason: d.Reason,
	}
}

func fullLetterOf(d gateway.DeadLetter) FullLetter {
	m := d.Message
	return FullLetter{letterOf(d), m.Start, m.Seq, contentOf(m)}
}

func contentOf(m *gateway.Message) Content {
	return Content{
		Channel: m.Channel, ContentType: m.System.ContentType, ContentEncoding: m.System.ContentEncoding,
		CorrelationID: m.System.CorrelationID, Properties: PropertiesOf(m.Properties), Body: m.Body,
	}
}
