package pairing

import (
	"cmp"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// User is the user name with which a leaf comes that wants to pair. No leaf can be
// called so.
const User = "pair"

const (
	// DefaultWindow is how long a window is open, MaxWindow the longest.
	DefaultWindow = 2 * time.Minute
	MaxWindow     = 10 * time.Minute
	// maxWrong wrong codes close the window.
	maxWrong = 5
	// backoffMin is how long no window can be opened after that. It doubles each time up
	// to backoffMax, until a leaf has paired.
	backoffMin = 10 * time.Second
	backoffMax = 10 * time.Minute
)

// Errors of a Window.
var (
	ErrWindow   = errors.New("no pairing window is open")
	ErrIsOpen   = errors.New("a pairing window is open already")
	ErrBackoff  = errors.New("wrong codes were tried")
	ErrCode     = errors.New("the code is wrong")
	ErrUsed     = errors.New("the code was used by another leaf")
	ErrTaken    = errors.New("the pairing window is taken")
	ErrNoClaim  = errors.New("no such leaf has asked to pair")
	ErrKnown    = errors.New("there is a leaf of that name already")
	ErrRejected = errors.New("the operator has rejected it")
)

// Transports: over which of them a leaf may join in a window.
const (
	OverMQTT   = "mqtt"
	OverSerial = "serial" // its port is what it is known by
	OverBLE    = "ble"    // its address, and its bond where there is one
)

// Options are how a window is opened.
type Options struct {
	For       time.Duration // 0 is DefaultWindow
	Transport string        // "" is OverMQTT
	Auto      bool          // whoever has the code is approved at once
	Auth      string        // how the leaf is proven to the hub, as in the configuration; "" is what is usual
}

// Answer is what a leaf gets that has paired: a certificate with those above it, in
// PEM form, or a password.
type Answer struct {
	ID          string `json:"id"`
	Certificate string `json:"certificate,omitempty"`
	Password    string `json:"password,omitempty"`
}

// States of the leaf that a window is for.
const (
	Claimed  = "claimed"  // it has asked to join
	Approved = "approved" // it has its answer
)

// WindowState is a snapshot.
type WindowState struct {
	Open      bool      `json:"open"`
	Transport string    `json:"transport,omitempty"` // of one that is open
	Until     time.Time `json:"until,omitzero"`
	Auto      bool      `json:"auto,omitempty"`
	Wrong     int       `json:"wrong"`             // codes tried
	Claim     string    `json:"claim,omitempty"`   // the id that a leaf asks for
	Key       string    `json:"key,omitempty"`     // SHA-256 of its public key, in hexadecimal; "" for one that wants a password
	Address   string    `json:"address,omitempty"` // of the port or device that is to be that leaf
	State     string    `json:"state,omitempty"`   // Claimed or Approved
	// Retry is when a window can be opened again after wrong codes.
	Retry time.Time `json:"retry,omitzero"`
	Last  string    `json:"last,omitempty"` // how the last one ended
}

// Window is the time in which one new leaf may join: an operator opens it, one leaf
// claims it with its code, and when that is approved gets its answer on its own
// connection. There is one window at a time, and one leaf for each. Safe for
// concurrent use.
type Window struct {
	// Known says whether there is a leaf of that name.
	Known func(id string) bool
	// At says at which port or device a leaf is, "" for none.
	At func(id string) string
	// Usable says whether a leaf could be admitted that is proven to the hub in that way.
	Usable func(auth string) error
	// Admit lets a leaf in for good and returns what it is to be given.
	Admit func(r Request, auth string) (Answer, error)
	Log   *slog.Logger

	mu      sync.Mutex
	open    *opening // guarded by mu; nil: there is none
	retry   time.Time
	backoff time.Duration
	last    string
	outcome Outcome   // of who has tried last; guarded by mu
	decided time.Time // when
}

// Outcome is what became of somebody who wanted to pair.
type Outcome string

// The outcomes.
const (
	Paired  Outcome = "paired"  // it was let in
	Refused Outcome = "refused" // it was not: for its code, its name, or as the operator wanted
)

// Outcome returns what became of who has tried last, if that was within a time and no
// window was opened since; else "".
func (w *Window) Outcome(within time.Duration) Outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.outcome == "" || time.Since(w.decided) > within {
		return ""
	}
	return w.outcome
}

