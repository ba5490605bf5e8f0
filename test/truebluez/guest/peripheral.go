package main

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// gateway is the address of the gateway's controller, as on air: backwards.
var gateway = [6]byte{0, 0, 0, 1, 0xAA, 0}

type props = map[string]dbus.Variant

// peripheral is the far side of the air: a GATT application with one service, and an
// advertisement, on a controller of the machine's own. Their paths on the bus are below
// root.
type peripheral struct {
	conn    *dbus.Conn
	number  uint16 // of the controller
	adapter dbus.ObjectPath
	root    dbus.ObjectPath
	address string // from register on

	shown map[dbus.ObjectPath]map[string]props // the service and its characteristics
	err   error                                // what could not be exported, if anything
}

// newPeripheral makes a peripheral with a service and no characteristics yet.
func newPeripheral(controller uint16, root dbus.ObjectPath, service string) (*peripheral, error) {
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		return nil, err
	}
	p := &peripheral{conn: conn, number: controller, adapter: dbus.ObjectPath(fmt.Sprintf("/org/bluez/hci%d", controller)), root: root}
	p.shown = map[dbus.ObjectPath]map[string]props{
		p.service(): {"org.bluez.GattService1": {"UUID": dbus.MakeVariant(service), "Primary": dbus.MakeVariant(true)}},
	}
	p.export(root, "org.freedesktop.DBus.ObjectManager", map[string]any{
		"GetManagedObjects": func() (map[dbus.ObjectPath]map[string]props, *dbus.Error) { return p.shown, nil },
	})
	p.export(p.advert(), "org.bluez.LEAdvertisement1", map[string]any{"Release": func() *dbus.Error { return nil }})
	return p, nil
}

func (p *peripheral) service() dbus.ObjectPath { return p.root + "/service0" }
func (p *peripheral) advert() dbus.ObjectPath  { return p.root + "/advert" }

// characteristic adds one, and what bluetoothd may call of it.
func (p *peripheral) characteristic(name dbus.ObjectPath, uuid string, methods map[string]any, flags ...string) dbus.ObjectPath {
	path := p.service() + "/" + name
	p.shown[path] = map[string]props{"org.bluez.GattCharacteristic1": {
		"UUID": dbus.MakeVariant(uuid), "Service": dbus.MakeVariant(p.service()), "Flags": dbus.MakeVariant(flags),
	}}
	p.export(path, "org.bluez.GattCharacteristic1", methods)
	return path
}

// advertised says what is shown in the air; what is asked for each time bluetoothd wants it.
func (p *peripheral) advertised(all func() props) {
	p.export(p.advert(), "org.freedesktop.DBus.Properties", map[string]any{
		"GetAll": func(string) (props, *dbus.Error) { return all(), nil },
	})
}

func (p *peripheral) export(path dbus.ObjectPath, iface string, methods map[string]any) {
	p.err = errors.Join(p.err, p.conn.ExportMethodTable(methods, path, iface))
}

// register has bluetoothd offer the service.
func (p *peripheral) register() error {
	adapter := p.conn.Object("org.bluez", p.adapter)
	v, err := adapter.GetProperty("org.bluez.Adapter1.Address")
	if err != nil {
		return err
	}
	p.address, _ = v.Value().(string)
	return errors.Join(
		p.err,
		adapter.SetProperty("org.bluez.Adapter1.Powered", dbus.MakeVariant(true)),
		p.bluez(p.adapter, "GattManager1.RegisterApplication", p.root, props{}),
	)
}

// advertise begins to show the advertisement, or ends that.
func (p *peripheral) advertise(on bool) error {
	if on {
		return p.bluez(p.adapter, "LEAdvertisingManager1.RegisterAdvertisement", p.advert(), props{})
	}
	return p.bluez(p.adapter, "LEAdvertisingManager1.UnregisterAdvertisement", p.advert())
}

// cut ends the connection with the gateway, if there is one, beneath bluetoothd: which
// takes two seconds for that itself, and has been seen to crash over it.
func (p *peripheral) cut() error {
	fd, err := unix.Socket(unix.AF_BLUETOOTH, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.BTPROTO_HCI)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const none = 0xFFFF
	if err := unix.Bind(fd, &unix.SockaddrHCI{Dev: none, Channel: unix.HCI_CHANNEL_CONTROL}); err != nil {
		return err
	}
	// The command Disconnect (bluez, doc/mgmt-api.txt): opcode, controller, length; address, LE public.
	const disconnect, public = 0x0014, 1
	packet := binary.LittleEndian.AppendUint16(nil, disconnect)
	packet = binary.LittleEndian.AppendUint16(packet, p.number)
	packet = binary.LittleEndian.AppendUint16(packet, uint16(len(gateway)+1))
	_, err = unix.Write(fd, append(append(packet, gateway[:]...), public))
	return err
}

// changed tells bluetoothd of a new value: a notification, or an advertisement that is
// another one.
func (p *peripheral) changed(path dbus.ObjectPath, iface, property string, value any) error {
	return p.conn.Emit(path, "org.freedesktop.DBus.Properties.PropertiesChanged", "org.bluez."+iface,
		props{property: dbus.MakeVariant(value)}, []string{})
}

// notify notifies whoever listens.
func (p *peripheral) notify(characteristic dbus.ObjectPath, value []byte) error {
	return p.changed(characteristic, "GattCharacteristic1", "Value", value)
}

// bluez calls a method of bluetoothd's.
func (p *peripheral) bluez(path dbus.ObjectPath, method string, args ...any) error {
	if err := p.conn.Object("org.bluez", path).Call("org.bluez."+method, 0, args...).Err; err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}
