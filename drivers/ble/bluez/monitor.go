package bluez

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	monitorManagerIface = "org.bluez.AdvertisementMonitorManager1"
	monitorIface        = "org.bluez.AdvertisementMonitor1"

	monitorRoot = dbus.ObjectPath("/fieldgate")
)

// maxPatterns is how many patterns one monitor has at most. BlueZ 5.66 counts the
// octets of all patterns of a monitor, 34 each, in one octet, and writes beyond its
// memory when that overflows (src/adv_monitor.c): it crashes.
const maxPatterns = 5

// Why there is no passive scan.
var (
	ErrNoMonitors = errors.New("bluetoothd offers no advertisement monitors: it needs Experimental = true in main.conf")
	ErrRefused    = errors.New("the kernel or the adapter refuses the advertisement monitor")
)

// Pattern is what an advertisement must have to be shown (bluez,
// doc/org.bluez.AdvertisementMonitor.rst, Patterns).
type Pattern struct {
	Offset  uint8
	Type    uint8 // AD type (Bluetooth SIG, assigned numbers, section 2.3)
	Content []byte
}

// activation is how long the daemon has to activate a monitor. It accepts monitors
// that the kernel refuses a moment later, and then says nothing or releases them.
const activation = 3 * time.Second

// Monitor scans passively for advertisements with any of the patterns, until ended is
// closed by the daemon's refusal or the client's end.
func (c *Client) Monitor(ctx context.Context, adapter dbus.ObjectPath, patterns []Pattern) (ended <-chan struct{}, err error) {
	if a, ok := c.AdapterAt(adapter); ok && !a.Monitors {
		return nil, ErrNoMonitors
	}
	m := &monitor{activated: make(chan struct{}), released: make(chan struct{})}
	if err := c.exportMonitors(m, patterns); err != nil {
		return nil, err
	}
	if err := c.call(ctx, callTimeout, adapter, monitorManagerIface+".RegisterMonitor", monitorRoot).Err; err != nil && !IsError(err, "AlreadyExists") {
		return nil, fmt.Errorf("cannot register the advertisement monitor: %w", err)
	}
	timer := time.NewTimer(activation)
	defer timer.Stop()
	select {
	case <-m.activated:
		return m.released, nil
	case <-m.released:
	case <-timer.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.EndMonitor(ctx, adapter)
	return nil, ErrRefused
}

// EndMonitor ends a passive scan.
func (c *Client) EndMonitor(ctx context.Context, adapter dbus.ObjectPath) {
	// An error says that there is none.
	_ = c.call(ctx, callTimeout, adapter, monitorManagerIface+".UnregisterMonitor", monitorRoot)
}

// monitor is what the daemon says about our monitors.
type monitor struct {
	waiting             atomic.Int32 // how many are not activated yet
	over                sync.Once
	activated, released chan struct{}
}

func (m *monitor) release() *dbus.Error {
	m.over.Do(func() { close(m.released) })
	return nil
}

// exportMonitors shows the daemon monitors with all patterns among them.
func (c *Client) exportMonitors(m *monitor, patterns []Pattern) error {
	type wire struct {
		Offset, Type uint8
		Content      []byte
	}
	all := make(map[dbus.ObjectPath]map[string]map[string]dbus.Variant)
	var errs []error
	for some := range slices.Chunk(patterns, maxPatterns) {
		list := make([]wire, len(some))
		for i, p := range some {
			list[i] = wire(p)
		}
		shown := map[string]dbus.Variant{"Type": dbus.MakeVariant("or_patterns"), "Patterns": dbus.MakeVariant(list)}
		path := dbus.ObjectPath(fmt.Sprintf("%s/monitor%d", monitorRoot, len(all)))
		all[path] = map[string]map[string]dbus.Variant{monitorIface: shown}
		errs = append(errs, c.exportMonitor(m, path, shown))
	}
	m.waiting.Store(int32(len(all)))
	return errors.Join(append(errs, c.conn.ExportMethodTable(map[string]any{
		"GetManagedObjects": func() (map[dbus.ObjectPath]map[string]map[string]dbus.Variant, *dbus.Error) { return all, nil },
	}, monitorRoot, managerIface))...)
}

func (c *Client) exportMonitor(m *monitor, path dbus.ObjectPath, shown map[string]dbus.Variant) error {
	none := func(dbus.ObjectPath) *dbus.Error { return nil }
	activate := sync.OnceFunc(func() {
		if m.waiting.Add(-1) == 0 {
			close(m.activated)
		}
	})
	return errors.Join(
		c.conn.ExportMethodTable(map[string]any{
			"Activate":    func() *dbus.Error { activate(); return nil },
			"Release":     m.release,
			"DeviceFound": none, "DeviceLost": none, // what they say comes as properties, too
		}, path, monitorIface),
		c.conn.ExportMethodTable(map[string]any{
			"GetAll": func(string) (map[string]dbus.Variant, *dbus.Error) { return shown, nil },
			"Get":    func(_, name string) (dbus.Variant, *dbus.Error) { return shown[name], nil },
		}, path, propertiesIface),
	)
}
