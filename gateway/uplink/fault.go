package uplink

import (
	"errors"
	"time"
)

// Remedy says what a failure asks for.
type Remedy uint8

// The remedies, from the narrowest to the widest.
const (
	// BackOff: something is wrong with this link or with this attempt; wait on
	// the ordinary schedule and try again.
	BackOff Remedy = iota
	// Again: the hub moved, closed or gave back something in good order; try
	// again at once. Repeated without success it turns into BackOff.
	Again
	// Poison: the hub will never take this message. It goes to the dead-letter
	// shelf and the ones behind it go on.
	Poison
	// Suspect: the hub gave up the link because of a message without saying which.
	Suspect
	// Refused: the hub does not take this identity; wait on the long schedule.
	Refused
	// Throttled: the hub asks everybody to wait.
	Throttled
)

var remedyNames = [...]string{"backoff", "again", "poison", "suspect", "refused", "throttled"}

func (r Remedy) String() string { return remedyNames[min(int(r), len(remedyNames)-1)] }

// Fault is an error of a Transport together with what it asks for.
type Fault struct {
	Remedy Remedy
	// Pause is how long Throttled lasts at least; 0 leaves it to the schedule.
	Pause time.Duration
	Err   error
}

func (f *Fault) Error() string { return f.Err.Error() }

// Unwrap returns the cause.
func (f *Fault) Unwrap() error { return f.Err }

// remedyOf returns what err asks for.
func remedyOf(err error) Remedy {
	if f, ok := errors.AsType[*Fault](err); ok {
		return f.Remedy
	}
	return BackOff
}

// dated is an error with the time at which it came, which may be long before it is
// acted upon.
type dated struct {
	error
	at time.Time
}

func (d dated) Unwrap() error { return d.error }

// cameAt returns when err came: now, if it does not say.
func cameAt(err error) time.Time {
	if d, ok := errors.AsType[dated](err); ok {
		return d.at
	}
	return time.Now()
}

// pauseOf returns the least pause that err asks for.
func pauseOf(err error) time.Duration {
	if f, ok := errors.AsType[*Fault](err); ok {
		return f.Pause
	}
	return 0
}
