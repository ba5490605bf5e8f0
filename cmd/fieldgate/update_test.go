package main

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"
	"golang.org/x/mod/semver"

	"github.com/fieldgate/fieldgate/test/fakebluez"
)

// fakeRAUC answers on a bus of its own as RAUC 1.13 does. It takes a bundle whose
// content is "signed" and a version.
type fakeRAUC struct {
	bus     *dbus.Conn
	props   *prop.Properties
	kept    string // folder
	socket  string // of a daemon, "" for none
	mu      sync.Mutex
	good    map[string]bool
	version map[string]string // what is in the slots
	primary string
	marked  []string
	started []string // units of systemd
}

// installed is when something was put into B.
const installed = "2026-11-01T10:00:00Z"

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
	slot := func(name, bootname, state, installed string) rawSlot {
		status := map[string]dbus.Variant{"bootname": dbus.MakeVariant(bootname), "state": dbus.MakeVariant(state), "boot-status": word(name)}
		if v := f.version[name]; v != "" {
			status["bundle.version"] = dbus.MakeVariant(v)
			if installed != "" {
				status["installed.timestamp"] = dbus.MakeVariant(installed)
			}
		}
		return rawSlot{name, status}
	}
	return []rawSlot{slot("rootfs.1", "B", "inactive", installed), slot("rootfs.0", "A", "booted", "")}, nil
}

// InspectBundle says what is in a bundle, as RAUC does: only if it is signed.
func (f *fakeRAUC) InspectBundle(file string, _ map[string]dbus.Variant) (map[string]dbus.Variant, *dbus.Error) {
	version, err := signedVersion(file)
	if err != nil {
		return nil, dbus.NewError("org.gtk.GDBus.UnmappedGError.Quark._g_2dio_2derror_2dquark.Code30", []any{err.Error()})
	}
	return map[string]dbus.Variant{"update": dbus.MakeVariant(map[string]dbus.Variant{"version": dbus.MakeVariant(version)})}, nil
}

// signedVersion is what the fake does for a check of a signature.
func signedVersion(file string) (string, error) {
	content, err := os.ReadFile(file)
	version, signed := strings.CutPrefix(string(content), "signed ")
	if err == nil && !signed {
		err = errors.New("signature verification failed")
	}
	return version, err
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

// InstallBundle refuses what is older than what runs, as the image's RAUC does
// (min-bundle-version): "damaged" fails while it is copied.
func (f *fakeRAUC) InstallBundle(file string, how map[string]dbus.Variant) *dbus.Error {
	go func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		version, err := signedVersion(file)
		older, _ := how["ignore-version-limit"].Value().(bool)
		if err == nil && !older && semver.Compare("v"+version, "v"+f.version["rootfs.0"]) < 0 {
			err = errors.New("version mismatch")
		}
		result := int32(1)
		if err == nil {
			f.props.SetMust("de.pengutronix.rauc.Installer", "Progress", progress{40, "Copying image to rootfs.1", 2})
			if strings.HasSuffix(version, "+damaged") {
				err = errors.New("failed to write to slot: Input/output error")
			}
		}
		if err == nil {
			result, f.primary, f.version["rootfs.1"] = 0, "rootfs.1", version
		} else {
			f.props.SetMust("de.pengutronix.rauc.Installer", "LastError", err.Error())
		}
		f.bus.Emit("/", "de.pengutronix.rauc.Installer.Completed", result)
	}()
	return nil
}

