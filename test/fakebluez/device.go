package fakebluez

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// Device is a peripheral in reach. Its exported fields are set before Add; from then
// on it is worked by its methods, which are safe for concurrent use.
type Device struct {
	Address  string // of a private one its present address, which it advertises
	Identity string // private devices: what a bond makes of the address
	Name     string
	RSSI     int16
	Adapter  string // default hci0

	Services []Service

	Pairing Pairing
	Passkey uint32        // what the device shows, or expects
	Slow    time.Duration // how long connecting takes
	NoBond  bool          // pairing succeeds and keeps no keys, as without a random generator
	Tells   bool          // what is read is told as well, as BlueZ does
	MTU     int           // of its connections, default 247
	Untold  bool          // nobody is told that it is connected, see package bluez
	Heard   func(Written) // is called with what is written, one after the other, and must not block; nil for nobody

	z *BlueZ
	// guarded by z.mu:
	shown, connected, paired, bonded, away bool
	address                                string
	manufacturer                           map[uint16]dbus.Variant
	service                                map[string]dbus.Variant
	written                                []Written
	connects                               int
	stalled                                chan struct{} // closed when it reads again; nil: it does
	pairing                                context.CancelFunc
}

// Pairing is how a device wants to be paired.
type Pairing int

// The ways.
const (
	JustWorks Pairing = iota // proves nothing
	ShowsKey                 // shows a passkey, which is entered here
	Compares                 // shows the number that we show
	Types                    // a passkey is shown here and typed there
	Refuses                  // rejects every pairing
	Hangs                    // never answers
)

// Service is a GATT service.
type Service struct {
	UUID            string
	Characteristics []*Characteristic
}

// Characteristic is a value. Its fields are set before the device is added.
type Characteristic struct {
	UUID   string
	Flags  []string // as in BlueZ: "read", "write", "write-without-response", "notify"
	Value  []byte
	Secure bool   // only for bonded devices
	Refuse string // writes fail with this error, like "org.bluez.Error.InvalidValueLength"

	path      dbus.ObjectPath
	notifying bool
}

// Written is what was written to a device.
type Written struct {
	UUID  string
	Value []byte
	Type  string // "request" or "command"
}

// Add brings a device into reach.
func (z *BlueZ) Add(d *Device) *Device {
	z.mu.Lock()
	defer z.mu.Unlock()
	d.z, d.address = z, d.Address
	if d.Adapter == "" {
		d.Adapter = "hci0"
	}
	if d.RSSI == 0 {
		d.RSSI = -60
	}
	if d.MTU == 0 {
		d.MTU = 247
	}
	z.devices = append(z.devices, d)
	return d
}

func (d *Device) path() dbus.ObjectPath {
	return dbus.ObjectPath("/org/bluez/" + d.Adapter + "/dev_" + strings.ReplaceAll(d.Address, ":", "_"))
}

// AD types (Bluetooth SIG, assigned numbers, section 2.3).
const (
	adFlags        = 0x01
	adServiceData  = 0x16
	adManufacturer = 0xFF
)

// Advertise sends an advertisement: data by company and by 16-bit service. It says
// whether anybody was there to hear it.
func (d *Device) Advertise(manufacturer map[uint16][]byte, service map[uint16][]byte) bool {
	z := d.z
	z.mu.Lock()
	defer z.mu.Unlock()
	elements := map[uint8][][]byte{adFlags: {{0x06}}}
	values := map[string]dbus.Variant{"RSSI": dbus.MakeVariant(d.RSSI)}
	if manufacturer != nil {
		d.manufacturer = make(map[uint16]dbus.Variant)
		for company, b := range manufacturer {
			d.manufacturer[company] = dbus.MakeVariant(b)
			elements[adManufacturer] = append(elements[adManufacturer], append(binary.LittleEndian.AppendUint16(nil, company), b...))
		}
		values["ManufacturerData"] = dbus.MakeVariant(d.manufacturer)
	}
	if service != nil {
		d.service = make(map[string]dbus.Variant)
		for uuid, b := range service {
			d.service[fmt.Sprintf("0000%04x-0000-1000-8000-00805f9b34fb", uuid)] = dbus.MakeVariant(b)
			elements[adServiceData] = append(elements[adServiceData], append(binary.LittleEndian.AppendUint16(nil, uuid), b...))
		}
		values["ServiceData"] = dbus.MakeVariant(d.service)
	}
	if d.away || !z.hearsLocked(elements) {
		return false
	}
	if !d.shown {
		return d.showLocked() == nil
	}
	z.changeLocked(d.path(), deviceIface, values)
	return true
}

