package ble

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/test/fakebluez"
)

func testClock() gateway.Instant {
	return gateway.Instant{Wall: time.Now().UTC(), Quality: gateway.Synced, Boot: 1, Uptime: time.Hour}
}

// startBus starts a bus for this test.
func startBus(t *testing.T) *fakebluez.Bus {
	t.Helper()
	dir, err := os.MkdirTemp("", "ble-") // a unix socket's path has at most 107 characters
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bus, err := fakebluez.StartBus(dir)
	if errors.Is(err, fakebluez.ErrNoBus) {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Stop() })
	return bus
}

// startBlueZ starts a daemon on a bus of its own.
func startBlueZ(t *testing.T, o fakebluez.Options) *fakebluez.BlueZ {
	t.Helper()
	z := fakebluez.New(startBus(t), o)
	if err := z.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(z.Stop)
	return z
}

// running is a driver under test and what it is joined to.
type running struct {
	*Driver
	t    *testing.T
	stop func() // ends the driver and waits for it

	twins gateway.Twins // nil: no device has any

	mu       sync.Mutex
	got      []*gateway.Message
	refuse   error // what messages are refused with
	attended map[string][]gateway.Interest
	notes    map[string][]byte
}

func (r *running) Handle(_ context.Context, m *gateway.Message, done gateway.Done) {
	r.mu.Lock()
	err := r.refuse
	if err == nil {
		r.got = append(r.got, m)
	}
	r.mu.Unlock()
	done(err)
}

func (r *running) Attend(leaf string, _ gateway.Reach, wants gateway.Interest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attended[leaf] = append(r.attended[leaf], wants)
}

func (r *running) Note(kind, name string) ([]byte, error) { return r.notes[kind+"/"+name], nil }

func (r *running) SetNotes(kind string, values map[string][]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, v := range values {
		r.notes[kind+"/"+name] = v
	}
	return nil
}

