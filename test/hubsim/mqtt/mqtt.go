// Package mqtt is a server of MQTT 3.1.1 for one connection at a time: packet
// ids, acknowledgements, keep-alive. Package packet below it knows the bytes.
// What topics mean, sessions that outlive a connection and who may come in are
// the routes' business.
package mqtt

import (
	"cmp"
	"crypto/x509"
	"errors"
	"log/slog"
	"time"
)

// Config is what a server is started with. Zero fields have defaults.
type Config struct {
	ConnectTimeout time.Duration       // to CONNECT; default 60s (section 1.6)
	MaxPacket      int                 // bytes; default 256 KiB and room for the topic
	Certificates   []*x509.Certificate // of the client, leaf first; nil for none
	Log            *slog.Logger        // default: nothing is logged
}

// defaultMaxPacket is the largest message (section 6.2) behind the longest
// topic with the lengths around it.
const defaultMaxPacket = 256<<10 + 64<<10

func (c Config) withDefaults() Config {
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 60*time.Second)
	c.MaxPacket = cmp.Or(c.MaxPacket, defaultMaxPacket)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Login is what CONNECT says.
type Login struct {
	ClientID     string
	User         string
	Password     string
	CleanSession bool
	KeepAlive    time.Duration       // as the client asked
	Will         *Publish            // nil for none
	Certificates []*x509.Certificate // of the client, leaf first
}

// Publish is a PUBLISH from the client. It belongs to the receiver.
type Publish struct {
	Topic     string
	Body      []byte
	QoS       byte // 0 or 1: with 2 the connection is closed (section 2.7); a will may have 2
	Retain    bool
	Duplicate bool
}

// The CONNACK codes (section 1.6).
const (
	Accepted          byte = 0
	BadProtocol       byte = 1
	BadIdentifier     byte = 2
	ServerUnavailable byte = 3
	BadUserOrPassword byte = 4
	NotAuthorized     byte = 5
)

// Routes says what the topics of one connection mean. Its methods are called by
// the connection's reading goroutine, one at a time.
type Routes interface {
	// Publish handles a message. It must not wait. done acknowledges it (nil)
	// or closes the connection (an error other than ErrUnanswered), sooner or
	// later, from any goroutine; acknowledgements leave in the order of the
	// messages. A second call of done sends the acknowledgement again.
	Publish(p Publish, done func(error))
	// Subscribe accepts a filter with the QoS it returns, or refuses it with
	// an error, of which the client sees the code 0x80 only. The client asks
	// for a QoS of 0 to 2. Messages that a subscription causes are sent after
	// SUBACK.
	Subscribe(filter string, qos byte) (granted byte, err error)
	// Unsubscribe ends a subscription.
	Unsubscribe(filter string)
	// Closed is called once, last. orderly says that DISCONNECT came; otherwise
	// the will is the routes' to publish.
	Closed(orderly bool)
}

// ErrUnanswered is for done: the message is never acknowledged, and those behind
// it do not wait for that.
var ErrUnanswered = errors.New("left without an answer")
