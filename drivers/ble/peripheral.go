package ble

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/fieldgate/fieldgate/drivers/ble/advert"
	"github.com/fieldgate/fieldgate/drivers/ble/bluez"
	"github.com/fieldgate/fieldgate/gateway"
)

// How long to wait before a device is connected again after an attempt in vain, doubled
// each time up to visitMax.
const (
	visitMin = time.Second
	visitMax = time.Minute
)

// BlueZ forgets a device that is not bonded 30 s after it has last seen it
// (TemporaryTimeout in main.conf), so one that was not seen since need not be tried.
const fresh = 30 * time.Second

// resolveTimeout is how long a device may take to tell its services.
const resolveTimeout = 30 * time.Second

// errTurn says that a device was disconnected to let another one in.
var errTurn = errors.New("another device has its turn")

// peripheral is a device that is connected: as long as it may have something to say or
// be told something, else only while it is read.
type peripheral struct {
	DeviceConfig
	driver     *Driver
	attendance gateway.Attendance
	twins      gateway.Twins
	wants      gateway.Interest // what the hub may send
	stays      bool             // it is not only read from time to time
	values     []*value
	protocol   Protocol // that it speaks; nil: it has values

	going    bool            // it is no leaf any more; guarded by the driver's mu
	here     context.Context // ends when it is a leaf no more, or the driver ends; from arrive on
	leaving  func()          // ends it
	visits   sync.WaitGroup
	silent   chan struct{} // closed when the protocol is to end
	speaking sync.WaitGroup

	mu   sync.Mutex
	link *link // guarded by mu; nil: not connected
}

// value is one characteristic of the configuration.
type value struct {
	CharacteristicConfig
	uuid, service string
	every         time.Duration
	due           time.Time // when it is to be read next; only visits use it
	once          bool      // it is to be read at each connection
}

// link is one connection of a device that is ready.
type link struct {
	session *session
	paths   map[*value]bluez.Characteristic
	down    chan delivery
}

func newPeripheral(c DeviceConfig, d *Driver) *peripheral {
	p := &peripheral{DeviceConfig: c, driver: d}
	for _, v := range c.Characteristics {
		x := &value{CharacteristicConfig: v, once: v.Read == "once"}
		x.uuid, _ = fullUUID(v.UUID)
		x.service, _ = fullUUID(v.Service)
		every, _ := v.every()
		x.every = every.D()
		p.values = append(p.values, x)
		p.stays = p.stays || v.Notify || v.Command != "" || v.Method != "" || v.Desired != "" || x.every == 0
		if v.Command != "" {
			p.wants |= gateway.WantsCommands
		}
		if v.Method != "" {
			p.wants |= gateway.WantsCalls
		}
		if v.Desired != "" {
			p.wants |= gateway.WantsDesired | gateway.CannotAsk
		}
	}
	return p
}

// attend says that the leaf is there, or asleep.
func (p *peripheral) attend(asleep gateway.Interest) {
	if p.wants != 0 {
		p.attendance.Attend(p.Leaf, p.driver, p.wants|asleep)
	}
}

// leave takes the leaf back.
func (p *peripheral) leave() {
	if p.wants != 0 {
		p.attendance.Attend(p.Leaf, p.driver, 0)
	}
}

// backoff is how long the last attempt in vain was waited after, at most; 0 if it was not
// in vain.
type backoff time.Duration

// next is how long to wait after another attempt in vain: twice as long, less up to a
// half, so that devices that were lost together do not come back in step.
func (b *backoff) next() time.Duration {
	*b = min(max(2**b, backoff(visitMin)), backoff(visitMax))
	return time.Duration(*b/2 + rand.N(*b/2))
}

// run visits the device again and again until ctx ends.
func (p *peripheral) run(ctx context.Context, s *session) {
	var wait time.Duration
	var vain backoff
	for ctx.Err() == nil {
		sleep(ctx, wait)
		began := time.Now()
		err := p.visit(ctx, s)
		switch {
		case ctx.Err() != nil:
		case err == nil:
			p.driver.tally.peer(p.Leaf, "")
			wait, vain = p.rest(), 0
		case errors.Is(err, errTurn):
			p.driver.tally.count(countTurns)
			wait, vain = 0, 0
		default:
			p.driver.tally.peer(p.Leaf, err.Error())
			if time.Since(began) > visitMax {
				vain = 0
			}
			wait = vain.next()
		}
	}
}

