package master

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/modbus"
	"github.com/fieldgate/fieldgate/drivers/serial/port"
	"github.com/fieldgate/fieldgate/gateway"
)

// Format is what the key format of a [[serial]] table says for this driver.
const Format = "modbus"

// Config is one bus: a [[serial]] table with format = "modbus". Of what is 0 or
// "" the default is taken.
type Config struct {
	port.Config `toml:",inline"` // which port, and how it is set up

	Format string `toml:"format"` // Format
	// TurnAround is how long everybody on the bus gets to do what was written to
	// all: 1ms to 1s.
	TurnAround gateway.Duration `toml:"turn_around"`
	// Echo says that the adapter hears what it sends itself.
	Echo bool `toml:"echo"`
	// MaxInflight is how many messages may be with the gateway without being in
	// custody, 1 to 1024. At the bound no new poll round begins.
	MaxInflight int           `toml:"max_inflight"`
	Slaves      []SlaveConfig `toml:"slave"` // the devices on the bus
}

// SlaveConfig is one device on the bus: a table [[serial.slave]].
type SlaveConfig struct {
	// Address is that of the slave, 1 to 247. 0 is all of them at once: its
	// registers can only be written, and nobody answers.
	Address int    `toml:"address"`
	Leaf    string `toml:"leaf"` // the slave's id at the hub
	// Timeout is how long the slave may take until the last byte of its answer,
	// beside the time on the line: 10ms to 10s; 500ms.
	Timeout gateway.Duration `toml:"timeout"`
	Channel string           `toml:"channel"` // of its messages, may be empty
	Lane    string           `toml:"lane"`    // "telemetry" or "alarm"
	// MaxGap is how many registers that nobody asked for are read along where that
	// saves a request: 0 to 100.
	MaxGap    int              `toml:"max_gap"`
	Registers []RegisterConfig `toml:"register"` // its values
}

// The tables of a slave.
const (
	tableCoil     = "coil"     // one bit, can be written
	tableDiscrete = "discrete" // one bit
	tableInput    = "input"    // 16 bits
	tableHolding  = "holding"  // 16 bits, can be written
)

// When a register is reported.
const (
	reportPeriod = "period" // whenever it is polled
	reportChange = "change" // when it has changed, or max_age is over
	reportNever  = "never"  // it is not polled: only the method "read" reads it
)

// RegisterConfig is one value: a table [[serial.slave.register]].
type RegisterConfig struct {
	Name string `toml:"name"` // its key in messages
	// Table is "coil", "discrete", "input" or "holding".
	Table string `toml:"table"`
	// Address as on the wire, from 0: register 40108 of a manual is holding 107.
	Address int `toml:"address"`
	// Type is how it is read: int16, uint16, int32, uint32, int64, uint64, float32, float64, bool,
	// string or bits; bool in coils and discretes, else uint16.
	Type modbus.Type `toml:"type"`
	// Count is the length of a string in registers, 1 to 120.
	Count int `toml:"count"`
	// Order is that of the bytes, as manuals write it: "ABCD", "CDAB" (low word
	// first), "BADC" (bytes swapped) or "DCBA".
	Order modbus.Order `toml:"order"`
	// A number is Scale times what is in the register, plus Offset; 1 and 0.
	Scale  float64 `toml:"scale"`
	Offset float64 `toml:"offset"`
	Unit   string  `toml:"unit"` // told with each value, may be empty
	// Poll is how often it is read, 10ms to 1d; 10s.
	Poll gateway.Duration `toml:"poll"`
	// Report is "period", "change" or "never".
	Report string `toml:"report"`
	// Deadband: with report = "change", a number that has moved by no more is the
	// same.
	Deadband float64 `toml:"deadband"`
	// MaxAge: with report = "change", it is reported at least so often; 0: only
	// when it changes.
	MaxAge gateway.Duration `toml:"max_age"`
	// Writable lets commands and the method "write" write it.
	Writable bool `toml:"writable"`
}

// DefaultConfig returns the shipped defaults. The line is that of the
// specification (MODBUS over Serial Line V1.02, section 2.5.1).
func DefaultConfig() Config {
	line := port.Default()
	line.Baud, line.Parity = 19200, "even"
	return Config{Config: line, Format: Format, TurnAround: gateway.Duration(100 * time.Millisecond), MaxInflight: 64}
}

// Line is the port.
func (c *Config) Line() *port.Config { return &c.Config }

// Leaves are the leaf ids that the configuration names, by their keys.
func (c *Config) Leaves() map[string]string {
	all := make(map[string]string)
	for i, s := range c.Slaves {
		all[fmt.Sprintf("slave[%d].leaf", i)] = s.Leaf
	}
	return all
}

