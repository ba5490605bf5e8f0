package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/fieldgate/fieldgate/drivers/ble"
	"github.com/fieldgate/fieldgate/drivers/serial"
	"github.com/fieldgate/fieldgate/drivers/serial/mqttsn"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/control"
)

// fleet is the drivers that are at work. It follows the configuration while they are: a
// port or a device comes or goes, and the others notice nothing. Safe for concurrent use.
type fleet struct {
	clock gateway.Clock
	log   *slog.Logger
	ways  gateway.Ways // set before Run

	following sync.Mutex // held while it follows

	mu sync.Mutex
	// guarded by mu:
	ctx      context.Context // of Run; nil: nothing runs
	crews    []*crew
	stations []station
	gone     map[string]*gateway.DriverState // what those have counted that are no more, by kind

	failed chan error // one of them has ended by itself; capacity 1
}

// crew is a driver at work.
type crew struct {
	gateway.Driver
	port string             // that it serves, "" for Bluetooth
	stop context.CancelFunc // nil: it has not begun
	over chan struct{}      // closed when it has ended
}

// station is one table of the configuration that says where leaves are found.
type station struct {
	kind    string // overSerial or overBLE
	list    string // of tables
	address string // of the port or the device: there is one station there in each list
	leaves  []string
	table   any
	bonded  bool // its keys are kept by Bluetooth
}

// Transports of stations, as the pairing window calls them.
const (
	overSerial = "serial"
	overBLE    = "ble"
)

// stationsOf lists those of a configuration, in its order.
func stationsOf(cfg *config) []station {
	var all []station
	for _, p := range cfg.ports {
		s := station{kind: overSerial, list: "serial", address: p.Line().Port, table: p}
		for _, leaf := range p.Leaves() {
			s.leaves = append(s.leaves, leaf)
		}
		slices.Sort(s.leaves)
		all = append(all, s)
	}
	if cfg.ble == nil {
		return all
	}
	for _, c := range cfg.ble.Adverts {
		all = append(all, station{overBLE, "ble.advert", strings.ToUpper(c.Address), []string{c.Leaf}, c, false})
	}
	for _, c := range cfg.ble.Devices {
		all = append(all, station{overBLE, "ble.device", strings.ToUpper(c.Address), []string{c.Leaf}, c, c.Pairing != ble.PairingNone})
	}
	for _, c := range cfg.nodes {
		all = append(all, station{overBLE, "ble.device", strings.ToUpper(c.Address), []string{c.Leaf}, c, c.Pairing != ble.PairingNone})
	}
	return all
}

// newFleet makes the drivers of a configuration.
func newFleet(cfg *config, clock gateway.Clock, log *slog.Logger) (*fleet, error) {
	f := &fleet{clock: clock, log: log, gone: make(map[string]*gateway.DriverState), failed: make(chan error, 1)}
	return f, f.follow(cfg)
}

