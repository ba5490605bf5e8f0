package store

import (
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// What a lane does when it has reached its bound.
const (
	FullBlock      = "block"       // takes nothing more: leaves feel backpressure
	FullDropOldest = "drop-oldest" // gives up its oldest segment
	FullThin       = "thin"        // keeps every second message of each leaf, oldest first
)

// LaneConfig is the part of a lane's configuration that the store reads.
type LaneConfig struct {
	// MaxBytes bounds what the lane's segments occupy on disk, the room that is
	// reserved for the one being written included.
	MaxBytes gateway.Size `toml:"max_bytes"`
	// Full says what happens at the bound MaxBytes: FullBlock (takes nothing more),
	// FullDropOldest or FullThin (every second message of each leaf goes). What is
	// dropped is counted under the reason "quota".
	Full string `toml:"full"`
}

// Config is the configuration of the store.
type Config struct {
	Lanes [gateway.Lanes]LaneConfig `toml:"-"` // filled from the tables [lane.alarm] and [lane.telemetry]
	// MinFree is left free on the file system, whatever the lanes' bounds say. Dead
	// letters and notes may go below it, down to what the next start needs.
	MinFree gateway.Size `toml:"min_free"`
	// SegmentSize is how much one segment holds. Space comes back in this unit.
	SegmentSize gateway.Size `toml:"segment_size"`
	// CommitWindow is how long the committer gathers messages for one sync. A
	// message that comes after a pause is committed at once, and so is the one
	// message of a leaf that waits for each acknowledgement.
	CommitWindow gateway.Duration `toml:"commit_window"`
	// AllowAnyFS accepts file systems on which the promises of the store were
	// not tested.
	AllowAnyFS bool `toml:"allow_any_filesystem"`
}

// DefaultConfig returns the shipped defaults.
func DefaultConfig() Config {
	return Config{
		Lanes: [gateway.Lanes]LaneConfig{
			gateway.LaneAlarm:     {MaxBytes: 64 << 20, Full: FullBlock},
			gateway.LaneTelemetry: {MaxBytes: 1 << 30, Full: FullBlock},
		},
		MinFree:      32 << 20,
		SegmentSize:  16 << 20,
		CommitWindow: gateway.Duration(10 * time.Millisecond),
	}
}

// Validate checks the values outside the lanes. Errors are of type
// *gateway.KeyError.
func (c *Config) Validate() error {
	if c.SegmentSize < 1<<20 || c.SegmentSize > 64<<20 {
		return gateway.BadKey("segment_size", "%v is out of range: 1MiB to 64MiB", c.SegmentSize)
	}
	if c.MinFree < 4<<20 {
		return gateway.BadKey("min_free", "%v is too small: at least 4MiB, which the store needs to close what it has open", c.MinFree)
	}
	if c.CommitWindow.D() > time.Second {
		return gateway.BadKey("commit_window", "%v is too long: 0s to 1s", c.CommitWindow)
	}
	return nil
}

// Validate checks one lane's values for segments of the given size. Errors are
// of type *gateway.KeyError.
func (l *LaneConfig) Validate(segmentSize gateway.Size) error {
	if least := 2 * gateway.Size(reservation(int64(segmentSize))); l.MaxBytes < least {
		return gateway.BadKey("max_bytes", "%v is too small: at least %v, two segments of %v and what they need around them",
			l.MaxBytes, least, segmentSize)
	}
	switch l.Full {
	case FullBlock, FullDropOldest, FullThin:
		return nil
	}
	return gateway.BadKey("full", "%q is unknown: write %q, %q or %q", l.Full, FullBlock, FullDropOldest, FullThin)
}
