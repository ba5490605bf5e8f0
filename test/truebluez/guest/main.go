// Command guest runs inside a virtual machine beside a true bluetoothd with emulated
// controllers: a sensor and a valve on hci1, and the driver on hci0. It prints what
// happens, and OK at the end.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/fieldgate/fieldgate/drivers/ble"
	"github.com/fieldgate/fieldgate/gateway"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
	fmt.Println("OK")
}

// The leaf's service.
const (
	leafService  = "6e400001-b5a3-f393-e0a9-e50e24dcca9e"
	leafPosition = "6e400002-b5a3-f393-e0a9-e50e24dcca9e"
	leafNotes    = "6e400003-b5a3-f393-e0a9-e50e24dcca9e"
)

// leaf is the far side: a GATT application, an advertisement and an agent with a display.
type leaf struct {
	conn    *dbus.Conn
	address string
	passkey chan uint32

	mu       sync.Mutex
	position []byte
	writes   int
	count    byte
	listen   bool
}

type props = map[string]dbus.Variant

const (
	appPath  = dbus.ObjectPath("/leaf")
	svcPath  = dbus.ObjectPath("/leaf/service0")
	posPath  = dbus.ObjectPath("/leaf/service0/char0")
	notePath = dbus.ObjectPath("/leaf/service0/char1")
	advPath  = dbus.ObjectPath("/leafadv")
	agent    = dbus.ObjectPath("/leafagent")
	hci1     = dbus.ObjectPath("/org/bluez/hci1")
)

func newLeaf() (*leaf, error) {
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		return nil, err
	}
	l := &leaf{conn: conn, passkey: make(chan uint32, 1), position: []byte{0}}
	chars := map[dbus.ObjectPath]map[string]props{
		svcPath: {"org.bluez.GattService1": {"UUID": dbus.MakeVariant(leafService), "Primary": dbus.MakeVariant(true)}},
		posPath: {"org.bluez.GattCharacteristic1": {
			"UUID": dbus.MakeVariant(leafPosition), "Service": dbus.MakeVariant(svcPath),
			"Flags": dbus.MakeVariant([]string{"encrypt-authenticated-read", "encrypt-authenticated-write"}),
		}},
		notePath: {"org.bluez.GattCharacteristic1": {
			"UUID": dbus.MakeVariant(leafNotes), "Service": dbus.MakeVariant(svcPath), "Flags": dbus.MakeVariant([]string{"read", "notify"}),
		}},
	}
	export := func(path dbus.ObjectPath, iface string, table map[string]any) {
		err = errors.Join(err, conn.ExportMethodTable(table, path, iface))
	}
	export(appPath, "org.freedesktop.DBus.ObjectManager", map[string]any{
		"GetManagedObjects": func() (map[dbus.ObjectPath]map[string]props, *dbus.Error) { return chars, nil },
	})
	export(posPath, "org.bluez.GattCharacteristic1", map[string]any{
		"ReadValue": func(props) ([]byte, *dbus.Error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.position, nil
		},
		"WriteValue": func(v []byte, _ props) *dbus.Error {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.position = v
			l.writes++
			return nil
		},
	})
	export(notePath, "org.bluez.GattCharacteristic1", map[string]any{
		"ReadValue":   func(props) ([]byte, *dbus.Error) { return []byte{1}, nil },
		"StartNotify": func() *dbus.Error { l.mu.Lock(); l.listen = true; l.mu.Unlock(); return nil },
		"StopNotify":  func() *dbus.Error { l.mu.Lock(); l.listen = false; l.mu.Unlock(); return nil },
	})
	export(advPath, "org.freedesktop.DBus.Properties", map[string]any{
		"GetAll": func(string) (props, *dbus.Error) { return l.advertisement(), nil },
	})
	export(advPath, "org.bluez.LEAdvertisement1", map[string]any{"Release": func() *dbus.Error { return nil }})
	export(agent, "org.bluez.Agent1", map[string]any{
		"DisplayPasskey": func(_ dbus.ObjectPath, key uint32, entered uint16) *dbus.Error {
			if entered == 0 {
				select {
				case l.passkey <- key:
				default:
				}
			}
			return nil
		},
		"Cancel":  func() *dbus.Error { return nil },
		"Release": func() *dbus.Error { return nil },
	})
	if err != nil {
		return nil, err
	}
	return l, l.register()
}

