package ble

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/test/fakebluez"
)

// shortPulse makes the doctor as impatient as a test is. The configuration does not
// allow it.
func shortPulse(r *running) { r.cfg.Heartbeat = gateway.Duration(100 * time.Millisecond) }

// calmPulse is for tests in which something is heard: it has to come through in time,
// also on a busy machine.
func calmPulse(r *running) { r.cfg.Heartbeat = gateway.Duration(2 * time.Second) }

// fakeUSB makes a /sys in which the adapter is on USB, and returns its switch.
func fakeUSB(t *testing.T, r *running) (authorized string) {
	t.Helper()
	root := t.TempDir()
	device := filepath.Join(root, "devices/usb1/1-1/1-1:1.0")
	class := filepath.Join(root, "class/bluetooth/hci0")
	for _, dir := range []string{device, class} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(device, filepath.Join(class, "device")); err != nil {
		t.Fatal(err)
	}
	authorized = filepath.Join(filepath.Dir(device), "authorized")
	if err := os.WriteFile(authorized, []byte("9"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.doctor.sysfs = root
	return authorized
}

func TestADeafAdapterIsRecoveredStepByStep(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	var authorized string
	r := start(t, z, oneAdvert(), shortPulse, func(r *running) { authorized = fakeUSB(t, r) })
	r.untilUp()
	d := z.Add(&fakebluez.Device{Address: sensor})
	bthome(t, d, "4002CA09") // it was fine once
	// The silence goes on, and so do the steps, one round after the other: the first
	// steps are one ahead of the last ones, or none.
	r.until("all steps taken", func(s gateway.DriverState) bool {
		first := s.Counts[countStage+stageScan]
		before := first
		for _, stage := range []string{stageScan, stagePower, stageDaemon, stageUSB} {
			n := s.Counts[countStage+stage]
			if n > before || n < first-1 {
				t.Fatalf("step %s was taken %d times: %v", stage, n, s.Counts)
			}
			before = n
		}
		return before >= 1
	})
	powered, restarted := z.Calls("Power"), z.Calls("RestartUnit")
	if z.Calls("UnregisterMonitor") == 0 || powered == 0 || restarted == 0 {
		t.Error("a step was only counted")
	}
	if s := r.State(); int64(powered) > s.Counts[countStage+stagePower] || int64(restarted) > s.Counts[countStage+stageDaemon] {
		t.Errorf("switched on %d times, restarted %d times: %v", powered, restarted, s.Counts)
	}
	until(t, "the USB device back", func() bool { b, _ := os.ReadFile(authorized); return string(b) == "1" })
	r.until("the state says so", func(s gateway.DriverState) bool { return strings.Contains(s.Note, stageUSB) })
	until(t, "heard again", func() bool {
		bthome(t, d, "4002CB09") // again and again: a step may be under way
		return len(r.bodies("room-1")) >= 2
	})
}

func TestARecoveryThatHelpsIsTheLast(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, oneAdvert(), calmPulse)
	r.untilUp()
	d := z.Add(&fakebluez.Device{Address: sensor})
	bthome(t, d, "40000102CA09")
	z.Deaf()
	keepAdvertising(t, d)
	r.until("heard again", func(s gateway.DriverState) bool {
		return s.Counts[countStage+stagePower] == 1 && s.Up && s.Note == "" && z.Scanning() != "" && s.Counts[countAdverts] > 2
	})
	if s := r.State(); s.Counts[countStage+stageDaemon] != 0 {
		t.Errorf("counts %v", s.Counts)
	}
}

func TestAStepThatIsNotPossibleIsSaid(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{NoSystemd: true})
	r := start(t, z, oneAdvert(), shortPulse, func(r *running) { r.doctor.sysfs = t.TempDir() })
	r.until("restart not possible", func(s gateway.DriverState) bool {
		return strings.Contains(s.Note, `"daemon" of the recovery is not possible`)
	})
	r.until("no USB", func(s gateway.DriverState) bool {
		return strings.Contains(s.Note, `"usb" of the recovery is not possible`)
	})
}

func TestAScanThatCannotBeBegunIsRecovered(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	z.Fail("RegisterMonitor", "org.bluez.Error.Failed")
	z.Fail("StartDiscovery", "org.bluez.Error.NotReady")
	r := start(t, z, oneAdvert())
	s := r.until("a step taken", func(s gateway.DriverState) bool { return s.Counts[countStage+stagePower] >= 1 })
	if s.Up {
		t.Errorf("state %+v", s)
	}
	z.Fail("StartDiscovery", "")
	r.untilUp()
}
