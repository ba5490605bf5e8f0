package serial

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	bugst "go.bug.st/serial"

	"github.com/fieldgate/fieldgate/gateway"
)

// Formats of a line.
const (
	FormatJSON = "json" // one JSON object per line
	FormatText = "text" // any text, passed on as it is
)

// Ways to answer a leaf.
const (
	AckNone = "none" // nothing is ever written to the port
	AckLine = "line" // every understood line is answered by a line, see the package comment
)

// Config describes one port and what speaks on it. Exactly one of Leaf and
// LeafField is set.
type Config struct {
	// Port is the path of a terminal device. Names that the kernel hands out
	// in the order of plugging (/dev/ttyUSB0, /dev/ttyACM0) are refused; links
	// are followed anew at each opening.
	Port     string `toml:"port"`
	Baud     int    `toml:"baud"`      // bits per second, 50 to 4000000
	DataBits int    `toml:"data_bits"` // 7 or 8
	Parity   string `toml:"parity"`    // "none", "even" or "odd"
	StopBits int    `toml:"stop_bits"` // 1 or 2

	Format    string `toml:"format"`     // FormatJSON or FormatText
	Leaf      string `toml:"leaf"`       // id of the one leaf on this port
	LeafField string `toml:"leaf_field"` // JSON only: top-level field that holds the leaf id
	Channel   string `toml:"channel"`    // channel of all messages of this port, may be empty
	Lane      string `toml:"lane"`       // "telemetry" or "alarm"
	Ack       string `toml:"ack"`        // AckNone or AckLine

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
		Baud: 115200, DataBits: 8, Parity: "none", StopBits: 1,
		Format: FormatJSON, Lane: gateway.LaneTelemetry.String(), Ack: AckNone,
		MaxLine: 4 << 10, MaxInflight: 64,
	}
}

// Validate checks values and ranges. Errors are of type *gateway.KeyError.
func (c *Config) Validate() error {
	for _, check := range []func() error{c.checkPort, c.checkMode, c.checkContent} {
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

// pluggingOrder matches device names that belong to another device after the
// next plugging.
var pluggingOrder = regexp.MustCompile(`^/dev/tty(USB|ACM)[0-9]+$`)

func (c *Config) checkPort() error {
	switch {
	case c.Port == "":
		return gateway.BadKey("port", "is missing: write the path of the port, like \"/dev/serial/by-id/usb-…\"")
	case !filepath.IsAbs(c.Port) || strings.ContainsRune(c.Port, 0):
		return gateway.BadKey("port", "%q is not a full path: write one like \"/dev/serial/by-id/usb-…\"", c.Port)
	case pluggingOrder.MatchString(filepath.Clean(c.Port)):
		return gateway.BadKey("port", "%q names whatever was plugged in first: write the link to it in "+
			"/dev/serial/by-id (this adapter, wherever it is plugged in) or /dev/serial/by-path (this socket)", c.Port)
	}
	return nil
}

func (c *Config) checkMode() error {
	if c.Baud < 50 || c.Baud > 4_000_000 {
		return gateway.BadKey("baud", "%d is out of range: 50 to 4000000, usual are 9600 and 115200", c.Baud)
	}
	if c.DataBits != 7 && c.DataBits != 8 {
		return gateway.BadKey("data_bits", "%d is not possible: write 7 or 8", c.DataBits)
	}
	if _, ok := parities[c.Parity]; !ok {
		return gateway.BadKey("parity", "%q is unknown: write \"none\", \"even\" or \"odd\"", c.Parity)
	}
	if c.StopBits != 1 && c.StopBits != 2 {
		return gateway.BadKey("stop_bits", "%d is not possible: write 1 or 2", c.StopBits)
	}
	return nil
}

func (c *Config) checkContent() error {
	switch c.Format {
	case FormatJSON:
	case FormatText:
		if c.LeafField != "" {
			return gateway.BadKey("leaf_field", "text lines have no fields: write leaf = \"…\" instead, or format = %q", FormatJSON)
		}
	default:
		return gateway.BadKey("format", "%q is unknown: write %q or %q", c.Format, FormatJSON, FormatText)
	}
	switch {
	case c.Leaf == "" && c.LeafField == "":
		return gateway.BadKey("leaf", "is missing: write the id of the leaf on this port, or name the JSON field that holds it in leaf_field")
	case c.Leaf != "" && c.LeafField != "":
		return gateway.BadKey("leaf_field", "does not go together with leaf: write only one of them")
	case c.Leaf != "" && !validLeaf(c.Leaf):
		return gateway.BadKey("leaf", "%q is not a leaf id: 1 to %d letters, digits and - : . + %% _ # * ? ! ( ) , = @ $ ' ;", c.Leaf, maxLeafID)
	case !validChannel(c.Channel):
		return gateway.BadKey("channel", "%q cannot be a channel: at most %d printable characters without / + #", c.Channel, maxChannel)
	}
	if !slices.Contains(gateway.LaneNames[:], c.Lane) {
		return gateway.BadKey("lane", "%q is unknown: write one of %q", c.Lane, gateway.LaneNames)
	}
	if c.Ack != AckNone && c.Ack != AckLine {
		return gateway.BadKey("ack", "%q is unknown: write %q or %q", c.Ack, AckNone, AckLine)
	}
	return nil
}

// A hub device id has up to 128 characters from letters, digits and these
// (wire contract, registry: [D: Identity registry]).
const (
	maxLeafID  = 128
	leafIDSign = "-:.+%_#*?!(),=@$';"
)

func validLeaf(id string) bool {
	if id == "" || len(id) > maxLeafID {
		return false
	}
	for _, r := range id {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && !strings.ContainsRune(leafIDSign, r) {
			return false
		}
	}
	return true
}

// maxChannel bounds the name of a channel, in bytes. The name is also one level
// of a local MQTT topic.
const maxChannel = 128

func validChannel(name string) bool {
	return len(name) <= maxChannel && utf8.ValidString(name) && !strings.ContainsAny(name, "/+#") &&
		!strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) })
}

var parities = map[string]bugst.Parity{
	"none": bugst.NoParity,
	"even": bugst.EvenParity,
	"odd":  bugst.OddParity,
}

// mode is how the port is set up.
func (c *Config) mode() *bugst.Mode {
	m := &bugst.Mode{BaudRate: c.Baud, DataBits: c.DataBits, Parity: parities[c.Parity], StopBits: bugst.OneStopBit}
	if c.StopBits == 2 {
		m.StopBits = bugst.TwoStopBits
	}
	return m
}

// lane is the lane named in the configuration.
func (c *Config) lane() gateway.Lane {
	return gateway.Lane(slices.Index(gateway.LaneNames[:], c.Lane))
}