// showLocked makes the daemon know the device.
func (d *Device) showLocked() error {
	z := d.z
	d.shown = true
	values := map[string]dbus.Variant{
		"Address": dbus.MakeVariant(d.address), "AddressType": dbus.MakeVariant("random"),
		"Adapter": dbus.MakeVariant(dbus.ObjectPath("/org/bluez/" + d.Adapter)), "Connected": dbus.MakeVariant(false),
		"ServicesResolved": dbus.MakeVariant(false), "Paired": dbus.MakeVariant(d.paired), "Bonded": dbus.MakeVariant(d.bonded),
	}
	if d.Name != "" {
		values["Name"] = dbus.MakeVariant(d.Name)
	}
	if z.heardLocked(d) {
		values["RSSI"] = dbus.MakeVariant(d.RSSI)
	}
	if d.manufacturer != nil {
		values["ManufacturerData"] = dbus.MakeVariant(d.manufacturer)
	}
	if d.service != nil {
		values["ServiceData"] = dbus.MakeVariant(d.service)
	}
	err := errors.Join(z.conn.ExportMethodTable(map[string]any{
		"Connect": d.connect, "Disconnect": d.disconnect, "Pair": d.pair, "CancelPairing": d.cancelPairing,
	}, d.path(), deviceIface), z.exportPropertiesLocked(d.path()))
	z.addLocked(d.path(), map[string]map[string]dbus.Variant{deviceIface: values})
	return err
}

// heardLocked says whether a device that appears was heard, and not remembered.
func (z *BlueZ) heardLocked(d *Device) bool {
	return !d.away && (len(z.scanners) > 0 || len(z.monitors) > 0)
}

// Forget makes the daemon forget the device, as it does with those that are not bonded
// some time after it has last heard them.
func (d *Device) Forget() {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	d.forgetLocked()
}

func (d *Device) forgetLocked() {
	if d.shown {
		d.dropLocked()
		d.shown = false
		d.z.removeLocked(d.path())
	}
}

// OutOfRange takes the device away, or brings it back.
func (d *Device) OutOfRange(away bool) {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	d.away = away
	if away {
		d.dropLocked()
	}
}

// Drop cuts the connection.
func (d *Device) Drop() {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	d.dropLocked()
}

func (d *Device) dropLocked() {
	if !d.connected {
		return
	}
	d.connected = false
	if d.stalled != nil { // what waits is answered: there is no connection
		close(d.stalled)
		d.stalled = make(chan struct{})
	}
	for _, s := range d.Services {
		for _, c := range s.Characteristics {
			c.notifying = false
		}
	}
	d.hideServicesLocked()
	d.z.changeLocked(d.path(), deviceIface, map[string]dbus.Variant{
		"Connected": dbus.MakeVariant(false), "ServicesResolved": dbus.MakeVariant(false),
	})
}

// Connected says whether the device is connected, Bonded whether it is bonded, and
// Connects how often it was connected.
func (d *Device) Connected() bool { return d.is(&d.connected) }

// Bonded is described at Connected.
func (d *Device) Bonded() bool { return d.is(&d.bonded) }

// Connects is described at Connected.
func (d *Device) Connects() int {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	return d.connects
}

func (d *Device) is(what *bool) bool {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	return *what
}

// Bond makes the device a bonded one, as if it had been paired before.
func (d *Device) Bond() {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	d.bondLocked()
}

func (d *Device) bondLocked() {
	d.paired, d.bonded = true, !d.NoBond
	if d.Identity != "" {
		d.address = d.Identity
	}
	d.z.changeLocked(d.path(), deviceIface, map[string]dbus.Variant{
		"Paired": dbus.MakeVariant(true), "Bonded": dbus.MakeVariant(d.bonded), "Address": dbus.MakeVariant(d.address),
	})
}

// Written is what was written to the device, in order.
func (d *Device) Written() []Written {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	return slices.Clone(d.written)
}

