package pairing

import (
	"fmt"
	"strings"
	"time"
)

// Over a serial port or Bluetooth there is nobody far away who gives a code: the operator
// stands before the device, says what it is called, and proves it by the port that it is
// plugged into, a key that it has, or a passkey. Claim, proof, approval and binding have the same names
// and the same rules there.

// Hold is a claim as one of those has it who are at it. Safe for concurrent use.
type Hold struct {
	w      *Window
	in     *opening
	of     *claimed
	opened bool
	over   bool // guarded by w.mu
}

// Until is when the window closes.
func (h *Hold) Until() time.Time { return h.in.until }

// Opened says that the window was opened for this claim.
func (h *Hold) Opened() bool { return h.opened }

// Claim says that the device at an address is to be the leaf of that name; source is who
// says so. It happens in the window that is open for the transport of o; if none is open,
// one is opened as o says. The same may be said again, by the next try or by somebody who
// does it at the same time: each has a Hold of its own. That another device or another
// name has the window, or that it is for another transport, is ErrTaken, which says whose
// it is. Other errors are those of Open, and ErrKnown: that a leaf of that name is at
// another address, or at none, is an alarm.
func (w *Window) Claim(o Options, id, address, source string) (*Hold, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x, opened := w.open, false
	if x == nil || x.Transport != o.Transport {
		if err := w.openLocked(o); err != nil {
			return nil, err
		}
		x, opened = w.open, true
	}
	c := x.claim
	switch {
	case c != nil && (c.deciding || !c.isOf(id, address)):
		return nil, x.taken()
	case c != nil:
	case !w.Known(id):
		c = &claimed{Request: Request{ID: id}, address: address, source: source, decided: make(chan struct{})}
		x.claim = c
		w.Log.Info("new leaf wants to pair", "event", "pairing-claimed", "leaf", id, "source", source, "transport", x.Transport, "address", address)
	case strings.EqualFold(w.At(id), address):
		w.decideLocked(Refused)
		w.endLocked(x, fmt.Sprintf("%q is paired with %s already", id, address))
		return nil, fmt.Errorf("%w, at %s: %q", ErrKnown, address, id)
	default:
		return nil, fmt.Errorf("%w: %q", w.alarmLocked(x, id, source, "address", address), id)
	}
	c.holders++
	c.kept = false
	return &Hold{w: w, in: x, of: c, opened: opened}, nil
}

// Release says that one is done with a claim, in whatever way. The claim is over when all
// are who share it, and so is the window if it was opened by one of them; after a wrong
// passkey they stay for the next try. Only the first call counts.
func (h *Hold) Release() {
	w, x, c := h.w, h.in, h.of
	w.mu.Lock()
	defer w.mu.Unlock()
	if h.over {
		return
	}
	h.over = true
	c.holders--
	x.passing = x.passing || h.opened
	if w.open != x || x.claim != c || c.holders > 0 || c.kept || c.deciding {
		return // Bind ends the window, whatever comes of it
	}
	w.decideLocked(Refused)
	w.Log.Info("pairing given up", "event", "pairing-failed", "transport", x.Transport, "leaf", c.ID, "address", c.address)
	if x.claim = nil; x.passing {
		w.endLocked(x, fmt.Sprintf("the command that was to pair %q has failed", c.ID))
	}
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

// Wrong counts a wrong passkey, or a wrong answer to HELLO, of the device at an address as
// a wrong code, if the window is for it. The claim then stays for the next try, also when
// nobody is at it any more.
func (w *Window) Wrong(transport, address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.open; x != nil && x.Transport == transport && x.claim != nil && strings.EqualFold(x.claim.address, address) {
		x.claim.kept = true
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