func (w *Window) decideLocked(o Outcome) { w.outcome, w.decided = o, time.Now() }

// opening is one window.
type opening struct {
	Options
	code  Code
	until time.Time // with a monotonic reading: the clock may be set meanwhile
	timer *time.Timer
	wrong int
	claim *claimed // nil: nobody has claimed it
	end   string   // why it ends as soon as its leaf is admitted or not
	// passing: who has opened it has failed, and it ends when its claim is given up.
	passing bool
}

// taken says whose it is, and until when.
func (x *opening) taken() error {
	text := fmt.Sprintf("%v, over %s until %s", ErrIsOpen, x.Transport, x.until.UTC().Format(time.RFC3339))
	if c := x.claim; c != nil {
		text += fmt.Sprintf(", for %q", c.ID)
		if c.address != "" {
			text += " at " + c.address
		}
		text += ", claimed by " + c.source
	}
	return takenError(text)
}

// takenError is an ErrTaken and an ErrIsOpen in one's own words.
type takenError string

func (e takenError) Error() string { return string(e) }

func (takenError) Is(target error) bool { return target == ErrTaken || target == ErrIsOpen }

// claimed is the leaf that the window is for.
type claimed struct {
	Request
	address  string // of one that is at a port or a device of its own, "" over MQTT
	source   string // who has claimed it: an address of the network, or an operator
	holders  int    // how many operators are at it, 0 over MQTT
	kept     bool   // it stays when they have gone, for the next try
	deciding bool   // it is being admitted at this moment
	approved bool
	answer   Answer
	err      error         // why it gets none
	decided  chan struct{} // closed when there is an answer, or err
}

// Open opens a window and returns its code. The error is ErrIsOpen and ErrTaken and says
// whose it is, wraps ErrBackoff, or is that of Usable.
func (w *Window) Open(o Options) (Code, time.Time, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.openLocked(o); err != nil {
		return Code{}, time.Time{}, err
	}
	return w.open.code, w.open.until, nil
}

func (w *Window) openLocked(o Options) error {
	now := time.Now()
	if w.open != nil {
		return w.open.taken()
	}
	if now.Before(w.retry) {
		return fmt.Errorf("%w: a window can be opened again in %v", ErrBackoff, w.retry.Sub(now).Round(time.Second))
	}
	o.Transport = cmp.Or(o.Transport, OverMQTT)
	if o.Transport == OverMQTT { // else the device may bring a key of its own
		if err := w.Usable(o.Auth); err != nil {
			return err
		}
	}
	if o.For == 0 {
		o.For = DefaultWindow
	}
	o.For = min(o.For, MaxWindow)
	x := &opening{Options: o, code: NewCode(), until: now.Add(o.For)}
	x.timer = time.AfterFunc(o.For, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.endLocked(x, "nobody has paired in time")
	})
	w.open = x
	w.outcome = ""
	w.Log.Info("pairing window opened", "event", "pairing-opened", "transport", o.Transport, "until", x.until.UTC(), "auto", o.Auto)
	return nil
}

// Close closes the window, whosever it is. The error is ErrWindow if there is none,
// and ErrTaken while its leaf is being admitted.
func (w *Window) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.open == nil:
		return ErrWindow
	case w.open.claim != nil && w.open.claim.deciding:
		return fmt.Errorf("%w: %q is being admitted at this moment", ErrTaken, w.open.claim.ID)
	}
	w.endLocked(w.open, "the operator has closed it")
	return nil
}

// Code returns the code of the window.
func (w *Window) Code() (Code, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.open == nil:
		return Code{}, ErrWindow
	case w.open.Transport != OverMQTT:
		return Code{}, fmt.Errorf("%w that has a code: this one is for transport %s", ErrWindow, w.open.Transport)
	}
	return w.open.code, nil
}

