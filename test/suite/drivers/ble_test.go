package drivers_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/drivers/ble"
	"github.com/fieldgate/fieldgate/drivers/serial/mqttsn"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/test/fakebluez"
	"github.com/fieldgate/fieldgate/test/suite/drivers"
)

const leafAddress = "C8:00:00:00:00:01"

// startRadio starts a BlueZ that the drivers of this test find.
func startRadio(t testing.TB) *fakebluez.BlueZ {
	t.Helper()
	dir, err := os.MkdirTemp("", "ble-") // a unix socket's path has at most 107 characters
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	bus, err := fakebluez.StartBus(dir)
	if errors.Is(err, fakebluez.ErrNoBus) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() { _ = bus.Stop() })
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.Address)
	z := fakebluez.New(bus, fakebluez.Options{})
	must(t, z.Start())
	t.Cleanup(z.Stop)
	return z
}

func bleDriver(t testing.TB, set func(*ble.Config)) gateway.Driver {
	t.Helper()
	c := ble.DefaultConfig()
	c.MaxWaiting = aired
	set(&c)
	d, err := ble.New(c, clock, slog.New(slog.DiscardHandler))
	must(t, err)
	return d
}

// airBaud is what a Bluetooth connection carries at its best, a tenth of its megabit. Most of
// what it costs is the bus and the simulated BlueZ behind it.
const airBaud = 115200

// aired is how many messages a driver under test keeps of what is in the air.
const aired = 4

// connected is how it is with the one device of a driver.
func connected(s gateway.DriverState) (up bool, ups int64, why error) {
	if p := s.Peers[0]; p.Err != "" {
		why = errors.New(p.Err)
	}
	return s.Peers[0].Up, s.Counts["connects"] - s.Counts["connect_failures"], why
}

// reach is a device that comes into reach and goes out of it, in the place of a port that
// is plugged in.
type reach struct {
	device *fakebluez.Device
	leave  context.CancelFunc
	work   sync.WaitGroup
}

// come brings the device into reach. It advertises, and does what else there is to do, until it
// goes.
func (r *reach) come(also func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	r.leave = cancel
	r.device.OutOfRange(false)
	r.work.Go(func() {
		for ctx.Err() == nil {
			r.device.Advertise(nil, nil)
			time.Sleep(5 * time.Millisecond)
		}
	})
	r.work.Go(func() { also(ctx) })
}

// Unplug takes the device away.
func (r *reach) Unplug() {
	if r.leave == nil {
		return
	}
	r.leave()
	r.leave = nil
	r.device.OutOfRange(true)
	r.work.Wait()
}

// MQTT-SN over the Nordic UART Service, in large packets: what holds on a serial line
// holds here, the line being the connection.
func TestMQTTSNOverBLE(t *testing.T) {
	k := drivers.Kind{
		Baud: airBaud, Inflight: 1, Repeats: true, There: connected,
		Driver: func(t testing.TB, _ string) gateway.Driver {
			return bleDriver(t, func(c *ble.Config) {
				link := mqttsn.DefaultConfig()
				link.Predefined = map[string]string{"1": "telemetry"}
				n := ble.DefaultNode(mqttsn.Format)
				n.Address, n.Leaf, n.Pairing = leafAddress, "leaf", ble.PairingNone
				n.Protocol = mqttsn.New(link, []string{"leaf"}, clock, slog.New(slog.DiscardHandler))
				c.Nodes = []ble.NodeConfig{n}
			})
		},
		Wire: func(t testing.TB, _ string) drivers.Wire {
			z := startRadio(t)
			n := &uartNode{node: newNode(), uart: fakebluez.NewUART(leafAddress, 247, "write-without-response")}
			n.reach.device = z.Add(n.uart.Device)
			var listening sync.WaitGroup
			listening.Go(func() { n.listen(n.uart) })
			t.Cleanup(func() { n.uart.Close(); listening.Wait() })
			return n
		},
	}
	k.Run(t)
}

// uartNode is an MQTT-SN client on a device's UART.
type uartNode struct {
	node
	reach
	uart *fakebluez.UART
}

func (n *uartNode) Plug(testing.TB) {
	n.come(func(ctx context.Context) { n.publish(ctx, n.uart) })
}

// Half is lost with the connection: the device is cut off in the middle of a frame.
func (n *uartNode) Half(t testing.TB) { n.Noise(t, []byte{0x7E, 0x0A}) }

func (n *uartNode) Noise(t testing.TB, noise []byte) {
	t.Helper()
	_, err := n.uart.Write(noise)
	must(t, err)
}

// readingUUID is the characteristic of the device that notifies its readings.
const readingUUID = "6e400009-b5a3-f393-e0a9-e50e24dcca9e"

