package mqtt

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/fieldgate/fieldgate/gateway"
)

func brokerOf(topic, payload string) *brokerDialect {
	return &brokerDialect{cfg: BrokerConfig{Topic: topic, Payload: payload}, clientID: "gate-7", levels: strings.Split(topic, "/")}
}

func TestBrokerTopics(t *testing.T) {
	m := &gateway.Message{Leaf: "pump-1", Lane: gateway.LaneAlarm, Channel: "a/b+#", Body: []byte("x")}
	for template, want := range map[string]string{
		"site/{leaf}/{lane}/{channel}": "site/pump-1/alarm/a/b%2B%23",
		"{channel}/{leaf}":             "a/b%2B%23/pump-1",
		"x/{leaf}":                     "x/pump-1",
	} {
		if got, body, problem := brokerOf(template, payloadRaw).word(m, gateway.Instant{}); got != want || string(body) != "x" || problem != "" {
			t.Errorf("%s: %q with %q, %s; want %q", template, got, body, problem, want)
		}
	}
	d := brokerOf("site/{leaf}/{lane}/{channel}", payloadRaw)
	if got := d.topic(&gateway.Message{Leaf: "pump-1", Lane: gateway.LaneTelemetry}); got != "site/pump-1/telemetry" {
		t.Errorf("without a channel: %q", got)
	}
	if got := d.probe(); got != "site/gate-7/telemetry/probe" {
		t.Errorf("probe: %q", got)
	}
	if _, _, problem := d.word(&gateway.Message{Leaf: "a", Channel: strings.Repeat("x", maxTopic)}, gateway.Instant{}); problem == "" {
		t.Error("a topic that is too long is no problem")
	}
}

func TestEnvelope(t *testing.T) {
	m := &gateway.Message{
		Leaf: "pump-1", Channel: "c", Start: 3, Seq: 4, Dropped: 5, System: gateway.System{MessageID: "id"}, Properties: []gateway.Property{{Name: "a", Value: "1"}},
		Captured: gateway.Instant{Wall: time.Unix(0, 0), Quality: gateway.Synced},
	}
	for body, want := range map[string]string{
		`{"x":1}`: `"body":{"x":1}`, "hot": `"text":"hot"`, "\xff": `"base64":"/w=="`, "": `"properties":{"a":"1"}}`,
	} {
		m.Body = []byte(body)
		_, text, _ := brokerOf("{leaf}", payloadJSON).word(m, gateway.Instant{})
		if !json.Valid(text) || !strings.Contains(string(text), want) || !strings.Contains(string(text), `"id":"id","leaf":"pump-1","lane":"alarm","channel":"c","start":3,"seq":4,"dropped":5,"captured":"1970-01-01T00:00:00Z","clock":"synced"`) {
			t.Errorf("%q: %s", body, text)
		}
	}
	m.Captured.Wall = time.Date(30000, 1, 1, 0, 0, 0, 0, time.UTC)
	if text := wrap(m, gateway.Instant{}); !json.Valid(text) {
		t.Errorf("a year beyond all: %q", text)
	}
}

func TestBrokerConfig(t *testing.T) {
	good := DefaultBrokerConfig()
	if err := good.Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	for key, spoils := range map[string][]func(*BrokerConfig){
		"topic": {
			func(c *BrokerConfig) { c.Topic = "" }, func(c *BrokerConfig) { c.Topic = "a/b" }, func(c *BrokerConfig) { c.Topic = "{leaf}/+" },
			func(c *BrokerConfig) { c.Topic = "$SYS/{leaf}" }, func(c *BrokerConfig) { c.Topic = "{leaf}//x" }, func(c *BrokerConfig) { c.Topic = "{leaf}/{device}" },
		},
		"payload":       {func(c *BrokerConfig) { c.Payload = "xml" }},
		"password_file": {func(c *BrokerConfig) { c.PasswordFile = "p" }},
	} {
		for i, spoil := range spoils {
			c := DefaultBrokerConfig()
			spoil(&c)
			if e, ok := errors.AsType[*gateway.KeyError](c.Validate()); !ok || e.Key != key {
				t.Errorf("%s, %d: got %v", key, i, e)
			}
		}
	}
}

// Whatever a leaf is called and names its channel, the topic is one that may be
// published to, and an envelope is JSON.
func FuzzBrokerTopic(f *testing.F) {
	f.Add("pump-1", "a/+/#", []byte("{"))
	f.Fuzz(func(t *testing.T, leaf, channel string, body []byte) {
		m := &gateway.Message{Leaf: leaf, Channel: channel, Body: body}
		topic, text, _ := brokerOf("site/{leaf}/{lane}/{channel}", payloadJSON).word(m, gateway.Instant{})
		if !utf8.ValidString(topic) || strings.ContainsAny(topic, "+#\x00") || !strings.HasPrefix(topic, "site/") {
			t.Errorf("topic %q", topic)
		}
		if !json.Valid(text) {
			t.Errorf("payload %q", text)
		}
	})
}
