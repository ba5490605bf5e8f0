package upload

import (
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Config is the table [upload] of the configuration.
type Config struct {
	// MaxBytes bounds the spool on flash (1MiB to 64GiB). At the bound a leaf's
	// next block is refused, and it may try again.
	MaxBytes gateway.Size `toml:"max_bytes"`
	// MaxFile bounds one file (64KiB to max_bytes).
	MaxFile gateway.Size `toml:"max_file"`
	// Rate is how many bytes a second go to the hub at most, so that files leave
	// room for messages (1KiB to 1GiB).
	Rate gateway.Size `toml:"rate"`
	// Daily is how many bytes go to the hub on one day of UTC at most; 0 for no
	// limit.
	Daily gateway.Size `toml:"daily"`
	// Abandon is how long a leaf may leave a file unfinished (1m to 30d).
	Abandon gateway.Duration `toml:"abandon"`
}

// DefaultConfig returns the shipped defaults.
func DefaultConfig() Config {
	return Config{
		MaxBytes: 64 << 20, MaxFile: 32 << 20, Rate: 256 << 10,
		Abandon: gateway.Duration(24 * time.Hour),
	}
}

// Validate checks ranges. Errors are of type *gateway.KeyError.
func (c *Config) Validate() error {
	switch {
	case c.MaxBytes < 1<<20 || c.MaxBytes > 64<<30:
		return gateway.BadKey("max_bytes", "%v is out of range: 1MiB to 64GiB", c.MaxBytes)
	case c.MaxFile < 64<<10 || c.MaxFile > c.MaxBytes:
		return gateway.BadKey("max_file", "%v is out of range: 64KiB to max_bytes", c.MaxFile)
	case c.Rate < 1<<10 || c.Rate > 1<<30:
		return gateway.BadKey("rate", "%v is out of range: 1KiB to 1GiB a second", c.Rate)
	case c.Daily != 0 && c.Daily < c.MaxFile:
		return gateway.BadKey("daily", "%v is less than one file may have: write at least max_file, or 0 for no limit", c.Daily)
	case c.Abandon.D() < time.Minute || c.Abandon.D() > 30*24*time.Hour:
		return gateway.BadKey("abandon", "%v is out of range: 1m to 30d", c.Abandon)
	}
	return nil
}