// Set changes a value. It is told to those who listen. It says whether anybody did.
func (d *Device) Set(uuid string, value []byte) bool {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	for _, s := range d.Services {
		for _, c := range s.Characteristics {
			if c.UUID == uuid {
				c.Value = value
				if c.notifying {
					d.z.setLocked(c.path, charIface, "Value", value)
				}
				return c.notifying
			}
		}
	}
	return false
}

func bluezError(name string) *dbus.Error {
	return dbus.NewError("org.bluez.Error."+name, []any{"on purpose"})
}

func (d *Device) connect() *dbus.Error {
	if err := d.z.called("Connect"); err != nil {
		return err
	}
	time.Sleep(d.Slow)
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	if d.away || !d.shown {
		return bluezError("Failed")
	}
	if !d.connected {
		d.connects++
		d.connected = true
		d.z.connectedLocked(d)
		if d.Untold {
			d.z.objects[d.path()][deviceIface]["Connected"] = dbus.MakeVariant(true)
		} else {
			d.z.setLocked(d.path(), deviceIface, "Connected", true)
		}
		d.showServicesLocked()
		d.z.setLocked(d.path(), deviceIface, "ServicesResolved", true)
	}
	return nil
}

func (d *Device) disconnect() *dbus.Error {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	d.z.calls["Disconnect"]++
	d.dropLocked()
	return nil
}

func (d *Device) showServicesLocked() {
	handle := 0x10
	for _, s := range d.Services {
		home := dbus.ObjectPath(fmt.Sprintf("%s/service%04x", d.path(), handle))
		d.z.addLocked(home, map[string]map[string]dbus.Variant{serviceIface: {"UUID": dbus.MakeVariant(s.UUID)}})
		for _, c := range s.Characteristics {
			handle += 2
			c.path = dbus.ObjectPath(fmt.Sprintf("%s/char%04x", home, handle))
			_ = d.z.conn.ExportMethodTable(map[string]any{
				"ReadValue":   func(map[string]dbus.Variant) ([]byte, *dbus.Error) { return d.read(c) },
				"WriteValue":  func(v []byte, o map[string]dbus.Variant) *dbus.Error { return d.write(c, v, o) },
				"StartNotify": func() *dbus.Error { return d.notify(c, true) },
				"StopNotify":  func() *dbus.Error { return d.notify(c, false) },
			}, c.path, charIface) // it cannot fail: the path is right
			_ = d.z.exportPropertiesLocked(c.path)
			d.z.addLocked(c.path, map[string]map[string]dbus.Variant{charIface: {
				"UUID": dbus.MakeVariant(c.UUID), "Service": dbus.MakeVariant(home), "Flags": dbus.MakeVariant(c.Flags),
				"Value": dbus.MakeVariant([]byte{}), "Notifying": dbus.MakeVariant(false), "MTU": dbus.MakeVariant(uint16(d.MTU)),
			}})
		}
		handle += 0x10
	}
}

func (d *Device) hideServicesLocked() {
	for path := range d.z.objects {
		if strings.HasPrefix(string(path), string(d.path())+"/") {
			d.z.removeLocked(path)
		}
	}
}

// exportPropertiesLocked lets the properties at a path be asked for.
func (z *BlueZ) exportPropertiesLocked(path dbus.ObjectPath) error {
	return z.conn.ExportMethodTable(map[string]any{
		"Get": func(iface, name string) (dbus.Variant, *dbus.Error) {
			z.mu.Lock()
			defer z.mu.Unlock()
			v, ok := z.objects[path][iface][name]
			if !ok {
				return v, dbus.NewError("org.freedesktop.DBus.Error.InvalidArgs", nil)
			}
			return v, nil
		},
	}, path, propsIface)
}

// Stall makes the device read nothing any more of what is written to it, or read again.
// Writes that it has to answer wait, others are lost.
func (d *Device) Stall(on bool) {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	switch {
	case on && d.stalled == nil:
		d.stalled = make(chan struct{})
	case !on && d.stalled != nil:
		close(d.stalled)
		d.stalled = nil
	}
}

// mayLocked says whether a characteristic can be used for something now.
func (d *Device) mayLocked(c *Characteristic, flag ...string) *dbus.Error {
	switch {
	case !d.connected:
		return bluezError("NotConnected")
	case !slices.ContainsFunc(flag, func(f string) bool { return slices.Contains(c.Flags, f) }):
		return bluezError("NotSupported")
	case c.Secure && !d.bonded:
		return bluezError("NotPermitted")
	}
	return nil
}

