package ble

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/fieldgate/fieldgate/drivers/ble/bluez"
)

// Why a device was not paired, or not found.
var (
	ErrNoAdapter = errors.New("there is no Bluetooth adapter now")
	ErrBusy      = errors.New("another pairing is under way")
	ErrNotSeen   = errors.New("the device was not seen: is it on, near, and ready to be paired?")
	ErrWrongKey  = errors.New("the device does not agree: the passkey is wrong, or the numbers differ")
	ErrRejected  = errors.New("the pairing was rejected")
	ErrCancelled = errors.New("the pairing was cancelled")
	ErrTimedOut  = errors.New("the pairing took too long")
	ErrUnproven  = errors.New("the device can prove nothing when it is paired (Just Works), which was not allowed")
	ErrNotBonded = errors.New("the device was paired, but its keys were not kept: does the kernel have a random number generator (DRBG)?")
	ErrNoBond    = errors.New("the device is not paired")
	ErrPaired    = errors.New("the device is paired already, and what it has proven then is not known: forget it first")
)

// pairingTimeout bounds a pairing whose caller does not: the kernel's own bound is 30 s
// for each step (Core Specification, volume 3, part H, section 3.4), and a person
// takes some time.
const pairingTimeout = 2 * time.Minute

// Found is a device in reach.
type Found struct {
	Address string
	Name    string
	RSSI    int // dBm, 0 if not known
	Paired  bool
	Seen    time.Time
}

// strength is for comparing: what is not known comes last.
func (f *Found) strength() int {
	if f.RSSI == 0 {
		return math.MinInt16
	}
	return f.RSSI
}

// Scan asks all devices around for their names for so long, and returns those that
// answered, the strongest first. ctx ends it early.
func (d *Driver) Scan(ctx context.Context, length time.Duration) ([]Found, error) {
	s, err := d.present()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := s.client.StartDiscovery(ctx, s.adapter.Path); err != nil {
		return nil, err
	}
	sleep(ctx, length)
	if !d.scansActively() { // else it is the driver's own scan
		_ = s.client.StopDiscovery(context.WithoutCancel(ctx), s.adapter.Path)
	}
	var all []Found
	for _, x := range s.client.Devices(s.adapter.Path, began) {
		all = append(all, Found{x.Address, printable(x.Name), x.RSSI, x.Bonded, x.Seen})
	}
	slices.SortFunc(all, func(a, b Found) int { return b.strength() - a.strength() })
	return all, nil
}

// Ceremony is how a device proves that it is the one that is meant, while it is paired.
type Ceremony struct {
	// Passkey asks a person, or a label, for the number that the device shows, 0 to
	// 999999; nil: nobody can say. ok false rejects. It ends when ctx does.
	Passkey func(ctx context.Context) (number uint32, ok bool)
	// Confirm asks a person whether the device shows this number of six digits, too;
	// nil: nobody can be asked. It ends when ctx does.
	Confirm func(ctx context.Context, number uint32) bool
	// Display shows a number of six digits that is to be typed at the device; nil:
	// nobody would see it. It does not wait.
	Display func(number uint32)
	// JustWorks allows a device that proves nothing.
	JustWorks bool
}

// Label is the Passkey of a device whose number stands on its label.
func Label(number uint32) func(context.Context) (uint32, bool) {
	return func(context.Context) (uint32, bool) { return number, true }
}

// ceremony is the pairing under way.
type ceremony struct {
	Ceremony
	device  dbus.ObjectPath
	proved  atomic.Bool // something was typed or compared
	refused atomic.Pointer[error]
}

func (d *Driver) present() (*session, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session == nil {
		return nil, ErrNoAdapter
	}
	return d.session, nil
}

// Pair pairs the device at an address that is in reach, one at a time. It ends when ctx
// does, or after two minutes. A device that is paired already is left as it is, but ErrPaired
// if it is to prove itself and has not since BlueZ runs; one whose pairing went wrong is
// forgotten.
func (d *Driver) Pair(ctx context.Context, address string, how Ceremony) (err error) {
	ctx, cancel := context.WithTimeout(ctx, pairingTimeout)
	defer cancel()
	s, err := d.present()
	if err != nil {
		return err
	}
	device, ok := s.client.Device(s.adapter.Path, address)
	switch {
	case !ok:
		return ErrNotSeen
	case device.Bonded:
		if _, proven := s.proven.Load(device.Path); !proven && !how.JustWorks {
			return ErrPaired // else what has proven nothing would pass for proven
		}
		return nil
	}
	c := &ceremony{Ceremony: how, device: device.Path}
	if err := d.openCeremony(c); err != nil {
		return err
	}
	defer d.closeCeremony()
	defer func() {
		if err == nil {
			d.tally.count(countPaired)
			d.log.Info("paired", "address", address)
			return
		}
		d.tally.count(countUnpaired)
		d.log.Warn("not paired", "address", address, "err", err)
	}()
	if err := s.client.Pair(ctx, device.Path); err != nil {
		if ctx.Err() != nil {
			_ = s.client.CancelPairing(context.WithoutCancel(ctx), device.Path)
		}
		return c.reason(ctx, err)
	}
	return s.accept(ctx, c)
}

