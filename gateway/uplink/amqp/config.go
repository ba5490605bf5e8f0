package amqp

import (
	"net"
	"strconv"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Config is the table [hub] of the configuration.
type Config struct {
	// Host is the name of the hub, as in "myhub.azure-devices.net": what tokens
	// and addresses name, and what its certificate must be for.
	Host string `toml:"host"`
	// Address is where to dial, "host:port"; empty means port 5671 of Host. It
	// matters where the hub is reached through a relay or stands on a bench.
	Address string `toml:"address"`
	// ServerName is the name that the certificate must be for, if it is not Host.
	ServerName string `toml:"server_name"`
	// CAFile holds certificates in PEM form that are trusted beside the system's.
	CAFile string `toml:"ca_file"`
	// TokenTTL is how long a token of a leaf is valid (2s to 24h). It is renewed
	// when a little more than 80 % of it has passed.
	TokenTTL gateway.Duration `toml:"token_ttl"`
	// KeepAlive is how often the hub has to show that it is there (1s to 10m). A
	// connection on which nothing arrives for twice as long is lost.
	KeepAlive gateway.Duration `toml:"keep_alive"`
	// Timeout bounds each step that waits for an answer: dialling, opening a
	// session or a link, a token (1s to 5m).
	Timeout gateway.Duration `toml:"timeout"`
	// LeavesPerSession is how many leaves share a session (1 to 500). A session
	// that breaks costs all of them; each session costs about 40 KB.
	LeavesPerSession int `toml:"leaves_per_session"`
}

const defaultPort = 5671 // AMQP over TLS (wire contract, section 3.1)

// DefaultConfig returns the shipped defaults. Host is missing.
func DefaultConfig() Config {
	return Config{
		TokenTTL:         gateway.Duration(time.Hour),
		KeepAlive:        gateway.Duration(30 * time.Second),
		Timeout:          gateway.Duration(30 * time.Second),
		LeavesPerSession: 20,
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
	if c.Address != "" {
		host, port, err := net.SplitHostPort(c.Address)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 || host == "" {
			return gateway.BadKey("address", "%q is not an address: write a name or number and a port, like \"10.0.0.5:5671\"", c.Address)
		}
	}
	for _, k := range []struct {
		key               string
		value             gateway.Duration
		shortest, longest time.Duration
	}{
		{"token_ttl", c.TokenTTL, 2 * time.Second, 24 * time.Hour},
		{"keep_alive", c.KeepAlive, time.Second, 10 * time.Minute},
		{"timeout", c.Timeout, time.Second, 5 * time.Minute},
	} {
		if k.value.D() < k.shortest || k.value.D() > k.longest {
			return gateway.BadKey(k.key, "%v is out of range: write %v to %v",
				k.value, gateway.Duration(k.shortest), gateway.Duration(k.longest))
		}
	}
	if c.LeavesPerSession < 1 || c.LeavesPerSession > 500 {
		return gateway.BadKey("leaves_per_session", "%d is out of range: write 1 to 500", c.LeavesPerSession)
	}
	return nil
}

// target returns where to dial.
func (c *Config) target() string {
	if c.Address != "" {
		return c.Address
	}
	return net.JoinHostPort(c.Host, strconv.Itoa(defaultPort))
}

// serverName returns the name that the certificate must be for.
func (c *Config) serverName() string {
	if c.ServerName != "" {
		return c.ServerName
	}
	return c.Host
}
