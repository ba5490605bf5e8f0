package main

// What a gateway can be made of. Whatever a configuration can choose from stands
// in this file.

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/strict"
	"github.com/fieldgate/fieldgate/drivers/ble"
	"github.com/fieldgate/fieldgate/drivers/serial"
	"github.com/fieldgate/fieldgate/drivers/serial/hello"
	"github.com/fieldgate/fieldgate/drivers/serial/modbus/master"
	"github.com/fieldgate/fieldgate/drivers/serial/mqttsn"
	"github.com/fieldgate/fieldgate/drivers/serial/port"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/broker/mapping"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/uplink"
	"github.com/fieldgate/fieldgate/gateway/uplink/amqp"
	"github.com/fieldgate/fieldgate/gateway/uplink/mqtt"
	"github.com/fieldgate/fieldgate/modules/deadband"
	"github.com/fieldgate/fieldgate/modules/filter"
)

// moduleKinds are the processing steps, by the name that a [[module]] gives.
var moduleKinds = map[string]moduleKind{
	"deadband": kindOf(deadband.DefaultConfig(), deadband.New),
	"filter":   kindOf(filter.DefaultConfig(), filter.New),
}

// moduleKind is one of them.
type moduleKind struct {
	config any // with defaults
	make   func(strict.Table) gateway.Module
}

func kindOf[C any, M gateway.Module](cfg C, make func(C) (M, error)) moduleKind {
	return moduleKind{cfg, func(t strict.Table) gateway.Module { return makeModule(t, cfg, make) }}
}

// moduleName is what every [[module]] table has beside the module's own keys.
type moduleName struct {
	// Name is which module it is. Messages go through the modules in the order of
	// the file.
	Name string `toml:"name"`
}

// makeModule reads the module's own keys and makes it; nil if there are mistakes.
func makeModule[C any, M gateway.Module](t strict.Table, cfg C, make func(C) (M, error)) gateway.Module {
	t.Decode(&cfg, "name")
	m, err := make(cfg)
	if err != nil {
		t.Check(err)
		return nil
	}
	return m
}

// addModules makes the modules of [[module]] tables.
func (l *loader) addModules(list []strict.Table) {
	for _, t := range list {
		kind, ok := moduleKinds[t.Text("name")]
		if !ok {
			known := slices.Sorted(maps.Keys(moduleKinds))
			t.Report("name", "%s", unknownWord("module", t.Text("name"), known))
			continue
		}
		if m := kind.make(t); m != nil {
			l.modules = append(l.modules, m)
		}
	}
}

// unknownWord says that a word is none of those known, and which was meant.
func unknownWord(what, word string, known []string) string {
	if word == "" {
		return fmt.Sprintf("the name of the %s is missing: write one of %s", what, strings.Join(known, ", "))
	}
	if near := strict.Nearest(word, known); near != "" {
		return fmt.Sprintf("there is no %s %q: did you mean `%q`?", what, word, near)
	}
	return fmt.Sprintf("there is no %s %q: write one of %s", what, word, strings.Join(known, ", "))
}

// portConfig is a [[serial]] table, whatever is spoken there. It is a pointer.
type portConfig interface {
	Line() *port.Config
	// Leaves are the leaf ids that it names, by the keys at which they stand.
	Leaves() map[string]string
	Validate() error
}

// defaultFormat is spoken on a port whose table says nothing.
const defaultFormat = serial.FormatJSON

// portFormats are what can be spoken on a serial port, by the key format.
var portFormats = map[string]struct {
	down   bool              // the leaves are reached, too: each on one port
	config func() portConfig // with defaults
	driver func(portConfig, gateway.Clock, *slog.Logger) (gateway.Driver, error)
}{
	serial.FormatJSON:  {false, lineConfig, lineDriver},
	serial.FormatSenML: {false, lineConfig, lineDriver},
	serial.FormatNMEA:  {false, lineConfig, lineDriver},
	serial.FormatText:  {false, lineConfig, lineDriver},
	master.Format: {
		true,
		func() portConfig { c := master.DefaultConfig(); return &c },
		func(c portConfig, clock gateway.Clock, log *slog.Logger) (gateway.Driver, error) {
			return master.New(*c.(*master.Config), clock, log)
		},
	},
	mqttsn.Format: {
		true,
		func() portConfig { c := mqttsn.DefaultPortConfig(); return &c },
		func(c portConfig, clock gateway.Clock, log *slog.Logger) (gateway.Driver, error) {
			return mqttsn.NewDriver(*c.(*mqttsn.PortConfig), clock, log)
		},
	},
}

