package mqttsn

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fieldgate/fieldgate/drivers/serial/hdlc"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

// Config is how a link is spoken on.
type Config struct {
	// Predefined are topics by their ids, 1 to 65534, that leaves know without being
	// told (section 6.7); each is what stands behind leaf/{id}/, like "telemetry".
	Predefined map[string]string `toml:"predefined"`
	// Short are topics by names of two characters.
	Short map[string]string `toml:"short"`

	// Retry is how long the answer to a message may take until that is sent again
	// (T_RETRY), 100ms to 1m. The specification has 10 to 15 s in mind, for radio.
	Retry gateway.Duration `toml:"retry"`
	// Retries is how often it is sent again (N_RETRY), 1 to 10.
	Retries int `toml:"retries"`
	// MaxMessage is the longest message that leaves are sent, with its
	// encapsulation, 32B to 1KiB.
	MaxMessage gateway.Size `toml:"max_message"`
	// Wake is how long a sleeping leaf that looks for messages is kept awake for
	// those that the hub has yet to send, 0s to 10s.
	Wake gateway.Duration `toml:"wake"`
	// GatewayID is how the gateway calls itself, 1 to 255.
	GatewayID int `toml:"gateway_id"`
	// Advertise is how often the gateway says that it is there (T_ADV), 1s to 18h; 0: only when the port is
	// opened.
	Advertise gateway.Duration `toml:"advertise"`
}

// DefaultConfig returns the shipped defaults. Repetitions are for a line that is a
// wire (leaf protocols, section 6).
func DefaultConfig() Config {
	return Config{
		Retry: gateway.Duration(2 * time.Second), Retries: 4, MaxMessage: hdlc.MaxContent,
		Wake: gateway.Duration(500 * time.Millisecond), GatewayID: 1, Advertise: gateway.Duration(15 * time.Minute),
	}
}

// Validate checks values and ranges. Errors are of type *gateway.KeyError.
func (c *Config) Validate() error {
	for _, id := range slices.Sorted(maps.Keys(c.Predefined)) {
		if n, err := strconv.ParseUint(id, 10, 16); err != nil || n == 0 || n == 0xFFFF || strconv.FormatUint(n, 10) != id {
			return gateway.BadKey("predefined."+id, "%q is not a topic id: write a number, 1 to 65534", id)
		}
		if err := checkTopic("predefined."+id, c.Predefined[id]); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Short)) {
		if len(name) != 2 || strings.ContainsAny(name, "+#/") {
			return gateway.BadKey("short."+name, "%q is not a short topic: write two characters, none of them / + #", name)
		}
		if err := checkTopic("short."+name, c.Short[name]); err != nil {
			return err
		}
	}
	for _, r := range []struct {
		key       string
		value     gateway.Duration
		low, high time.Duration
	}{
		{"retry", c.Retry, 100 * time.Millisecond, time.Minute},
		{"wake", c.Wake, 0, 10 * time.Second},
	} {
		if r.value.D() < r.low || r.value.D() > r.high {
			return gateway.BadKey(r.key, "%v is out of range: %v to %v", r.value, r.low, r.high)
		}
	}
	switch {
	case c.Retries < 1 || c.Retries > 10:
		return gateway.BadKey("retries", "%d is out of range: 1 to 10", c.Retries)
	case c.MaxMessage < 32 || c.MaxMessage > hdlc.MaxContent:
		return gateway.BadKey("max_message", "%v is out of range: 32B to 1KiB", c.MaxMessage)
	case c.GatewayID < 1 || c.GatewayID > 255:
		return gateway.BadKey("gateway_id", "%d is out of range: 1 to 255", c.GatewayID)
	case c.Advertise != 0 && (c.Advertise.D() < time.Second || c.Advertise.D() > 18*time.Hour):
		return gateway.BadKey("advertise", "%v is out of range: 1s to 18h, or 0s for only at the opening of the port", c.Advertise)
	}
	return nil
}

// checkTopic checks what stands behind leaf/{id}/ in a table of topics.
func checkTopic(key, rest string) error {
	if !utf8.ValidString(rest) || strings.ContainsAny(rest, "+#\x00") || !ofPlain("x", plain.Topic("x", rest)) {
		return gateway.BadKey(key, "%q is no topic of a leaf: write what stands behind leaf/{id}/, like \"telemetry\" or \"alarm/door\"", rest)
	}
	return nil
}