func (l *leaf) register() error {
	bluez := func(path dbus.ObjectPath, method string, args ...any) error {
		if err := l.conn.Object("org.bluez", path).Call("org.bluez."+method, 0, args...).Err; err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		return nil
	}
	adapter := l.conn.Object("org.bluez", hci1)
	v, err := adapter.GetProperty("org.bluez.Adapter1.Address")
	if err != nil {
		return err
	}
	l.address = v.Value().(string)
	return errors.Join(
		adapter.SetProperty("org.bluez.Adapter1.Powered", dbus.MakeVariant(true)),
		bluez("/org/bluez", "AgentManager1.RegisterAgent", agent, "DisplayOnly"),
		bluez("/org/bluez", "AgentManager1.RequestDefaultAgent", agent),
		bluez(hci1, "GattManager1.RegisterApplication", appPath, props{}),
		bluez(hci1, "LEAdvertisingManager1.RegisterAdvertisement", advPath, props{}),
	)
}

func (l *leaf) advertisement() props {
	l.mu.Lock()
	defer l.mu.Unlock()
	return props{
		"Type": dbus.MakeVariant("peripheral"), "LocalName": dbus.MakeVariant("leaf"), "Discoverable": dbus.MakeVariant(true),
		"ServiceData": dbus.MakeVariant(props{"fcd2": dbus.MakeVariant([]byte{0x40, 0x00, l.count, 0x02, 0x66, 0x08, 0x09, l.count})}),
	}
}

// tick changes what is advertised, and notifies: the emulator sends an advertisement only
// when it changes.
func (l *leaf) tick() {
	l.mu.Lock()
	l.count++
	n, listen := l.count, l.listen
	l.mu.Unlock()
	_ = l.conn.Emit(advPath, "org.freedesktop.DBus.Properties.PropertiesChanged", "org.bluez.LEAdvertisement1",
		props{"ServiceData": l.advertisement()["ServiceData"]}, []string{})
	if listen {
		_ = l.conn.Emit(notePath, "org.freedesktop.DBus.Properties.PropertiesChanged", "org.bluez.GattCharacteristic1",
			props{"Value": dbus.MakeVariant([]byte{n})}, []string{})
	}
}

// hub is what the driver is joined to.
type hub struct {
	mu   sync.Mutex
	got  []*gateway.Message
	wake atomic.Bool // the valve can be told something
}

func (h *hub) Handle(_ context.Context, m *gateway.Message, done gateway.Done) {
	h.mu.Lock()
	h.got = append(h.got, m)
	h.mu.Unlock()
	done(nil)
}

func (h *hub) Attend(_ string, _ gateway.Reach, wants gateway.Interest) {
	h.wake.Store(wants != 0 && !wants.Has(gateway.Asleep))
}
func (h *hub) Note(string, string) ([]byte, error)               { return nil, nil }
func (h *hub) SetNotes(string, map[string][]byte) error          { return nil }
func (h *hub) EachNote(string, func(string, []byte) error) error { return nil }

func (h *hub) has(leaf, text string) func() bool {
	return func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, m := range h.got {
			if m.Leaf == leaf && strings.Contains(string(m.Body), text) {
				return true
			}
		}
		return false
	}
}

