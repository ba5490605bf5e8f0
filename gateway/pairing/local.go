package pairing

import (
	"fmt"
	"strings"
	"time"
)

// Over a serial port or Bluetooth there is nobody far away who gives a code: the operator
// stands before the device, says what it is called, and proves it by the port that it is
// plugged into, or by a passkey. Claim, proof, approval and binding have the same names
// and the same rules there.

// Claim says that the device at an address is to be the leaf of that name, in a window
// for its transport; source is who says so. The same may be said again; that another
// device or another name has the window is ErrTaken, which says whose it is. Other errors
// are ErrWindow and ErrKnown: that a leaf of that name is at another address, or at none,
// is an alarm.
func (w *Window) Claim(transport, id, address, source string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.open
	if x == nil || x.Transport != transport {
		return w.noWindowLocked(transport)
	}
	if c := x.claim; c != nil {
		if c.deciding || !c.isOf(id, address) {
			return x.taken()
		}
		return nil
	}
	if w.Known(id) {
		if strings.EqualFold(w.At(id), address) {
			w.decideLocked(Refused)
			w.endLocked(x, fmt.Sprintf("%q is paired with %s already", id, address))
			return fmt.Errorf("%w, at %s: %q", ErrKnown, address, id)
		}
		return fmt.Errorf("%w: %q", w.alarmLocked(x, id, source, "address", address), id)
	}
	x.claim = &claimed{Request: Request{ID: id}, address: address, source: source, decided: make(chan struct{})}
	w.Log.Info("new leaf wants to pair", "event", "pairing-claimed", "leaf", id, "source", source, "transport", transport, "address", address)
	return nil
}

// isOf says whether that device is claimed as that leaf.
func (c *claimed) isOf(id, address string) bool {
	return c.ID == id && strings.EqualFold(c.address, address)
}

// noWindowLocked says how the last window ended: somebody else may have ended it.
func (w *Window) noWindowLocked(transport string) error {
	if w.open != nil || w.last == "" {
		return fmt.Errorf("%w for transport %s", ErrWindow, transport)
	}
	return fmt.Errorf("%w for transport %s; how the last one ended: %s", ErrWindow, transport, w.last)
}

// Abandon gives up the claim that Claim has made with the same arguments. Who has opened
// the window as well says with until which one that is, by the end that Open has
// returned: it is closed, also if it has no claim; another one, or with no time any,
// stays for others. The error is ErrNoClaim if there is neither.
func (w *Window) Abandon(transport, id, address string, until time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.open
	shut := x != nil && x.Transport == transport && address != "" && x.until.Equal(until)
	if shut && x.claim == nil {
		w.endLocked(x, fmt.Sprintf("the command that was to pair %q has failed", id))
		return nil
	}
	// Over MQTT nobody has an address: those claims are given up by who has made them.
	if x == nil || x.Transport != transport || x.claim == nil || address == "" || !x.claim.isOf(id, address) || x.claim.deciding || x.claim.approved {
		return fmt.Errorf("%w over %s: %q at %s", ErrNoClaim, transport, id, address)
	}
	w.decideLocked(Refused)
	w.Log.Info("pairing given up", "event", "pairing-failed", "transport", transport, "leaf", id, "address", x.claim.address)
	if x.claim = nil; shut {
		w.endLocked(x, fmt.Sprintf("the command that was to pair %q has failed", id))
	}
	return nil
}

// Wrong counts a wrong passkey of the device at an address as a wrong code, if the window
// is for it.
func (w *Window) Wrong(transport, address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.open; x != nil && x.Transport == transport && x.claim != nil && strings.EqualFold(x.claim.address, address) {
		w.wrongLocked(x, address)
	}
}

// Bind approves the device that Claim has named, admits it, and closes the window. Errors
// are ErrWindow, ErrNoClaim, ErrTaken while it is being admitted, or those of admit.
func (w *Window) Bind(transport, id, address string, admit func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.open
	if x == nil || x.Transport != transport {
		return w.noWindowLocked(transport)
	}
	c, err := w.claimLocked(id)
	if err != nil {
		return err
	}
	if !strings.EqualFold(c.address, address) {
		return fmt.Errorf("%w: %q at %s", ErrNoClaim, id, address)
	}
	if err := w.admitLocked(c, admit); err != nil {
		w.decideLocked(Refused)
		w.Log.Warn("new leaf cannot be admitted", "event", "pairing-failed", "transport", transport, "leaf", id, "error", err)
		w.endLocked(x, "the leaf could not be admitted: "+err.Error())
		return err
	}
	c.approved, w.backoff = true, 0
	w.decideLocked(Paired)
	w.Log.Info("new leaf approved", "event", "pairing-approved", "transport", transport, "leaf", id)
	w.Log.Info("new leaf bound", "event", "pairing-bound", "leaf", id, "transport", transport, "address", address)
	w.endLocked(x, "paired with "+id)
	return nil
}