// Validate fills in defaults and checks values and ranges. Errors are of type
// *gateway.KeyError.
func (c *Config) Validate() error {
	if err := c.Config.Validate(); err != nil {
		return err
	}
	switch {
	case c.DataBits != 8:
		return gateway.BadKey("data_bits", "Modbus RTU needs 8")
	case c.TurnAround.D() < time.Millisecond || c.TurnAround.D() > time.Second:
		return gateway.BadKey("turn_around", "%v is out of range: 1ms to 1s", c.TurnAround)
	case c.MaxInflight < 1 || c.MaxInflight > 1024:
		return gateway.BadKey("max_inflight", "%d is out of range: 1 to 1024", c.MaxInflight)
	case len(c.Slaves) == 0:
		return gateway.BadKey("slave", "there is none: write a [[serial.slave]] for each device on the bus")
	}
	addresses, leaves := make(map[int]bool), make(map[string]bool)
	for i := range c.Slaves {
		s := &c.Slaves[i]
		key := func(name string) string { return fmt.Sprintf("slave[%d].%s", i, name) }
		if err := s.validate(key); err != nil {
			return err
		}
		if addresses[s.Address] {
			return gateway.BadKey(key("address"), "there is a slave %d already", s.Address)
		}
		if leaves[s.Leaf] {
			return gateway.BadKey(key("leaf"), "there is a slave with this leaf already")
		}
		addresses[s.Address], leaves[s.Leaf] = true, true
	}
	return nil
}

func (s *SlaveConfig) validate(key func(string) string) error {
	if s.Timeout == 0 {
		s.Timeout = gateway.Duration(500 * time.Millisecond)
	}
	if s.Lane == "" {
		s.Lane = gateway.LaneTelemetry.String()
	}
	switch {
	case s.Address < 0 || s.Address > modbus.MaxUnit:
		return gateway.BadKey(key("address"), "%d is out of range: 1 to %d, or 0 for all slaves at once", s.Address, modbus.MaxUnit)
	case s.Leaf == "":
		return gateway.BadKey(key("leaf"), "is missing: write the id of the leaf that the slave is")
	case !port.ValidLeaf(s.Leaf):
		return gateway.BadKey(key("leaf"), "%q is not a leaf id", s.Leaf)
	case s.Timeout.D() < 10*time.Millisecond || s.Timeout.D() > 10*time.Second:
		return gateway.BadKey(key("timeout"), "%v is out of range: 10ms to 10s", s.Timeout)
	case !port.ValidChannel(s.Channel):
		return gateway.BadKey(key("channel"), "%q cannot be a channel: at most %d printable characters without / + #", s.Channel, port.MaxChannel)
	case !slices.Contains(gateway.LaneNames[:], s.Lane):
		return gateway.BadKey(key("lane"), "%q is unknown: write one of %q", s.Lane, gateway.LaneNames)
	case s.MaxGap < 0 || s.MaxGap > 100:
		return gateway.BadKey(key("max_gap"), "%d is out of range: 0 to 100", s.MaxGap)
	case len(s.Registers) == 0:
		return gateway.BadKey(key("register"), "there is none: write a [[serial.slave.register]] for each value")
	}
	names := make(map[string]bool)
	for i := range s.Registers {
		r := &s.Registers[i]
		inner := func(name string) string { return key(fmt.Sprintf("register[%d].%s", i, name)) }
		if s.Address == 0 {
			if !r.Writable || r.Report != "" && r.Report != reportNever {
				return gateway.BadKey(inner("name"), "all slaves at once can only be written to: writable = true, and no report")
			}
			r.Report = reportNever
		}
		if err := r.validate(inner); err != nil {
			return err
		}
		if names[r.Name] {
			return gateway.BadKey(inner("name"), "there is a register %q already", r.Name)
		}
		names[r.Name] = true
	}
	return nil
}

var types = []modbus.Type{
	modbus.Int16, modbus.Uint16, modbus.Int32, modbus.Uint32, modbus.Int64, modbus.Uint64, modbus.Float32, modbus.Float64,
	modbus.Bool, modbus.Text, modbus.Bits,
}

