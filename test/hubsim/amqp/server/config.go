package server

import (
	"crypto/x509"
	"log/slog"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
)

// Config holds what a server says about itself. The zero value of a field is
// replaced by that of DefaultConfig.
type Config struct {
	ContainerID string
	MaxFrame    uint32        // bytes of the largest frame taken and sent
	ChannelMax  uint16        // largest channel number
	HandleMax   uint32        // largest link handle of a session
	Window      uint32        // transfer frames a session may have on the way to us
	Credit      uint32        // deliveries a link may have on the way and unsettled
	MaxMessage  uint64        // bytes of the largest message taken
	IdleTimeout time.Duration // a peer silent for longer is closed
	Log         *slog.Logger

	Certificates []*x509.Certificate // that the client showed in TLS, leaf first; nil for none
}

// DefaultConfig returns what the real hub answers (wire contract, section 3.1).
func DefaultConfig() Config {
	return Config{
		ContainerID: "DeviceGateway_hubsim",
		MaxFrame:    65536,
		ChannelMax:  8191,
		HandleMax:   262143,
		Window:      5000,
		Credit:      1000,
		MaxMessage:  1 << 20,
		IdleTimeout: 240 * time.Second,
		Log:         slog.New(slog.DiscardHandler),
	}
}

func (c Config) withDefaults() Config {
	d := DefaultConfig()
	set(&c.ContainerID, d.ContainerID)
	set(&c.MaxFrame, d.MaxFrame)
	set(&c.ChannelMax, d.ChannelMax)
	set(&c.HandleMax, d.HandleMax)
	set(&c.Window, d.Window)
	set(&c.Credit, d.Credit)
	set(&c.MaxMessage, d.MaxMessage)
	set(&c.IdleTimeout, d.IdleTimeout)
	set(&c.Log, d.Log)
	return c
}

func set[T comparable](v *T, missing T) {
	var zero T
	if *v == zero {
		*v = missing
	}
}

// Routes says what the addresses of one connection mean. Its methods are
// called by the connection's reading goroutine, one at a time.
type Routes interface {
	// Plain checks user name and password of SASL PLAIN.
	Plain(user, password string) error
	// Attach accepts or refuses a link. A refusal goes to the client as the
	// link's error.
	Attach(l *Link) (Endpoint, *amqp.Error)
	// Closed is called once, last, when the connection has ended and all of
	// its links with it.
	Closed()
}

// Endpoint is the hub's side of a link. All fields are optional.
type Endpoint struct {
	// Take gets every message of a link on which the client sends, in order,
	// on the reading goroutine: it must not wait. It must settle the delivery
	// sooner or later, from any goroutine.
	Take func(Delivery)
	// Pump runs in a goroutine of its own once a link on which the client
	// receives is up. It must return soon after Link.Done is closed; the link
	// stays up when it returns before.
	Pump func()
	// Gone is called once when the link has ended, whoever ended it.
	Gone func()
}
