package ble

import (
	"encoding/hex"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/fieldgate/fieldgate/drivers/ble/advert"
	"github.com/fieldgate/fieldgate/drivers/ble/bluez"
	"github.com/fieldgate/fieldgate/drivers/ble/gatt"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/seal"
)

// Ways to scan.
const (
	ScanPassive = "passive" // listen only; where that cannot be had, active
	ScanActive  = "active"  // ask each advertiser for its scan response, too
)

// Config is the table [ble]: the adapter and what is shared on it.
type Config struct {
	Adapter     string           `toml:"adapter"`     // address or name of the adapter, "" for the first
	Scan        string           `toml:"scan"`        // ScanPassive or ScanActive
	Connections int              `toml:"connections"` // how many devices may be connected at once, 1 to 32
	Turn        gateway.Duration `toml:"turn"`        // how long a device stays connected when others wait, 1s to 1h
	MaxWaiting  int              `toml:"max_waiting"` // messages kept while the gateway takes none, 1 to 65536; then the oldest are dropped
	Heartbeat   gateway.Duration `toml:"heartbeat"`   // silence of all advertisers after which the adapter is recovered, 10s to 24h; 0 never

	Adverts []AdvertConfig `toml:"-"` // the tables [[ble.advert]]
	Devices []DeviceConfig `toml:"-"` // the tables [[ble.device]] with FormatGATT
	Nodes   []NodeConfig   `toml:"-"` // the tables [[ble.device]] with another format
}

// DefaultConfig returns the shipped defaults. Five connections is what the controllers
// of common boards are good for beside a scan.
func DefaultConfig() Config {
	return Config{
		Scan: ScanPassive, Connections: 5, Turn: gateway.Duration(30e9), MaxWaiting: 1024, Heartbeat: gateway.Duration(300e9),
	}
}

// Validate checks the table itself. Errors are of type *gateway.KeyError.
func (c *Config) Validate() error {
	switch {
	case c.Scan != ScanPassive && c.Scan != ScanActive:
		return gateway.BadKey("scan", "%q is unknown: write %q or %q", c.Scan, ScanPassive, ScanActive)
	case c.Connections < 1 || c.Connections > 32:
		return gateway.BadKey("connections", "%d is out of range: 1 to 32", c.Connections)
	case c.Turn < 1e9 || c.Turn > 3600e9:
		return gateway.BadKey("turn", "%v is out of range: 1s to 1h", c.Turn)
	case c.MaxWaiting < 1 || c.MaxWaiting > 65536:
		return gateway.BadKey("max_waiting", "%d is out of range: 1 to 65536", c.MaxWaiting)
	case c.Heartbeat != 0 && (c.Heartbeat < 10e9 || c.Heartbeat > 86400e9):
		return gateway.BadKey("heartbeat", "%v is out of range: 10s to 24h, or 0s for never", c.Heartbeat)
	}
	return nil
}

// Formats of advertisements.
const (
	formatAuto      = "auto"
	formatBTHome    = "bthome"
	formatRuuvi     = "ruuvi"
	formatMiBeacon  = "mibeacon"
	formatATC       = "atc"
	formatIBeacon   = "ibeacon"
	formatEddystone = "eddystone"
)

var formats = []string{formatAuto, formatBTHome, formatRuuvi, formatMiBeacon, formatATC, formatIBeacon, formatEddystone}

// What is reported of an advertiser.
const (
	ReportAll    = "all"    // every new reading, at most one per min_interval
	ReportChange = "change" // when a value has changed by more than its deadband
	ReportPeriod = "period" // the newest reading, once per period
)