// follow makes the drivers serve what a configuration says and nothing else; where leaves
// are named, only as far as these are concerned. What is gone is let go of when it
// returns. With an error nothing has changed.
func (f *fleet) follow(next *config, leaves ...string) error {
	f.following.Lock()
	defer f.following.Unlock()
	concerned := func(s station) bool {
		return len(leaves) == 0 || slices.ContainsFunc(s.leaves, func(leaf string) bool { return slices.Contains(leaves, leaf) })
	}
	want, have := stationsOf(next), f.all()
	missing := func(from, in []station) (list []station) {
		for _, s := range from {
			if concerned(s) && !s.among(in) {
				list = append(list, s)
			}
		}
		return list
	}
	going, coming := missing(have, want), missing(want, have)
	if len(leaves) > 0 {
		// Where another one stays, the table was changed and that is not applied yet.
		stays := slices.DeleteFunc(slices.Clone(have), func(s station) bool { return s.among(going) })
		coming = slices.DeleteFunc(coming, func(s station) bool { return slices.ContainsFunc(stays, s.is) })
	}
	fresh, err := f.hire(next, coming, len(leaves) == 0)
	if err != nil {
		return err
	}
	f.leave(going)
	if next.ble == nil && len(leaves) == 0 {
		f.dismiss("")
	}
	for _, c := range fresh {
		f.begin(c)
	}
	coming = slices.DeleteFunc(coming, func(s station) bool {
		err := f.enter(s)
		if err != nil { // the next time it is tried again
			f.log.Error("device is not served", "address", s.address, "error", err)
		}
		return err != nil
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stations = slices.DeleteFunc(f.stations, func(s station) bool { return s.among(going) })
	f.stations = append(f.stations, coming...)
	return nil
}

// sendsOnly says of leaves why nothing can be sent to them on any of the ways on which
// drivers reach them.
func (f *fleet) sendsOnly() map[string]string {
	why, hears := make(map[string]string), make(map[string]bool)
	for _, s := range f.all() {
		words := ""
		switch table := s.table.(type) {
		case configuredPort:
			if _, lines := table.portConfig.(*serial.Config); lines {
				words = "a leaf that speaks lines only sends"
			}
		case ble.AdvertConfig:
			words = "a sensor that only advertises only sends"
		}
		for _, leaf := range s.leaves {
			why[leaf], hears[leaf] = words, hears[leaf] || words == ""
		}
	}
	maps.DeleteFunc(why, func(leaf, _ string) bool { return hears[leaf] })
	return why
}

// among says whether one of them is the same in all.
func (s station) among(list []station) bool {
	return slices.ContainsFunc(list, func(o station) bool { return reflect.DeepEqual(s, o) })
}

// is says whether both are at the same place.
func (s station) is(o station) bool { return s.list == o.list && s.address == o.address }

func (f *fleet) all() []station {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.stations)
}

// of returns the stations of a leaf.
func (f *fleet) of(leaf string) []station {
	return slices.DeleteFunc(f.all(), func(s station) bool { return !slices.Contains(s.leaves, leaf) })
}

// hire makes the drivers that are missing: one for each port, one for Bluetooth.
func (f *fleet) hire(next *config, coming []station, whole bool) (fresh []*crew, err error) {
	bluetooth := f.bluetooth() == nil && next.ble != nil && whole
	for _, s := range coming {
		if s.kind == overBLE {
			bluetooth = bluetooth || f.bluetooth() == nil
			continue
		}
		p := s.table.(configuredPort)
		d, err := portFormats[p.format].driver(p.portConfig, f.clock, f.log)
		if err != nil {
			return nil, err
		}
		fresh = append(fresh, &crew{Driver: d, port: s.address, over: make(chan struct{})})
	}
	if bluetooth {
		c := *next.ble
		c.Adverts, c.Devices = nil, nil
		d, err := ble.New(c, f.clock, f.log)
		if err != nil {
			return nil, err
		}
		fresh = append(fresh, &crew{Driver: d, over: make(chan struct{})})
	}
	return fresh, nil
}

// enter has Bluetooth serve a station.
func (f *fleet) enter(s station) error {
	switch c := s.table.(type) {
	case ble.AdvertConfig:
		return f.bluetooth().AddAdvert(c)
	case ble.DeviceConfig:
		return f.bluetooth().AddDevice(c)
	case bleNode:
		n := c.NodeConfig
		n.Protocol = mqttsn.New(c.Link, []string{c.Leaf}, f.clock, f.log.With("driver", "ble", "address", c.Address))
		return f.bluetooth().AddNode(n)
	}
	return nil // a port has a driver of its own
}

// leave lets go of stations; of devices at once, each of which may take its time.
func (f *fleet) leave(going []station) {
	var devices []string
	for _, s := range going {
		switch s.list {
		case "ble.advert":
			f.bluetooth().RemoveAdvert(s.address)
		case "ble.device":
			devices = append(devices, s.address)
		default:
			f.dismiss(s.address)
		}
	}
	if len(devices) > 0 {
		f.bluetooth().RemoveDevices(devices...)
	}
}

// begin adds a driver, and has it run if the fleet does.
func (f *fleet) begin(c *crew) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crews = append(f.crews, c)
	if f.ctx != nil {
		f.runLocked(c)
	}
}