// StartUnit is systemd's.
func (f *fakeRAUC) StartUnit(unit, mode string) (dbus.ObjectPath, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started = append(f.started, unit+" "+mode)
	return "/org/freedesktop/systemd1/job/1", nil
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
	f := &fakeRAUC{
		kept: t.TempDir(), good: map[string]bool{"rootfs.0": true, "rootfs.1": true}, primary: "rootfs.0",
		version: map[string]string{"rootfs.0": "1.3.0", "rootfs.1": "1.4.0"},
	}
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
	if err := f.bus.Export(f, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"de.pengutronix.rauc", "org.freedesktop.systemd1"} {
		if _, err := f.bus.RequestName(name, 0); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// run runs a command of update and returns what it says and its exit code.
func (f *fakeRAUC) run(t *testing.T, args ...string) (out, errors string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	if f.socket != "" {
		args = append(args, "--socket", f.socket)
	}
	code = execute(t.Context(), append([]string{"update", "--kept", f.kept}, args...), streams{out: &o, err: &e})
	return o.String(), e.String(), code
}

// set changes what the fake says.
func (f *fakeRAUC) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func TestUpdateStatus(t *testing.T) {
	f := newFakeRAUC(t)
	for want, change := range map[string]func(){
		`SLOT  RUNS  NEXT  STATE     VERSION  INSTALLED
A     yes   yes   unproven  1.3.0    -
B     -     -     unproven  1.4.0    2026-11-01T10:00:00Z
`: func() {},
		`SLOT  RUNS  NEXT  STATE     VERSION  INSTALLED
A     yes   yes   unproven  1.3.0    -
B     -     -     empty     -        -
`: func() { f.version["rootfs.1"] = "" },
		`SLOT  RUNS  NEXT  STATE     VERSION  INSTALLED
A     yes   -     unproven  1.3.0    -
B     -     yes   bad       1.4.0    2026-11-01T10:00:00Z
`: func() { f.good["rootfs.1"], f.primary = false, "rootfs.1" },
	} {
		f.set(func() {
			f.good["rootfs.1"], f.primary, f.version["rootfs.1"] = true, "rootfs.0", "1.4.0"
			change()
		})
		if out, said, code := f.run(t, "status"); out != want || code != exitOK {
			t.Errorf("status: %d\n%s%s\nwant\n%s", code, out, said, want)
		}
	}
	if out, said, code := f.run(t, "status", "--output", "json"); !strings.Contains(out, `"booted": true`) || code != exitOK {
		t.Errorf("status in JSON: %d\n%s%s", code, out, said)
	}
}

func TestUpdateInstall(t *testing.T) {
	f := newFakeRAUC(t)
	dir := t.TempDir()
	for _, c := range []struct {
		content string
		args    []string
		code    int
		says    string
	}{
		{"signed 1.3.1", nil, exitOK, " 40% Copying image to rootfs.1"},
		{"signed 1.3.0", nil, exitOK, "installed"}, // once more
		{"forged 1.3.1", nil, exitForbidden, "signature verification failed"},
		{"signed 1.3.1+damaged", nil, exitForbidden, "Input/output error"},
		{"signed 1.2.9", nil, exitForbidden, "1.2.9 is older than 1.3.0, which runs\nnext: take a newer one; with --allow-downgrade"},
		{"signed 1.3.0-rc.1", nil, exitForbidden, "older"},
		{"signed yesterday's", nil, exitForbidden, "none of the form 1.2.3"},
		{"signed 1.2.9", []string{"--allow-downgrade"}, exitOK, "installed"},
		{"signed yesterday's", []string{"--allow-downgrade"}, exitOK, "installed"},
		{"forged 1.2.9", []string{"--allow-downgrade"}, exitForbidden, "signature verification failed"},
	} {
		file := filepath.Join(dir, "bundle")
		if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		out, said, code := f.run(t, append([]string{"install", file}, c.args...)...)
		if code != c.code || !strings.Contains(out+said, c.says) {
			t.Errorf("install %s %q: %d, want %d and %q\n%s%s", c.content, c.args, code, c.code, c.says, out, said)
		}
	}
	if _, said, code := f.run(t, "install", filepath.Join(dir, "absent")); code != exitFailed {
		t.Errorf("install of a file that is not there: %d\n%s", code, said)
	}
	f.set(func() { f.version["rootfs.0"] = "" })
	file := filepath.Join(dir, "bundle")
	if err := os.WriteFile(file, []byte("signed 9.0.0"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, said, code := f.run(t, "install", file); code != exitForbidden || !strings.Contains(said, "what runs has the version") {
		t.Errorf("install where nobody knows what runs: %d\n%s", code, said)
	}
}

// Nobody is led back to a slot with nothing in it, or with what has never worked.
func TestUpdateRollback(t *testing.T) {
	f := newFakeRAUC(t)
	refused := func(says string) {
		t.Helper()
		if _, said, code := f.run(t, "rollback"); code != exitForbidden || !strings.Contains(said, says) {
			t.Errorf("rollback: %d, want %d and %q\n%s", code, exitForbidden, says, said)
		}
	}
	refused("version 1.4.0 in slot B has never proven good")
	f.set(func() { f.version["rootfs.1"] = "" })
	refused("slot B is empty")
	f.set(func() { f.version["rootfs.1"] = "1.4.0" })

	if _, said, code := f.run(t, "mark-good"); code != exitOK {
		t.Errorf("mark-good: %d\n%s", code, said)
	}
	refused("never proven good") // it was A
	if err := os.WriteFile(filepath.Join(f.kept, "confirmed-B"), []byte("1.4.0 "+installed), 0o600); err != nil {
		t.Fatal(err)
	}
	f.set(func() { f.good["rootfs.1"] = false })
	refused("no starts left")
	f.set(func() { f.good["rootfs.1"] = true })
	if _, said, code := f.run(t, "rollback"); code != exitOK {
		t.Errorf("rollback: %d\n%s", code, said)
	}
	f.set(func() { f.version["rootfs.1"] = "1.4.1" })
	refused("version 1.4.1 in slot B has never proven good")
	f.set(func() {
		if marked := strings.Join(f.marked, ", "); marked != "good booted, active other" {
			t.Errorf("marked %s", marked)
		}
	})
	want := "A     yes   -     good      1.3.0"
	if out, said, _ := f.run(t, "status"); !strings.Contains(out, want) {
		t.Errorf("%s%s\nwant %s", out, said, want)
	}
}

func TestUpdateWithoutRAUC(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
	f := &fakeRAUC{kept: t.TempDir()}
	if _, said, code := f.run(t, "status"); code != exitNotRunning || !strings.Contains(said, "no slots") {
		t.Errorf("%d\n%s", code, said)
	}
}

// A daemon that says nothing does not keep its successor out.
func TestUpdateDespiteSilentDaemon(t *testing.T) {
	defer func(d time.Duration) { stateTime = d }(stateTime)
	stateTime = 50 * time.Millisecond
	f := newFakeRAUC(t)
	f.socket = filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bundle := mustWrite(t, filepath.Join(t.TempDir(), "new.raucb"), []byte("signed 1.5.0"))
	if out, said, code := f.run(t, "install", bundle); code != exitOK {
		t.Errorf("%d %s%s", code, out, said)
	}
	if got := f.recall(noteBefore); got != "1.5.0 "+hubDown {
		t.Errorf("remembered is %q", got)
	}
}

func (f *fakeRAUC) recall(name string) string {
	text, _ := os.ReadFile(filepath.Join(f.kept, name))
	return string(text)
}