func lineConfig() portConfig { c := serial.DefaultConfig(); return &c }

func lineDriver(c portConfig, clock gateway.Clock, log *slog.Logger) (gateway.Driver, error) {
	return serial.New(*c.(*serial.Config), clock, log)
}

// configuredPort is a port and what is spoken there.
type configuredPort struct {
	format string
	portConfig
}

// addPorts reads [[serial]] tables. Leaves are known by now: messages of a leaf
// that is not would all be refused.
func (l *loader) addPorts(list []strict.Table) {
	for _, t := range list {
		word := cmp.Or(t.Text("format"), defaultFormat)
		format, known := portFormats[word]
		if !known {
			t.Report("format", "%s", unknownWord("format", word, slices.Sorted(maps.Keys(portFormats))))
			continue
		}
		c := format.config()
		t.Decode(c)
		t.Check(c.Validate())
		l.addHello(t, c)
		name := c.Line().Port
		if other, taken := l.portAt[name]; taken {
			t.Report("port", "%s is used already, at %s", name, other.Where("port").Place())
		}
		l.portAt[name] = t
		for key, leaf := range c.Leaves() {
			if _, known := l.leafAt[leaf]; leaf != "" && !known {
				t.Report(key, "%s", unknownWord("leaf", leaf, slices.Sorted(maps.Keys(l.leafAt))))
			}
			if !format.down {
				continue
			}
			if other, taken := l.reachedAt[leaf]; taken && other != name {
				t.Report(key, "%q is reached at %s already: commands need one way", leaf, other)
			}
			l.reachedAt[leaf] = name
		}
		l.ports = append(l.ports, configuredPort{word, c})
	}
}

// helloConfig is what is spoken on a port whose leaf can prove that it is there.
type helloConfig interface{ Secret() *hello.Config }

// addHello reads the key with which the leaf on a port answers HELLO.
func (l *loader) addHello(t strict.Table, c portConfig) {
	on, can := c.(helloConfig)
	if !can || on.Secret().KeyFile == "" {
		return
	}
	text := l.secret(t, "key_file", on.Secret().KeyFile)
	if text == "" {
		return
	}
	var err error
	if on.Secret().Key, err = hello.ParseKey(text); err != nil {
		t.Report("key_file", "%s: %v", t.Resolve(on.Secret().KeyFile), err)
	}
}

// addRules reads [[map]] tables. Leaves are known by now: a rule that names one
// that is not would do nothing.
func (l *loader) addRules(list []strict.Table) {
	for _, t := range list {
		rule := mapping.DefaultRule()
		t.Decode(&rule)
		t.Check(rule.Validate())
		for key, leaf := range map[string]string{"leaf": rule.Leaf, "login": rule.Login} {
			if _, known := l.leafAt[leaf]; leaf != "" && !known {
				t.Report(key, "%s", unknownWord("leaf", leaf, slices.Sorted(maps.Keys(l.leafAt))))
			}
		}
		l.rules = append(l.rules, rule)
	}
}

// beginBLE looks at the table [ble] itself. Where it is missing there is Bluetooth only
// if there are leaves over it.
func (l *loader) beginBLE(t strict.Table) {
	c := l.BLE.Config
	t.Check(c.Validate())
	if !t.IsZero() {
		l.tables.BLE.Config, l.ble = c, &c
	}
}