func run() error {
	l, err := newLeaf()
	for limit := time.Now().Add(time.Minute); err != nil && time.Now().Before(limit); time.Sleep(500 * time.Millisecond) {
		l, err = newLeaf() // bluetoothd is starting
	}
	if err != nil {
		return err
	}
	cfg := ble.DefaultConfig()
	cfg.Adapter = "hci0"
	a := ble.DefaultAdvert()
	a.Address, a.Leaf, a.MinInterval = l.address, "room-1", 0
	v := ble.DefaultDevice()
	v.Address, v.Leaf = l.address, "valve-1"
	v.Characteristics = []ble.CharacteristicConfig{
		{UUID: leafPosition, Name: "position", Format: "uint8", Read: "once", Command: "position"},
		{UUID: leafNotes, Name: "note", Format: "uint8", Notify: true},
	}
	cfg.Adverts, cfg.Devices = []ble.AdvertConfig{a}, []ble.DeviceConfig{v}
	clock := func() gateway.Instant { return gateway.Instant{Wall: time.Now(), Quality: gateway.Synced} }
	d, err := ble.New(cfg, clock, slog.New(slog.NewTextHandler(os.Stdout, nil)))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := &hub{}
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx, gateway.Ways{Up: h, Attendance: h, Notes: h}) }()
	began := time.Now()
	step := func(what string, met func() bool) error {
		for limit := time.Now().Add(2 * time.Minute); !met(); {
			if time.Now().After(limit) {
				return fmt.Errorf("waited in vain: %s; the state is %+v", what, d.State())
			}
			l.tick()
			time.Sleep(500 * time.Millisecond)
		}
		fmt.Printf("%5.1fs %s\n", time.Since(began).Seconds(), what)
		return nil
	}
	err = scenario(l, d, h, step)
	cancel()
	return errors.Join(err, <-ended)
}

func scenario(l *leaf, d *ble.Driver, h *hub, step func(string, func() bool) error) error {
	if err := step("the adapter is up", func() bool { return d.State().Up }); err != nil {
		return err
	}
	if s := d.State(); s.Counts["scans_passive"] != 1 || s.Note != "" {
		return fmt.Errorf("the scan is not passive: %+v", s)
	}
	if err := step("a sensor's measurement", h.has("room-1", `"temperature":21.5`)); err != nil {
		return err
	}
	pair := func(enter func(uint32) uint32) (err error) {
		paired := make(chan error, 1)
		go func() {
			paired <- d.Pair(context.Background(), l.address, ble.Ceremony{Passkey: func(ctx context.Context) (uint32, bool) {
				select {
				case key := <-l.passkey:
					return enter(key), true
				case <-ctx.Done():
					return 0, false
				}
			}})
		}()
		return errors.Join(step("the pairing to end", func() bool {
			select {
			case err = <-paired:
				return true
			default:
				return false
			}
		}), err)
	}
	if err := pair(func(key uint32) uint32 { return (key + 1) % 1000000 }); !errors.Is(err, ble.ErrWrongKey) {
		return fmt.Errorf("a wrong passkey: %w", err)
	}
	if err := step("seen again", func() bool { found, _ := d.Scan(context.Background(), time.Second); return len(found) > 0 }); err != nil {
		return err
	}
	if err := pair(func(key uint32) uint32 { return key }); err != nil {
		return fmt.Errorf("the right passkey: %w", err)
	}
	if err := errors.Join(step("the valve is connected", h.wake.Load), step("it is read", h.has("valve-1", `"position":0`)),
		step("it notifies", h.has("valve-1", `"note":`))); err != nil {
		return err
	}
	verdict := make(chan gateway.Verdict, 1)
	d.Command(&gateway.Command{Leaf: "valve-1", Body: []byte("70")}, func(v gateway.Verdict) { verdict <- v })
	if v := <-verdict; v != gateway.Completed {
		return fmt.Errorf("the command is %v", v)
	}
	if l.mu.Lock(); l.position[0] != 70 || l.writes != 1 {
		return fmt.Errorf("position %v after %d writes", l.position, l.writes)
	}
	l.mu.Unlock()
	fmt.Println("the command is completed and the valve has moved")
	// The leaf's controller loses its power for a moment.
	power := func(on bool) error {
		return l.conn.Object("org.bluez", hci1).SetProperty("org.bluez.Adapter1.Powered", dbus.MakeVariant(on))
	}
	if err := power(false); err != nil {
		return err
	}
	if err := step("the loss is noticed", func() bool { return !h.wake.Load() }); err != nil {
		return err
	}
	if err := power(true); err != nil {
		return err
	}
	return step("connected again, without pairing", h.wake.Load)
}
