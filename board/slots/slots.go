// Package slots speaks to RAUC, which installs updates into the root slot that is not
// running and tells the boot loader which slot is next. Whose updates are taken is in
// RAUC's own configuration. What RAUC does not keep is kept here: which slots have
// proven good with what is in them, and how the gateway was before it was updated.
package slots

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
	"golang.org/x/mod/semver"
)

// ErrAbsent says that nothing answers for RAUC: this machine has no slots.
var ErrAbsent = errors.New("RAUC does not answer: this machine has no slots")

// ErrRefused says that a bundle was not taken, or that a slot is not one to go back
// to, and why.
var ErrRefused = errors.New("refused")

// ErrOlder says that a bundle was not taken because it is older than what runs, or
// because its version cannot be compared with that.
var ErrOlder = errors.New("refused")

// Kept is the folder in which an image keeps what RAUC does not.
const Kept = "/var/lib/fieldgate-good"

const (
	service   = "de.pengutronix.rauc"
	installer = "de.pengutronix.rauc.Installer"
)

// Slot is one of the root slots.
type Slot struct {
	Name      string `json:"name"`      // "A" or "B", as the boot loader calls it
	Booted    bool   `json:"booted"`    // this one runs
	Primary   bool   `json:"primary"`   // this one is started next
	Good      bool   `json:"good"`      // has starts left
	Confirmed bool   `json:"confirmed"` // a start with what is in it has proven good
	Version   string `json:"version"`   // of what is in it; "" for nothing
	Installed string `json:"installed"` // when, RFC 3339; "" for what came on the card
}

// Empty says that nothing was ever put into the slot.
func (s Slot) Empty() bool { return s.Version == "" && s.Installed == "" && !s.Booted }

// content names what is in the slot: another update has another one.
func (s Slot) content() string { return s.Version + " " + s.Installed }

// Machine is a connection to RAUC. Not safe for concurrent use.
type Machine struct {
	bus  *dbus.Conn
	kept string // folder
}

// Open connects to the system's bus, or to the one that DBUS_SYSTEM_BUS_ADDRESS names.
// kept is the folder for what RAUC does not keep, like Kept; it is made when needed.
func Open(ctx context.Context, kept string) (*Machine, error) {
	// Its own connection, so that closing it takes nothing from others.
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("%w (%v)", ErrAbsent, err)
	}
	return &Machine{bus, kept}, nil
}

// Close ends the connection.
func (m *Machine) Close() error { return m.bus.Close() }

func (m *Machine) object() dbus.BusObject { return m.bus.Object(service, "/") }

func (m *Machine) call(ctx context.Context, method string, args ...any) *dbus.Call {
	c := m.object().CallWithContext(ctx, installer+"."+method, 0, args...)
	var said dbus.Error
	if errors.As(c.Err, &said) {
		switch said.Name {
		case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner", "org.freedesktop.DBus.Error.Spawn.ServiceNotFound":
			c.Err = ErrAbsent
		}
	}
	return c
}

