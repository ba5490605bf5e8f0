package amqp

import (
	"errors"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
)

// Config is what AMQP takes from the table [hub] of the configuration.
type Config struct {
	dial.Config `toml:",inline"`
	// LeavesPerSession is how many leaves share a session (1 to 500). A session
	// that breaks costs all of them; each session costs about 40 KB.
	LeavesPerSession int `toml:"leaves_per_session"`
}

// DefaultConfig returns the shipped defaults. Host is missing.
func DefaultConfig() Config {
	return Config{Config: dial.DefaultConfig(), LeavesPerSession: 20}
}

// Validate checks the values, without looking at files. Errors are of type
// *gateway.KeyError.
func (c *Config) Validate() error {
	err := c.Config.Validate()
	if c.LeavesPerSession < 1 || c.LeavesPerSession > 500 {
		err = errors.Join(err, gateway.BadKey("leaves_per_session", "%d is out of range: write 1 to 500", c.LeavesPerSession))
	}
	return err
}
