package mqtt

import (
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/seal"
	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
)

// BrokerConfig is what a broker in the place of a hub takes from the table [hub].
type BrokerConfig struct {
	// Topic is where messages go, level by level: words, and {leaf}, {lane} and
	// {channel}. A message without a channel has no such level.
	Topic string `toml:"topic"`
	// Payload is "raw", what the leaf has sent and nothing else, or "json", an object
	// with all that is known of the message, so that what comes twice can be told.
	Payload string `toml:"payload"`
	// Username and the password in PasswordFile log the gateway in; without a name
	// there is no login.
	Username     string `toml:"username"`
	PasswordFile string `toml:"password_file"`
}

// DefaultBrokerConfig returns the shipped defaults.
func DefaultBrokerConfig() BrokerConfig {
	return BrokerConfig{Topic: "site/{leaf}/{lane}/{channel}", Payload: payloadRaw}
}

const (
	payloadRaw  = "raw"
	payloadJSON = "json"
)

// Validate checks the values, without looking at files. Errors are of type
// *gateway.KeyError.
func (c *BrokerConfig) Validate() error {
	var errs []error
	leaf := false
	for i, level := range strings.Split(c.Topic, "/") {
		leaf = leaf || level == "{leaf}"
		switch {
		case level == "{leaf}" || level == "{lane}" || level == "{channel}":
		case level == "" || strings.ContainsAny(level, "+#{}\x00") || i == 0 && strings.HasPrefix(level, "$"):
			errs = append(errs, gateway.BadKey("topic", "%q: %q is no level: write a word, {leaf}, {lane} or {channel}", c.Topic, level))
		}
	}
	if !leaf {
		errs = append(errs, gateway.BadKey("topic", "%q: without {leaf} nobody can tell whose a message is", c.Topic))
	}
	if c.Payload != payloadRaw && c.Payload != payloadJSON {
		errs = append(errs, gateway.BadKey("payload", "%q is unknown: write \"raw\" or \"json\"", c.Payload))
	}
	if c.Username == "" && c.PasswordFile != "" {
		errs = append(errs, gateway.BadKey("password_file", "whose password is it? Write the user's name into username"))
	}
	return errors.Join(errs...)
}

// NewBroker makes a transport to a broker; way must be valid and ask for MQTT, and
// cfg be valid. clientID is what the broker knows the gateway by. It reads the files
// that they name. Errors are of type *gateway.KeyError.
func NewBroker(way dial.Config, cfg BrokerConfig, clientID string, clock gateway.Clock, log *slog.Logger) (*Transport, error) {
	d := &brokerDialect{cfg: cfg, clientID: clientID, levels: strings.Split(cfg.Topic, "/")}
	if cfg.PasswordFile != "" {
		text, err := seal.ReadFile(cfg.PasswordFile)
		if err != nil {
			return nil, gateway.BadKey("password_file", "cannot be read: %w", err)
		}
		d.password = func() string { return strings.TrimRight(string(text), "\r\n") }
	}
	return newTransport(way, clientID, d, clock, log)
}

// brokerDialect is that of any MQTT broker.
type brokerDialect struct {
	cfg      BrokerConfig
	clientID string
	levels   []string
	password func() string // a function, so that nothing prints it; nil: none
}

func (d *brokerDialect) login(p *packets.ConnectPacket, _ gateway.Instant) (time.Duration, error) {
	p.CleanSession = true // nothing comes down
	if d.cfg.Username != "" {
		p.UsernameFlag, p.Username = true, d.cfg.Username
	}
	if d.password != nil {
		p.PasswordFlag, p.Password = true, []byte(d.password())
	}
	return 0, nil
}

// maxTopic is the longest topic, in bytes (MQTT 3.1.1, section 1.5.3).
const maxTopic = 1<<16 - 1

func (d *brokerDialect) word(m *gateway.Message, now gateway.Instant) (topic string, body []byte, problem string) {
	topic, body = d.topic(m), m.Body
	if d.cfg.Payload == payloadJSON {
		body = wrap(m, now)
	}
	if len(topic) > maxTopic {
		return topic, body, "its topic has " + strconv.Itoa(len(topic)) + " bytes of " + strconv.Itoa(maxTopic)
	}
	return topic, body, ""
}

func (d *brokerDialect) topic(m *gateway.Message) string {
	levels := make([]string, 0, len(d.levels))
	for _, level := range d.levels {
		switch level {
		case "{leaf}":
			level = fit(m.Leaf)
		case "{lane}":
			level = m.Lane.String()
		case "{channel}":
			if m.Channel == "" {
				continue
			}
			level = fit(m.Channel)
		}
		levels = append(levels, level)
	}
	return strings.Join(levels, "/")
}

// fit makes a text fit for a topic (MQTT 3.1.1, section 4.7.1): valid UTF-8 without
// what means something in filters.
func fit(text string) string {
	return strings.NewReplacer("+", "%2B", "#", "%23", "\x00", "%00").Replace(strings.ToValidUTF8(text, "\uFFFD"))
}

func (d *brokerDialect) probe() string {
	return d.topic(&gateway.Message{Leaf: d.clientID, Lane: gateway.LaneTelemetry, Channel: "probe"})
}

func (d *brokerDialect) listens() bool { return false }

// envelope is a message with all that is known of it. The body is JSON as it is, or
// a text, or Base64.
type envelope struct {
	ID              string            `json:"id"`
	Leaf            string            `json:"leaf"`
	Lane            string            `json:"lane"`
	Channel         string            `json:"channel,omitempty"`
	Start           uint32            `json:"start"` // with seq it says that nothing is missing
	Seq             uint64            `json:"seq"`
	Dropped         uint64            `json:"dropped,omitempty"`
	Captured        time.Time         `json:"captured"`
	Clock           string            `json:"clock"`
	CorrelationID   string            `json:"correlation_id,omitempty"`
	ContentType     string            `json:"content_type,omitempty"`
	ContentEncoding string            `json:"content_encoding,omitempty"`
	Properties      map[string]string `json:"properties,omitempty"`
	Will            bool              `json:"will,omitempty"` // the leaf vanished
	Body            json.RawMessage   `json:"body,omitempty"`
	Text            string            `json:"text,omitempty"`
	Base64          []byte            `json:"base64,omitempty"`
}

func wrap(m *gateway.Message, now gateway.Instant) []byte {
	captured := m.Captured.Repair(now)
	e := envelope{
		ID: m.System.MessageID, Leaf: m.Leaf, Lane: m.Lane.String(), Channel: m.Channel, Start: m.Start, Seq: m.Seq, Dropped: m.Dropped,
		Captured: captured.Wall.UTC(), Clock: captured.Quality.String(), CorrelationID: m.System.CorrelationID,
		ContentType: m.System.ContentType, ContentEncoding: m.System.ContentEncoding, Will: m.Kind == gateway.Will,
	}
	if len(m.Properties) > 0 {
		e.Properties = make(map[string]string, len(m.Properties))
		for _, p := range m.Properties {
			e.Properties[p.Name] = p.Value
		}
	}
	switch {
	case len(m.Body) == 0:
	case json.Valid(m.Body):
		e.Body = m.Body
	case utf8.Valid(m.Body):
		e.Text = string(m.Body)
	default:
		e.Base64 = m.Body
	}
	text, err := json.Marshal(e)
	if err != nil { // a year that JSON has no word for
		e.Captured = time.Time{}
		text, _ = json.Marshal(e)
	}
	return text
}
