package ble

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/drivers/ble/bluez"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/test/fakebluez"
)

// Leaves come and go while the driver runs, and one that stays is not disturbed: neither
// now nor when the daemon has crashed.
func TestDevicesComeAndGo(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, oneDevice(PairingNone))
	stays, second := z.Add(newValve(valve)), z.Add(newValve("C8:00:00:00:00:02"))
	u := fakebluez.NewUART("C8:00:00:00:00:03", 23, "write", "write-without-response")
	z.Add(u.Device)
	room := z.Add(&fakebluez.Device{Address: sensor})
	keepAdvertising(t, stays, second, u.Device)
	r.untilAwake("valve-1")

	c := oneDevice(PairingNone, func(d *DeviceConfig) { d.Address, d.Leaf = "C8:00:00:00:00:02", "valve-2" }).Devices[0]
	a := oneAdvert().Adverts[0]
	for round := range 2 {
		e := &echo{}
		for _, err := range []error{r.AddDevice(c), r.AddAdvert(a), r.AddNode(node(e, "C8:00:00:00:00:03", "node"))} {
			if err != nil {
				t.Fatal(err)
			}
		}
		r.untilAwake("valve-2")
		say(t, u, "hello\n")
		hears(t, u, "hello\n")
		before := len(r.bodies("room-1"))
		until(t, "a word of the sensor", func() bool {
			bthome(t, room, "4002CA09")
			return len(r.bodies("room-1")) > before
		})
		if round == 1 {
			z.Crash()
			if err := z.Start(); err != nil {
				t.Fatal(err)
			}
			until(t, "all of them after the crash", func() bool { return stays.Connected() && second.Connected() && u.Connected() })
			r.untilAwake("valve-2")
		}
		r.RemoveDevices("c8:00:00:00:00:02", "C8:00:00:00:00:03")
		r.RemoveAdvert(a.Address)
		if second.Connected() || u.Connected() {
			t.Error("what is removed is connected")
		}
		if r.wants("valve-2") != 0 || r.command("valve-2", "", "1") != gateway.Undelivered {
			t.Error("what is removed can be reached")
		}
		s := r.State()
		if len(s.Peers) != 1 || s.Peers[0].Leaf != "valve-1" || s.Counts["connections"] == 0 {
			t.Errorf("state is %+v", s)
		}
		before = len(r.bodies("room-1"))
		bthome(t, room, "4002CB09")
		strangers := s.Counts[countStrangers]
		r.until("a stranger", func(s gateway.DriverState) bool { return s.Counts[countStrangers] > strangers })
		if len(r.bodies("room-1")) != before {
			t.Error("what is removed is still believed")
		}
	}
	if n := stays.Connects(); n != 2 { // and after the crash
		t.Errorf("the one that stays was connected %d times", n)
	}
}

// Whatever comes and goes at the same time, in the end it is gone.
func TestDevicesComeAndGoAtOnce(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, DefaultConfig())
	var all sync.WaitGroup
	for i := range 8 {
		address := fmt.Sprintf("C8:00:00:00:00:1%d", i)
		d := z.Add(newValve(address))
		keepAdvertising(t, d)
		all.Go(func() {
			for range 5 {
				c := oneDevice(PairingNone, func(d *DeviceConfig) { d.Address, d.Leaf = address, "leaf-"+address }).Devices[0]
				a := oneAdvert(func(c *AdvertConfig) { c.Address, c.Leaf = address, "leaf-"+address }).Adverts[0]
				if err := r.AddDevice(c); err != nil {
					t.Error(err)
				}
				if err := r.AddAdvert(a); err != nil {
					t.Error(err)
				}
				r.RemoveDevices(address)
				r.RemoveAdvert(address)
				d.Set(bluez.UUID16(0x2A6E), []byte{0, 0})
			}
		})
	}
	all.Wait()
	if s := r.State(); len(s.Peers) != 0 || s.Leaves != 0 {
		t.Errorf("left are %+v", s.Peers)
	}
	if order, most := z.Connections(); most > DefaultConfig().Connections {
		t.Errorf("%d connections at once, %d in all", most, len(order))
	}
}

// notesOf are notes; between is called when each of a kind has been read.
type notesOf struct {
	*running
	between func()
}

func (n notesOf) EachNote(kind string, f func(string, []byte) error) error {
	err := n.running.EachNote(kind, f)
	n.between()
	return err
}

