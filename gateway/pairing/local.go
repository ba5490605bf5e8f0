package pairing

import (
	"fmt"
	"strings"
)

// Over a serial port or Bluetooth there is nobody far away who gives a code: the operator
// stands before the device, says what it is called, and proves it by the port that it is
// plugged into, or by a passkey. Claim, proof, approval and binding have the same names
// and the same rules there.

// Claim says that the device at an address is to be the leaf of that name, in a window
// for its transport; source is who says so. Until it is bound the operator may say
// otherwise. Errors are ErrWindow and ErrKnown: that a leaf of that name is at another
// address, or at none, is an alarm.
func (w *Window) Claim(transport, id, address, source string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.open
	if x == nil || x.Transport != transport {
		return fmt.Errorf("%w for transport %s", ErrWindow, transport)
	}
	if w.Known(id) {
		if strings.EqualFold(w.At(id), address) {
			w.endLocked(x, fmt.Sprintf("%q is paired with %s already", id, address))
			return fmt.Errorf("%w, at %s: %q", ErrKnown, address, id)
		}
		return fmt.Errorf("%w: %q", w.alarmLocked(x, id, source, "address", address), id)
	}
	x.claim = &claimed{Request: Request{ID: id}, address: address, decided: make(chan struct{})}
	w.Log.Info("new leaf wants to pair", "event", "pairing-claimed", "leaf", id, "source", source, "transport", transport, "address", address)
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
// are ErrWindow, ErrNoClaim, or those of admit.
func (w *Window) Bind(transport, id, address string, admit func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.open
	if x == nil || x.Transport != transport {
		return fmt.Errorf("%w for transport %s", ErrWindow, transport)
	}
	c, err := w.claimLocked(id)
	if err != nil {
		return err
	}
	if !strings.EqualFold(c.address, address) {
		return fmt.Errorf("%w: %q at %s", ErrNoClaim, id, address)
	}
	if err := admit(); err != nil {
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
