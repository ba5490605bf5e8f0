package fakebluez

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/godbus/dbus/v5"
)

const (
	adapterIface = "org.bluez.Adapter1"
	deviceIface  = "org.bluez.Device1"
	charIface    = "org.bluez.GattCharacteristic1"
	serviceIface = "org.bluez.GattService1"
	managerIface = "org.bluez.AdvertisementMonitorManager1"
	monitorIface = "org.bluez.AdvertisementMonitor1"
	propsIface   = "org.freedesktop.DBus.Properties"
	objectsIface = "org.freedesktop.DBus.ObjectManager"
)

// Options are the knobs of a daemon, set before it starts.
type Options struct {
	Adapters   []Adapter // default: one, hci0 with the address 00:00:00:00:00:01
	NoMonitors bool      // started without its experimental interfaces
	Release    bool      // the kernel refuses monitors: they are released at once
	Silent     bool      // the kernel refuses monitors: nobody says so
	NoSystemd  bool      // there is nobody who could restart the daemon
}

// Adapter is one radio.
type Adapter struct {
	Name, Address string
	Off           bool // not powered
}

// BlueZ is a daemon. Safe for concurrent use.
type BlueZ struct {
	bus string
	o   Options

	mu sync.Mutex
	// guarded by mu:
	conn     *dbus.Conn // nil: not running
	systemd  *dbus.Conn
	devices  []*Device
	objects  map[dbus.ObjectPath]map[string]map[string]dbus.Variant
	agents   map[string]agent   // by who registered it
	scanners map[string]bool    // who discovers
	monitors map[string]monitor // by who registered it
	calls    map[string]int     // by name of the method
	deaf     bool               // see Deaf
	order    []string           // see Connections
	most     int                // see Connections
	fail     map[string]*dbus.Error
}

type agent struct {
	path       dbus.ObjectPath
	capability string
}

type monitor struct {
	root     dbus.ObjectPath
	patterns []pattern
}

// maxPatterns is how many patterns of one monitor BlueZ 5.66 survives.
const maxPatterns = 7

type pattern struct {
	Offset, Type uint8
	Content      []byte
}

// New makes a daemon for a bus. It does not start it.
func New(bus *Bus, o Options) *BlueZ {
	if o.Adapters == nil {
		o.Adapters = []Adapter{{Name: "hci0", Address: "00:00:00:00:00:01"}}
	}
	return &BlueZ{bus: bus.Address, o: o, calls: make(map[string]int), fail: make(map[string]*dbus.Error)}
}

// Bus is the address of the bus.
func (z *BlueZ) Bus() string { return z.bus }

// Start starts the daemon: its adapters appear, and the bonded devices.
func (z *BlueZ) Start() error {
	conn, err := dbus.Connect(z.bus)
	if err != nil {
		return err
	}
	z.mu.Lock()
	z.conn = conn
	z.deaf = false
	z.objects = make(map[dbus.ObjectPath]map[string]map[string]dbus.Variant)
	z.agents, z.scanners, z.monitors = make(map[string]agent), make(map[string]bool), make(map[string]monitor)
	err = z.exportLocked()
	z.mu.Unlock()
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	if reply, err := conn.RequestName("org.bluez", dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		return errors.Join(fmt.Errorf("cannot own org.bluez: %v", reply), err, conn.Close())
	}
	return z.startSystemd()
}

// startSystemd offers what restarts the daemon.
func (z *BlueZ) startSystemd() error {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.systemd != nil || z.o.NoSystemd {
		return nil
	}
	conn, err := dbus.Connect(z.bus)
	if err != nil {
		return err
	}
	z.systemd = conn
	restart := func(unit, _ string) (dbus.ObjectPath, *dbus.Error) {
		if unit != "bluetooth.service" {
			return "", dbus.NewError("org.freedesktop.systemd1.NoSuchUnit", nil)
		}
		z.count("RestartUnit")
		z.Crash()
		if err := z.Start(); err != nil {
			return "", dbus.MakeFailedError(err)
		}
		return "/job", nil
	}
	if err := conn.ExportMethodTable(map[string]any{"RestartUnit": restart}, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"); err != nil {
		return err
	}
	_, err = conn.RequestName("org.freedesktop.systemd1", dbus.NameFlagDoNotQueue)
	return err
}