// A sensor that comes while the driver starts is held to its last counter like any other.
func TestCounterOfASensorThatComesAtTheStart(t *testing.T) {
	t.Parallel()
	d, err := New(DefaultConfig(), testClock, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c := oneAdvert().Adverts[0]
	address := strings.ToUpper(c.Address)
	r := &running{notes: map[string][]byte{counterNote + "/" + address: binary.BigEndian.AppendUint32(nil, 7)}}
	added := make(chan error, 1)
	between := func() {
		came := make(chan struct{})
		go func() {
			added <- d.AddAdvert(c)
			close(came)
		}()
		select { // it may come now, and be missed, or wait
		case <-came:
		case <-time.After(100 * time.Millisecond):
		}
	}
	if err := d.beginAll(t.Context(), &gateway.Ways{Notes: notesOf{r, between}}); err != nil {
		t.Fatal(err)
	}
	if err := <-added; err != nil {
		t.Fatal(err)
	}
	if x := d.adverts.by[address]; x.counter == nil || *x.counter != 7 {
		t.Errorf("what was noted of it is not known: %+v", x)
	}
}

// countedProtocol has counted something.
type countedProtocol struct{ Protocol }

func (countedProtocol) Fill(s *gateway.DriverState) {
	s.Count(&gateway.DriverState{Counts: map[string]int64{"echoes": 5}})
}

// Devices that go let go at the same time, and what they have counted is never missing.
func TestDevicesGoTogether(t *testing.T) {
	t.Parallel()
	d, err := New(DefaultConfig(), testClock, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	first, last := newNode(node(countedProtocol{}, valve, "first"), d), newNode(node(countedProtocol{}, "C8:00:00:00:00:02", "last"), d)
	left := make(chan struct{})
	for _, p := range []*peripheral{first, last} {
		d.add(p)
		p.visits.Add(1) // which ends when both are to go
		p.attendance = &running{attended: make(map[string][]gateway.Interest)}
	}
	first.leaving, last.leaving = func() {}, sync.OnceFunc(func() { close(left) })
	echoes := func(when string) {
		t.Helper()
		if n := d.State().Counts["echoes"]; n != 10 {
			t.Errorf("%s, %d are counted, want 10", when, n)
		}
	}
	echoes("before")
	go func() {
		<-left
		echoes("while they go")
		first.visits.Done()
		last.visits.Done()
	}()
	gone := make(chan struct{})
	go func() {
		d.RemoveDevices(valve, "c8:00:00:00:00:02")
		close(gone)
	}()
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Fatal("the second one waits for the first")
	}
	echoes("after")
	if n := len(d.devices()); n != 0 {
		t.Errorf("%d are left", n)
	}
}

// Whoever has listened to a device that could not be served hears nothing of it when it
// is another leaf.
func TestWhatWasListenedToInVain(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	thermometer := CharacteristicConfig{UUID: "2A6E", Notify: true}
	r := start(t, z, oneDevice(PairingNone, func(d *DeviceConfig) {
		d.Characteristics = []CharacteristicConfig{thermometer, {UUID: "2A19", Notify: true}} // which it cannot
	}))
	d := newValve(valve)
	d.Tells = true
	keepAdvertising(t, z.Add(d))
	r.until("an attempt in vain", func(s gateway.DriverState) bool {
		return len(s.Peers) == 1 && strings.Contains(s.Peers[0].Err, "cannot listen to 2A19")
	})
	r.RemoveDevices(valve)
	thermometer.Notify, thermometer.Read = false, "1s"
	if err := r.AddDevice(oneDevice(PairingNone, func(d *DeviceConfig) {
		d.Leaf, d.Characteristics = "valve-2", []CharacteristicConfig{thermometer}
	}).Devices[0]); err != nil {
		t.Fatal(err)
	}
	until(t, "values of the new leaf", func() bool { return len(r.bodies("valve-2")) > 1 })
	if old := r.bodies("valve-1"); len(old) != 0 {
		t.Errorf("the former leaf says %q", old)
	}
}

// A bus that takes a connection and says nothing does not hold the driver up.
func TestABusThatSaysNothing(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "bus"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := New(DefaultConfig(), testClock, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	d.bus = "unix:path=" + l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	r := &running{}
	go func() { ended <- d.Run(ctx, gateway.Ways{Up: r, Attendance: r, Notes: r}) }()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it waits for the bus")
	}
}