func (r *running) EachNote(kind string, f func(string, []byte) error) error {
	for name, v := range r.notes {
		if name, ok := strings.CutPrefix(name, kind+"/"); ok {
			if err := f(name, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func start(t *testing.T, z *fakebluez.BlueZ, cfg Config, set ...func(*running)) *running {
	t.Helper()
	d, err := New(cfg, testClock, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Driver: d, t: t, attended: make(map[string][]gateway.Interest), notes: make(map[string][]byte)}
	d.bus, d.rescan = z.Bus(), 20*time.Millisecond
	for _, f := range set {
		f(r)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx, gateway.Ways{Up: r, Attendance: r, Twins: r.twins, Notes: r}) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// until waits for a condition.
func until(t *testing.T, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !met(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func (r *running) until(what string, met func(gateway.DriverState) bool) gateway.DriverState {
	r.t.Helper()
	var s gateway.DriverState
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if s = r.State(); met(s) {
			return s
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("waited in vain: %s; the state is %+v", what, s)
		}
	}
}

func (r *running) untilUp() {
	r.t.Helper()
	r.until("adapter up", func(s gateway.DriverState) bool { return s.Up })
}

func (r *running) bodies(leaf string) (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.got {
		if m.Leaf == leaf {
			all = append(all, string(m.Body))
		}
	}
	return all
}

func (r *running) untilGot(leaf string, want ...string) {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); len(r.bodies(leaf)) < len(want); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: got %q, want %q; the state is %+v", leaf, r.bodies(leaf), want, r.State())
		}
	}
	if got := r.bodies(leaf); strings.Join(got, "\n") != strings.Join(want, "\n") {
		r.t.Errorf("%s: got %q, want %q", leaf, got, want)
	}
}

func (r *running) last(leaf string) *gateway.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.got) - 1; i >= 0; i-- {
		if r.got[i].Leaf == leaf {
			return r.got[i]
		}
	}
	return nil
}

func trustOf(m *gateway.Message) string {
	for _, p := range m.Properties {
		if p.Name == gateway.PropertyTrust {
			return p.Value
		}
	}
	return ""
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// advertise sends an advertisement again and again until somebody scans.
func advertise(t *testing.T, d *fakebluez.Device, manufacturer, service map[uint16][]byte) {
	t.Helper()
	until(t, "a scan", func() bool { return d.Advertise(manufacturer, service) })
}

func bthome(t *testing.T, d *fakebluez.Device, data string) {
	t.Helper()
	advertise(t, d, nil, map[uint16][]byte{0xFCD2: unhex(t, data)})
}

const sensor = "A4:C1:38:00:00:01"

func oneAdvert(set ...func(*AdvertConfig)) Config {
	cfg := DefaultConfig()
	a := DefaultAdvert()
	a.Address, a.Leaf, a.MinInterval, a.Units = sensor, "room-1", 0, false
	for _, f := range set {
		f(&a)
	}
	cfg.Adverts = []AdvertConfig{a}
	return cfg
}

func TestASensorThatAdvertises(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, oneAdvert(func(a *AdvertConfig) { a.Units, a.Channel, a.Lane = true, "air", "alarm" }))
	r.untilUp()
	if got := z.Scanning(); got != "passive" {
		t.Errorf("scans %s", got)
	}
	d := z.Add(&fakebluez.Device{Address: sensor})
	bthome(t, d, "40000102CA0903BF13") // packet 1
	bthome(t, d, "40000102CA0903BF13") // the same packet again
	bthome(t, d, "40000202CF0903BF13")
	r.untilGot("room-1",
		`{"temperature":25.06,"humidity":50.55,"rssi":-60,"units":{"humidity":"%","temperature":"°C"}}`,
		`{"temperature":25.11,"humidity":50.55,"rssi":-60,"units":{"humidity":"%","temperature":"°C"}}`)
	m := r.last("room-1")
	if m.Channel != "air" || m.Lane != gateway.LaneAlarm || trustOf(m) != gateway.TrustAdvertised || m.System.ContentType != "application/json" {
		t.Errorf("message %+v", m)
	}
	s := r.until("counted", func(s gateway.DriverState) bool { return s.Taken[gateway.LaneAlarm] == 2 })
	if s.Discarded[discardDuplicate] != 1 || s.Note != "" || !s.Peers[0].Up || s.Device != "hci0 00:00:00:00:00:01" {
		t.Errorf("state %+v", s)
	}
}

func TestEveryFormatOverTheAir(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, oneAdvert())
	r.untilUp()
	d := z.Add(&fakebluez.Device{Address: sensor})
	advertise(t, d, map[uint16][]byte{0x0499: unhex(t, "0512FC5394C37C0004FFFC040CAC364200CDCBB8334C884F")}, nil)
	advertise(t, d, nil, map[uint16][]byte{0xFE95: unhex(t, "5020AA01A3BF2E3B342D580D1004B40095020A10013B")})
	advertise(t, d, nil, map[uint16][]byte{0xFEAA: unhex(t, "20000BB8181A0000000100000064")})
	advertise(t, d, map[uint16][]byte{0x004C: unhex(t, "0215000102030405060708090A0B0C0D0E0F00010002C5")}, nil)
	advertise(t, d, nil, map[uint16][]byte{0x181A: unhex(t, "A4C138000001FFD33E510B7B62")})
	r.untilGot("room-1",
		`{"temperature":24.3,"humidity":53.49,"pressure":100044,"acceleration_x":4,"acceleration_y":-4,"acceleration_z":1036,"battery_voltage":2.977,"tx_power":4,"movement_counter":66,"rssi":-60}`,
		`{"temperature":18,"humidity":66.1,"battery":59,"rssi":-60}`,
		`{"battery_voltage":3,"temperature":24.101563,"uptime":10,"rssi":-60}`,
		`{"uuid":"00010203-0405-0607-0809-0a0b0c0d0e0f","major":1,"minor":2,"power_at_1m":-59,"rssi":-60}`,
		`{"temperature":-4.5,"humidity":62,"battery":81,"battery_voltage":2.939,"rssi":-60}`)
}