// rest is how long a device that is only read has nothing to do.
func (p *peripheral) rest() time.Duration {
	next := time.Hour
	for _, v := range p.values {
		if v.every > 0 {
			next = min(next, time.Until(v.due))
		}
	}
	return max(0, next)
}

// visit waits for the device and for a connection, and works with it until it is done.
func (p *peripheral) visit(ctx context.Context, s *session) error {
	device, err := p.await(ctx, s)
	if err != nil {
		return err
	}
	if err := s.slots.get(ctx); err != nil {
		return err
	}
	defer s.slots.put()
	p.driver.tally.count(countConnects)
	if err := s.client.Connect(ctx, device.Path); err != nil {
		p.driver.tally.count(countFailures)
		s.disconnect(device.Path) // the attempt may be under way still
		return fmt.Errorf("cannot connect: %w", err)
	}
	defer s.disconnect(device.Path)
	return p.work(ctx, s, device.Path)
}

// await waits until the device can be connected.
func (p *peripheral) await(ctx context.Context, s *session) (device bluez.Device, err error) {
	err = s.client.Await(ctx, func() bool {
		d, ok := s.client.Device(s.adapter.Path, p.Address)
		switch {
		case !ok, !d.Connected && time.Since(d.Seen) > fresh:
			p.driver.tally.peer(p.Leaf, "not seen")
			return false
		case p.Pairing == PairingPasskey && !d.Bonded:
			p.driver.tally.peer(p.Leaf, "not paired: it waits for an operator to do that")
			return false
		}
		device = d
		return true
	})
	return device, err
}

// disconnect ends a connection, also when the session ends.
func (s *session) disconnect(device dbus.ObjectPath) {
	_ = s.client.Disconnect(context.Background(), device) // bounded; there may be none
}

// work does everything with a connected device: until the connection is lost, or its
// turn is over, or there is nothing more to do.
func (p *peripheral) work(ctx context.Context, s *session, device dbus.ObjectPath) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := p.resolve(ctx, s, device); err != nil {
		return err
	}
	if p.protocol != nil {
		return p.serve(ctx, s, device)
	}
	l, err := p.begin(ctx, s, device)
	if err != nil {
		return err
	}
	defer l.deaf()
	p.driver.tally.peer(p.Leaf, "")
	if !p.stays {
		return p.readDue(ctx, l)
	}
	return p.reachable(ctx, l, func(ctx context.Context) error { return p.stay(ctx, s, l, device) })
}

// deaf ends what begin has listened to: whoever is told of a value later is another one.
func (l *link) deaf() {
	for _, c := range l.paths {
		l.session.client.Deaf(c.Path)
	}
}

// reachable has the device be told what comes for it while stay lasts.
func (p *peripheral) reachable(ctx context.Context, l *link, stay func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var parts sync.WaitGroup
	parts.Go(func() { p.deliver(ctx, l) })
	p.open(l)
	defer func() {
		p.open(nil)
		cancel()
		parts.Wait()
		l.giveBack() // deliver may have ended before the link was open
	}()
	return stay(ctx)
}

// open says that the device can be told something, or not any more.
func (p *peripheral) open(l *link) {
	p.mu.Lock()
	p.link = l
	p.mu.Unlock()
	if l == nil {
		p.attend(gateway.Asleep)
	} else {
		p.attend(0)
	}
}

// resolve waits until the services of the device are known, and pairs it if that is
// to be done without asking.
func (p *peripheral) resolve(ctx context.Context, s *session, device dbus.ObjectPath) error {
	limit, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	var d bluez.Device
	err := s.client.Await(limit, func() bool {
		var ok bool
		d, ok = s.client.DeviceAt(device)
		return !ok || !d.Connected || d.Resolved
	})
	switch {
	case err != nil:
		return fmt.Errorf("does not tell its services: %w", err)
	case !d.Resolved:
		return errors.New("connection lost while it told its services")
	case p.Pairing == PairingJustWorks && !d.Bonded:
		return s.Pair(ctx, d.Address, Ceremony{JustWorks: true})
	}
	return nil
}

