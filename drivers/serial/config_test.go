package serial

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

func testClock() gateway.Instant {
	return gateway.Instant{Wall: time.Now().UTC(), Quality: gateway.Synced, Boot: 1, Uptime: time.Hour}
}

func validConfig() Config {
	c := DefaultConfig()
	c.Port, c.Leaf = "/dev/serial/by-id/usb-FTDI_FT232R_A9", "meter-1"
	return c
}

func TestDefaultsNeedOnlyPortAndLeaf(t *testing.T) {
	c := validConfig()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	d, err := New(c, testClock, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := d.Name(), "serial:/dev/serial/by-id/usb-FTDI_FT232R_A9"; got != want {
		t.Errorf("name is %q, want %q", got, want)
	}
}

func TestBadOptions(t *testing.T) {
	for _, tt := range []struct {
		name      string
		set       func(*Config)
		key, hint string
	}{
		{"no port", func(c *Config) { c.Port = "" }, "port", "by-id"},
		{"relative port", func(c *Config) { c.Port = "ttyS0" }, "port", "full path"},
		{"USB name", func(c *Config) { c.Port = "/dev/ttyUSB0" }, "port", "/dev/serial/by-id"},
		{"ACM name in disguise", func(c *Config) { c.Port = "/dev/../dev//ttyACM12" }, "port", "/dev/serial/by-id"},
		{"baud", func(c *Config) { c.Baud = 0 }, "baud", "9600"},
		{"data bits", func(c *Config) { c.DataBits = 9 }, "data_bits", "7 or 8"},
		{"parity", func(c *Config) { c.Parity = "mark" }, "parity", `"even"`},
		{"stop bits", func(c *Config) { c.StopBits = 3 }, "stop_bits", "1 or 2"},
		{"format", func(c *Config) { c.Format = "csv" }, "format", `"json"`},
		{"no leaf", func(c *Config) { c.Leaf = "" }, "leaf", "leaf_field"},
		{"two ways to a leaf", func(c *Config) { c.LeafField = "id" }, "leaf_field", "only one"},
		{"field of a text", func(c *Config) { c.Format, c.Leaf, c.LeafField = FormatText, "", "id" }, "leaf_field", `"json"`},
		{"leaf with a space", func(c *Config) { c.Leaf = "meter 1" }, "leaf", "letters"},
		{"long leaf", func(c *Config) { c.Leaf = strings.Repeat("x", 129) }, "leaf", "128"},
		{"channel", func(c *Config) { c.Channel = "a/b" }, "channel", "without /"},
		{"lane", func(c *Config) { c.Lane = "slow" }, "lane", "telemetry"},
		{"ack", func(c *Config) { c.Ack = "yes" }, "ack", `"line"`},
		{"short line", func(c *Config) { c.MaxLine = 8 }, "max_line", "16B"},
		{"long line", func(c *Config) { c.MaxLine = 1 << 20 }, "max_line", "64KiB"},
		{"in flight", func(c *Config) { c.MaxInflight = 0 }, "max_inflight", "1 to 1024"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := validConfig()
			tt.set(&c)
			_, err := New(c, testClock, slog.New(slog.DiscardHandler))
			bad, ok := errors.AsType[*gateway.KeyError](err)
			if !ok {
				t.Fatalf("got %v, want a KeyError", err)
			}
			if bad.Key != tt.key || !strings.Contains(bad.Error(), tt.hint) {
				t.Errorf("got %v, want key %s with the hint %s", bad, tt.key, tt.hint)
			}
		})
	}
}

func TestPortsOfTheBoardAreFine(t *testing.T) {
	for _, port := range []string{"/dev/ttyS1", "/dev/ttyAMA0", "/dev/serial/by-path/platform-1", "/dev/pts/4"} {
		c := validConfig()
		c.Port = port
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", port, err)
		}
	}
}
