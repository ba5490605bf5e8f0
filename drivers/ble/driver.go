// Package ble reaches leaves over Bluetooth Low Energy, with BlueZ: sensors that only
// advertise, and peripherals that are connected. One Driver serves one adapter.
//
// A reading takes this way through the package:
//
//  1. package bluez mirrors what bluetoothd shows; radio.go keeps the scan going and
//     recovers an adapter that hears nothing any more,
//  2. adverts.go makes messages of advertisements, with the decoders of package advert;
//     peripheral.go connects devices, in turns where there are more of them than
//     connections (slots.go), and reads their values with package gatt,
//  3. package handover brings messages into custody in order.
//
// What the hub sends to a connected device comes in at reach.go; pairing.go pairs
// devices for an operator. A device that speaks a protocol of its own goes another way, in
// both directions: uart.go makes a stream of bytes of its connection, for a Protocol.
//
// Nothing in the air proves who has sent it. Messages say so: see gateway.PropertyTrust.
package ble

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/drivers/ble/bluez"
	"github.com/fieldgate/fieldgate/drivers/handover"
	"github.com/fieldgate/fieldgate/gateway"
)

// How long to wait before the daemon is looked for again after it was lost, doubled
// each time up to lifeMax.
const (
	lifeMin = 200 * time.Millisecond
	lifeMax = 5 * time.Second
)

// ErrNoDaemon says that bluetoothd does not run.
var ErrNoDaemon = errors.New("bluetoothd does not run")

// Driver serves one adapter. It implements gateway.Driver and gateway.Reach.
type Driver struct {
	cfg     Config
	clock   gateway.Clock
	log     *slog.Logger
	tally   *tally
	queue   *handover.Queue // from Run on
	adverts *adverts
	slots   *slots
	doctor  doctor
	bus     string        // address of the bus, "" for the system's
	rescan  time.Duration // see there

	changing sync.Mutex // held while devices come and go

	mu sync.Mutex
	// guarded by mu:
	peripherals []*peripheral
	running     *run     // nil: it does not run
	session     *session // nil: no adapter
	ceremony    *ceremony
	active      bool // the driver's own scan is an active one
}

// session is one life of an adapter.
type session struct {
	*Driver
	client  *bluez.Client
	adapter bluez.Adapter
	visits  sync.WaitGroup // of devices; nobody begins one when the session is not the driver's
	proven  sync.Map       // paths of devices that have proven themselves to our agent
	ctx     context.Context
}

// New makes a driver. It does not touch the adapter. Errors are of type
// *gateway.KeyError.
func New(cfg Config, clock gateway.Clock, log *slog.Logger) (*Driver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	name := "ble"
	if cfg.Adapter != "" {
		name += ":" + cfg.Adapter
	}
	log = log.With("driver", name)
	d := &Driver{cfg: cfg, clock: clock, log: log, slots: newSlots(cfg.Connections), rescan: rescan}
	d.tally = newTally(name, nil, log)
	d.adverts = newAdverts(nil, clock, d.offer, d.tally)
	d.doctor = doctor{sysfs: "/sys"}
	for _, c := range cfg.Adverts {
		if err := d.AddAdvert(c); err != nil {
			return nil, err
		}
	}
	for _, c := range cfg.Devices {
		if err := d.AddDevice(c); err != nil {
			return nil, err
		}
	}
	for _, c := range cfg.Nodes {
		if err := d.AddNode(c); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Name identifies the driver by its adapter, "ble" or "ble:hci1".
func (d *Driver) Name() string { return d.tally.snapshot().Name }

// State is a snapshot for status and metrics. Safe for concurrent use.
func (d *Driver) State() gateway.DriverState {
	d.mu.Lock() // what a device has counted is seen there, or in the sum when it is gone
	s, devices := d.tally.snapshot(), d.peripherals
	d.mu.Unlock()
	for _, p := range devices {
		p.fill(&s)
	}
	for _, p := range s.Peers {
		if p.Up {
			s.Leaves++
		}
	}
	return s
}

// Run serves the adapter until ctx ends, and then returns nil. A bus, a daemon or an
// adapter that is missing or lost is waited for. Run may be called once.
func (d *Driver) Run(ctx context.Context, ways gateway.Ways) error {
	d.queue = handover.New(d.cfg.MaxWaiting, ways.Up, d.tally)
	if err := d.beginAll(ctx, &ways); err != nil {
		return err
	}
	var parts sync.WaitGroup
	parts.Go(func() { d.queue.Run(ctx) })
	parts.Go(func() { d.adverts.run(ctx, ways.Notes) })
	d.live(ctx)
	d.endAll()
	parts.Wait()
	return nil
}

// offer brings a message on its way. It does not block: nothing in the air can be held
// back, so while the gateway takes no messages the oldest that waits gives way, and is
// counted.
func (d *Driver) offer(m *gateway.Message) {
	if d.queue.Offer(&handover.Item{Message: m, Size: len(m.Body)}) {
		d.tally.discard(discardFull)
	}
}

// live serves one life of the daemon after the other.
func (d *Driver) live(ctx context.Context) {
	wait := lifeMin
	for ctx.Err() == nil {
		began := time.Now()
		err := d.life(ctx)
		if ctx.Err() != nil {
			err = nil
		}
		d.tally.down(err)
		if time.Since(began) > lifeMax {
			wait = lifeMin
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait/2)):
		}
		wait = min(2*wait, lifeMax)
	}
}

// life serves the adapter for as long as the daemon lives.
func (d *Driver) life(ctx context.Context) error {
	c, err := bluez.Open(ctx, d.bus, func() { d.tally.down(ErrNoDaemon) }, d.adverts.hear)
	if err != nil {
		return err
	}
	// The client outlives the sessions: these end connections.
	following, end := context.WithCancel(context.WithoutCancel(ctx))
	lost := make(chan error, 1)
	go func() { lost <- c.Run(following) }()
	err = d.adapters(ctx, c)
	end()
	if why := <-lost; why != nil {
		err = why
	}
	d.tally.add(func(s *gateway.DriverState) { s.Counts[countResyncs] += c.Resyncs() })
	return err
}

// adapters serves the adapter each time that it is there, until the client is lost.
func (d *Driver) adapters(ctx context.Context, c *bluez.Client) error {
	for {
		var a bluez.Adapter
		there := func() (ok bool) { a, ok = c.Adapter(d.cfg.Adapter); return ok }
		if !there() {
			d.tally.down(fmt.Errorf("there is no adapter %s", d.cfg.Adapter))
			if err := c.Await(ctx, there); err != nil {
				return err
			}
		}
		s := &session{Driver: d, client: c, adapter: a}
		s.serve(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.Lost():
			return bluez.ErrDaemon
		default:
			d.tally.down(fmt.Errorf("adapter %s has gone", a.Name()))
		}
	}
}

// serve works with the adapter until it goes.
func (s *session) serve(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var parts sync.WaitGroup
	parts.Go(func() {
		_ = s.client.Await(ctx, func() bool { _, ok := s.client.AdapterAt(s.adapter.Path); return !ok })
		cancel() // whatever the reason
	})
	if err := s.client.ServeAgent(ctx, agent{s.Driver}); err != nil && ctx.Err() == nil {
		s.log.Warn("devices cannot be paired", "err", err)
	}
	s.open(ctx)
	s.scan(ctx)
	cancel()
	s.close()
	parts.Wait()
}