// begin finds the values, writes what is to be written and listens.
func (p *peripheral) begin(ctx context.Context, s *session, device dbus.ObjectPath) (*link, error) {
	l := &link{session: s, paths: make(map[*value]bluez.Characteristic), down: make(chan delivery, maxDown)}
	all := s.client.Characteristics(device)
	for _, v := range p.values {
		i := slices.IndexFunc(all, func(c bluez.Characteristic) bool {
			return c.UUID == v.uuid && (v.service == "" || c.Service == v.service)
		})
		if i < 0 {
			return nil, fmt.Errorf("it has no characteristic %s", v.UUID)
		}
		l.paths[v] = all[i]
		if v.once {
			v.due = time.Time{}
		}
	}
	for _, v := range p.values {
		if v.CharacteristicConfig.Write == "" {
			continue
		}
		b, _ := hex.DecodeString(v.CharacteristicConfig.Write)
		if err := l.write(ctx, v, b); err != nil {
			return nil, fmt.Errorf("cannot write %s: %w", v.UUID, err)
		}
	}
	for _, v := range p.values {
		if !v.Notify {
			continue
		}
		if err := s.client.Notify(ctx, l.paths[v].Path, func(b []byte) { p.heard(v, b) }); err != nil {
			l.deaf()
			return nil, fmt.Errorf("cannot listen to %s: %w", v.UUID, err)
		}
	}
	return l, nil
}

// stay reads what is due until the connection is lost or another device waits.
func (p *peripheral) stay(ctx context.Context, s *session, l *link, device dbus.ObjectPath) error {
	lost := make(chan struct{})
	var parts sync.WaitGroup
	watching, stop := context.WithCancel(ctx)
	defer parts.Wait()
	defer stop()
	parts.Go(func() {
		_ = s.client.Await(watching, func() bool { d, ok := s.client.DeviceAt(device); return !ok || !d.Connected })
		close(lost)
	})
	turn := time.NewTimer(s.cfg.Turn.D())
	defer turn.Stop()
	for {
		if err := p.readDue(ctx, l); err != nil {
			return err
		}
		next := time.NewTimer(p.rest())
		select {
		case <-ctx.Done():
			next.Stop()
			return ctx.Err()
		case <-lost:
			next.Stop()
			return errors.New("connection lost")
		case <-turn.C:
			if s.slots.wanted() {
				next.Stop()
				return errTurn
			}
			turn.Reset(min(s.cfg.Turn.D(), time.Second))
		case <-next.C:
		}
		next.Stop()
	}
}

// readDue reads what is due and makes one message of it.
func (p *peripheral) readDue(ctx context.Context, l *link) error {
	var readings []advert.Reading
	now := time.Now()
	for _, v := range p.values {
		if v.every == 0 && !(v.once && v.due.IsZero()) || v.every > 0 && now.Before(v.due) {
			continue
		}
		b, err := l.session.client.Read(ctx, l.paths[v].Path)
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", v.UUID, err)
		}
		v.due = now.Add(max(v.every, 1))
		r, ok := p.reading(v, b)
		if ok {
			readings = append(readings, r)
		}
	}
	p.send(readings)
	return nil
}

// reading reads a value. ok is false for one that is not known or not in its format.
func (p *peripheral) reading(v *value, b []byte) (r advert.Reading, ok bool) {
	how := v.value()
	x, err := how.Decode(b)
	if err != nil {
		p.driver.tally.discard(discardBadValue)
		return r, false
	}
	return advert.Reading{Name: v.field(), Unit: how.Unit, Value: x}, x != nil
}

// heard takes a notification. It does not block.
func (p *peripheral) heard(v *value, b []byte) {
	if r, ok := p.reading(v, b); ok {
		p.send([]advert.Reading{r})
	}
}

func (p *peripheral) send(readings []advert.Reading) {
	if len(readings) == 0 {
		return
	}
	p.driver.offer(&gateway.Message{
		Leaf: p.Leaf, Kind: gateway.Telemetry, Lane: laneOf(p.Lane), Channel: p.Channel, System: jsonBody(),
		Properties: trusted(p.mark()), Body: body(readings, 0, p.Units), Captured: p.driver.clock(),
	})
}

// mark says what the device has not proven.
func (p *peripheral) mark() string {
	switch p.Pairing {
	case PairingNone:
		return gateway.TrustUnpaired
	case PairingJustWorks:
		return gateway.TrustJustWorks
	}
	return ""
}

// write writes a value, and waits for the response where there can be one.
func (l *link) write(ctx context.Context, v *value, b []byte) error {
	c := l.paths[v]
	return l.session.client.Write(ctx, c.Path, b, slices.Contains(c.Flags, "write") || !strings.Contains(strings.Join(c.Flags, " "), "write-without-response"))
}