// AdvertConfig is a table [[ble.advert]]: an advertiser that is a leaf.
type AdvertConfig struct {
	Address string `toml:"address"`  // of the sensor, AA:BB:CC:DD:EE:FF
	Leaf    string `toml:"leaf"`     // id of the leaf
	KeyFile string `toml:"key_file"` // file with the key of an encrypting sensor: 32 hexadecimal digits
	Format  string `toml:"format"`   // "auto" reads all of them
	Channel string `toml:"channel"`  // of its messages, may be empty
	Lane    string `toml:"lane"`     // "telemetry" or "alarm"

	MinInterval gateway.Duration   `toml:"min_interval"` // least time between messages; events (buttons) do not wait
	Report      string             `toml:"report"`       // ReportAll readings, ReportChange when one differs by more than its deadband, or ReportPeriod for the newest, once a period
	Period      gateway.Duration   `toml:"period"`       // with "change": at least this often, 0 never
	Deadband    map[string]float64 `toml:"deadband"`     // with "change": least change that is reported, by name of the reading

	Raw          bool `toml:"raw"`           // what no decoder reads is passed on as hexadecimal
	Units        bool `toml:"units"`         // messages say the units of their readings
	CounterReset bool `toml:"counter_reset"` // a counter that begins anew below 100 is believed: the battery was changed

	Key []byte `toml:"-"` // read from KeyFile, 16 octets or none
}

// DefaultAdvert returns the shipped defaults. Address and Leaf have none.
func DefaultAdvert() AdvertConfig {
	return AdvertConfig{Format: formatAuto, Lane: gateway.LaneTelemetry.String(), MinInterval: 10e9, Report: ReportAll, Units: true}
}

// Validate checks values and ranges. Errors are of type *gateway.KeyError.
func (c *AdvertConfig) Validate() error {
	switch {
	case c.Address == "" || !validAddress(c.Address):
		return badAddress(c.Address)
	case c.Leaf == "":
		return gateway.BadKey("leaf", "is missing: write the id of the leaf that this advertiser is")
	case !slices.Contains(formats, c.Format):
		return gateway.BadKey("format", "%q is unknown: write one of %q", c.Format, formats)
	case !slices.Contains(gateway.LaneNames[:], c.Lane):
		return gateway.BadKey("lane", "%q is unknown: write one of %q", c.Lane, gateway.LaneNames)
	case c.Report != ReportAll && c.Report != ReportChange && c.Report != ReportPeriod:
		return gateway.BadKey("report", "%q is unknown: write %q, %q or %q", c.Report, ReportAll, ReportChange, ReportPeriod)
	case c.Report == ReportPeriod && c.Period < 1e9:
		return gateway.BadKey("period", "is missing: report = %q needs one of 1s or more", ReportPeriod)
	case c.Report == ReportAll && c.Period != 0:
		return gateway.BadKey("period", "does not go together with report = %q: write %q or %q", ReportAll, ReportChange, ReportPeriod)
	case len(c.Deadband) > 0 && c.Report != ReportChange:
		return gateway.BadKey("deadband", "needs report = %q", ReportChange)
	case strings.ContainsAny(c.Channel, "/+#"):
		return gateway.BadKey("channel", "%q cannot be a channel: write it without / + #", c.Channel)
	}
	for name, by := range c.Deadband {
		if by < 0 {
			return gateway.BadKey("deadband."+name, "%v is negative", by)
		}
	}
	return nil
}

// ReadKey reads the key of an advertiser from a file.
func ReadKey(file string) ([]byte, error) {
	text, err := seal.ReadFile(file)
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != 16 {
		return nil, errors.New(file + " holds no key: 32 hexadecimal digits and nothing else")
	}
	return key, nil
}

var addressForm = regexp.MustCompile(`^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$`)

func validAddress(s string) bool { return addressForm.MatchString(s) }

func badAddress(s string) error {
	if s == "" {
		return gateway.BadKey("address", "is missing: write the Bluetooth address, like \"A4:C1:38:12:34:56\"")
	}
	return gateway.BadKey("address", "%q is no Bluetooth address: write it like \"A4:C1:38:12:34:56\"", s)
}

// parseAddress reads an address that is valid.
func parseAddress(s string) (a advert.Address) {
	b, _ := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	copy(a[:], b)
	return a
}

// How a device must have been paired.
const (
	PairingNone      = "none"       // never: whoever answers at the address is the leaf
	PairingJustWorks = "just-works" // by itself at the first connection, proving nothing
	PairingPasskey   = "passkey"    // by an operator, with a passkey or a number compared
)

// FormatGATT is the format of a device that has its values in characteristics.
const FormatGATT = "gatt"

