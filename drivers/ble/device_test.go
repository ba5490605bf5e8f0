package ble

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/drivers/ble/bluez"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/test/fakebluez"
)

const (
	valve      = "C8:00:00:00:00:01"
	customUUID = "6e400002-b5a3-f393-e0a9-e50e24dcca9e"
)

// newValve is a device with a thermometer, a battery and something to write to.
func newValve(address string) *fakebluez.Device {
	return &fakebluez.Device{Address: address, Name: "valve", Services: []fakebluez.Service{
		{UUID: bluez.UUID16(0x181A), Characteristics: []*fakebluez.Characteristic{
			{UUID: bluez.UUID16(0x2A6E), Flags: []string{"read", "notify"}, Value: []byte{0x5c, 0x08}},
		}},
		{UUID: bluez.UUID16(0x180F), Characteristics: []*fakebluez.Characteristic{
			{UUID: bluez.UUID16(0x2A19), Flags: []string{"read"}, Value: []byte{99}},
		}},
		{UUID: "6e400001-b5a3-f393-e0a9-e50e24dcca9e", Characteristics: []*fakebluez.Characteristic{
			{UUID: customUUID, Flags: []string{"read", "write"}, Value: []byte{0, 0}},
			{UUID: "6e400009-b5a3-f393-e0a9-e50e24dcca9e", Flags: []string{"write"}, Refuse: "org.bluez.Error.InvalidValueLength"},
		}},
	}}
}

func oneDevice(pairing string, set ...func(*DeviceConfig)) Config {
	cfg := DefaultConfig()
	d := DefaultDevice()
	d.Address, d.Leaf, d.Pairing, d.Units = valve, "valve-1", pairing, false
	d.Characteristics = []CharacteristicConfig{
		{UUID: "2A6E", Read: "once", Notify: true},
		{UUID: "2A19", Service: "180F", Read: "once"},
		{UUID: customUUID, Command: "position", Method: "position", Format: "uint16", Write: "0700", Scale: 0.1},
		{UUID: "6e400009-b5a3-f393-e0a9-e50e24dcca9e", Command: "broken", Format: "uint8"},
	}
	for _, f := range set {
		f(&d)
	}
	cfg.Devices = []DeviceConfig{d}
	return cfg
}

// wants is what the leaf was last said to want.
func (r *running) wants(leaf string) gateway.Interest {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.attended[leaf]
	if len(list) == 0 {
		return 0
	}
	return list[len(list)-1]
}

func (r *running) untilAwake(leaf string) {
	r.t.Helper()
	until(r.t, leaf+" awake", func() bool { w := r.wants(leaf); return w != 0 && !w.Has(gateway.Asleep) })
}

func (r *running) command(leaf, name, text string) gateway.Verdict {
	r.t.Helper()
	c := &gateway.Command{Leaf: leaf, Body: []byte(text)}
	if name != "" {
		c.Properties = []gateway.Property{{Name: "command", Value: name}}
	}
	answer := make(chan gateway.Verdict, 1)
	r.Command(c, func(v gateway.Verdict) { answer <- v })
	select {
	case v := <-answer:
		return v
	case <-time.After(30 * time.Second):
		r.t.Fatal("no verdict on a command")
		return 0
	}
}

func (r *running) call(leaf, name, text string) string {
	reply, err := r.Call(r.t.Context(), &gateway.Call{Leaf: leaf, Name: name, Body: []byte(text)})
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", reply.Status, reply.Body)
}

// keepAdvertising makes the device seen until the test ends.
func keepAdvertising(t *testing.T, list ...*fakebluez.Device) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			for _, d := range list {
				d.Advertise(nil, nil)
			}
			sleep(ctx, 5*time.Millisecond)
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
}

// bluetoothd does not always say that a device is connected. It is used all the same,
// and its loss is noticed.
func TestConnectionThatIsNotTold(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, oneDevice(PairingNone))
	v := newValve(valve)
	v.Untold = true
	d := z.Add(v)
	keepAdvertising(t, d)
	for connects := 1; connects <= 3; connects++ {
		r.untilAwake("valve-1")
		until(t, "somebody listening", func() bool { return d.Set(bluez.UUID16(0x2A6E), []byte{0x0c, 0xfe}) })
		if got := d.Connects(); got != connects {
			t.Errorf("connected %d times, want %d", got, connects)
		}
		d.Drop()
		r.until("the loss", func(gateway.DriverState) bool {
			return r.wants("valve-1")&gateway.Asleep != 0 || d.Connects() > connects
		})
	}
}