func (f *fleet) runLocked(c *crew) {
	ctx, stop := context.WithCancel(f.ctx)
	c.stop = stop
	go func() {
		defer close(c.over)
		err := c.Run(ctx, f.ways)
		switch {
		case ctx.Err() == nil && err == nil:
			err = errEnded
		case err == nil:
			return
		}
		select {
		case f.failed <- fmt.Errorf("%s: %w", c.Name(), err):
		default:
		}
	}()
}

// dismiss ends the driver of a port, "" for Bluetooth, and waits for that. What it has
// counted stays counted.
func (f *fleet) dismiss(port string) {
	f.mu.Lock()
	all := slices.Clone(f.crews)
	f.mu.Unlock()
	for _, c := range all {
		if c.port != port {
			continue
		}
		if c.stop != nil {
			c.stop()
			<-c.over
		}
		f.mu.Lock()
		f.crews = slices.DeleteFunc(f.crews, func(x *crew) bool { return x == c })
		last := c.State()
		if f.gone[last.Kind] == nil {
			f.gone[last.Kind] = &gateway.DriverState{Kind: last.Kind}
		}
		f.gone[last.Kind].Count(&last)
		f.mu.Unlock()
	}
}

// Run has all drivers run until ctx ends, or one of them cannot go on.
func (f *fleet) Run(ctx context.Context) (err error) {
	running, end := context.WithCancel(ctx)
	defer end()
	f.following.Lock() // who dismisses one has it run before or not at all
	f.mu.Lock()
	f.ctx = running
	for _, c := range f.crews {
		f.runLocked(c)
	}
	f.mu.Unlock()
	f.following.Unlock()
	select {
	case err = <-f.failed:
	case <-ctx.Done():
	}
	end()
	f.following.Lock()
	defer f.following.Unlock()
	f.mu.Lock()
	f.ctx = nil
	all := slices.Clone(f.crews)
	f.mu.Unlock()
	for _, c := range all {
		if c.stop != nil { // else it came too late
			<-c.over
		}
	}
	if err == nil {
		select {
		case err = <-f.failed:
		default:
		}
	}
	return err
}

// states are snapshots of those at work, and what those that are no more have counted.
func (f *fleet) states() (now, gone []gateway.DriverState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.crews {
		now = append(now, c.State())
	}
	for _, s := range f.gone {
		copied := gateway.DriverState{Kind: s.Kind}
		copied.Count(s)
		gone = append(gone, copied)
	}
	return now, gone
}

// answering are the leaves that answer.
func (f *fleet) answering() map[string]bool {
	up := make(map[string]bool)
	now, _ := f.states()
	for _, s := range now {
		for _, p := range s.Peers {
			up[p.Leaf] = up[p.Leaf] || p.Up
		}
	}
	return up
}

// bluetooth returns the driver, nil if there is none.
func (f *fleet) bluetooth() *ble.Driver {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.crews {
		if d, is := c.Driver.(*ble.Driver); is {
			return d
		}
	}
	return nil
}

// radio is Bluetooth as an operator reaches it, nil if there is none.
func (f *fleet) radio() control.Radio {
	if d := f.bluetooth(); d != nil {
		return radio{d}
	}
	return nil
}

// forget has Bluetooth forget the keys of devices that were stations.
func (f *fleet) forget(ctx context.Context, former []station) (err error) {
	for _, s := range former {
		if d := f.bluetooth(); d != nil && s.bonded {
			if failed := d.Forget(ctx, s.address); !errors.Is(failed, ble.ErrNoBond) {
				err = errors.Join(err, failed)
			}
		}
	}
	return err
}