// Peer is which device a table [[ble.device]] is about: a peripheral that is connected.
type Peer struct {
	Address string `toml:"address"` // of a paired one its identity address
	Leaf    string `toml:"leaf"`    // id of the leaf
	Pairing string `toml:"pairing"` // PairingPasskey, PairingJustWorks or PairingNone; a device that is not paired so is not connected
}

// DeviceConfig is a table [[ble.device]] of a device that has its values in
// characteristics.
type DeviceConfig struct {
	Peer `toml:",inline"`

	Format  string `toml:"format"`  // what is spoken with the device: FormatGATT is its characteristics, "mqtt-sn" that over the Nordic UART Service
	Channel string `toml:"channel"` // of its messages, may be empty
	Lane    string `toml:"lane"`    // "telemetry" or "alarm"
	Units   bool   `toml:"units"`   // messages say the units of their readings

	Characteristics []CharacteristicConfig `toml:"characteristic"` // what is done with each value of the device
}

// CharacteristicConfig is a table [[ble.device.characteristic]]: what is done with one
// value of the device.
type CharacteristicConfig struct {
	UUID    string `toml:"uuid"`    // "2A6E" or in full
	Service string `toml:"service"` // where several have one of that UUID
	Name    string `toml:"name"`    // of the field in messages; default: as the SIG calls it

	Read    string `toml:"read"`    // "once" at each connection, or every so often: "5m"
	Notify  bool   `toml:"notify"`  // a message each time the device says that it has changed
	Write   string `toml:"write"`   // hexadecimal, written at each connection, in the order of the file
	Command string `toml:"command"` // name of the cloud-to-device messages that write it
	Method  string `toml:"method"`  // name of the direct method that writes it, or reads it without a payload
	Desired string `toml:"desired"` // name of the desired property that is written to it; it is reported with the outcome

	Format string  `toml:"format"` // default: as the SIG writes it, else "bytes"
	Scale  float64 `toml:"scale"`  // by which the number on air is multiplied
	Unit   string  `toml:"unit"`   // told with each value; default: as the SIG has it
}

// DefaultDevice returns the shipped defaults. Address, Leaf and Characteristics have
// none.
func DefaultDevice() DeviceConfig {
	return DeviceConfig{Peer: defaultPeer(), Format: FormatGATT, Lane: gateway.LaneTelemetry.String(), Units: true}
}

func defaultPeer() Peer { return Peer{Pairing: PairingPasskey} }

// Place is where the leaf is found, and which it is.
func (c *Peer) Place() (address, leaf string) { return c.Address, c.Leaf }

// Validate checks values and ranges. Errors are of type *gateway.KeyError.
func (c *Peer) Validate() error {
	switch {
	case !validAddress(c.Address):
		return badAddress(c.Address)
	case c.Leaf == "":
		return gateway.BadKey("leaf", "is missing: write the id of the leaf that this device is")
	case !slices.Contains([]string{PairingNone, PairingJustWorks, PairingPasskey}, c.Pairing):
		return gateway.BadKey("pairing", "%q is unknown: write %q, %q or %q", c.Pairing, PairingPasskey, PairingJustWorks, PairingNone)
	}
	return nil
}

// NodeConfig is a table [[ble.device]] of a device that speaks a protocol of its own
// over the Nordic UART Service.
type NodeConfig struct {
	Peer `toml:",inline"`

	Format   string   `toml:"format"` // "mqtt-sn": that is spoken, over the Nordic UART Service
	Protocol Protocol `toml:"-"`      // for this device alone
}

// DefaultNode returns the shipped defaults for a protocol of that name. Address, Leaf and
// Protocol have none.
func DefaultNode(format string) NodeConfig { return NodeConfig{Peer: defaultPeer(), Format: format} }

// Validate checks values and ranges. Errors are of type *gateway.KeyError.
func (c *DeviceConfig) Validate() error {
	if err := c.Peer.Validate(); err != nil {
		return err
	}
	switch {
	case !slices.Contains(gateway.LaneNames[:], c.Lane):
		return gateway.BadKey("lane", "%q is unknown: write one of %q", c.Lane, gateway.LaneNames)
	case strings.ContainsAny(c.Channel, "/+#"):
		return gateway.BadKey("channel", "%q cannot be a channel: write it without / + #", c.Channel)
	case len(c.Characteristics) == 0:
		return gateway.BadKey("characteristic", "is missing: write a [[ble.device.characteristic]] for each value")
	}
	names := make(map[string]string)
	for i := range c.Characteristics {
		if err := c.Characteristics[i].validate("characteristic["+strconv.Itoa(i)+"].", names); err != nil {
			return err
		}
	}
	return nil
}