func TestAConnectedDevice(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, oneDevice(PairingNone))
	d := z.Add(newValve(valve))
	keepAdvertising(t, d)
	r.untilAwake("valve-1")
	if got, want := r.wants("valve-1"), gateway.WantsCommands|gateway.WantsCalls; got != want {
		t.Errorf("wants %b, want %b", got, want)
	}
	until(t, "the first reading", func() bool { return len(r.bodies("valve-1")) == 1 })
	until(t, "somebody listening", func() bool { return d.Set(bluez.UUID16(0x2A6E), []byte{0x0c, 0xfe}) })
	r.untilGot("valve-1", `{"temperature":21.4,"battery":99}`, `{"temperature":-5}`)
	if m := r.last("valve-1"); trustOf(m) != gateway.TrustUnpaired {
		t.Errorf("message %+v", m)
	}
	for _, tt := range []struct {
		name, body string
		want       gateway.Verdict
	}{
		{"position", "12.5", gateway.Completed},
		{"position", "99999", gateway.Rejected}, // does not fit
		{"position", `"on"`, gateway.Rejected},
		{"nothing", "1", gateway.Rejected},
		{"broken", "1", gateway.Rejected}, // by the device
		{"", "1", gateway.Rejected},       // which one?
	} {
		if got := r.command("valve-1", tt.name, tt.body); got != tt.want {
			t.Errorf("command %s %s: %v, want %v", tt.name, tt.body, got, tt.want)
		}
	}
	want := []fakebluez.Written{{UUID: customUUID, Value: []byte{7, 0}, Type: "request"}, {UUID: customUUID, Value: []byte{125, 0}, Type: "request"}}
	if got := d.Written(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("written %v, want %v", got, want)
	}
	for _, tt := range []struct{ name, body, want string }{
		{"position", "", `200 {"value":12.5}`},
		{"position", "30", `200 {}`},
		{"position", "null", `200 {"value":30}`},
		{"position", `"on"`, `400 `},
		{"position", "-1", `400 `},
		{"nothing", "", `404 `},
	} {
		if got := r.call("valve-1", tt.name, tt.body); !strings.HasPrefix(got, tt.want) {
			t.Errorf("method %s %s: %s, want %s", tt.name, tt.body, got, tt.want)
		}
	}
	if got := r.call("other", "position", ""); got != gateway.ErrAbsent.Error() {
		t.Errorf("a leaf that is not there: %s", got)
	}

	// The link is cut: what comes meanwhile is not lost, and the device is connected
	// again.
	d.OutOfRange(true)
	until(t, "asleep", func() bool { return r.wants("valve-1").Has(gateway.Asleep) })
	if v := r.command("valve-1", "position", "1"); v != gateway.Undelivered {
		t.Errorf("command to a device that has gone: %v", v)
	}
	if got := r.call("valve-1", "position", ""); got != gateway.ErrAbsent.Error() {
		t.Errorf("method of a device that has gone: %s", got)
	}
	d.OutOfRange(false)
	r.untilAwake("valve-1")
	if n := d.Connects(); n != 2 {
		t.Errorf("connected %d times", n)
	}
	r.stop()
	if r.wants("valve-1") != 0 || d.Connected() {
		t.Error("the leaf was not taken back, or is connected still")
	}
}

