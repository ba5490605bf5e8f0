package broker

import (
	"fmt"
	"net"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Config is the configuration of the broker. The limits have the names that
// mosquitto gives them.
type Config struct {
	// Listeners are the addresses on which leaves are awaited.
	Listeners []Listener `toml:"listener"`
	// ClientCAFile holds the certificates (PEM) of an authority that leaves may
	// prove themselves with: the common name of the leaf's certificate is its id.
	// "" is none. Whoever has the authority's key can be any leaf.
	ClientCAFile string `toml:"client_ca_file"`
	// MaxPacketSize is the largest MQTT packet read from a leaf that has logged
	// in. It leaves room for the hub's 256 KiB of body and properties plus a
	// topic of 64 KiB.
	MaxPacketSize gateway.Size `toml:"max_packet_size"`
	// MaxConnections bounds the open connections, logged in or not. At most a
	// quarter of them may be waiting to log in from one address.
	MaxConnections int `toml:"max_connections"`
	// MaxConnectionsPerLeaf bounds the connections of one leaf.
	MaxConnectionsPerLeaf int `toml:"max_connections_per_leaf"`
	// MaxInflightMessages is how many messages of one connection may be in
	// hand-over at once. MQTT 5 leaves are told; from an MQTT 3.1.1 leaf nothing
	// more is read until one is acknowledged.
	MaxInflightMessages int `toml:"max_inflight_messages"`
	// MaxMessagesPerSecond is how much a leaf may publish, over all its connections (0,
	// for no limit, to 1000000), with a second's worth ahead. Over it the leaf is not
	// read from for a while: nothing is lost, and the others do not wait. Of packets that
	// are no messages (subscriptions, acknowledgements, pings) it may send 100 and twice
	// as many. Unless it is 0 a leaf may log in 60 times and then 10 times a second, and
	// change what it has subscribed to max_subscriptions times and then once a second,
	// where that is kept on flash.
	MaxMessagesPerSecond int `toml:"max_messages_per_second"`
	// MaxBytesPerSecond is how much all packets of a leaf may come to, over all its
	// connections (0B, for no limit, to 1GiB; at least max_packet_size counts), with an eighth of that
	// ahead. Over it the leaf is not read from for a while. A user property counts for 128 bytes more than
	// it has, a topic filter for 1KiB: they cost more.
	MaxBytesPerSecond gateway.Size `toml:"max_bytes_per_second"`
	// MaxSubscriptions bounds the subscriptions of one session.
	MaxSubscriptions int `toml:"max_subscriptions"`
	// MaxKeepalive caps the leaf's keep-alive; a leaf without one gets this.
	MaxKeepalive gateway.Duration `toml:"max_keepalive"`
	// ConnectTimeout is how long a connection has from TCP accept to the end of
	// its login, TLS handshake included.
	ConnectTimeout gateway.Duration `toml:"connect_timeout"`
	// WriteTimeout is how long a leaf may leave what is sent to it unread.
	WriteTimeout gateway.Duration `toml:"write_timeout"`
	// RefuseDelay is how long an MQTT 3.1.1 leaf whose message was not taken
	// stays connected, so that it does not come back at once in a loop.
	RefuseDelay gateway.Duration `toml:"refuse_delay"`
}

// Listener is one address on which leaves are awaited.
type Listener struct {
	Address  string `toml:"address"`   // host:port, ":8883" for all addresses
	CertFile string `toml:"cert_file"` // PEM, the leaf certificate first, then intermediates
	KeyFile  string `toml:"key_file"`  // PEM, the key of the certificate
	Plain    bool   `toml:"plain"`     // without TLS: only on a loopback address
	// WebSocket awaits MQTT over WebSocket, at the path /$iothub/websocket, and
	// nothing else: stock SDKs want it on port 443.
	WebSocket bool `toml:"websocket"`
}

// DefaultConfig returns the shipped defaults. There is no listener: whoever
// loads the configuration knows where the certificate is.
func DefaultConfig() Config {
	return Config{
		MaxPacketSize:         320 << 10,
		MaxConnections:        1000,
		MaxConnectionsPerLeaf: 10,
		MaxInflightMessages:   256,
		MaxMessagesPerSecond:  5000,
		MaxBytesPerSecond:     8 << 20,
		MaxSubscriptions:      64,
		// The hub closes after 1767 s of silence, one and a half times this
		// (wire contract, section 2.7).
		MaxKeepalive:   gateway.Duration(1178 * time.Second),
		ConnectTimeout: gateway.Duration(10 * time.Second),
		WriteTimeout:   gateway.Duration(10 * time.Second),
		RefuseDelay:    gateway.Duration(time.Second),
	}
}

// Validate checks ranges. Errors are of type *gateway.KeyError.
func (c *Config) Validate() error {
	for i := range c.Listeners {
		if err := c.Listeners[i].validate(fmt.Sprintf("listener[%d]", i)); err != nil {
			return err
		}
	}
	if c.MaxPacketSize < 1<<10 || c.MaxPacketSize > 1<<20 {
		return gateway.BadKey("max_packet_size", "%v is out of range: 1KiB to 1MiB", c.MaxPacketSize)
	}
	if c.MaxBytesPerSecond < 0 || c.MaxBytesPerSecond > 1<<30 {
		return gateway.BadKey("max_bytes_per_second", "%v is out of range: 0B to 1GiB", c.MaxBytesPerSecond)
	}
	for _, n := range []struct {
		key      string
		value    int
		low, top int
	}{
		{"max_connections", c.MaxConnections, 1, 20000},
		{"max_connections_per_leaf", c.MaxConnectionsPerLeaf, 1, 20000},
		{"max_inflight_messages", c.MaxInflightMessages, 1, 65535}, // MQTT 5.0, section 3.2.2.3.3
		{"max_messages_per_second", c.MaxMessagesPerSecond, 0, 1_000_000},
		{"max_subscriptions", c.MaxSubscriptions, 5, 1000}, // a stock SDK has five
	} {
		if n.value < n.low || n.value > n.top {
			return gateway.BadKey(n.key, "%d is out of range: %d to %d", n.value, n.low, n.top)
		}
	}
	for _, d := range []struct {
		key      string
		value    gateway.Duration
		low, top time.Duration
	}{
		{"max_keepalive", c.MaxKeepalive, 10 * time.Second, 12 * time.Hour},
		{"connect_timeout", c.ConnectTimeout, 100 * time.Millisecond, 5 * time.Minute},
		{"write_timeout", c.WriteTimeout, 100 * time.Millisecond, 5 * time.Minute},
		{"refuse_delay", c.RefuseDelay, 0, time.Minute},
	} {
		if d.value.D() < d.low || d.value.D() > d.top {
			return gateway.BadKey(d.key, "%v is out of range: %v to %v", d.value, gateway.Duration(d.low), gateway.Duration(d.top))
		}
	}
	return nil
}

func (l *Listener) validate(key string) error {
	host, _, err := net.SplitHostPort(l.Address)
	if err != nil {
		return gateway.BadKey(key+".address", "%q is not an address: write host and port, like \":8883\" or \"192.168.7.1:8883\"", l.Address)
	}
	if l.Plain {
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return gateway.BadKey(key+".plain", "%q can be reached from outside: without TLS write a loopback address, like \"127.0.0.1:1883\"", l.Address)
		}
		return nil
	}
	if l.CertFile == "" {
		return gateway.BadKey(key+".cert_file", "a certificate is needed: write the path of a PEM file (or plain = true on a loopback address)")
	}
	if l.KeyFile == "" {
		return gateway.BadKey(key+".key_file", "the certificate's key is needed: write the path of a PEM file")
	}
	return nil
}
