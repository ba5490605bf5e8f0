package pairing

import (
	"crypto/rand"
	"fmt"
	"strings"
	"time"
)

// Over a serial port or Bluetooth there is nobody far away who gives a code: the operator
// stands before the device, says what it is called, and proves it by the port that it is
// plugged into, or by a passkey. Claim, proof, approval and binding have the same names
// and the same rules there.

// Claim says that the device at an address is to be the leaf of that name, in a window
// for its transport; source is who says so. It returns a token for Abandon. The same may
// be said again, by the next try or by somebody who does it at the same time: each has a
// token of its own. That another device or another name has the window is ErrTaken, which
// says whose it is. Other errors are ErrWindow and ErrKnown: that a leaf of that name is
// at another address, or at none, is an alarm.
func (w *Window) Claim(transport, id, address, source string) (token string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.open
	if x == nil || x.Transport != transport {
		return "", w.noWindowLocked(transport)
	}
	if c := x.claim; c != nil {
		if c.deciding || !c.isOf(id, address) {
			return "", x.taken()
		}
		return c.hold(), nil
	}
	if w.Known(id) {
		if strings.EqualFold(w.At(id), address) {
			w.decideLocked(Refused)
			w.endLocked(x, fmt.Sprintf("%q is paired with %s already", id, address))
			return "", fmt.Errorf("%w, at %s: %q", ErrKnown, address, id)
		}
		return "", fmt.Errorf("%w: %q", w.alarmLocked(x, id, source, "address", address), id)
	}
	x.claim = &claimed{Request: Request{ID: id}, address: address, source: source, decided: make(chan struct{}), holders: make(map[string]bool)}
	w.Log.Info("new leaf wants to pair", "event", "pairing-claimed", "leaf", id, "source", source, "transport", transport, "address", address)
	return x.claim.hold(), nil
}

// hold returns the token of one more who has claimed it.
func (c *claimed) hold() string {
	token := rand.Text()
	c.holders[token] = true
	return token
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

// Abandon gives up a claim by the token that Claim has returned, "" for none. It is over
// when all have given it up who share it. Who has opened the window as well says until
// when that is open, as Open has returned it, and it is closed then, or at once if nobody
// has claimed it; another one, or with no time any, stays for others. The error is
// ErrNoClaim if there is neither.
func (w *Window) Abandon(token string, until time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.open
	if x == nil {
		return ErrNoClaim
	}
	c, opener := x.claim, x.until.Equal(until)
	switch {
	case c == nil && opener:
		w.endLocked(x, "the command that has opened it has failed")
		return nil
	case c == nil || !c.holders[token] || c.deciding || c.approved:
		return ErrNoClaim
	}
	delete(c.holders, token)
	x.passing = x.passing || opener
	if len(c.holders) > 0 {
		return nil
	}
	w.decideLocked(Refused)
	w.Log.Info("pairing given up", "event", "pairing-failed", "transport", x.Transport, "leaf", c.ID, "address", c.address)
	if x.claim = nil; x.passing {
		w.endLocked(x, fmt.Sprintf("the command that was to pair %q has failed", c.ID))
	}
	return nil
}

// Wrong counts a wrong passkey of the device at an address as a wrong code, if the window
// is for it. Who has claimed it is done with that, and the claim stays for the next try.
func (w *Window) Wrong(transport, address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.open; x != nil && x.Transport == transport && x.claim != nil && strings.EqualFold(x.claim.address, address) {
		clear(x.claim.holders)
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