// Crash ends the daemon as kill -9 does. Connections end with it.
func (z *BlueZ) Crash() {
	z.mu.Lock()
	conn := z.conn
	z.conn = nil
	for _, d := range z.devices {
		d.forgetLocked()
	}
	z.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

// Stop ends the daemon and what restarts it.
func (z *BlueZ) Stop() {
	z.Crash()
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.systemd != nil {
		z.systemd.Close()
		z.systemd = nil
	}
}

// Deaf makes the radio hear nothing any more, until the adapter is switched off and on
// or the daemon is restarted.
func (z *BlueZ) Deaf() {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.deaf = true
}

// Fail makes every call of a method, "StartDiscovery", fail with an error like
// "org.bluez.Error.NotReady"; "" ends that.
func (z *BlueZ) Fail(method, name string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if name == "" {
		delete(z.fail, method)
		return
	}
	z.fail[method] = dbus.NewError(name, []any{"failed on purpose"})
}

// Calls is how often a method was called. "Power" counts switching on.
func (z *BlueZ) Calls(method string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.calls[method]
}

// Connections returns the addresses of the devices that were connected, in that order,
// each as often as it was, and how many were connected at the same time, at most.
func (z *BlueZ) Connections() (order []string, most int) {
	z.mu.Lock()
	defer z.mu.Unlock()
	return slices.Clone(z.order), z.most
}

// connectedLocked notes that a device was connected.
func (z *BlueZ) connectedLocked(d *Device) {
	z.order = append(z.order, d.Address)
	n := 0
	for _, other := range z.devices {
		if other.connected {
			n++
		}
	}
	z.most = max(z.most, n)
}

func (z *BlueZ) count(method string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.calls[method]++
}

// called counts a call and says whether it is to fail.
func (z *BlueZ) called(method string) *dbus.Error {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.calls[method]++
	return z.fail[method]
}

// Scanning says whether anybody hears what is advertised: "passive", "active" or "".
func (z *BlueZ) Scanning() string {
	z.mu.Lock()
	defer z.mu.Unlock()
	switch {
	case len(z.scanners) > 0:
		return "active"
	case len(z.monitors) > 0:
		return "passive"
	}
	return ""
}

// Unplug takes an adapter away with its devices, or brings it back.
func (z *BlueZ) Unplug(adapter string, away bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	path := dbus.ObjectPath("/org/bluez/" + adapter)
	if !away {
		for _, a := range z.o.Adapters {
			if a.Name == adapter {
				z.addAdapterLocked(a)
			}
		}
		return
	}
	for _, d := range z.devices {
		if strings.HasPrefix(string(d.path()), string(path)+"/") {
			d.forgetLocked()
		}
	}
	z.removeLocked(path)
	clear(z.scanners)
	clear(z.monitors)
}

func (z *BlueZ) exportLocked() error {
	errs := []error{
		z.conn.ExportMethodTable(map[string]any{"GetManagedObjects": z.managed}, "/", objectsIface),
		z.conn.ExportMethodTable(map[string]any{
			"RegisterAgent": func(from dbus.Sender, path dbus.ObjectPath, capability string) *dbus.Error {
				z.mu.Lock()
				defer z.mu.Unlock()
				z.agents[string(from)] = agent{path, capability}
				return nil
			},
			"UnregisterAgent": func(from dbus.Sender, _ dbus.ObjectPath) *dbus.Error {
				z.mu.Lock()
				defer z.mu.Unlock()
				delete(z.agents, string(from))
				return nil
			},
		}, "/org/bluez", "org.bluez.AgentManager1"),
	}
	for _, a := range z.o.Adapters {
		errs = append(errs, z.addAdapterLocked(a))
	}
	for _, d := range z.devices {
		if d.bonded {
			errs = append(errs, d.showLocked())
		}
	}
	return errors.Join(errs...)
}

func (z *BlueZ) managed() (map[dbus.ObjectPath]map[string]map[string]dbus.Variant, *dbus.Error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	all := make(map[dbus.ObjectPath]map[string]map[string]dbus.Variant, len(z.objects))
	for path, ifaces := range z.objects {
		all[path] = copied(ifaces)
	}
	return all, nil
}

func copied(ifaces map[string]map[string]dbus.Variant) map[string]map[string]dbus.Variant {
	c := make(map[string]map[string]dbus.Variant, len(ifaces))
	for name, values := range ifaces {
		c[name] = maps.Clone(values)
	}
	return c
}

func (z *BlueZ) addAdapterLocked(a Adapter) error {
	path := dbus.ObjectPath("/org/bluez/" + a.Name)
	ifaces := map[string]map[string]dbus.Variant{adapterIface: {
		"Address": dbus.MakeVariant(a.Address), "Name": dbus.MakeVariant("fake"),
		"Powered": dbus.MakeVariant(!a.Off), "Discovering": dbus.MakeVariant(false),
	}}
	if !z.o.NoMonitors {
		ifaces[managerIface] = map[string]dbus.Variant{"SupportedMonitorTypes": dbus.MakeVariant([]string{"or_patterns"})}
		if err := z.conn.ExportMethodTable(map[string]any{
			"RegisterMonitor": z.registerMonitor, "UnregisterMonitor": z.unregisterMonitor,
		}, path, managerIface); err != nil {
			return err
		}
	}
	err := errors.Join(
		z.conn.ExportMethodTable(map[string]any{
			"SetDiscoveryFilter": func(map[string]dbus.Variant) *dbus.Error { return nil },
			"StartDiscovery":     z.startDiscovery,
			"StopDiscovery":      z.stopDiscovery,
			"RemoveDevice":       z.removeDevice,
		}, path, adapterIface),
		z.conn.ExportMethodTable(map[string]any{
			"Set": func(iface, name string, value dbus.Variant) *dbus.Error {
				on, ok := value.Value().(bool)
				if iface != adapterIface || name != "Powered" || !ok {
					return dbus.NewError("org.freedesktop.DBus.Error.InvalidArgs", nil)
				}
				return z.power(path, on)
			},
		}, path, propsIface),
	)
	z.addLocked(path, ifaces)
	return err
}

func (z *BlueZ) power(adapter dbus.ObjectPath, on bool) *dbus.Error {
	if err := z.called(map[bool]string{true: "Power", false: "PowerOff"}[on]); err != nil {
		return err
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if on {
		z.deaf = false
	} else {
		clear(z.scanners)
		for _, d := range z.devices {
			d.dropLocked()
		}
	}
	z.setLocked(adapter, adapterIface, "Powered", on)
	return nil
}

func (z *BlueZ) startDiscovery(from dbus.Sender) *dbus.Error {
	if err := z.called("StartDiscovery"); err != nil {
		return err
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.scanners[string(from)] {
		return dbus.NewError("org.bluez.Error.InProgress", nil)
	}
	z.scanners[string(from)] = true
	return nil
}

func (z *BlueZ) stopDiscovery(from dbus.Sender) *dbus.Error {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.calls["StopDiscovery"]++
	if !z.scanners[string(from)] {
		return dbus.NewError("org.bluez.Error.Failed", []any{"No discovery started"})
	}
	delete(z.scanners, string(from))
	return nil
}

func (z *BlueZ) removeDevice(path dbus.ObjectPath) *dbus.Error {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.calls["RemoveDevice"]++
	for _, d := range z.devices {
		if d.shown && d.path() == path {
			d.bonded = false
			d.forgetLocked()
			return nil
		}
	}
	return dbus.NewError("org.bluez.Error.DoesNotExist", nil)
}

// registerMonitor reads the monitor of an application and activates it.
func (z *BlueZ) registerMonitor(from dbus.Sender, root dbus.ObjectPath) *dbus.Error {
	if err := z.called("RegisterMonitor"); err != nil {
		return err
	}
	z.mu.Lock()
	conn, o := z.conn, z.o
	z.mu.Unlock()
	if conn == nil {
		return dbus.NewError("org.bluez.Error.Failed", nil)
	}
	go func() { // the daemon answers first
		var all map[dbus.ObjectPath]map[string]map[string]dbus.Variant
		if conn.Object(string(from), root).Call(objectsIface+".GetManagedObjects", 0).Store(&all) != nil {
			return
		}
		m := monitor{root: root}
		for path, ifaces := range all {
			var patterns []pattern
			if dbus.Store([]any{ifaces[monitorIface]["Patterns"].Value()}, &patterns) != nil {
				continue
			}
			if len(patterns) > maxPatterns {
				z.Crash() // as the true one does
				return
			}
			m.patterns = append(m.patterns, patterns...)
			if o.Release {
				conn.Object(string(from), path).Go(monitorIface+".Release", dbus.FlagNoReplyExpected, nil)
			}
			if o.Release || o.Silent {
				continue
			}
			z.mu.Lock()
			z.monitors[string(from)] = m
			z.mu.Unlock()
			conn.Object(string(from), path).Go(monitorIface+".Activate", dbus.FlagNoReplyExpected, nil)
		}
	}()
	return nil
}

func (z *BlueZ) unregisterMonitor(from dbus.Sender, _ dbus.ObjectPath) *dbus.Error {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.calls["UnregisterMonitor"]++
	delete(z.monitors, string(from))
	return nil
}

// hearsLocked says whether anybody is shown an advertisement with these elements.
func (z *BlueZ) hearsLocked(elements map[uint8][][]byte) bool {
	if z.conn == nil || z.deaf {
		return false
	}
	if len(z.scanners) > 0 {
		return true
	}
	for _, m := range z.monitors {
		for _, p := range m.patterns {
			if slices.ContainsFunc(elements[p.Type], func(b []byte) bool {
				return len(b) >= int(p.Offset) && bytes.HasPrefix(b[p.Offset:], p.Content)
			}) {
				return true
			}
		}
	}
	return false
}

func (z *BlueZ) addLocked(path dbus.ObjectPath, ifaces map[string]map[string]dbus.Variant) {
	z.objects[path] = ifaces
	z.emitLocked("/", objectsIface+".InterfacesAdded", path, copied(ifaces))
}

func (z *BlueZ) removeLocked(path dbus.ObjectPath) {
	ifaces, ok := z.objects[path]
	if !ok {
		return
	}
	delete(z.objects, path)
	z.emitLocked("/", objectsIface+".InterfacesRemoved", path, slices.Collect(maps.Keys(ifaces)))
}

func (z *BlueZ) setLocked(path dbus.ObjectPath, iface, name string, value any) {
	z.changeLocked(path, iface, map[string]dbus.Variant{name: dbus.MakeVariant(value)})
}

func (z *BlueZ) changeLocked(path dbus.ObjectPath, iface string, values map[string]dbus.Variant) {
	if z.objects[path] == nil {
		return
	}
	maps.Copy(z.objects[path][iface], values)
	z.emitLocked(path, propsIface+".PropertiesChanged", iface, values, []string{})
}

func (z *BlueZ) emitLocked(path dbus.ObjectPath, name string, values ...any) {
	if z.conn != nil {
		_ = z.conn.Emit(path, name, values...) // nobody hears a daemon that has gone
	}
}
