package serial

import (
	"regexp"
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/hello"
	"github.com/fieldgate/fieldgate/drivers/serial/port"
	"github.com/fieldgate/fieldgate/gateway"
)

// Formats of a line.
const (
	FormatJSON  = "json"  // one JSON object per line
	FormatSenML = "senml" // one pack of SenML (RFC 8428) in JSON per line, passed on resolved
	FormatNMEA  = "nmea"  // sentences of NMEA 0183, passed on as JSON
	FormatText  = "text"  // any text, passed on as it is
)

// Ways to answer a leaf.
const (
	AckNone = "none" // nothing is ever written to the port
	AckLine = "line" // every understood line is answered by a line, see the package comment
)

// Config describes one port and what speaks on it. Exactly one of Leaf and
// LeafField is set, or, for FormatSenML, none: then base names name the leaves.
type Config struct {
	port.Config `toml:",inline"` // which port, and how it is set up
	Hello       hello.Config     `toml:",inline"` // how the leaf proves that it is there

	Format    string `toml:"format"`     // FormatJSON, FormatSenML, FormatNMEA or FormatText
	Leaf      string `toml:"leaf"`       // id of the one leaf on this port
	LeafField string `toml:"leaf_field"` // JSON only: top-level field that holds the leaf id
	Channel   string `toml:"channel"`    // channel of all messages of this port, may be empty
	Lane      string `toml:"lane"`       // "telemetry" or "alarm"
	Ack       string `toml:"ack"`        // AckNone or AckLine

	// Sentences are the types of sentence that are passed on (NMEA only); others are
	// counted.
	Sentences []string `toml:"sentences"`
	// MaxTimeOff is how far a time of the leaf's own clock may be from the gateway's
	// (SenML only), 0: as far as it likes. One that is farther is replaced by the
	// gateway's, and stays in the field leaf_time.
	MaxTimeOff gateway.Duration `toml:"max_time_off"`

	// MaxLine is the longest line that is taken, without its line end, 16B to
	// 64KiB. What is longer is discarded up to its line end.
	MaxLine gateway.Size `toml:"max_line"`
	// MaxInflight is how many lines may be with the gateway without being in
	// custody, 1 to 1024. At the bound the port is not read.
	MaxInflight int `toml:"max_inflight"`
}

// DefaultConfig returns the shipped defaults. Port and Leaf have none. The
// length of a line is that of leaf-protocols, section 9.
func DefaultConfig() Config {
	return Config{
		Config: port.Default(),
		Format: FormatJSON, Lane: gateway.LaneTelemetry.String(), Ack: AckNone,
		Sentences: []string{"RMC", "GGA", "GSA", "ZDA"}, MaxTimeOff: gateway.Duration(24 * time.Hour),
		MaxLine: 4 << 10, MaxInflight: 64,
	}
}

// Line is the port.
func (c *Config) Line() *port.Config { return &c.Config }

// Secret is what the leaf proves itself with.
func (c *Config) Secret() *hello.Config { return &c.Hello }

// Leaves are the leaf ids that the configuration names, by their keys.
func (c *Config) Leaves() map[string]string { return map[string]string{"leaf": c.Leaf} }

// Validate checks values and ranges. Errors are of type *gateway.KeyError.
func (c *Config) Validate() error {
	for _, check := range []func() error{c.Config.Validate, c.checkContent, func() error { return c.Hello.Validate(c.Leaf) }} {
		if err := check(); err != nil {
			return err
		}
	}
	if c.MaxLine < 16 || c.MaxLine > 64<<10 {
		return gateway.BadKey("max_line", "%v is out of range: 16B to 64KiB", c.MaxLine)
	}
	if c.MaxInflight < 1 || c.MaxInflight > 1024 {
		return gateway.BadKey("max_inflight", "%d is out of range: 1 to 1024", c.MaxInflight)
	}
	return nil
}

var formats = []string{FormatJSON, FormatSenML, FormatNMEA, FormatText}

// sentenceType matches a type of sentence; those of makers are longer.
var sentenceType = regexp.MustCompile(`^[A-Z0-9]{3,8}$`)

func (c *Config) checkContent() error {
	switch {
	case !slices.Contains(formats, c.Format):
		return gateway.BadKey("format", "%q is unknown: write one of %q", c.Format, formats)
	case c.Format != FormatJSON && c.LeafField != "":
		return gateway.BadKey("leaf_field", "only JSON objects have fields: write leaf = \"…\" instead, or format = %q", FormatJSON)
	case c.MaxTimeOff.D() > 3650*24*time.Hour:
		return gateway.BadKey("max_time_off", "%v is out of range: at most 3650d, or 0s for no limit", c.MaxTimeOff)
	case len(c.Sentences) == 0 || slices.ContainsFunc(c.Sentences, func(s string) bool { return !sentenceType.MatchString(s) }):
		return gateway.BadKey("sentences", "write types of sentence without their talker, like [\"RMC\", \"GGA\"]")
	}
	switch {
	case c.Leaf == "" && c.LeafField == "" && c.Format != FormatSenML:
		return gateway.BadKey("leaf", "is missing: write the id of the leaf on this port, or name the JSON field that holds it in leaf_field")
	case c.Leaf != "" && c.LeafField != "":
		return gateway.BadKey("leaf_field", "does not go together with leaf: write only one of them")
	case c.Leaf != "" && !port.ValidLeaf(c.Leaf):
		return gateway.BadKey("leaf", "%q is not a leaf id: 1 to %d letters, digits and - : . + %% _ # * ? ! ( ) , = @ $ ' ;", c.Leaf, port.MaxLeafID)
	case !port.ValidChannel(c.Channel):
		return gateway.BadKey("channel", "%q cannot be a channel: at most %d printable characters without / + #", c.Channel, port.MaxChannel)
	}
	if !slices.Contains(gateway.LaneNames[:], c.Lane) {
		return gateway.BadKey("lane", "%q is unknown: write one of %q", c.Lane, gateway.LaneNames)
	}
	if c.Ack != AckNone && c.Ack != AckLine {
		return gateway.BadKey("ack", "%q is unknown: write %q or %q", c.Ack, AckNone, AckLine)
	}
	return nil
}

// lane is the lane named in the configuration.
func (c *Config) lane() gateway.Lane {
	return gateway.Lane(slices.Index(gateway.LaneNames[:], c.Lane))
}
