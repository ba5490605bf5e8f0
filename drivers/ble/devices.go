package ble

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/fieldgate/fieldgate/gateway"
)

// Devices come and go while the driver runs, and before and after: that of one of them
// does not disturb the others.

// run is what devices need of a driver that runs.
type run struct {
	ctx  context.Context
	ways *gateway.Ways
}

// AddAdvert makes the advertiser at an address, which must be none yet, a leaf. Errors
// are of type *gateway.KeyError, or those of the notes. Safe for concurrent use, like
// the others here.
func (d *Driver) AddAdvert(c AdvertConfig) error {
	if err := c.Validate(); err != nil {
		return err
	}
	d.changing.Lock()
	defer d.changing.Unlock()
	if err := d.adverts.add(c, d.notes()); err != nil {
		return err
	}
	d.tally.addPeer(c.Leaf)
	return nil
}

// RemoveAdvert makes the advertiser at an address a stranger again.
func (d *Driver) RemoveAdvert(address string) {
	d.changing.Lock()
	defer d.changing.Unlock()
	if leaf, known := d.adverts.remove(address, d.notes()); known {
		d.tally.removePeer(leaf)
	}
}

// notes are nil while the driver does not run.
func (d *Driver) notes() gateway.Notes {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running == nil {
		return nil
	}
	return d.running.ways.Notes
}

// AddDevice makes the device at an address, which must be none yet, a leaf that is
// connected. Errors are of type *gateway.KeyError.
func (d *Driver) AddDevice(c DeviceConfig) error {
	if err := c.Validate(); err != nil {
		return err
	}
	d.add(newPeripheral(c, d))
	return nil
}

// AddNode is AddDevice for one that speaks a protocol, which belongs to the driver then.
func (d *Driver) AddNode(c NodeConfig) error {
	if err := c.Validate(); err != nil {
		return err
	}
	d.add(newNode(c, d))
	return nil
}

func (d *Driver) add(p *peripheral) {
	d.changing.Lock()
	defer d.changing.Unlock()
	d.tally.addPeer(p.Leaf)
	d.adverts.expect(p.Address, true)
	d.mu.Lock()
	running := d.running
	d.mu.Unlock()
	if running != nil {
		p.arrive(running)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.peripherals = append(d.peripherals, p)
	if d.session != nil {
		d.session.join(p)
	}
}

// RemoveDevices ends the connections of the devices at addresses, which are no leaves any
// more. Their keys stay. It returns when the driver has nothing to do with them any more:
// all of them together take as long as the slowest.
func (d *Driver) RemoveDevices(addresses ...string) {
	d.changing.Lock()
	defer d.changing.Unlock()
	var going []*peripheral
	d.mu.Lock()
	for _, p := range d.peripherals {
		if slices.ContainsFunc(addresses, func(a string) bool { return strings.EqualFold(p.Address, a) }) {
			p.going = true
			going = append(going, p)
		}
	}
	d.mu.Unlock()
	for _, p := range going {
		if p.leaving != nil { // it has arrived
			p.leaving()
		}
	}
	for _, p := range going {
		p.depart()
		var x gateway.DriverState
		if p.protocol != nil { // what it has counted was counted
			p.protocol.Fill(&x)
		}
		d.mu.Lock()
		d.peripherals = slices.DeleteFunc(slices.Clone(d.peripherals), func(o *peripheral) bool { return o == p })
		d.tally.add(func(s *gateway.DriverState) { s.Count(&x) })
		d.mu.Unlock()
		d.adverts.expect(p.Address, false)
		d.tally.removePeer(p.Leaf)
	}
}

// devices returns those that are connected; the slice is nobody's to change.
func (d *Driver) devices() []*peripheral {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.peripherals
}

// device returns that of a leaf, nil if there is none.
func (d *Driver) device(leaf string) *peripheral {
	for _, p := range d.devices() {
		if p.Leaf == leaf {
			return p
		}
	}
	return nil
}

// hearsLeaves says whether there is a leaf that should be heard from time to time.
func (d *Driver) hearsLeaves() bool {
	return d.adverts.count() > 0 || slices.ContainsFunc(d.devices(), func(p *peripheral) bool { return p.protocol == nil })
}

// beginAll joins all devices to the gateway. What comes later finds its own counters.
func (d *Driver) beginAll(ctx context.Context, ways *gateway.Ways) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	if err := d.adverts.recall(ways.Notes); err != nil {
		return fmt.Errorf("cannot read the counters of encrypting advertisers: %w", err)
	}
	r := &run{ctx, ways}
	for _, p := range d.devices() {
		p.arrive(r)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running = r
	return nil
}

// endAll takes them back; there is no session any more.
func (d *Driver) endAll() {
	d.changing.Lock()
	defer d.changing.Unlock()
	d.mu.Lock()
	d.running = nil
	d.mu.Unlock()
	for _, p := range d.devices() {
		p.depart()
	}
}

// open has all devices visited in the session, until ctx ends, and makes it the driver's.
func (s *session) open(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx = ctx
	s.Driver.session = s
	for _, p := range s.peripherals {
		if !p.going {
			s.join(p)
		}
	}
}

// join has a device visited in the session. The driver's mu must be held.
func (s *session) join(p *peripheral) {
	p.visits.Add(1)
	s.visits.Go(func() {
		defer p.visits.Done()
		ctx, cancel := context.WithCancel(s.ctx)
		defer cancel()
		stop := context.AfterFunc(p.here, cancel)
		defer stop()
		p.run(ctx, s)
	})
}

// close takes the session from the driver, and waits until no device is visited. The
// context of open must have ended.
func (s *session) close() {
	s.mu.Lock()
	s.Driver.session = nil
	s.mu.Unlock()
	s.visits.Wait()
}

// arrive joins a device to the gateway: it is a leaf that is asleep.
func (p *peripheral) arrive(r *run) {
	p.attendance, p.twins = r.ways.Attendance, r.ways.Twins
	p.attend(gateway.Asleep)
	p.here, p.leaving = context.WithCancel(r.ctx)
	if p.protocol == nil {
		return
	}
	theirs := *r.ways
	theirs.Up = p.marked(r.ways.Up)
	ready := make(chan struct{})
	p.silent = make(chan struct{})
	p.speaking.Go(func() {
		p.protocol.Run(p.here, theirs, func(context.Context) { close(ready); <-p.silent })
	})
	<-ready
}

// depart takes back a device that nobody visits any more, or that is only being visited.
func (p *peripheral) depart() {
	if p.leaving == nil {
		return // it has never arrived
	}
	p.leaving()
	p.visits.Wait()
	if p.silent != nil {
		close(p.silent)
		p.speaking.Wait()
	}
	p.leave()
}