func (d *Device) read(c *Characteristic) ([]byte, *dbus.Error) {
	if err := d.z.called("ReadValue"); err != nil {
		return nil, err
	}
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	if err := d.mayLocked(c, "read"); err != nil {
		return nil, err
	}
	if d.Tells {
		d.z.setLocked(c.path, charIface, "Value", c.Value)
	}
	return slices.Clone(c.Value), nil
}

func (d *Device) write(c *Characteristic, value []byte, options map[string]dbus.Variant) *dbus.Error {
	if err := d.z.called("WriteValue"); err != nil {
		return err
	}
	kind, _ := options["type"].Value().(string)
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	if stalled := d.stalled; stalled != nil {
		if kind == "command" {
			return nil
		}
		d.z.mu.Unlock()
		<-stalled
		d.z.mu.Lock()
	}
	flag := map[string]string{"request": "write", "command": "write-without-response"}[kind]
	if err := d.mayLocked(c, flag); err != nil {
		return err
	}
	if c.Refuse != "" {
		return dbus.NewError(c.Refuse, []any{"on purpose"})
	}
	if kind == "command" && len(value) > d.MTU-3 { // a request would be cut into several
		return bluezError("Failed")
	}
	c.Value = value
	w := Written{c.UUID, slices.Clone(value), kind}
	d.written = append(d.written, w)
	if d.Heard != nil {
		d.Heard(w)
	}
	return nil
}

func (d *Device) notify(c *Characteristic, on bool) *dbus.Error {
	if err := d.z.called("StartNotify"); err != nil {
		return err
	}
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	if err := d.mayLocked(c, "notify", "indicate"); err != nil {
		return err
	}
	c.notifying = on
	return nil
}

// pair pairs as the kernel does, and asks the agent of whoever has called.
func (d *Device) pair(from dbus.Sender) *dbus.Error {
	if err := d.z.called("Pair"); err != nil {
		return err
	}
	d.z.mu.Lock()
	if d.away || !d.shown {
		d.z.mu.Unlock()
		return bluezError("ConnectionAttemptFailed")
	}
	if d.bonded {
		d.z.mu.Unlock()
		return bluezError("AlreadyExists")
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.pairing = cancel
	agent, conn := d.z.agents[string(from)], d.z.conn
	d.z.mu.Unlock()
	defer cancel()
	if err := d.prove(ctx, conn, string(from), agent); err != nil {
		return err
	}
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	d.bondLocked()
	return nil
}

func (d *Device) prove(ctx context.Context, conn *dbus.Conn, from string, a agent) *dbus.Error {
	ask := func(method string, args ...any) *dbus.Call {
		return conn.Object(from, a.path).CallWithContext(ctx, "org.bluez.Agent1."+method, 0, append([]any{d.path()}, args...)...)
	}
	failed := func(err error) *dbus.Error {
		switch bad, _ := errors.AsType[dbus.Error](err); {
		case ctx.Err() != nil:
			conn.Object(from, a.path).Go("org.bluez.Agent1.Cancel", dbus.FlagNoReplyExpected, nil)
			return bluezError("AuthenticationCanceled")
		case bad.Name == "org.bluez.Error.Canceled":
			return bluezError("AuthenticationCanceled")
		case bad.Name == "org.bluez.Error.Rejected":
			return bluezError("AuthenticationRejected")
		}
		return bluezError("AuthenticationFailed")
	}
	switch d.Pairing {
	case ShowsKey:
		var key uint32
		if err := ask("RequestPasskey").Store(&key); err != nil {
			return failed(err)
		}
		if key != d.Passkey {
			return bluezError("AuthenticationFailed")
		}
	case Compares:
		if err := ask("RequestConfirmation", d.Passkey).Err; err != nil {
			return failed(err)
		}
	case Types:
		if err := ask("DisplayPasskey", d.Passkey, uint16(0)).Err; err != nil {
			return failed(err)
		}
	case Refuses:
		return bluezError("AuthenticationRejected")
	case Hangs:
		<-ctx.Done()
		return bluezError("AuthenticationCanceled")
	}
	return nil
}

func (d *Device) cancelPairing() *dbus.Error {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	d.z.calls["CancelPairing"]++
	if d.pairing == nil {
		return bluezError("DoesNotExist")
	}
	d.pairing()
	return nil
}
