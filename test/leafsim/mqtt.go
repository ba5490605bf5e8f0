package leafsim

import (
	"context"
	"crypto/tls"
	"strconv"
	"time"
)

// Dialect is the scheme by which a leaf names its topics.
type Dialect int

// The dialects.
const (
	// Plain is the gateway's own: leaf/{id}/telemetry and leaf/{id}/alarm.
	Plain Dialect = iota
	// IoTHub is that of stock device SDKs. It knows no lanes: alarms go the way
	// of telemetry there, so a leaf that speaks it is given none to send.
	IoTHub
)

// topic is where m is published. With the hub's dialect it carries a property
// bag: a message id of the leaf's own, and a property of the application.
func (d Dialect) topic(m *Message) string {
	if d == IoTHub {
		id := m.Leaf + "-" + strconv.FormatUint(m.N, 10)
		return "devices/" + m.Leaf + "/messages/events/%24.mid=" + id +
			"&%24.ct=application%2Fjson&%24.ce=utf-8&origin=leafsim"
	}
	return "leaf/" + m.Leaf + "/" + m.Lane
}

// MQTT is a line to an MQTT broker.
type MQTT struct {
	Address string      // host:port
	TLS     *tls.Config // nil for a connection in plain text
	Version int         // of the protocol: 4 is 3.1.1, 5 is 5.0
	Dialect Dialect
	Login   Login
}

// Times of an MQTT line.
const (
	connectTimeout = 10 * time.Second
	writeTimeout   = 5 * time.Second
	keepAlive      = 15 * time.Second
)

func (q *MQTT) dial(ctx context.Context, leaf string, window int) (conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if q.Version == 5 {
		return dialMQTT5(ctx, q, leaf, window)
	}
	return dialMQTT3(ctx, q, leaf, window)
}

func (q *MQTT) window(asked int) int { return asked }

func (q *MQTT) close() {}
