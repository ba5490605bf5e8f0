package dial

import (
	"cmp"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Config is what every transport takes from the table [hub] of the configuration.
type Config struct {
	// Host is the name of the hub, as in "myhub.azure-devices.net": what tokens
	// and addresses name, and what its certificate must be for.
	Host string `toml:"host"`
	// Transport is the way to the hub: "auto", "amqp", "amqp-ws", "mqtt" or "mqtt-ws".
	// "auto" is AMQP on 5671, and AMQP over a WebSocket on 443 while 5671 cannot be
	// reached.
	Transport string `toml:"transport"`
	// Address is where to dial, "host:port"; empty means the transport's port of
	// Host. It matters where the hub is reached through a relay or stands on a
	// bench. With "auto" it is for AMQP on TLS alone, see WebSocketAddress.
	Address string `toml:"address"`
	// WebSocketAddress is the same for the WebSocket of "auto"; empty means port 443
	// of Host if Address is empty too, and no WebSocket otherwise: who names one
	// address wants no other one dialled.
	WebSocketAddress string `toml:"websocket_address"`
	// ServerName is the name that the certificate must be for, if it is not Host.
	ServerName string `toml:"server_name"`
	// CAFile holds certificates in PEM form that are trusted beside the system's.
	CAFile string `toml:"ca_file"`
	// Proxy is the URL of an HTTP proxy that lets connections to the hub through
	// with CONNECT, "http://user@host:port" or without a user; "environment" takes
	// it from HTTPS_PROXY and NO_PROXY. "" is no proxy, whatever the environment
	// says.
	Proxy string `toml:"proxy"`
	// ProxyPasswordFile holds the password of the proxy's user, nothing else.
	ProxyPasswordFile string `toml:"proxy_password_file"`
	// ProbeInterval is how often "auto" looks whether 5671 can be reached while
	// it uses the WebSocket (1s to 24h).
	ProbeInterval gateway.Duration `toml:"probe_interval"`
	// TokenTTL is how long a token is valid (2s to 24h). It is renewed when a
	// little more than 80 % of it has passed.
	TokenTTL gateway.Duration `toml:"token_ttl"`
	// KeepAlive is how often the hub has to show that it is there (1s to 10m). A
	// connection on which nothing arrives for twice as long is lost, and one on which
	// nothing of what we send is acknowledged for so long.
	KeepAlive gateway.Duration `toml:"keep_alive"`
	// Timeout bounds each step that waits for an answer: dialling, opening a
	// session or a link, a token (1s to 5m).
	Timeout gateway.Duration `toml:"timeout"`
	// CommandLock is how long the hub keeps a command for us before it offers it
	// again: the hub's own setting, "lock timeout" (5s to 5m).
	CommandLock gateway.Duration `toml:"command_lock"`
}

// The transports, as the configuration and the state spell them.
const (
	Auto          = "auto"
	AMQP          = "amqp"    // AMQP 1.0 over TLS
	AMQPWebSocket = "amqp-ws" // AMQP 1.0 in a WebSocket over TLS
	MQTT          = "mqtt"    // MQTT 3.1.1 over TLS
	MQTTWebSocket = "mqtt-ws" // MQTT 3.1.1 in a WebSocket over TLS
)

// Transports are all that Config.Transport can be.
var Transports = []string{Auto, AMQP, AMQPWebSocket, MQTT, MQTTWebSocket}

// ports are those of the hub (wire contract, sections 2.8 and 3.1).
var ports = map[string]int{Auto: 5671, AMQP: 5671, AMQPWebSocket: 443, MQTT: 8883, MQTTWebSocket: 443}

// FromEnvironment is the value of Config.Proxy that asks the environment.
const FromEnvironment = "environment"

// DefaultConfig returns the shipped defaults. Host is missing.
func DefaultConfig() Config {
	return Config{
		Transport:     Auto,
		ProbeInterval: gateway.Duration(10 * time.Minute),
		TokenTTL:      gateway.Duration(time.Hour),
		KeepAlive:     gateway.Duration(30 * time.Second),
		Timeout:       gateway.Duration(30 * time.Second),
		CommandLock:   gateway.Duration(time.Minute), // wire contract, section 5.7
	}
}

// Validate checks the values, without looking at files. Errors are of type
// *gateway.KeyError.
func (c *Config) Validate() error {
	if c.Host == "" {
		return gateway.BadKey("host", "is missing: write the name of the hub, like \"myhub.azure-devices.net\"")
	}
	if _, _, err := net.SplitHostPort(c.Host); err == nil {
		return gateway.BadKey("host", "%q has a port: write the name alone, and the port into address", c.Host)
	}
	if ports[c.Transport] == 0 {
		return gateway.BadKey("transport", "%q is none: write \"auto\", \"amqp\", \"amqp-ws\", \"mqtt\" or \"mqtt-ws\"", c.Transport)
	}
	for key, address := range map[string]string{"address": c.Address, "websocket_address": c.WebSocketAddress} {
		if address != "" && !isAddress(address) {
			return gateway.BadKey(key, "%q is not an address: write a name or number and a port, like \"10.0.0.5:%d\"", address, ports[c.Transport])
		}
	}
	if c.WebSocketAddress != "" && c.Transport != Auto {
		return gateway.BadKey("websocket_address", "it is for transport = \"auto\": with %q write address", c.Transport)
	}
	if err := c.validateProxy(); err != nil {
		return err
	}
	for _, k := range []struct {
		key               string
		value             gateway.Duration
		shortest, longest time.Duration
	}{
		{"probe_interval", c.ProbeInterval, time.Second, 24 * time.Hour},
		{"token_ttl", c.TokenTTL, 2 * time.Second, 24 * time.Hour},
		{"keep_alive", c.KeepAlive, time.Second, 10 * time.Minute},
		{"timeout", c.Timeout, time.Second, 5 * time.Minute},
		{"command_lock", c.CommandLock, 5 * time.Second, 5 * time.Minute},
	} {
		if k.value.D() < k.shortest || k.value.D() > k.longest {
			return gateway.BadKey(k.key, "%v is out of range: write %v to %v",
				k.value, gateway.Duration(k.shortest), gateway.Duration(k.longest))
		}
	}
	return nil
}

func (c *Config) validateProxy() error {
	switch {
	case c.Proxy == "" && c.ProxyPasswordFile != "":
		return gateway.BadKey("proxy_password_file", "there is no proxy for it: write proxy = \"http://user@host:port\"")
	case c.Proxy == "" || c.Proxy == FromEnvironment && c.ProxyPasswordFile == "":
		return nil
	case c.Proxy == FromEnvironment:
		return gateway.BadKey("proxy_password_file", "the proxy of the environment has its password there: leave this out")
	}
	// The errors of this block do not show the text: there may be a secret in it.
	u, err := url.Parse(c.Proxy)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" || !isAddress(u.Host) || u.Path != "" && u.Path != "/" || u.RawQuery != "" {
		return gateway.BadKey("proxy", "is not the URL of a proxy: write one like \"http://user@10.0.0.1:3128\", or \"environment\"")
	}
	if _, has := u.User.Password(); has {
		return gateway.BadKey("proxy", "there is a password in it: write that into a file, and the file into proxy_password_file")
	}
	if u.User.Username() == "" && c.ProxyPasswordFile != "" {
		return gateway.BadKey("proxy_password_file", "the proxy has no user: write proxy = \"http://user@%s\"", u.Host)
	}
	return nil
}

func isAddress(text string) bool {
	host, port, err := net.SplitHostPort(text)
	n, bad := strconv.ParseUint(port, 10, 16)
	return err == nil && bad == nil && n > 0 && host != ""
}

// LockTime is how long we take a command for locked: a little less than the hub,
// which has begun earlier.
func (c *Config) LockTime() time.Duration { return c.CommandLock.D() * 9 / 10 }

// Target returns where to dial, "host:port".
func (c *Config) Target() string {
	return cmp.Or(c.Address, net.JoinHostPort(c.Host, strconv.Itoa(ports[c.Transport])))
}

// serverName returns the name that the certificate must be for.
func (c *Config) serverName() string { return cmp.Or(c.ServerName, c.Host) }

// Ways returns one configuration for each way that Transport allows, the better
// one first: each names one transport, none "auto".
func (c Config) Ways() []Config {
	if c.Transport != Auto {
		return []Config{c}
	}
	first, second := c, c
	first.Transport, second.Transport = AMQP, AMQPWebSocket
	first.WebSocketAddress, second.WebSocketAddress = "", ""
	second.Address = c.WebSocketAddress
	if c.Address != "" && c.WebSocketAddress == "" {
		return []Config{first}
	}
	return []Config{first, second}
}