func (r *RegisterConfig) validate(key func(string) string) error {
	r.fill()
	if err := r.checkPlace(key); err != nil {
		return err
	}
	number := r.number()
	switch {
	case !number && (r.Scale != 1 || r.Offset != 0):
		return gateway.BadKey(key("scale"), "a %s has no scale and no offset", r.Type)
	case math.IsInf(r.Scale, 0) || math.IsInf(r.Offset, 0):
		return gateway.BadKey(key("scale"), "scale and offset must be finite")
	case !r.Order.Valid():
		return gateway.BadKey(key("order"), "%q is unknown: write \"ABCD\", \"CDAB\", \"BADC\" or \"DCBA\"", r.Order)
	case len(r.Unit) > 32 || !port.ValidText(r.Unit):
		return gateway.BadKey(key("unit"), "at most 32 printable characters")
	case r.Poll.D() < 10*time.Millisecond || r.Poll.D() > 24*time.Hour:
		return gateway.BadKey(key("poll"), "%v is out of range: 10ms to 1d", r.Poll)
	case !slices.Contains([]string{reportPeriod, reportChange, reportNever}, r.Report):
		return gateway.BadKey(key("report"), "%q is unknown: write \"period\", \"change\" or \"never\"", r.Report)
	case r.Report != reportChange && (r.Deadband != 0 || r.MaxAge != 0):
		return gateway.BadKey(key("report"), "deadband and max_age go with report = \"change\"")
	case r.Deadband < 0 || math.IsInf(r.Deadband, 0) || !number && r.Deadband != 0:
		return gateway.BadKey(key("deadband"), "a deadband is a number from 0, for a number")
	case r.Writable && r.Table != tableCoil && r.Table != tableHolding:
		return gateway.BadKey(key("writable"), "a register of the table %q cannot be written", r.Table)
	}
	return nil
}

func (r *RegisterConfig) fill() {
	if r.Type == "" {
		r.Type = modbus.Uint16
		if r.bit() {
			r.Type = modbus.Bool
		}
	}
	if r.Order == "" {
		r.Order = modbus.ABCD
	}
	if r.Scale == 0 {
		r.Scale = 1
	}
	if r.Poll == 0 {
		r.Poll = gateway.Duration(10 * time.Second)
	}
	if r.Report == "" {
		r.Report = reportPeriod
	}
}

// checkPlace checks what the register is and where it lies.
func (r *RegisterConfig) checkPlace(key func(string) string) error {
	switch {
	case r.Name == "" || len(r.Name) > 64 || !port.ValidText(r.Name):
		return gateway.BadKey(key("name"), "%q cannot be a name: 1 to 64 printable characters", r.Name)
	case !slices.Contains([]string{tableCoil, tableDiscrete, tableInput, tableHolding}, r.Table):
		return gateway.BadKey(key("table"), "%q is unknown: write \"coil\", \"discrete\", \"input\" or \"holding\"", r.Table)
	case !slices.Contains(types, r.Type):
		return gateway.BadKey(key("type"), "%q is unknown: write one of %q", r.Type, types)
	case r.bit() && r.Type != modbus.Bool:
		return gateway.BadKey(key("type"), "a %s is one bit: write \"bool\", or leave it out", r.Table)
	case r.Type == modbus.Text && (r.Count < 1 || r.Count > 120):
		return gateway.BadKey(key("count"), "write how many registers the string takes, 1 to 120")
	case r.Type != modbus.Text && r.Count != 0:
		return gateway.BadKey(key("count"), "only a string needs it: a %s takes its registers by itself", r.Type)
	case r.Address < 0 || r.Address+r.size() > 1<<16:
		return gateway.BadKey(key("address"), "%d is out of range: 0 to 65535 as on the wire; a manual's 40108 is address 107 of the table holding", r.Address)
	}
	return nil
}

// bit says whether it lies in a table of bits.
func (r *RegisterConfig) bit() bool { return r.Table == tableCoil || r.Table == tableDiscrete }

// number says whether its value is one.
func (r *RegisterConfig) number() bool {
	return !slices.Contains([]modbus.Type{modbus.Bool, modbus.Bits, modbus.Text}, r.Type)
}

// size is how many registers, or bits, it takes.
func (r *RegisterConfig) size() int {
	switch {
	case r.bit():
		return 1
	case r.Type == modbus.Text:
		return r.Count
	}
	return r.Type.Registers()
}

// reader is the function that reads its table.
func (r *RegisterConfig) reader() modbus.Function {
	switch r.Table {
	case tableCoil:
		return modbus.ReadCoils
	case tableDiscrete:
		return modbus.ReadInputs
	case tableInput:
		return modbus.ReadRegisters
	}
	return modbus.ReadHolding
}

// quoted is a text as JSON.
func quoted(text string) []byte {
	b, _ := json.Marshal(text) // cannot fail for a string
	return b
}
