package uplink

import (
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Config is the table [uplink] of the configuration, for every transport.
type Config struct {
	// BackoffMin and BackoffMax bound the wait between two attempts to connect:
	// the first retry of a connection that had been stable comes at once, each
	// further one after a random wait under a limit that doubles from BackoffMin
	// to BackoffMax (100ms to 1h).
	BackoffMin gateway.Duration `toml:"backoff_min"`
	BackoffMax gateway.Duration `toml:"backoff_max"`

	// AuthBackoffMin and AuthBackoffMax bound the wait after the hub refused an
	// identity: that of one leaf, or that of the whole connection (1s to 24h). It
	// is a schedule of its own because asking again changes nothing until
	// somebody has changed a key or a registration.
	AuthBackoffMin gateway.Duration `toml:"auth_backoff_min"`
	AuthBackoffMax gateway.Duration `toml:"auth_backoff_max"`

	// Window is how many messages of one leaf may be with the hub and not yet
	// settled (1 to 5000). Rate of a leaf = window / round trip.
	Window int `toml:"window"`

	// MaxInflight is how many there may be of all leaves together (1 to 65536).
	// Leaves that wait for room get it in the order in which they asked, a sixteenth of it at a
	// time.
	MaxInflight int `toml:"max_inflight"`

	// IdleDetach is how long a leaf may be silent before its link to the hub is
	// given up, which frees its memory here and there; the next message opens it
	// again (1s to 24h).
	IdleDetach gateway.Duration `toml:"idle_detach"`

	// StallTimeout is how old the oldest unsettled message of a leaf may get
	// while the connection is alive (1s to 1h). After it the leaf's link is given
	// up, after as long again its session, then the connection if the hub settles
	// for nobody.
	StallTimeout gateway.Duration `toml:"stall_timeout"`

	// StallConnections is how many connections in a row may be given up so, before
	// the gateway ends for its supervisor to start it again; 0 never does (0 to
	// 1000). It never does while the hub says that it is throttled or its quota is
	// used up.
	StallConnections int `toml:"stall_connections"`
}

// DefaultConfig returns the shipped defaults.
func DefaultConfig() Config {
	return Config{
		BackoffMin:     gateway.Duration(time.Second),
		BackoffMax:     gateway.Duration(time.Minute),
		AuthBackoffMin: gateway.Duration(10 * time.Second),
		AuthBackoffMax: gateway.Duration(time.Hour),
		Window:         64,
		MaxInflight:    1024,
		IdleDetach:     gateway.Duration(5 * time.Minute),
		StallTimeout:   gateway.Duration(2 * time.Minute),

		StallConnections: 3,
	}
}

// Validate checks ranges. Errors are of type *gateway.KeyError.
func (c *Config) Validate() error {
	for _, k := range []struct {
		key               string
		value             gateway.Duration
		shortest, longest time.Duration
	}{
		{"backoff_min", c.BackoffMin, 100 * time.Millisecond, time.Hour},
		{"backoff_max", c.BackoffMax, c.BackoffMin.D(), time.Hour},
		{"auth_backoff_min", c.AuthBackoffMin, time.Second, 24 * time.Hour},
		{"auth_backoff_max", c.AuthBackoffMax, c.AuthBackoffMin.D(), 24 * time.Hour},
		{"idle_detach", c.IdleDetach, time.Second, 24 * time.Hour},
		{"stall_timeout", c.StallTimeout, time.Second, time.Hour},
	} {
		if k.value.D() < k.shortest || k.value.D() > k.longest {
			return gateway.BadKey(k.key, "%v is out of range: write %v to %v",
				k.value, gateway.Duration(k.shortest), gateway.Duration(k.longest))
		}
	}
	if c.Window < 1 || c.Window > 5000 {
		return gateway.BadKey("window", "%d is out of range: write 1 to 5000 messages", c.Window)
	}
	if c.MaxInflight < 1 || c.MaxInflight > 65536 {
		return gateway.BadKey("max_inflight", "%d is out of range: write 1 to 65536 messages", c.MaxInflight)
	}
	if c.StallConnections < 0 || c.StallConnections > 1000 {
		return gateway.BadKey("stall_connections", "%d is out of range: write 1 to 1000 connections, or 0 for never", c.StallConnections)
	}
	return nil
}