// State takes a snapshot.
func (w *Window) State() WindowState {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := WindowState{Last: w.last}
	if time.Now().Before(w.retry) {
		s.Retry = w.retry.UTC()
	}
	if x := w.open; x != nil {
		s.Open, s.Transport, s.Until, s.Auto, s.Wrong = true, x.Transport, x.until.UTC(), x.Auto, x.wrong
		if c := x.claim; c != nil {
			s.Claim, s.Address, s.State = c.ID, c.address, Claimed
			if c.CSR != nil {
				s.Key = fmt.Sprintf("%x", c.Key)
			}
			if c.approved {
				s.State = Approved
			}
		}
	}
	return s
}

// endLocked ends a window if it is still open. Whoever waits in it is told. While its
// leaf is being admitted it ends after that.
func (w *Window) endLocked(x *opening, why string) {
	if w.open != x {
		return
	}
	if x.claim != nil && x.claim.deciding {
		x.end = why
		return
	}
	w.open, w.last = nil, why
	x.timer.Stop()
	if c := x.claim; c != nil && !c.approved && c.err == nil {
		c.err = fmt.Errorf("%w any more: %s", ErrWindow, why)
		close(c.decided)
	}
	w.Log.Info("pairing window closed", "event", "pairing-closed", "transport", x.Transport, "reason", why)
}

// Enter judges a code that somebody at source gives. Wrong ones close the window,
// except those in which the last digit shows a slip.
func (w *Window) Enter(text, source string) (*Guest, error) {
	code, ok := parseCode(text)
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.open
	switch {
	case x == nil || x.Transport != OverMQTT:
		return nil, ErrWindow
	case !ok:
		return nil, ErrCode
	case subtle.ConstantTimeCompare([]byte(code.digits), []byte(x.code.digits)) == 1:
		return &Guest{w: w, in: x, source: source}, nil
	}
	w.wrongLocked(x, source)
	return nil, ErrCode
}

// wrongLocked counts a wrong code.
func (w *Window) wrongLocked(x *opening, source string) {
	x.wrong++
	w.decideLocked(Refused)
	w.Log.Warn("wrong pairing code", "event", "pairing-wrong-code", "transport", x.Transport, "source", source, "wrong", x.wrong)
	if x.wrong >= maxWrong {
		w.backoff = min(max(2*w.backoff, backoffMin), backoffMax)
		w.retry = time.Now().Add(w.backoff)
		w.Log.Warn("pairing window closed by wrong codes", "event", "pairing-guessed", "transport", x.Transport, "source", source, "wait", w.backoff)
		w.endLocked(x, "wrong codes were tried")
	}
}

// Approve admits the leaf that has asked for that name. Errors are ErrWindow,
// ErrNoClaim, ErrTaken while it is being admitted, or those of Admit.
func (w *Window) Approve(id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, err := w.claimLocked(id)
	switch {
	case err != nil:
		return err
	case c.address != "":
		return fmt.Errorf("%w over MQTT: %q is approved by the command that pairs it", ErrNoClaim, id)
	}
	x := w.open
	err = w.approveLocked(x, c)
	if x.end != "" {
		w.endLocked(x, x.end)
	}
	return err
}

// Reject turns away the leaf that has asked for that name, and closes the window. Errors
// are ErrWindow, ErrNoClaim, and ErrTaken while it is being admitted.
func (w *Window) Reject(id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, err := w.claimLocked(id)
	if err != nil {
		return err
	}
	w.decideLocked(Refused)
	c.err = ErrRejected
	close(c.decided)
	w.Log.Warn("new leaf rejected", "event", "pairing-rejected", "transport", w.open.Transport, "leaf", id)
	w.endLocked(w.open, "the operator has rejected "+id)
	return nil
}

// claimLocked returns what is still to be decided.
func (w *Window) claimLocked(id string) (*claimed, error) {
	switch {
	case w.open == nil:
		return nil, ErrWindow
	case w.open.claim == nil || w.open.claim.ID != id || w.open.claim.approved:
		return nil, fmt.Errorf("%w: %q", ErrNoClaim, id)
	case w.open.claim.deciding:
		return nil, fmt.Errorf("%w: %q is being admitted at this moment", ErrTaken, id)
	}
	return w.open.claim, nil
}