func TestAnEncryptingSensor(t *testing.T) {
	t.Parallel()
	const address = "54:48:E6:8F:80:A5"
	cfg := oneAdvert(func(a *AdvertConfig) { a.Address, a.Key = address, unhex(t, "231d39c1d7cc1ab1aee224cd096db932") })
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, cfg)
	r.untilUp()
	d := z.Add(&fakebluez.Device{Address: address})
	bthome(t, d, "41A47266C95F730011223378237214") // counter 33221100
	bthome(t, d, "41A47266C95F730011223378237214") // repeated
	bthome(t, d, "4002CA0903BF13")                 // a downgrade
	bthome(t, d, "41A47266C95F730011223378237215") // forged
	r.untilGot("room-1", `{"temperature":25.06,"humidity":50.55,"rssi":-60}`)
	s := r.until("all counted", func(s gateway.DriverState) bool { return s.Discarded[discardForged] == 1 })
	if s.Discarded[discardDuplicate] != 1 || s.Discarded[discardPlain] != 1 {
		t.Errorf("discarded %v", s.Discarded)
	}
	r.stop()

	// What was recorded is of no use after a restart either.
	again := start(t, z, cfg, func(n *running) { n.notes = maps.Clone(r.notes) })
	again.untilUp()
	bthome(t, d, "41A47266C95F730011223378237214")
	again.until("the recording refused", func(s gateway.DriverState) bool { return s.Discarded[discardDuplicate] == 1 })
	if got := again.bodies("room-1"); len(got) != 0 {
		t.Errorf("a recording was believed: %q", got)
	}
}

func TestPassiveScanFallsBackByItself(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]fakebluez.Options{
		"not offered": {NoMonitors: true},
		"released":    {Release: true},
	} {
		t.Run(name, func(t *testing.T) {
			z := startBlueZ(t, o)
			r := start(t, z, oneAdvert())
			r.untilUp()
			bthome(t, z.Add(&fakebluez.Device{Address: sensor}), "4002CA09")
			r.untilGot("room-1", `{"temperature":25.06,"rssi":-60}`)
			s := r.State()
			if z.Scanning() != "active" || s.Counts[countFallbacks] != 1 || !strings.Contains(s.Note, "actively") {
				t.Errorf("scans %s, state %+v", z.Scanning(), s)
			}
		})
	}
}

func TestStrangersAreSeenAndNoLeaves(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, oneAdvert())
	r.untilUp()
	for i := range 3 * maxStrangers {
		d := z.Add(&fakebluez.Device{Address: fmt.Sprintf("C0:00:00:00:00:%02X", i), Name: "evil\x1b[2J"})
		bthome(t, d, "4002CA09")
	}
	bthome(t, z.Add(&fakebluez.Device{Address: sensor}), "4002CA09")
	r.untilGot("room-1", `{"temperature":25.06,"rssi":-60}`)
	s := r.State()
	if len(r.got) != 1 || len(s.Strangers) != maxStrangers || s.Counts[countStrangers] != 3*maxStrangers {
		t.Errorf("%d messages, %d strangers listed, %d counted", len(r.got), len(s.Strangers), s.Counts[countStrangers])
	}
	if x := s.Strangers[0]; x.What != "bthome" || x.Name != "evil[2J" || x.Address != "C0:00:00:00:00:BF" || x.Signal != -60 {
		t.Errorf("stranger %+v", x)
	}
}

