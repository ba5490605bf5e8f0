package port

import (
	"path/filepath"
	"regexp"
	"strings"
	"time"

	bugst "go.bug.st/serial"

	"github.com/fieldgate/fieldgate/gateway"
)

// Config says which port, and how it is set up. Its keys stand in the [[serial]]
// table of whatever speaks on it.
type Config struct {
	// Port names the device by what it is:
	//
	//	/dev/serial/by-id/…     this adapter, wherever it is plugged in
	//	/dev/serial/by-path/…   this socket, whatever is plugged in
	//	/dev/ttyS1              a port of the board
	//	usb:A50285BI            the adapter with this serial number
	//	usb:A50285BI/1          its interface 1, where it has several
	//	usb-port:1-1.2          this socket, as the kernel numbers it; also with /1
	//
	// The forms usb: and usb-port: need no udev. Names that the kernel hands out
	// in the order of plugging (/dev/ttyUSB0, /dev/ttyACM0) are refused; links are
	// followed anew at each opening.
	Port     string `toml:"port"`
	Baud     int    `toml:"baud"`      // bits per second, 50 to 4000000
	DataBits int    `toml:"data_bits"` // 7 or 8
	Parity   string `toml:"parity"`    // "none", "even" or "odd"
	StopBits int    `toml:"stop_bits"` // 1 or 2

	// RS485 has the port's driver switch the direction of an RS-485 transceiver
	// with RTS (ioctl TIOCSRS485). USB adapters for RS-485 do so by themselves and
	// do not want it.
	RS485 bool `toml:"rs485"`
	// RS485Invert: RTS is low, not high, while sending.
	RS485Invert bool `toml:"rs485_invert"`
	// How long RTS stands before and after sending, 0 to 100ms, whole milliseconds.
	RS485Before gateway.Duration `toml:"rs485_before"`
	RS485After  gateway.Duration `toml:"rs485_after"`
}

// Default returns the shipped defaults: 115200 baud, 8N1. Port has none.
func Default() Config { return Config{Baud: 115200, DataBits: 8, Parity: "none", StopBits: 1} }

// Validate checks values and ranges. Errors are of type *gateway.KeyError.
func (c *Config) Validate() error {
	for _, check := range []func() error{c.checkPort, c.checkMode, c.checkRS485} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// pluggingOrder matches device names that belong to another device after the
// next plugging.
var pluggingOrder = regexp.MustCompile(`^/dev/tty(USB|ACM)[0-9]+$`)

func (c *Config) checkPort() error {
	if _, isUSB := parseUSB(c.Port); isUSB {
		return nil
	}
	switch {
	case c.Port == "":
		return gateway.BadKey("port", "is missing: write the path of the port, like \"/dev/serial/by-id/usb-…\"")
	case strings.HasPrefix(c.Port, "usb"):
		return gateway.BadKey("port", "%q names no USB port: write \"usb:\" and the adapter's serial number, or \"usb-port:1-1.2\"", c.Port)
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

func (c *Config) checkRS485() error {
	for _, k := range []struct {
		key string
		set bool
		d   time.Duration
	}{
		{"rs485_invert", c.RS485Invert, 0},
		{"rs485_before", c.RS485Before != 0, c.RS485Before.D()},
		{"rs485_after", c.RS485After != 0, c.RS485After.D()},
	} {
		switch {
		case k.set && !c.RS485:
			return gateway.BadKey(k.key, "is of use only with rs485 = true")
		case k.d > 100*time.Millisecond || k.d%time.Millisecond != 0:
			return gateway.BadKey(k.key, "%v is out of range: whole milliseconds up to 100ms", k.d)
		}
	}
	return nil
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

// Time is how long so many characters take on the line, with start, parity and
// stop bits.
func (c *Config) Time(characters float64) time.Duration {
	bits := 1 + c.DataBits + c.StopBits
	if c.Parity != "none" {
		bits++
	}
	return time.Duration(characters * float64(bits) / float64(c.Baud) * float64(time.Second))
}