func (d *Driver) openCeremony(c *ceremony) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ceremony != nil {
		return ErrBusy
	}
	d.ceremony = c
	return nil
}

func (d *Driver) closeCeremony() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ceremony = nil
}

// accept looks whether the pairing is what was asked for; if not, the device is
// forgotten.
func (s *session) accept(ctx context.Context, c *ceremony) error {
	// The daemon answers before it shows that the keys are kept.
	const settle = 3 * time.Second
	limit, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	err := s.client.Await(limit, func() bool { x, _ := s.client.DeviceAt(c.device); return x.Bonded })
	switch {
	case err != nil:
		err = ErrNotBonded
	case !c.proved.Load() && !c.JustWorks:
		err = ErrUnproven
	default:
		if c.proved.Load() {
			s.proven.Store(c.device, true)
		}
		return nil
	}
	if gone := s.client.Remove(context.WithoutCancel(ctx), s.adapter.Path, c.device); gone != nil {
		err = fmt.Errorf("%w; and it cannot be forgotten: %v", err, gone)
	}
	return err
}

// reason makes the daemon's error one of ours.
func (c *ceremony) reason(ctx context.Context, err error) error {
	if why := c.refused.Load(); why != nil {
		return *why
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return ErrTimedOut
	case ctx.Err() != nil, bluez.IsError(err, "AuthenticationCanceled"):
		return ErrCancelled
	case bluez.IsError(err, "AuthenticationFailed"):
		return ErrWrongKey
	case bluez.IsError(err, "AuthenticationRejected"):
		return ErrRejected
	case bluez.IsError(err, "AuthenticationTimeout"):
		return ErrTimedOut
	case bluez.IsError(err, "ConnectionAttemptFailed"), bluez.IsError(err, "DoesNotExist"):
		return fmt.Errorf("%w (%v)", ErrNotSeen, err)
	}
	return err
}

// Forget makes the adapter forget a paired device and its keys.
func (d *Driver) Forget(ctx context.Context, address string) error {
	s, err := d.present()
	if err != nil {
		return err
	}
	device, ok := s.client.Device(s.adapter.Path, address)
	if !ok || !device.Bonded {
		return ErrNoBond
	}
	s.proven.Delete(device.Path)
	return s.client.Remove(ctx, s.adapter.Path, device.Path)
}

// agent answers the daemon in the name of the ceremony under way. It implements
// bluez.Agent.
type agent struct{ *Driver }

func (a agent) open(device dbus.ObjectPath) (*ceremony, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ceremony == nil || a.ceremony.device != device {
		return nil, ErrRejected // nobody here has asked for that
	}
	return a.ceremony, nil
}

// refuse ends the ceremony for a reason of ours.
func (c *ceremony) refuse(why error) error {
	c.refused.Store(&why)
	return why
}

func (a agent) Passkey(ctx context.Context, device dbus.ObjectPath) (uint32, error) {
	c, err := a.open(device)
	switch {
	case err != nil:
		return 0, err
	case c.Ceremony.Passkey == nil:
		return 0, c.refuse(fmt.Errorf("%w: the device wants the passkey that it shows, and none was given", ErrRejected))
	}
	key, ok := c.Ceremony.Passkey(ctx)
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case !ok:
		return 0, c.refuse(ErrRejected)
	}
	c.proved.Store(true)
	return key, nil
}

func (a agent) Display(device dbus.ObjectPath, passkey uint32) {
	if c, err := a.open(device); err == nil && c.Ceremony.Display != nil {
		c.proved.Store(true)
		c.Ceremony.Display(passkey)
	}
}

func (a agent) Confirm(ctx context.Context, device dbus.ObjectPath, passkey uint32) error {
	c, err := a.open(device)
	switch {
	case err != nil:
		return err
	case c.Ceremony.Confirm == nil:
		return c.refuse(fmt.Errorf("%w: the device wants a number compared, and nobody can be asked", ErrRejected))
	case !c.Ceremony.Confirm(ctx, passkey):
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return c.refuse(ErrWrongKey)
	}
	c.proved.Store(true)
	return nil
}

func (a agent) Authorize(_ context.Context, device dbus.ObjectPath) error {
	c, err := a.open(device)
	switch {
	case err != nil:
		return err
	case !c.JustWorks:
		return c.refuse(ErrUnproven)
	}
	return nil
}
