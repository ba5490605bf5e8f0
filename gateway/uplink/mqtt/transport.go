package mqtt

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
)

// Config is what MQTT takes from the table [hub] beside what every transport does.
type Config struct {
	// DeviceID is the gateway's own device id at the hub.
	DeviceID string `toml:"device_id"`
	// KeyFile holds the hub key of that device: Base64, nothing else.
	KeyFile string `toml:"key_file"`
}

// Validate checks the values, without looking at files. Errors are of type
// *gateway.KeyError.
func (c *Config) Validate() error {
	if c.DeviceID == "" {
		return gateway.BadKey("device_id", "over MQTT the gateway has an identity of its own: write its device id at the hub")
	}
	if c.KeyFile == "" {
		return gateway.BadKey("key_file", "the hub key of %q is needed: write the path of a file that holds it", c.DeviceID)
	}
	return nil
}

// Tokens signs for the gateway; *identity.Keyring is one. Safe for concurrent use.
type Tokens interface {
	// DeviceToken returns a token with which the hub accepts the device until expiry.
	DeviceToken(device string, expiry time.Time) (string, error)
}

// Transport dials an IoT hub, or a broker, over MQTT. It is an uplink.Transport.
type Transport struct {
	cfg      dial.Config
	device   string // the client id, and the gateway's own device at an IoT hub
	dialect  dialect
	dialer   *dial.Dialer
	clock    gateway.Clock
	log      *slog.Logger
	suspects suspects

	mu      sync.Mutex
	renewAt time.Time // of the present connection, zero for never; guarded by mu
}

// New makes a transport; way must be valid and ask for MQTT, and device be the
// gateway's own id. It reads the files that way names. Errors are of type
// *gateway.KeyError.
func New(way dial.Config, device string, tokens Tokens, clock gateway.Clock, log *slog.Logger) (*Transport, error) {
	return newTransport(way, device, &hubDialect{way.Host, device, way.TokenTTL.D(), tokens}, clock, log)
}

func newTransport(way dial.Config, clientID string, words dialect, clock gateway.Clock, log *slog.Logger) (*Transport, error) {
	d, err := dial.New(way, clock)
	if err != nil {
		return nil, err
	}
	return &Transport{cfg: way, device: clientID, dialect: words, dialer: d, clock: clock, log: log}, nil
}

// Way is described at uplink.Known.
func (t *Transport) Way() (name, why string) { return t.cfg.Transport, "" }

// subprotocol is what MQTT in a WebSocket is called (wire contract, section 2.8).
const subprotocol = "mqtt"

// Dial connects as the gateway.
func (t *Transport) Dial(ctx context.Context) (uplink.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout.D())
	defer cancel()
	hello := t.connect()
	life, err := t.dialect.login(hello, t.clock())
	if err != nil {
		return nil, err
	}
	stream, err := t.dialer.Dial(ctx, subprotocol)
	if err != nil {
		return nil, err
	}
	c := newConn(t, stream)
	if err := c.login(ctx, hello); err != nil {
		stream.Abort()
		return nil, err
	}
	c.begin()
	t.mu.Lock()
	t.renewAt = time.Time{}
	if life > 0 {
		t.renewAt = time.Now().Add(renewAfter(life))
	}
	t.mu.Unlock()
	if err := t.suspects.examine(ctx, c); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// AwaitRenewal is described at uplink.Renewer: over MQTT the only way to a new
// token is a new connection.
func (t *Transport) AwaitRenewal(ctx context.Context) (why string) {
	t.mu.Lock()
	at := t.renewAt
	t.mu.Unlock()
	if at.IsZero() {
		<-ctx.Done()
		return ""
	}
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return "the token is to be renewed"
	case <-ctx.Done():
		return ""
	}
}

// renewAfter returns when to renew a token that lives for life: between 80 and
// 85 % of it (wire contract, section 1.4: what other devices do).
func renewAfter(life time.Duration) time.Duration {
	return life*80/100 + rand.N(life*5/100+1)
}

// connect begins the first packet; the dialect says who we are.
func (t *Transport) connect() *packets.ConnectPacket {
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion = "MQTT", 4
	p.ClientIdentifier = t.device
	p.Keepalive = uint16(min(max(2*t.cfg.KeepAlive.D()/time.Second, 1), maxKeepAlive))
	return p
}

// maxKeepAlive is the largest promise that the hub heeds, in seconds (wire
// contract, section 2.7).
const maxKeepAlive = 1177

// refusal says what the hub's answer to CONNECT asks for (wire contract, section
// 1.6): 3 is for what passes, throttling among it; the others say that this
// gateway, as it is, is not let in.
func refusal(code byte) error {
	err := fmt.Errorf("hub refuses the gateway: %w (CONNACK %d)", packets.ConnErrors[code], code)
	switch code {
	case packets.ErrRefusedServerUnavailable:
		return &uplink.Fault{Remedy: uplink.Throttled, Err: err}
	case packets.ErrRefusedIDRejected, packets.ErrRefusedBadUsernameOrPassword, packets.ErrRefusedNotAuthorised:
		return &uplink.Fault{Remedy: uplink.Refused, Err: err}
	}
	return fmt.Errorf("hub answers CONNECT with code %d", code)
}

// version returns the version of this program from its build info.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