// A device that notifies. It is told nothing of custody: a notification has no answer
// that could wait for that, and nobody can hold the next one back.
func TestNotifications(t *testing.T) {
	k := drivers.Kind{
		Aired: true, Baud: airBaud, Inflight: aired, There: connected,
		Driver: func(t testing.TB, _ string) gateway.Driver {
			return bleDriver(t, func(c *ble.Config) {
				d := ble.DefaultDevice()
				d.Address, d.Leaf, d.Pairing, d.Units = leafAddress, "leaf", ble.PairingNone, false
				d.Characteristics = []ble.CharacteristicConfig{{UUID: readingUUID, Name: "n", Format: "uint32", Notify: true}}
				c.Devices = []ble.DeviceConfig{d}
			})
		},
		Wire: func(t testing.TB, _ string) drivers.Wire {
			z := startRadio(t)
			d := &fakebluez.Device{Address: leafAddress, Services: []fakebluez.Service{{
				UUID:            "6e400008-b5a3-f393-e0a9-e50e24dcca9e",
				Characteristics: []*fakebluez.Characteristic{{UUID: readingUUID, Flags: []string{"notify"}}},
			}}}
			return &notifier{reach: reach{device: z.Add(d)}}
		},
	}
	k.Run(t)
}

// notifier is a device that notifies its readings.
type notifier struct{ reach }

func (n *notifier) Plug(testing.TB) { n.come(func(context.Context) {}) }

func (n *notifier) Say(t testing.TB, reading int) {
	n.notify(t, binary.LittleEndian.AppendUint32(nil, uint32(reading)))
}

// notify waits until somebody listens.
func (n *notifier) notify(t testing.TB, value []byte) {
	t.Helper()
	insist(t, func() bool { return n.device.Set(readingUUID, value) })
}

// insist repeats what nobody was there for.
func insist(t testing.TB, heard func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !heard(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nobody listens")
		}
	}
}

// Half is a value that is cut off.
func (n *notifier) Half(t testing.TB) { n.notify(t, []byte{1}) }

// Noise is values of the wrong length.
func (n *notifier) Noise(t testing.TB, noise []byte) {
	for piece := range slices.Chunk(noise, 244) {
		n.notify(t, slices.Clone(piece))
	}
}

func (*notifier) Number(m *gateway.Message) int {
	var object struct{ N int }
	if json.Unmarshal(m.Body, &object) != nil {
		return 0
	}
	return object.N
}

func (*notifier) Acked() int { return -1 }

// A sensor that only advertises, to which the same applies. It is never connected, so that
// what is pulled out, in the middle of a measurement, is the adapter.
func TestAdverts(t *testing.T) {
	k := drivers.Kind{
		Aired: true, Baud: airBaud, Inflight: aired,
		Driver: func(t testing.TB, _ string) gateway.Driver {
			return bleDriver(t, func(c *ble.Config) {
				a := ble.DefaultAdvert()
				a.Address, a.Leaf, a.MinInterval, a.Units = leafAddress, "leaf", 0, false
				c.Adverts = []ble.AdvertConfig{a}
			})
		},
		Wire: func(t testing.TB, _ string) drivers.Wire {
			a := &advertiser{z: startRadio(t)}
			a.z.Unplug("hci0", true)
			a.device = a.z.Add(&fakebluez.Device{Address: leafAddress})
			return a
		},
	}
	k.Run(t)
}

// advertiser is a BTHome sensor.
type advertiser struct {
	z      *fakebluez.BlueZ
	device *fakebluez.Device
}

func (a *advertiser) Plug(testing.TB) { a.z.Unplug("hci0", false) }

func (a *advertiser) Unplug() { a.z.Unplug("hci0", true) }

// Say advertises packet n with a count of n.
func (a *advertiser) Say(t testing.TB, n int) {
	a.advertise(t, append([]byte{0x40, 0x00, byte(n), 0x3E}, binary.LittleEndian.AppendUint32(nil, uint32(n))...))
}

func (a *advertiser) advertise(t testing.TB, data []byte) {
	t.Helper()
	insist(t, func() bool { return a.device.Advertise(nil, map[uint16][]byte{0xFCD2: data}) })
}

// Half is an advertisement that is cut off.
func (a *advertiser) Half(t testing.TB) { a.advertise(t, []byte{0x40, 0x00, 0xFF, 0x3E, 0xFF}) }

// Noise is of a version of the format that there is not.
func (a *advertiser) Noise(t testing.TB, noise []byte) {
	for piece := range slices.Chunk(noise, 220) {
		a.advertise(t, append([]byte{0}, piece...))
	}
}

func (*advertiser) Number(m *gateway.Message) int {
	var object struct{ Count int }
	if json.Unmarshal(m.Body, &object) != nil {
		return 0
	}
	return object.Count
}

func (*advertiser) Acked() int { return -1 }