func TestOnlyAPairedDeviceIsConnected(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, oneDevice(PairingPasskey))
	d := newValve("77:00:00:00:00:99") // a private address
	d.Identity, d.Pairing, d.Passkey = valve, fakebluez.ShowsKey, 123456
	z.Add(d)
	keepAdvertising(t, d)
	r.until("not seen", func(s gateway.DriverState) bool { return s.Peers[0].Err == "not seen" && s.Up })
	other := newValve(valve) // whoever takes the address is not the device
	z.Add(other)
	advertise(t, other, nil, nil)
	r.until("waits for an operator", func(s gateway.DriverState) bool { return strings.Contains(s.Peers[0].Err, "not paired") })
	if other.Connects() != 0 {
		t.Error("a device that is not paired was connected")
	}
	other.OutOfRange(true)
	other.Forget()
	key := uint32(123456)
	until(t, "paired", func() bool {
		err := r.Pair(t.Context(), "77:00:00:00:00:99", Ceremony{Passkey: Label(key)})
		if err != nil && !errors.Is(err, ErrNotSeen) {
			t.Fatal(err)
		}
		return err == nil
	})
	r.untilAwake("valve-1")
	until(t, "a reading", func() bool { return len(r.bodies("valve-1")) > 0 })
	if m := r.last("valve-1"); trustOf(m) != "" || !d.Connected() {
		t.Errorf("message %+v", m)
	}
	if err := r.Forget(t.Context(), valve); err != nil || d.Bonded() {
		t.Errorf("Forget: %v", err)
	}
	r.until("waits again", func(s gateway.DriverState) bool { return !s.Peers[0].Up })
}

func TestCeremonies(t *testing.T) {
	t.Parallel()
	key, wrong := uint32(123456), uint32(654321)
	yes := func(context.Context, uint32) bool { return true }
	no := func(context.Context, uint32) bool { return false }
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, DefaultConfig())
	r.untilUp()
	for i, tt := range []struct {
		name   string
		device fakebluez.Device
		how    Ceremony
		want   error
	}{
		{"passkey", fakebluez.Device{Pairing: fakebluez.ShowsKey, Passkey: key}, Ceremony{Passkey: Label(key)}, nil},
		{"wrong passkey", fakebluez.Device{Pairing: fakebluez.ShowsKey, Passkey: key}, Ceremony{Passkey: Label(wrong)}, ErrWrongKey},
		{"nobody enters it", fakebluez.Device{Pairing: fakebluez.ShowsKey, Passkey: key}, Ceremony{Passkey: func(context.Context) (uint32, bool) { return 0, false }}, ErrRejected},
		{"no passkey", fakebluez.Device{Pairing: fakebluez.ShowsKey, Passkey: key}, Ceremony{}, ErrRejected},
		{"numbers are equal", fakebluez.Device{Pairing: fakebluez.Compares, Passkey: key}, Ceremony{Confirm: yes}, nil},
		{"numbers differ", fakebluez.Device{Pairing: fakebluez.Compares, Passkey: key}, Ceremony{Confirm: no}, ErrWrongKey},
		{"nobody to ask", fakebluez.Device{Pairing: fakebluez.Compares, Passkey: key}, Ceremony{Passkey: Label(key)}, ErrRejected},
		{"typed at the device", fakebluez.Device{Pairing: fakebluez.Types, Passkey: key}, Ceremony{Display: func(uint32) {}}, nil},
		{"just works, allowed", fakebluez.Device{Pairing: fakebluez.JustWorks}, Ceremony{JustWorks: true}, nil},
		{"just works, not allowed", fakebluez.Device{Pairing: fakebluez.JustWorks}, Ceremony{Passkey: Label(key)}, ErrUnproven},
		{"refused", fakebluez.Device{Pairing: fakebluez.Refuses}, Ceremony{Passkey: Label(key)}, ErrRejected},
		{"no keys kept", fakebluez.Device{Pairing: fakebluez.ShowsKey, Passkey: key, NoBond: true}, Ceremony{Passkey: Label(key)}, ErrNotBonded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := tt.device
			d.Address = fmt.Sprintf("C8:00:00:00:01:%02X", i)
			z.Add(&d)
			advertise(t, &d, nil, nil)
			var err error
			until(t, "the device seen", func() bool { err = r.Pair(t.Context(), d.Address, tt.how); return !errors.Is(err, ErrNotSeen) })
			if !errors.Is(err, tt.want) || d.Bonded() != (tt.want == nil) {
				t.Errorf("Pair: %v, want %v; bonded %v", err, tt.want, d.Bonded())
			}
			if tt.want != nil {
				return
			}
			// What has proven nothing when it was paired must not pass for proven later.
			want := error(nil)
			if tt.how.JustWorks {
				want = ErrPaired
			}
			if err := r.Pair(t.Context(), d.Address, Ceremony{Passkey: Label(wrong)}); !errors.Is(err, want) {
				t.Errorf("paired once more: %v, want %v", err, want)
			}
		})
	}
	if err := r.Pair(t.Context(), "C8:00:00:00:02:00", Ceremony{}); !errors.Is(err, ErrNotSeen) {
		t.Errorf("a device that is not there: %v", err)
	}
	s := r.State()
	if s.Counts[countPaired] != 4 || s.Counts[countUnpaired] != 8 {
		t.Errorf("counts %v", s.Counts)
	}
}

func TestPairingThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, DefaultConfig())
	r.untilUp()
	d := z.Add(&fakebluez.Device{Address: valve, Pairing: fakebluez.Hangs})
	advertise(t, d, nil, nil)
	until(t, "the device seen", func() bool {
		_, err := r.Scan(t.Context(), 0)
		s, _ := r.present()
		_, ok := s.client.Device(s.adapter.Path, valve)
		return err == nil && ok
	})
	for limit := 50 * time.Millisecond; z.Calls("Pair") == 0 && limit < 30*time.Second; limit *= 2 { // it may be up before the daemon is asked
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		if err := r.Pair(ctx, valve, Ceremony{JustWorks: true}); !errors.Is(err, ErrTimedOut) {
			t.Errorf("time is up: %v", err)
		}
		cancel()
	}
	asked, told := z.Calls("Pair"), z.Calls("CancelPairing")
	if told == 0 {
		t.Error("the daemon was not told that time is up")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	paired := make(chan error, 1)
	go func() { paired <- r.Pair(ctx, valve, Ceremony{JustWorks: true}) }()
	until(t, "the second under way", func() bool {
		r.Driver.mu.Lock()
		defer r.Driver.mu.Unlock()
		return r.ceremony != nil && z.Calls("Pair") > asked
	})
	if err := r.Pair(t.Context(), valve, Ceremony{}); !errors.Is(err, ErrBusy) {
		t.Errorf("two at a time: %v", err)
	}
	cancel()
	if err := <-paired; !errors.Is(err, ErrCancelled) {
		t.Errorf("cancelled: %v", err)
	}
	until(t, "the daemon told", func() bool { return z.Calls("CancelPairing") > told })
}

func TestScanFindsDevices(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, DefaultConfig())
	r.untilUp()
	near, far := z.Add(&fakebluez.Device{Address: valve, Name: "near", RSSI: -40}), z.Add(&fakebluez.Device{Address: sensor, Name: "far", RSSI: -90})
	unknown := z.Add(&fakebluez.Device{Address: "C8:00:00:00:04:01", Name: "unknown", RSSI: 127})
	keepAdvertising(t, near, far, unknown)
	var found []Found
	var err error
	// How long it takes until all are heard is the machine's: a scan that was too short
	// is followed by a longer one.
	for length := 200 * time.Millisecond; err == nil && len(found) < 3 && length < 30*time.Second; length *= 2 {
		found, err = r.Scan(t.Context(), length)
	}
	if err != nil || len(found) != 3 || found[2].RSSI != 0 || found[0].Name != "near" || found[1].RSSI != -90 || found[0].Paired {
		t.Errorf("found %+v, %v", found, err)
	}
	until(t, "only the passive scan", func() bool { return z.Scanning() == "passive" })
}

// After an active scan for want of a passive one, there is a passive one again: looking
// around leaves that behind, not its own.
func TestScanAfterAFallback(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	z.Fail("RegisterMonitor", "org.bluez.Error.NotPermitted")
	r := start(t, z, DefaultConfig())
	r.untilUp()
	until(t, "an active scan", func() bool { return z.Scanning() == "active" })
	if _, err := r.Scan(t.Context(), time.Millisecond); err != nil || z.Scanning() != "active" {
		t.Errorf("looking around has ended the driver's scan: %q, %v", z.Scanning(), err)
	}
	z.Fail("RegisterMonitor", "")
	z.Crash()
	if err := z.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "a passive scan", func() bool { return z.Scanning() == "passive" })
	r.until("the adapter", func(s gateway.DriverState) bool { return s.Up })
	var err error
	until(t, "somebody to look around", func() bool {
		_, err = r.Scan(t.Context(), time.Millisecond)
		return !errors.Is(err, ErrNoAdapter)
	})
	if err != nil || z.Scanning() != "passive" {
		t.Errorf("looking around has left a scan behind: %q, %v", z.Scanning(), err)
	}
}

