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
	s := r.until("all steps taken", func(s gateway.DriverState) bool { return s.Counts[countStage+stageUSB] == 1 })
	for _, stage := range stages {
		if s.Counts[countStage+stage] != 1 {
			t.Errorf("step %s was taken %d times", stage, s.Counts[countStage+stage])
		}
	}
	if z.Calls("UnregisterMonitor") == 0 || z.Calls("Power") != 1 || z.Calls("RestartUnit") != 1 {
		t.Error("a step was only counted")
	}
	until(t, "the USB device back", func() bool { b, _ := os.ReadFile(authorized); return string(b) == "1" })
	r.until("the state says so", func(s gateway.DriverState) bool { return strings.Contains(s.Note, stageUSB) })
	bthome(t, d, "4002CB09")
	until(t, "heard again", func() bool { return len(r.bodies("room-1")) == 2 })
}

func TestARecoveryThatHelpsIsTheLast(t *testing.T) {
	t.Parallel()
	z := startBlueZ(t, fakebluez.Options{})
	r := start(t, z, oneAdvert(), shortPulse)
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
	s := r.until("a step taken", func(s gateway.DriverState) bool { return s.Counts[countStage+stagePower] == 1 })
	if s.Up {
		t.Errorf("state %+v", s)
	}
	z.Fail("StartDiscovery", "")
	r.untilUp()
}
