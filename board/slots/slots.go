// Package slots speaks to RAUC, which installs updates into the root slot that is not
// running and tells the boot loader which slot is next. It decides nothing itself:
// whose updates are taken is in RAUC's own configuration.
package slots

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
)

// ErrAbsent says that nothing answers for RAUC: this machine has no slots.
var ErrAbsent = errors.New("RAUC does not answer: this machine has no slots")

// ErrRefused says that RAUC did not take a bundle, and why.
var ErrRefused = errors.New("refused")

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
	Version   string `json:"version"`   // of the update in it; "" for what came on the card
	Installed string `json:"installed"` // when, RFC 3339; "" for what came on the card
}

// Machine is a connection to RAUC. Not safe for concurrent use.
type Machine struct {
	bus *dbus.Conn
}

// Open connects to the system's bus, or to the one that DBUS_SYSTEM_BUS_ADDRESS names.
func Open(ctx context.Context) (*Machine, error) {
	// Its own connection, so that closing it takes nothing from others.
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("%w (%v)", ErrAbsent, err)
	}
	return &Machine{bus}, nil
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
		all = append(all, Slot{
			Name: text("bootname"), Booted: text("state") == "booted", Primary: l.Name == primary, Good: text("boot-status") == "good",
			Version: text("bundle.version"), Installed: text("installed.timestamp"),
		})
	}
	slices.SortFunc(all, func(a, b Slot) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Install checks the bundle's signature and writes it into the slot that is not
// running, which is started next from then on. file is an absolute path. progress is
// called with what RAUC says it does and how far it is, 0 to 100. When ctx ends, RAUC
// goes on: an update cannot be taken back half way. The error is ErrRefused if RAUC
// did not take it.
func (m *Machine) Install(ctx context.Context, file string, progress func(percent int, doing string)) error {
	if _, err := os.Stat(file); err != nil {
		return err
	}
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
	if err := m.call(ctx, "InstallBundle", file, map[string]dbus.Variant{}).Err; err != nil {
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

// MarkGood gives the running slot all its starts again.
func (m *Machine) MarkGood(ctx context.Context) error {
	return m.call(ctx, "Mark", "good", "booted").Err
}

// StartOther has the slot that is not running started next.
func (m *Machine) StartOther(ctx context.Context) error {
	all, err := m.Slots(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(s Slot) bool { return !s.Booted && s.Good }) {
		return fmt.Errorf("%w: the other slot has failed, or nothing is in it", ErrRefused)
	}
	return m.call(ctx, "Mark", "active", "other").Err
}
