package gateway

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a time span in configuration: "250ms", "30s", "15m", "12h", "7d".
type Duration time.Duration

// D returns it as the standard library's type.
func (d Duration) D() time.Duration { return time.Duration(d) }

// UnmarshalText reads the spelling above. A bare number is an error: it says no
// unit.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if err == nil && n >= 0 && n < 36500 {
			*d = Duration(n * 24 * float64(time.Hour))
			return nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration: write a number and a unit, like \"250ms\", \"30s\", \"15m\", \"12h\" or \"7d\"", s)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes the shortest spelling.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

func (d Duration) String() string {
	if day := Duration(24 * time.Hour); d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// Size is a number of bytes in configuration: "512B", "64KiB", "16MiB", "1GiB".
type Size int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// UnmarshalText reads the spelling above. A bare number is an error: it says no
// unit.
func (z *Size) UnmarshalText(text []byte) error {
	s := string(text)
	for _, u := range sizeUnits {
		number, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || n < 0 || n*float64(u.bytes) > 1<<50 {
			break
		}
		*z = Size(n * float64(u.bytes))
		return nil
	}
	return fmt.Errorf("%q is not a size: write a number and a unit, like \"512B\", \"64KiB\", \"16MiB\" or \"1GiB\"", s)
}

// MarshalText writes the largest unit that fits without a fraction.
func (z Size) MarshalText() ([]byte, error) { return []byte(z.String()), nil }

func (z Size) String() string {
	for _, u := range sizeUnits {
		if n := int64(z); n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(z), 10) + "B"
}

// KeyError says which configuration key a value is wrong for. Key is relative to
// the table that the failing Validate belongs to, for example
// "listener[0].cert_file"; whoever loads the file adds the table's own name,
// the line and the column.
type KeyError struct {
	Key string
	Err error
}

func (e *KeyError) Error() string { return e.Key + ": " + e.Err.Error() }
func (e *KeyError) Unwrap() error { return e.Err }

// BadKey makes a KeyError.
func BadKey(key, format string, args ...any) error {
	return &KeyError{key, fmt.Errorf(format, args...)}
}

// Custody modes of a lane.
const (
	CustodyRelay = "relay" // acknowledged when settled by the hub or synced to flash, whichever is first
	CustodyDisk  = "disk"  // acknowledged when synced to flash
)

// LaneConfig is the part of a lane's configuration that the path reads. Zero
// values mean the default.
type LaneConfig struct {
	Custody    string   `toml:"custody"`     // CustodyRelay or CustodyDisk
	SpillAfter Duration `toml:"spill_after"` // relay: how long the hub may take to settle before flash is used
	TTL        Duration `toml:"ttl"`         // dropped when older; 0 keeps for ever
	// LiveFirst sends new messages without waiting for those on flash. These then
	// drain beside the live ones, each in its own order; of a leaf that has both,
	// BackfillShare percent of what is sent is from flash (1 to 90).
	LiveFirst     bool `toml:"live_first"`
	BackfillShare int  `toml:"backfill_share"`
}

// Config is the configuration of the path.
type Config struct {
	Lanes [Lanes]LaneConfig `toml:"-"` // filled from the tables [lane.alarm] and [lane.telemetry]
	// StagedBytes bounds the messages held in memory for the hub; beyond it
	// messages go to flash.
	StagedBytes Size `toml:"staged_bytes"`
	// MaxMessage is the largest message the hub takes, body and properties
	// (256 KiB: wire contract, section 6.2).
	MaxMessage Size `toml:"max_message"`
	// The budget of the backlog: how much may be read back from flash for the hub,
	// all lanes together, in sizes as they are counted in bounds; 0 is no limit.
	// A day is one of UTC by the trusted clock. What a lost connection has sent
	// again is counted again: it costs again.
	BackfillMessagesPerSecond int  `toml:"backfill_messages_per_second"`
	BackfillBytesPerSecond    Size `toml:"backfill_bytes_per_second"`
	BackfillMessagesPerDay    int  `toml:"backfill_messages_per_day"`
	BackfillBytesPerDay       Size `toml:"backfill_bytes_per_day"`
}

// DefaultConfig returns the shipped defaults.
func DefaultConfig() Config {
	lane := LaneConfig{Custody: CustodyRelay, SpillAfter: Duration(250 * time.Millisecond), BackfillShare: 30}
	return Config{
		Lanes:       [Lanes]LaneConfig{LaneAlarm: lane, LaneTelemetry: lane},
		StagedBytes: 4 << 20,
		MaxMessage:  256 << 10,
	}
}

// Validate checks ranges. Errors are of type *KeyError.
func (c *Config) Validate() error {
	if c.StagedBytes < 64<<10 {
		return BadKey("staged_bytes", "%v is too small: at least 64KiB", c.StagedBytes)
	}
	if c.MaxMessage < 1<<10 || c.MaxMessage > 256<<10 {
		return BadKey("max_message", "%v is out of range: 1KiB to 256KiB", c.MaxMessage)
	}
	for _, k := range []struct {
		key string
		n   int64
	}{
		{"backfill_messages_per_second", int64(c.BackfillMessagesPerSecond)},
		{"backfill_messages_per_day", int64(c.BackfillMessagesPerDay)},
	} {
		if k.n < 0 {
			return BadKey(k.key, "%d is out of range: write a number of messages, or 0 for no limit", k.n)
		}
	}
	return nil
}

// Validate checks one lane's values. Errors are of type *KeyError.
func (l *LaneConfig) Validate() error {
	if l.Custody != CustodyRelay && l.Custody != CustodyDisk {
		return BadKey("custody", "%q is unknown: write %q or %q", l.Custody, CustodyRelay, CustodyDisk)
	}
	if l.SpillAfter.D() < 10*time.Millisecond || l.SpillAfter.D() > time.Minute {
		return BadKey("spill_after", "%v is out of range: 10ms to 1m", l.SpillAfter)
	}
	if l.BackfillShare < 1 || l.BackfillShare > 90 {
		return BadKey("backfill_share", "%d is out of range: write 1 to 90 percent", l.BackfillShare)
	}
	return nil
}
