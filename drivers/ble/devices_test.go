package ble

import (
	"fmt"
	"sync"
	"testing"

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
		r.RemoveDevice("c8:00:00:00:00:02")
		r.RemoveDevice("C8:00:00:00:00:03")
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
				r.RemoveDevice(address)
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
