package main

import (
	"errors"
	"sync"

	"github.com/godbus/dbus/v5"
)

// The leaf's service.
const (
	leafService  = "a0f00001-5f3c-4b1e-9d57-2f2a6c1e7b01"
	leafPosition = "a0f00002-5f3c-4b1e-9d57-2f2a6c1e7b01"
	leafNotes    = "a0f00003-5f3c-4b1e-9d57-2f2a6c1e7b01"
)

// leaf is a valve, with an agent that has a display.
type leaf struct {
	*peripheral
	notes   dbus.ObjectPath
	passkey chan uint32

	radio sync.Mutex
	off   bool // guarded by radio: nothing is advertised

	mu       sync.Mutex
	position []byte
	writes   int
	count    byte // in the advertisement, and notified; it grows
	listen   bool
}

const agent = dbus.ObjectPath("/leaf/agent")

func newLeaf() (*leaf, error) {
	p, err := newPeripheral(1, "/leaf", leafService)
	if err != nil {
		return nil, err
	}
	l := &leaf{peripheral: p, passkey: make(chan uint32, 1), position: []byte{0}}
	p.characteristic("position", leafPosition, map[string]any{
		"ReadValue": func(props) ([]byte, *dbus.Error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.position, nil
		},
		"WriteValue": func(v []byte, _ props) *dbus.Error {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.position = v
			l.writes++
			return nil
		},
	}, "encrypt-authenticated-read", "encrypt-authenticated-write")
	l.notes = p.characteristic("notes", leafNotes, map[string]any{
		"ReadValue":   func(props) ([]byte, *dbus.Error) { return []byte{1}, nil },
		"StartNotify": func() *dbus.Error { l.mu.Lock(); l.listen = true; l.mu.Unlock(); return nil },
		"StopNotify":  func() *dbus.Error { l.mu.Lock(); l.listen = false; l.mu.Unlock(); return nil },
	}, "read", "notify")
	p.advertised(l.advertisement)
	p.export(agent, "org.bluez.Agent1", map[string]any{
		"DisplayPasskey": func(_ dbus.ObjectPath, key uint32, entered uint16) *dbus.Error {
			if entered == 0 {
				select {
				case l.passkey <- key:
				default:
				}
			}
			return nil
		},
		"Cancel":  func() *dbus.Error { return nil },
		"Release": func() *dbus.Error { return nil },
	})
	return l, errors.Join(
		p.register(),
		p.bluez("/org/bluez", "AgentManager1.RegisterAgent", agent, "DisplayOnly"),
		p.bluez("/org/bluez", "AgentManager1.RequestDefaultAgent", agent),
		p.advertise(true),
	)
}

func (l *leaf) advertisement() props {
	l.mu.Lock()
	defer l.mu.Unlock()
	return props{
		"Type": dbus.MakeVariant("peripheral"), "LocalName": dbus.MakeVariant("leaf"), "Discoverable": dbus.MakeVariant(true),
		"ServiceData": dbus.MakeVariant(l.weatherLocked()),
	}
}

// weatherLocked is what a thermometer of BTHome's says.
func (l *leaf) weatherLocked() props {
	return props{"fcd2": dbus.MakeVariant([]byte{0x40, 0x00, l.count, 0x02, 0x66, 0x08, 0x09, l.count})}
}

// tick changes what is advertised, and notifies: the emulator sends an advertisement only
// when it changes. What fails is tried again with the next one.
func (l *leaf) tick() {
	l.radio.Lock()
	defer l.radio.Unlock()
	if l.off {
		return
	}
	l.mu.Lock()
	l.count++
	n, listen, weather := l.count, l.listen, l.weatherLocked()
	l.mu.Unlock()
	_ = l.changed(l.advert(), "LEAdvertisement1", "ServiceData", weather)
	if listen {
		_ = l.notify(l.notes, []byte{n})
	}
}

// moved says whether the valve stands there.
func (l *leaf) moved(to byte) func() bool {
	return func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.position[0] == to
	}
}

// away takes the leaf out of reach, or brings it back: nothing is advertised, and the
// connection ends. Its controller keeps its power: without it, a run was seen in which it was
// not connected again within two minutes.
func (l *leaf) away(gone bool) error {
	l.radio.Lock()
	defer l.radio.Unlock()
	l.off = gone
	if !gone {
		return l.advertise(true)
	}
	return errors.Join(l.advertise(false), l.cut())
}
