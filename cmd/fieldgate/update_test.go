package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"

	"github.com/fieldgate/fieldgate/test/fakebluez"
)

// fakeRAUC answers on a bus of its own as RAUC 1.13 does. It takes a bundle whose
// content is "signed".
type fakeRAUC struct {
	bus     *dbus.Conn
	props   *prop.Properties
	mu      sync.Mutex
	good    map[string]bool
	primary string
	marked  []string
}

type rawSlot struct {
	Name   string
	Status map[string]dbus.Variant
}

func (f *fakeRAUC) GetSlotStatus() ([]rawSlot, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	word := func(name string) dbus.Variant {
		return dbus.MakeVariant(map[bool]string{true: "good", false: "bad"}[f.good[name]])
	}
	return []rawSlot{
		{"rootfs.1", map[string]dbus.Variant{
			"bootname": dbus.MakeVariant("B"), "state": dbus.MakeVariant("inactive"), "boot-status": word("rootfs.1"),
			"bundle.version": dbus.MakeVariant("1.4.0"), "installed.timestamp": dbus.MakeVariant("2026-11-01T10:00:00Z"),
		}},
		{"rootfs.0", map[string]dbus.Variant{
			"bootname": dbus.MakeVariant("A"), "state": dbus.MakeVariant("booted"), "boot-status": word("rootfs.0"),
		}},
	}, nil
}

func (f *fakeRAUC) GetPrimary() (string, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.primary, nil
}

func (f *fakeRAUC) Mark(state, slot string) (string, string, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.marked = append(f.marked, state+" "+slot)
	if state == "active" && slot == "other" {
		f.primary = "rootfs.1"
	}
	return slot, "marked", nil
}

func (f *fakeRAUC) InstallBundle(file string, _ map[string]dbus.Variant) *dbus.Error {
	content, err := os.ReadFile(file)
	go func() {
		result := int32(1)
		f.props.SetMust("de.pengutronix.rauc.Installer", "Progress", progress{40, "Copying image to rootfs.1", 2})
		if err == nil && string(content) == "signed" {
			result = 0
			f.mu.Lock()
			f.primary = "rootfs.1"
			f.mu.Unlock()
		} else {
			f.props.SetMust("de.pengutronix.rauc.Installer", "LastError", "signature verification failed")
		}
		f.bus.Emit("/", "de.pengutronix.rauc.Installer.Completed", result)
	}()
	return nil
}

type progress struct {
	Percent int32
	Doing   string
	Depth   int32
}

func newFakeRAUC(t *testing.T) *fakeRAUC {
	t.Helper()
	dir, err := os.MkdirTemp("", "rauc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bus, err := fakebluez.StartBus(dir)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { bus.Stop() })
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.Address)
	f := &fakeRAUC{good: map[string]bool{"rootfs.0": true, "rootfs.1": true}, primary: "rootfs.0"}
	if f.bus, err = dbus.Connect(bus.Address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.bus.Close() })
	const name = "de.pengutronix.rauc.Installer"
	f.props, err = prop.Export(f.bus, "/", prop.Map{name: {
		"LastError": {Value: "", Writable: true, Emit: prop.EmitTrue},
		"Progress":  {Value: progress{}, Writable: true, Emit: prop.EmitTrue},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.bus.Export(f, "/", name); err != nil {
		t.Fatal(err)
	}
	if _, err := f.bus.RequestName("de.pengutronix.rauc", 0); err != nil {
		t.Fatal(err)
	}
	return f
}

// runUpdate runs the command and returns what it says and its exit code.
func runUpdate(t *testing.T, args ...string) (out, errors string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	code = execute(t.Context(), append([]string{"update"}, args...), streams{out: &o, err: &e})
	return o.String(), e.String(), code
}

func TestUpdate(t *testing.T) {
	f := newFakeRAUC(t)
	want := `SLOT  RUNS  NEXT  STATE  VERSION         INSTALLED
A     yes   yes   good   as on the card  -
B     -     -     good   1.4.0           2026-11-01T10:00:00Z
`
	if out, said, code := runUpdate(t, "status"); out != want || code != exitOK {
		t.Errorf("status: %d\n%s%s\nwant\n%s", code, out, said, want)
	}
	if out, said, code := runUpdate(t, "status", "--output", "json"); !strings.Contains(out, `"booted": true`) || code != exitOK {
		t.Errorf("status in JSON: %d\n%s%s", code, out, said)
	}

	dir := t.TempDir()
	for content, code := range map[string]int{"signed": exitOK, "forged": exitForbidden} {
		file := filepath.Join(dir, content)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		out, said, got := runUpdate(t, "install", file)
		if got != code || !strings.Contains(said, " 40% Copying image to rootfs.1") {
			t.Errorf("install %s: %d, want %d\n%s%s", content, got, code, out, said)
		}
		if (content == "forged") != strings.Contains(said, "signature verification failed") {
			t.Errorf("install %s: %s%s", content, out, said)
		}
	}
	if _, said, code := runUpdate(t, "install", filepath.Join(dir, "absent")); code != exitFailed {
		t.Errorf("install of a file that is not there: %d\n%s", code, said)
	}
	if _, said, code := runUpdate(t, "mark-good"); code != exitOK {
		t.Errorf("mark-good: %d\n%s", code, said)
	}
	if _, said, code := runUpdate(t, "rollback"); code != exitOK {
		t.Errorf("rollback: %d\n%s", code, said)
	}
	f.mu.Lock()
	marked := strings.Join(f.marked, ", ")
	f.good["rootfs.1"] = false
	f.mu.Unlock()
	if marked != "good booted, active other" {
		t.Errorf("marked %s", marked)
	}
	if _, said, code := runUpdate(t, "rollback"); code != exitForbidden {
		t.Errorf("rollback to a bad slot: %d, want %d\n%s", code, exitForbidden, said)
	}
}

func TestUpdateWithoutRAUC(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
	if _, said, code := runUpdate(t, "status"); code != exitNotRunning || !strings.Contains(said, "no slots") {
		t.Errorf("%d\n%s", code, said)
	}
}