// Slots returns the root slots, by name.
func (m *Machine) Slots(ctx context.Context) ([]Slot, error) {
	var listed []struct {
		Name   string
		Status map[string]dbus.Variant
	}
	if err := m.call(ctx, "GetSlotStatus").Store(&listed); err != nil {
		return nil, err
	}
	var primary string
	if err := m.call(ctx, "GetPrimary").Store(&primary); err != nil {
		return nil, err
	}
	var all []Slot
	for _, l := range listed {
		text := func(key string) string {
			s, _ := l.Status[key].Value().(string)
			return s
		}
		if text("bootname") == "" {
			continue
		}
		s := Slot{
			Name: text("bootname"), Booted: text("state") == "booted", Primary: l.Name == primary, Good: text("boot-status") == "good",
			Version: text("bundle.version"), Installed: text("installed.timestamp"),
		}
		s.Confirmed = m.Recall("confirmed-"+s.Name) == s.content()
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Slot) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// find returns the slot that runs, or the other one.
func (m *Machine) find(ctx context.Context, booted bool) (Slot, error) {
	all, err := m.Slots(ctx)
	if err != nil {
		return Slot{}, err
	}
	if i := slices.IndexFunc(all, func(s Slot) bool { return s.Booted == booted }); i >= 0 {
		return all[i], nil
	}
	return Slot{}, fmt.Errorf("%w: RAUC knows of no such slot", ErrAbsent)
}

// Running returns the slot that runs.
func (m *Machine) Running(ctx context.Context) (Slot, error) { return m.find(ctx, true) }

// Version checks the bundle's signature and returns the version that stands in what
// is signed. file is an absolute path. The error is ErrRefused for what is not signed
// by whom RAUC trusts, or is no bundle.
func (m *Machine) Version(ctx context.Context, file string) (string, error) {
	if _, err := os.Stat(file); err != nil {
		return "", err
	}
	var info map[string]dbus.Variant
	err := m.call(ctx, "InspectBundle", file, map[string]dbus.Variant{}).Store(&info)
	var said dbus.Error
	if errors.As(err, &said) {
		return "", fmt.Errorf("%w: %s", ErrRefused, said.Error())
	}
	if err != nil {
		return "", err
	}
	update, _ := info["update"].Value().(map[string]dbus.Variant)
	version, _ := update["version"].Value().(string)
	return version, nil
}

// notOlder returns an ErrOlder unless a version is that of what runs, or newer.
func notOlder(version, running string) error {
	switch v, r := "v"+version, "v"+running; {
	case !semver.IsValid(v):
		return fmt.Errorf("%w: its version %q is none of the form 1.2.3, so that nobody can say whether it is older than %s, which runs", ErrOlder, version, running)
	case !semver.IsValid(r):
		return fmt.Errorf("%w: what runs has the version %q, so that nobody can say whether %s is older", ErrOlder, running, version)
	case semver.Compare(v, r) < 0:
		return fmt.Errorf("%w: %s is older than %s, which runs", ErrOlder, version, running)
	}
	return nil
}

// Install checks the bundle's signature and version and writes it into the slot that
// is not running, which is started next from then on. file is an absolute path; older
// lets an older version than the running one through. progress is called with what
// RAUC says it does and how far it is, 0 to 100. When ctx ends, RAUC goes on: an update
// cannot be taken back half way. The error is ErrRefused or ErrOlder if it was not
// taken.
func (m *Machine) Install(ctx context.Context, file string, older bool, progress func(percent int, doing string)) error {
	version, err := m.Version(ctx, file)
	if err == nil && !older {
		var running Slot
		if running, err = m.Running(ctx); err == nil {
			err = notOlder(version, running.Version)
		}
	}
	if err != nil {
		return err
	}
	return m.write(ctx, file, older, progress)
}

// write has RAUC install a bundle, and waits until it has.
func (m *Machine) write(ctx context.Context, file string, older bool, progress func(percent int, doing string)) error {
	changes := make(chan *dbus.Signal, 64)
	m.bus.Signal(changes)
	defer m.bus.RemoveSignal(changes)
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchInterface(installer), dbus.WithMatchMember("Completed")},
		{dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchMember("PropertiesChanged"), dbus.WithMatchSender(service)},
		{dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, service)},
	} {
		if err := m.bus.AddMatchSignalContext(ctx, match...); err != nil {
			return err
		}
	}
	// The image's RAUC compares the versions itself (min-bundle-version), whatever is in
	// the file by now.
	how := map[string]dbus.Variant{}
	if older {
		how["ignore-version-limit"] = dbus.MakeVariant(true)
	}
	if err := m.call(ctx, "InstallBundle", file, how).Err; err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s, open := <-changes:
			if !open {
				return errors.New("the connection to RAUC was lost")
			}
			switch s.Name {
			case installer + ".Completed":
				if len(s.Body) == 1 && s.Body[0] == int32(0) {
					return nil
				}
				return fmt.Errorf("%w: %s", ErrRefused, m.lastError())
			case "org.freedesktop.DBus.NameOwnerChanged":
				return errors.New("RAUC ended while it installed")
			default:
				tell(s, progress)
			}
		}
	}
}

// tell passes on a change of the property Progress: percentage, message, depth.
func tell(s *dbus.Signal, progress func(int, string)) {
	if len(s.Body) < 2 {
		return
	}
	changed, _ := s.Body[1].(map[string]dbus.Variant)
	parts, _ := changed["Progress"].Value().([]any)
	if len(parts) != 3 {
		return
	}
	percent, isNumber := parts[0].(int32)
	doing, isText := parts[1].(string)
	if isNumber && isText {
		progress(int(percent), doing)
	}
}

func (m *Machine) lastError() string {
	v, err := m.object().GetProperty(installer + ".LastError")
	text, _ := v.Value().(string)
	if err != nil || text == "" {
		return "RAUC does not say why"
	}
	return text
}

// Confirm gives the running slot all its starts again, and notes that what is in it
// has proven good.
func (m *Machine) Confirm(ctx context.Context) error {
	running, err := m.Running(ctx)
	if err != nil {
		return err
	}
	if err := m.call(ctx, "Mark", "good", "booted").Err; err != nil {
		return err
	}
	if running.Confirmed {
		return nil
	}
	return m.Remember("confirmed-"+running.Name, running.content())
}

// StartOther has the slot that is not running started next. The error is ErrRefused
// where that would not lead to something that has proven good.
func (m *Machine) StartOther(ctx context.Context) error {
	other, err := m.find(ctx, false)
	if err != nil {
		return err
	}
	switch {
	case other.Empty():
		return fmt.Errorf("%w: slot %s is empty: nothing has been installed into it", ErrRefused, other.Name)
	case !other.Good:
		return fmt.Errorf("%w: slot %s has no starts left: version %s was started and not confirmed", ErrRefused, other.Name, other.Version)
	case !other.Confirmed:
		return fmt.Errorf("%w: version %s in slot %s has never proven good", ErrRefused, other.Version, other.Name)
	}
	return m.call(ctx, "Mark", "active", "other").Err
}

// Restart has systemd stop everything and start the machine anew.
func (m *Machine) Restart(ctx context.Context) error {
	manager := m.bus.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
	return manager.CallWithContext(ctx, "org.freedesktop.systemd1.Manager.StartUnit", 0, "reboot.target", "replace-irreversibly").Err
}

// Recall returns what was remembered under a name, "" for nothing.
func (m *Machine) Recall(name string) string {
	text, err := os.ReadFile(filepath.Join(m.kept, name))
	if err != nil {
		return "" // as if it had never been; then nothing is taken for proven
	}
	return string(text)
}

// Remember keeps a text that everybody may read, synced: after a power cut there is the old one or the new one.
func (m *Machine) Remember(name, text string) error {
	if err := os.MkdirAll(m.kept, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(m.kept, "new-")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(m.kept, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(m.kept)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
