package leafsim

import (
	"encoding/json"
	"strings"
	"time"
)

// The lanes in which a leaf sends.
const (
	Telemetry = "telemetry"
	Alarm     = "alarm"
)

// Message is one numbered message of a leaf. It never changes once made, so a
// message sent again has the same content.
type Message struct {
	Leaf string
	Lane string
	N    uint64 // 1, 2, 3 … per leaf and lane
	Body []byte
	Sent time.Time // when it was first handed to a connection
}

// Body is what a message carries. The back end reads Leaf and N out of it and
// compares them with what the hub says about the sender.
type Body struct {
	Leaf string  `json:"leaf"`
	Lane string  `json:"lane"`
	N    uint64  `json:"n"`
	Temp float64 `json:"temp"`          // a reading, so that it looks like telemetry
	Pad  string  `json:"pad,omitempty"` // fills the body up to the size asked for
}

// newMessage makes message n with a body of at least size bytes.
func newMessage(leaf, lane string, n uint64, size int) *Message {
	b := Body{Leaf: leaf, Lane: lane, N: n, Temp: 20 + float64(n%100)/10}
	body := b.encode()
	if missing := size - len(body) - len(`,"pad":""`); missing > 0 {
		b.Pad = strings.Repeat("x", missing)
		body = b.encode()
	}
	return &Message{Leaf: leaf, Lane: lane, N: n, Body: body}
}

func (b Body) encode() []byte {
	text, err := json.Marshal(b)
	if err != nil {
		panic("leafsim: body of text and finite numbers does not encode: " + err.Error())
	}
	return text
}

// ParseBody reads a body that a leaf of this package made.
func ParseBody(text []byte) (Body, error) {
	var b Body
	err := json.Unmarshal(text, &b)
	return b, err
}