// admitLocked has do let the leaf in, and lets go of the lock meanwhile: that writes to
// flash, may wait for a change of the configuration, and who asks for the state does not
// wait for it. Nobody else decides until then, and the window stays.
func (w *Window) admitLocked(c *claimed, do func() error) error {
	c.deciding = true
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		c.deciding = false
	}()
	return do()
}

func (w *Window) approveLocked(x *opening, c *claimed) error {
	var answer Answer
	err := w.admitLocked(c, func() (err error) {
		answer, err = w.Admit(c.Request, x.Auth)
		return err
	})
	if err != nil {
		return err
	}
	w.decideLocked(Paired)
	c.approved, c.answer = true, answer
	close(c.decided)
	w.backoff = 0
	w.Log.Info("new leaf approved", "event", "pairing-approved", "transport", "mqtt", "leaf", c.ID)
	return nil
}

// Guest is somebody who has given the code of a window.
type Guest struct {
	w      *Window
	in     *opening
	source string
}

// Until is when the window closes, with a monotonic reading.
func (g *Guest) Until() time.Time { return g.in.until }

// Claim asks for what the request says. The first who does has the window: another
// one is refused with ErrUsed, while the same may ask again after its connection was
// lost. A name that is taken is an alarm and refused with ErrKnown.
func (g *Guest) Claim(r Request) (*Ticket, error) {
	w := g.w
	w.mu.Lock()
	defer w.mu.Unlock()
	x := g.in
	if w.open != x {
		return nil, ErrWindow
	}
	if c := x.claim; c != nil {
		if c.ID != r.ID || c.Key != r.Key || c.CSR == nil {
			w.decideLocked(Refused)
			w.Log.Warn("pairing code used twice", "event", "pairing-code-reused", "transport", "mqtt", "leaf", r.ID, "source", g.source)
			return nil, ErrUsed
		}
		return &Ticket{g, c}, nil
	}
	if w.Known(r.ID) {
		return nil, w.alarmLocked(x, r.ID, g.source, "key", fmt.Sprintf("%x", r.Key[:8]))
	}
	c := &claimed{Request: r, source: g.source, decided: make(chan struct{})}
	x.claim = c
	w.Log.Info("new leaf wants to pair", "event", "pairing-claimed", "transport", "mqtt", "leaf", r.ID, "source", g.source, "key", fmt.Sprintf("%x", r.Key[:8]))
	if x.Auto {
		if err := w.approveLocked(x, c); err != nil {
			w.Log.Warn("new leaf cannot be admitted", "event", "pairing-failed", "transport", "mqtt", "leaf", r.ID, "error", err)
			w.decideLocked(Refused)
			c.err = err
			close(c.decided)
			w.endLocked(x, "the leaf could not be admitted: "+err.Error())
		} else if x.end != "" {
			w.endLocked(x, x.end)
		}
	}
	return &Ticket{g, c}, nil
}

// alarmLocked says that somebody wants to be a leaf that is there, and ends the window.
func (w *Window) alarmLocked(x *opening, id, source string, proof ...any) error {
	w.decideLocked(Refused)
	w.Log.Error("somebody wants to pair as a leaf that is there already",
		append([]any{"event", "pairing-known-leaf", "transport", x.Transport, "leaf", id, "source", source}, proof...)...)
	w.endLocked(x, fmt.Sprintf("somebody asked for the name of the leaf %q, which is there already", id))
	return ErrKnown
}

// Ticket is a claim that was made.
type Ticket struct {
	g *Guest
	c *claimed
}

// Decided is closed when it is clear what the leaf gets.
func (t *Ticket) Decided() <-chan struct{} { return t.c.decided }

// Answer is what the leaf gets, or why not. It is called after Decided is closed.
func (t *Ticket) Answer() (Answer, error) {
	t.g.w.mu.Lock()
	defer t.g.w.mu.Unlock()
	return t.c.answer, t.c.err
}

// Delivered says that the leaf has got its answer: the window is closed.
func (t *Ticket) Delivered() {
	t.g.w.mu.Lock()
	defer t.g.w.mu.Unlock()
	t.g.w.endLocked(t.g.in, "paired with "+t.c.ID)
}