func TestDaemonAbsentCrashingAndBack(t *testing.T) {
	t.Parallel()
	bus := startBus(t)
	z := fakebluez.New(bus, fakebluez.Options{})
	t.Cleanup(z.Stop)
	r := start(t, z, oneAdvert())
	r.until("absence noted", func(s gateway.DriverState) bool { return errors.Is(s.Err, ErrNoDaemon) })
	d := z.Add(&fakebluez.Device{Address: sensor})
	for i := range 5 {
		if err := z.Start(); err != nil {
			t.Fatal(err)
		}
		r.until("adapter up again", func(s gateway.DriverState) bool { return s.Up && s.Ups == int64(i+1) })
		bthome(t, d, fmt.Sprintf("4000%02X09%02X", i, i))
		until(t, "the reading", func() bool { return len(r.bodies("room-1")) == i+1 })
		z.Crash()
		r.until("the crash noted", func(s gateway.DriverState) bool { return !s.Up && s.Err != nil && !s.Peers[0].Up })
	}
}

func TestAdapterByAddressUnpluggedAndBack(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{Adapters: []fakebluez.Adapter{
		{Name: "hci0", Address: "00:00:00:00:00:01"}, {Name: "hci1", Address: "00:00:00:00:00:02", Off: true},
	}})
	cfg := oneAdvert()
	cfg.Adapter = "00:00:00:00:00:02"
	r := start(t, z, cfg)
	if s := r.until("adapter up", func(s gateway.DriverState) bool { return s.Up }); !strings.HasPrefix(s.Device, "hci1 ") {
		t.Errorf("device %q", s.Device)
	}
	if z.Calls("Power") != 1 {
		t.Error("the adapter was off and was not switched on")
	}
	z.Unplug("hci1", true)
	r.until("loss noted", func(s gateway.DriverState) bool { return !s.Up && s.Err != nil })
	z.Unplug("hci1", false)
	r.until("adapter up again", func(s gateway.DriverState) bool { return s.Up && s.Ups == 2 })
	bthome(t, z.Add(&fakebluez.Device{Address: sensor, Adapter: "hci1"}), "4002CA09")
	r.untilGot("room-1", `{"temperature":25.06,"rssi":-60}`)
}

// A full gateway cannot hold an advertiser back: what is oldest is dropped, and counted.
func TestAFullGatewayDropsTheOldest(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	cfg := oneAdvert()
	cfg.MaxWaiting = 4
	r := start(t, z, cfg, func(r *running) { r.refuse = gateway.ErrStoreFull })
	r.untilUp()
	d := z.Add(&fakebluez.Device{Address: sensor})
	for i := range 20 {
		bthome(t, d, fmt.Sprintf("4000%02X09%02X", i, i))
	}
	r.until("drops counted", func(s gateway.DriverState) bool { return s.Discarded[discardFull] == 16 })
	r.mu.Lock()
	r.refuse = nil
	r.mu.Unlock()
	until(t, "the newest", func() bool { return len(r.bodies("room-1")) == 4 })
	if got := r.bodies("room-1"); got[3] != `{"count":19,"rssi":-60}` {
		t.Errorf("got %q", got)
	}
}

func TestFloodOfManyAdvertisers(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	cfg := DefaultConfig()
	const leaves, each = 40, 25
	var devices []*fakebluez.Device
	for i := range leaves {
		a := DefaultAdvert()
		a.Address, a.Leaf, a.MinInterval, a.Units = fmt.Sprintf("A4:C1:38:00:01:%02X", i), fmt.Sprintf("leaf-%d", i), 0, false
		cfg.Adverts = append(cfg.Adverts, a)
		devices = append(devices, z.Add(&fakebluez.Device{Address: a.Address}))
	}
	r := start(t, z, cfg)
	r.untilUp()
	for n := range each {
		for _, d := range devices {
			bthome(t, d, fmt.Sprintf("4000%02X09%02X", n, n))
		}
		// What the daemon shows is the newest state: a reader that lags sees less.
		until(t, "the round read", func() bool { return r.State().Counts[countAdverts] >= int64((n+1)*leaves) })
	}
	for i := range leaves {
		var want []string
		for n := range each {
			want = append(want, fmt.Sprintf(`{"count":%d,"rssi":-60}`, n))
		}
		r.untilGot(fmt.Sprintf("leaf-%d", i), want...)
	}
}