func TestJustWorksByConfiguration(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, oneDevice(PairingJustWorks))
	d := newValve(valve)
	for _, s := range d.Services {
		for _, c := range s.Characteristics {
			c.Secure = true
		}
	}
	z.Add(d)
	keepAdvertising(t, d)
	r.untilAwake("valve-1")
	until(t, "a reading", func() bool { return len(r.bodies("valve-1")) > 0 })
	if m := r.last("valve-1"); trustOf(m) != gateway.TrustJustWorks || !d.Bonded() {
		t.Errorf("message %+v, bonded %v", m, d.Bonded())
	}
}

// Twelve devices that all want to stay share three connections: each gets its turn, again
// and again, and there are never more than three.
func TestDevicesTakeTurns(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	cfg := DefaultConfig()
	cfg.Connections, cfg.Turn = 3, gateway.Duration(time.Second)
	const n = 12
	var devices []*fakebluez.Device
	for i := range n {
		d := DefaultDevice()
		d.Address, d.Leaf, d.Pairing = fmt.Sprintf("C8:00:00:00:03:%02X", i), fmt.Sprintf("valve-%d", i), PairingNone
		d.Characteristics = []CharacteristicConfig{{UUID: "2A6E", Notify: true}}
		cfg.Devices = append(cfg.Devices, d)
		devices = append(devices, z.Add(newValve(d.Address)))
	}
	keepAdvertising(t, devices...)
	r := start(t, z, cfg)
	until(t, "each connected", func() bool {
		return !slices.ContainsFunc(devices, func(d *fakebluez.Device) bool { return d.Connects() == 0 })
	})
	order, most := z.Connections()
	if most > 3 {
		t.Errorf("%d connected at once", most)
	}
	turns := make(map[string]int)
	for _, address := range order {
		if turns[address]++; turns[address] > 2 {
			t.Errorf("%s was connected %d times before the last had its first turn: %q", address, turns[address], order)
		}
		if len(turns) == n {
			break
		}
	}
	s := r.until("turns counted", func(s gateway.DriverState) bool { return s.Counts[countTurns] >= n-3 })
	if len(s.Strangers) != 0 {
		t.Errorf("devices of the configuration are strangers: %+v", s.Strangers)
	}
}

// A device that is only read from time to time does not stay connected.
func TestReadingWithoutStaying(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, oneDevice(PairingNone, func(d *DeviceConfig) {
		d.Characteristics = []CharacteristicConfig{{UUID: "2A6E", Read: "1s"}, {UUID: "2A19", Read: "1h", Name: "charge"}}
	}))
	d := z.Add(newValve(valve))
	keepAdvertising(t, d)
	r.untilGot("valve-1", `{"temperature":21.4,"charge":99}`, `{"temperature":21.4}`)
	until(t, "disconnected", func() bool { return !d.Connected() })
	if len(r.attended["valve-1"]) != 0 {
		t.Error("a leaf that can be told nothing was attended to")
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	for _, most := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		most *= time.Second
		if got := b.next(); got < most/2 || got >= most {
			t.Errorf("%v, want at least %v and less than %v", got, most/2, most)
		}
	}
}

func TestConnectingFailsAndIsTriedAgain(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, oneDevice(PairingNone))
	d := z.Add(newValve(valve))
	keepAdvertising(t, d)
	z.Fail("Connect", "org.bluez.Error.Failed")
	s := r.until("failure noted", func(s gateway.DriverState) bool { return s.Counts[countFailures] >= 2 })
	if !strings.Contains(s.Peers[0].Err, "cannot connect") {
		t.Errorf("state %+v", s.Peers)
	}
	z.Fail("Connect", "")
	r.untilAwake("valve-1")
	z.Crash() // in the middle of a connection
	until(t, "asleep", func() bool { return r.wants("valve-1").Has(gateway.Asleep) })
	if err := z.Start(); err != nil {
		t.Fatal(err)
	}
	r.untilAwake("valve-1")
}

// reports are what was reported to the twin.
type reports struct {
	mu  sync.Mutex
	all []string // guarded by mu
}