// addBLE reads [[ble.advert]] and [[ble.device]] tables. Leaves are known by now.
func (l *loader) addBLE(lists bleLists) {
	if l.ble == nil && len(lists.Adverts)+len(lists.Devices) > 0 {
		c := l.BLE.Config
		l.ble = &c
	}
	for _, t := range lists.Adverts {
		c := ble.DefaultAdvert()
		t.Decode(&c)
		t.Check(c.Validate())
		l.checkBLE(t, "advert", c.Address, c.Leaf)
		if c.KeyFile != "" {
			var err error
			if c.Key, err = ble.ReadKey(t.Resolve(c.KeyFile)); err != nil {
				t.Report("key_file", "%v", err)
			}
			l.secrets = append(l.secrets, t.Resolve(c.KeyFile))
			l.warnIfOpen(t.Where("key_file"), t.Resolve(c.KeyFile))
		}
		l.ble.Adverts = append(l.ble.Adverts, c)
	}
	for _, t := range lists.Devices {
		word := cmp.Or(t.Text("format"), ble.FormatGATT)
		if _, known := deviceFormats[word]; !known {
			t.Report("format", "%s", unknownWord("format", word, slices.Sorted(maps.Keys(deviceFormats))))
			continue
		}
		c := deviceFormats[word]()
		t.Decode(c)
		t.Check(c.Validate())
		address, leaf := c.Place()
		l.checkBLE(t, "device", address, leaf)
		if other, taken := l.deviceAt[leaf]; taken {
			t.Report("leaf", "%q is another device already, at %s", leaf, other)
		}
		l.deviceAt[leaf] = address
		switch c := c.(type) {
		case *ble.DeviceConfig:
			l.ble.Devices = append(l.ble.Devices, *c)
		case *bleNode:
			if other, taken := l.reachedAt[leaf]; taken {
				t.Report("leaf", "%q is reached at %s already: commands need one way", leaf, other)
			}
			l.reachedAt[leaf] = address
			l.nodes = append(l.nodes, *c)
		}
	}
}

// deviceConfig is a [[ble.device]] table, whatever is spoken with the device. It is a
// pointer.
type deviceConfig interface {
	Place() (address, leaf string)
	Validate() error
}

// deviceFormats are what can be spoken with a device over BLE, by the key format.
var deviceFormats = map[string]func() deviceConfig{
	ble.FormatGATT: func() deviceConfig { c := ble.DefaultDevice(); return &c },
	mqttsn.Format: func() deviceConfig {
		c := bleNode{ble.DefaultNode(mqttsn.Format), mqttsn.DefaultConfig()}
		c.Link.Retry = nodeRetry
		return &c
	},
}

// nodeRetry leaves time for a long message in short packets.
const nodeRetry = gateway.Duration(5 * time.Second)

// bleNode is a [[ble.device]] table of a device that speaks MQTT-SN.
type bleNode struct {
	ble.NodeConfig `toml:",inline"`
	Link           mqttsn.Config `toml:",inline"`
}

// Validate checks values and ranges. Errors are of type *gateway.KeyError.
func (c *bleNode) Validate() error {
	if err := c.NodeConfig.Validate(); err != nil {
		return err
	}
	if err := mqttsn.CheckLeaf("leaf", c.Leaf); err != nil {
		return err
	}
	return c.Link.Validate()
}

// checkBLE looks whether the leaf is known and the address not used yet. One address
// may be an advertiser and a device.
func (l *loader) checkBLE(t strict.Table, list, address, leaf string) {
	key := list + " " + strings.ToUpper(address)
	if other, taken := l.bleAt[key]; taken {
		t.Report("address", "%s is used already, at %s", address, other.Where("address").Place())
	}
	l.bleAt[key] = t
	if _, known := l.leafAt[leaf]; leaf != "" && !known {
		t.Report("leaf", "%s", unknownWord("leaf", leaf, slices.Sorted(maps.Keys(l.leafAt))))
	}
}

// newTransport makes the way to the hub: AMQP with an identity for each leaf, or
// MQTT with the gateway's own.
func newTransport(cfg *config, proofs *identity.Proofs, keys *identity.Keyring, clock gateway.Clock, log *slog.Logger) (uplink.Transport, error) {
	if cfg.Hub.isBroker() {
		return mqtt.NewBroker(cfg.Hub.Config.Config, cfg.Hub.Broker, cfg.Hub.clientID(), clock, log)
	}
	if cfg.Hub.overMQTT() {
		return mqtt.New(cfg.Hub.Config.Config, cfg.Hub.Own.DeviceID, keys, clock, log)
	}
	return amqp.New(cfg.Hub.Config, proofs, clock, log)
}
