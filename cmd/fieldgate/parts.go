package main

// What a gateway can be made of. Whatever a configuration can choose from stands
// in this file.

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/strict"
	"github.com/fieldgate/fieldgate/drivers/serial"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/uplink"
	"github.com/fieldgate/fieldgate/gateway/uplink/amqp"
	"github.com/fieldgate/fieldgate/modules/deadband"
	"github.com/fieldgate/fieldgate/modules/filter"
)

// moduleKinds are the processing steps, by the name that a [[module]] gives.
var moduleKinds = map[string]func(strict.Table) gateway.Module{
	"deadband": func(t strict.Table) gateway.Module {
		return makeModule(t, deadband.DefaultConfig(), deadband.New)
	},
	"filter": func(t strict.Table) gateway.Module {
		return makeModule(t, filter.DefaultConfig(), filter.New)
	},
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
		if m := kind(t); m != nil {
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

// driver is a gateway.Driver that a configuration can ask for.
type driver interface {
	gateway.Driver
	State() serial.State
}

// addPorts reads [[serial]] tables. Leaves are known by now: messages of a leaf
// that is not would all be refused.
func (l *loader) addPorts(list []strict.Table) {
	first := make(map[string]strict.Table)
	for _, t := range list {
		c := serial.DefaultConfig()
		t.Decode(&c)
		t.Check(c.Validate())
		if other, taken := first[c.Port]; taken {
			t.Report("port", "%s is used already, at %s", c.Port, other.Where("port").Place())
		}
		first[c.Port] = t
		if _, known := l.leafAt[c.Leaf]; c.Leaf != "" && !known {
			t.Report("leaf", "%s", unknownWord("leaf", c.Leaf, slices.Sorted(maps.Keys(l.leafAt))))
		}
		l.ports = append(l.ports, c)
	}
}

// newDrivers makes a driver for each physical way that is configured.
func newDrivers(cfg *config, clock gateway.Clock, log *slog.Logger) ([]driver, error) {
	var all []driver
	for _, port := range cfg.ports {
		d, err := serial.New(port, clock, log)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

// newTransport makes the way to the hub. There is one so far: AMQP to an IoT Hub.
func newTransport(cfg *config, keys *identity.Keyring, clock gateway.Clock, log *slog.Logger) (uplink.Transport, error) {
	return amqp.New(cfg.Hub, keys, clock, log)
}

// driverPart is a driver as a part that runs.
func driverPart(d driver, up gateway.Handler) part {
	return part{d.Name(), func(ctx context.Context) error { return d.Run(ctx, up) }}
}