// maxOctets is the longest value of a characteristic (Core Specification, volume 3,
// part F, section 3.2.9).
const maxOctets = 512

// validate checks one table; names are commands, methods and fields used so far.
func (c *CharacteristicConfig) validate(at string, names map[string]string) error {
	if _, ok := fullUUID(c.UUID); !ok {
		return gateway.BadKey(at+"uuid", "%q is no UUID: write it like \"2A6E\" or \"6e400003-b5a3-f393-e0a9-e50e24dcca9e\"", c.UUID)
	}
	if _, ok := fullUUID(c.Service); !ok && c.Service != "" {
		return gateway.BadKey(at+"service", "%q is no UUID: write it like \"181A\"", c.Service)
	}
	if c.Format != "" && !slices.Contains(gatt.Formats, c.Format) {
		return gateway.BadKey(at+"format", "%q is unknown: write one of %q", c.Format, gatt.Formats)
	}
	if _, err := c.every(); err != nil {
		return gateway.BadKey(at+"read", "%q is not possible: write \"once\", or a time of 1s or more like \"5m\"", c.Read)
	}
	if b, err := hex.DecodeString(c.Write); err != nil || len(b) > maxOctets {
		return gateway.BadKey(at+"write", "%q is not hexadecimal: write it like \"0100\"", c.Write)
	}
	if c.Read == "" && !c.Notify && c.Write == "" && c.Command == "" && c.Method == "" && c.Desired == "" {
		return gateway.BadKey(at+"uuid", "nothing is done with it: write read, notify, write, command, method or desired")
	}
	for key, name := range map[string]string{"command": c.Command, "method": c.Method, "desired": c.Desired} {
		if used := names[key+" "+name]; name != "" && used != "" {
			return gateway.BadKey(at+key, "%q is used already, at %s", name, used)
		}
		names[key+" "+name] = at
	}
	if c.Read != "" || c.Notify {
		if used := names["field "+c.field()]; used != "" {
			return gateway.BadKey(at+"name", "the field %q is used already, at %s: write name = \"…\"", c.field(), used)
		}
		names["field "+c.field()] = at
	}
	return nil
}

// every is how often it is read; 0: once at each connection, or not at all.
func (c *CharacteristicConfig) every() (gateway.Duration, error) {
	if c.Read == "" || c.Read == "once" {
		return 0, nil
	}
	var d gateway.Duration
	if err := d.UnmarshalText([]byte(c.Read)); err != nil {
		return 0, err
	}
	if d < 1e9 {
		return 0, errors.New("too often")
	}
	return d, nil
}

var longUUID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// fullUUID spells a UUID in full, in lower case.
func fullUUID(s string) (string, bool) {
	s = strings.ToLower(s)
	if n, err := strconv.ParseUint(s, 16, 16); err == nil && len(s) == 4 {
		return bluez.UUID16(uint16(n)), true
	}
	return s, longUUID.MatchString(s)
}

// value says how the value is written: as the SIG does, unless the table says more.
func (c *CharacteristicConfig) value() gatt.Value {
	uuid, _ := fullUUID(c.UUID)
	_, v, _ := gatt.Known(uuid)
	if c.Format != "" && c.Format != v.Format {
		v = gatt.Value{Format: c.Format}
	}
	if c.Scale != 0 {
		v.Scale = c.Scale
	}
	if c.Unit != "" {
		v.Unit = c.Unit
	}
	return v
}

// field is the name of the value in messages.
func (c *CharacteristicConfig) field() string {
	if c.Name != "" {
		return c.Name
	}
	uuid, _ := fullUUID(c.UUID)
	if name, _, ok := gatt.Known(uuid); ok {
		return name
	}
	return strings.ToLower(c.UUID)
}