func (r *reports) Twin(context.Context, string) ([]byte, time.Duration, error) {
	return nil, 0, gateway.ErrNoTwin
}

func (r *reports) Report(_ string, patch []byte, done func(int64, error)) {
	r.mu.Lock()
	r.all = append(r.all, string(patch))
	r.mu.Unlock()
	done(1, nil)
}

func (r *reports) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

func TestDesiredPropertiesAreWritten(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	twin := new(reports)
	r := start(t, z, oneDevice(PairingNone, func(d *DeviceConfig) {
		d.Characteristics = []CharacteristicConfig{
			{UUID: customUUID, Desired: "position", Format: "uint16", Scale: 0.1},
			{UUID: "6e400009-b5a3-f393-e0a9-e50e24dcca9e", Desired: "broken", Format: "uint8"},
		}
	}), func(r *running) { r.twins = twin })
	d := z.Add(newValve(valve))
	keepAdvertising(t, d)
	r.untilAwake("valve-1")
	if got, want := r.wants("valve-1"), gateway.WantsDesired|gateway.CannotAsk; got != want {
		t.Errorf("wants %b, want %b", got, want)
	}
	heard := make(chan struct{}, 9)
	tell := func(patch string, version int64) {
		r.Desired("valve-1", []byte(patch), version, func() { heard <- struct{}{} })
	}
	wait := func(what string) {
		t.Helper()
		select {
		case <-heard:
		case <-time.After(30 * time.Second):
			t.Fatalf("not heard: %s", what)
		}
	}
	tell(`{"position":7,"other":1,"$version":3}`, 3)
	wait("a value")
	tell(`{"position":"far","broken":1,"$version":4}`, 4)
	wait("two that are refused")
	tell(`{"position":null,"$version":5}`, 5)
	wait("one that is removed")
	written := d.Written()
	if len(written) != 1 || string(written[0].Value) != "\x46\x00" {
		t.Errorf("written %+v", written)
	}
	got := twin.list()
	if len(got) != 2 || got[0] != `{"position":{"value":7,"ac":200,"av":3}}` ||
		!strings.Contains(got[1], `"position":{"value":"far","ac":400,"av":4,`) || !strings.Contains(got[1], `"broken":{"value":1,"ac":502,"av":4,`) {
		t.Errorf("reported %q", got)
	}
	d.OutOfRange(true)
	until(t, "asleep", func() bool { return r.wants("valve-1").Has(gateway.Asleep) })
	tell(`{"position":8,"$version":6}`, 6)
	tell(`[]`, 6)
	d.OutOfRange(false)
	r.untilAwake("valve-1")
	select {
	case <-heard:
		t.Error("heard by a device that was away")
	default: // the gateway tells it again, since it is attended to anew
	}
	if n := r.State().Desired; n != 3 {
		t.Errorf("%d desired changes counted, want 3", n)
	}
}

// callsAtOnce hands over a command in the moment in which a leaf can be told something.
type callsAtOnce struct{ answers chan gateway.Verdict }

func (c callsAtOnce) Attend(leaf string, way gateway.Reach, wants gateway.Interest) {
	if wants&gateway.Asleep == 0 {
		way.Command(&gateway.Command{Leaf: leaf}, func(v gateway.Verdict) { c.answers <- v })
	}
}

// A connection is lost in the moment in which the device can be told something. A command
// that comes then has its answer, if only that it comes again.
func TestACommandAtALostMoment(t *testing.T) {
	d := &Driver{log: slog.New(slog.DiscardHandler), tally: newTally("ble", []string{"valve-1"}, slog.New(slog.DiscardHandler))}
	p := newPeripheral(DeviceConfig{Peer: Peer{Leaf: "valve-1"}, Characteristics: []CharacteristicConfig{{UUID: "2A6E", Command: "position"}}}, d)
	d.peripherals = []*peripheral{p}
	lost, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		calls := callsAtOnce{make(chan gateway.Verdict, 1)}
		p.attendance = calls
		_ = p.reachable(lost, &link{down: make(chan delivery, 1)}, func(context.Context) error { return nil })
		select {
		case <-calls.answers:
		default:
			t.Fatal("a command is left without an answer")
		}
	}
}
