package site

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/fakebluez"
)

// The valve's one characteristic.
const (
	valveService  = "6e400001-b5a3-f393-e0a9-e50e24dcca9e"
	valvePosition = "6e400002-b5a3-f393-e0a9-e50e24dcca9e"
)

// advertiseEvery is how often a sensor measures and advertises.
const advertiseEvery = 200 * time.Millisecond

// Radio is a Bluetooth adapter that is simulated: a bus and a BlueZ of its own, with the
// site's sensors and valves in reach.
type Radio struct {
	BlueZ *fakebluez.BlueZ

	bus     *fakebluez.Bus
	dir     string // of the bus; a socket's path must be short
	devices map[string]*fakebluez.Device
	uarts   map[string]*fakebluez.UART // those of devices that have one
	stop    context.CancelFunc
	sending sync.WaitGroup
}

// onAir says that a leaf is around the Bluetooth adapter.
func (k Kind) onAir() bool { return k == BTHome || k == Valve || k == NUS }

// smallMTU is that of the poorest device (Core Specification, volume 3, part G, section
// 5.2.1).
const smallMTU = 23

// Device is a leaf in the air.
func (r *Radio) Device(id string) *fakebluez.Device { return r.devices[id] }

// Radio is the adapter, nil where no leaf needs one.
func (s *Site) Radio() *Radio { return s.radio }

// addressOf is the Bluetooth address of the nth leaf over BLE.
func addressOf(n int) string { return fmt.Sprintf("C8:00:00:00:00:%02X", n) }

// startRadio starts the adapter if a leaf needs one.
func (s *Site) startRadio() (err error) {
	n := 0
	for _, d := range s.plan.Leaves {
		if d.Kind.onAir() {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	r := &Radio{devices: make(map[string]*fakebluez.Device), uarts: make(map[string]*fakebluez.UART)}
	if r.dir, err = os.MkdirTemp("", "fieldgate-bus-"); err != nil {
		return err
	}
	if r.bus, err = fakebluez.StartBus(r.dir); err != nil {
		return errors.Join(err, os.RemoveAll(r.dir))
	}
	s.radio = r
	r.BlueZ = fakebluez.New(r.bus, fakebluez.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	for i, d := range s.plan.Leaves {
		if !d.Kind.onAir() {
			continue
		}
		device := &fakebluez.Device{Address: addressOf(i)}
		switch d.Kind {
		case NUS:
			u := fakebluez.NewUART(addressOf(i), smallMTU, "write", "write-without-response")
			r.uarts[d.ID], device = u, u.Device
		case Valve:
			device.Services = []fakebluez.Service{{UUID: valveService, Characteristics: []*fakebluez.Characteristic{
				{UUID: valvePosition, Flags: []string{"read", "write", "notify"}, Value: []byte{0}},
			}}}
		}
		if d.New && d.Kind == Valve {
			device.Pairing, device.Passkey = fakebluez.ShowsKey, NewPasskey
		}
		device.Name = d.ID
		r.devices[d.ID] = r.BlueZ.Add(device)
		r.sending.Go(func() { r.advertise(ctx, device, d.Kind) })
	}
	return r.BlueZ.Start()
}

// advertise sends until ctx ends. A sensor counts its measurements.
func (r *Radio) advertise(ctx context.Context, d *fakebluez.Device, kind Kind) {
	tick := time.NewTicker(advertiseEvery)
	defer tick.Stop()
	for n := uint32(1); ; n++ {
		var service map[uint16][]byte
		if kind == BTHome { // packet number, temperature 21.5 °C, count
			data := append([]byte{0x40, 0x00, byte(n), 0x02, 0x66, 0x08, 0x3E}, binary.LittleEndian.AppendUint32(nil, n)...)
			service = map[uint16][]byte{0xFCD2: data}
		}
		d.Advertise(nil, service)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Tell has a valve notify that it stands at a position, and says whether the gateway listens.
func (r *Radio) Tell(valve string, position byte) bool {
	return r.devices[valve].Set(valvePosition, []byte{position})
}

// Position is where a valve was moved to last.
func (r *Radio) Position(valve string) int {
	list := r.devices[valve].Written()
	if len(list) == 0 {
		return 0
	}
	return int(list[len(list)-1].Value[0])
}

func (r *Radio) close() error {
	if r == nil {
		return nil
	}
	r.stop()
	r.sending.Wait()
	r.BlueZ.Stop()
	return errors.Join(r.bus.Stop(), os.RemoveAll(r.dir))
}

// radioText is the configuration of the leaves over BLE.
func (s *Site) radioText(b *strings.Builder) {
	for i, d := range s.plan.Leaves {
		if d.New {
			continue
		}
		switch d.Kind {
		case BTHome:
			fmt.Fprintf(b, "[[ble.advert]]\naddress = %q\nleaf = %q\nmin_interval = \"0s\"\n\n", addressOf(i), d.ID)
		case NUS:
			fmt.Fprintf(b, "[[ble.device]]\naddress = %q\nleaf = %q\npairing = \"none\"\nformat = \"mqtt-sn\"\n\n", addressOf(i), d.ID)
		case Valve:
			fmt.Fprintf(b, `[[ble.device]]
address = %q
leaf = %q
pairing = "none"

[[ble.device.characteristic]]
uuid = %q
name = "position"
format = "uint8"
read = "once"
notify = true
command = "position"
method = "position"

`, addressOf(i), d.ID, valvePosition)
		}
	}
}

// Measurements are the counts in what has arrived from a BTHome sensor, each once, in
// their order. The error says what is wrong with them, as of Readings.
func (s *Site) Measurements(id string) (list []uint32, err error) {
	ids := make(map[string]bool)
	last := uint32(0)
	for _, e := range s.Events() {
		if e.Device != id || ids[e.MessageID] {
			continue
		}
		ids[e.MessageID] = true
		var m struct {
			Count       uint32  `json:"count"`
			Temperature float64 `json:"temperature"`
		}
		switch bad := json.Unmarshal(e.Body, &m); {
		case bad != nil || m.Temperature != 21.5 || e.Properties["fieldgate-trust"] != "advertised":
			err = errors.Join(err, fmt.Errorf("%s with %v is no measurement of %s", e.Body, e.Properties, id))
		case m.Count <= last:
			err = errors.Join(err, fmt.Errorf("measurement %d of %s came after %d", m.Count, id, last))
		default:
			last = m.Count
			list = append(list, m.Count)
		}
	}
	return list, err
}
