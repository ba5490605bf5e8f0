package uplink

import (
	"errors"
	"fmt"
	"time"
)

// The progress watchdog looks at the age of the oldest message that a leaf's link
// has not been able to hand over or that the hub has not settled. When it is
// older than StallTimeout the uplink gives up the narrowest thing that could be
// at fault, and a wider one each time that this did not help.

// Rung is a step of the watchdog's ladder: what was given up because the hub
// made no progress.
type Rung string

// The rungs, from the narrowest to the widest.
const (
	RungLink       Rung = "link"       // of the leaf alone
	RungSession    Rung = "session"    // shared by a few leaves
	RungConnection Rung = "connection" // only when the hub settles for nobody
	RungProcess    Rung = "process"    // after StallConnections connections in vain
)

// Rungs lists them in their order.
var Rungs = []Rung{RungLink, RungSession, RungConnection, RungProcess}

// ErrStuck is what Run returns, wrapped, from the last rung: a new process is
// the last thing that could help. It is for the supervisor to start one.
var ErrStuck = errors.New("the hub takes messages and settles none")

// rung says what to give up for a leaf whose n-th stall in a row this is.
// Connections are for all leaves: they are not given up for one of them while
// others get on.
func (u *Uplink) rung(n int32) Rung {
	switch {
	case n <= 1:
		return RungLink
	case n == 2 || time.Since(u.tally.progress()) < u.cfg.StallTimeout.D():
		return RungSession
	default:
		return RungConnection
	}
}

// climb gives up what the next rung says, once in the life of a stream. It
// returns false while the hub has plainly asked to wait: it makes no progress
// then because it has said that it would not.
func (s *stream) climb() bool {
	if s.gate.closed() {
		return false
	}
	if !s.climbed.CompareAndSwap(false, true) {
		return true
	}
	rung := s.rung(s.record.stalls.Add(1))
	s.tally.climbed(rung)
	s.Log.Warn("hub makes no progress", "leaf", s.leaf, "gives_up", string(rung), "after_ms", s.cfg.StallTimeout.D().Milliseconds())
	if rung == RungConnection {
		s.abandon(s.stalled())
	} else {
		s.link.Abort(rung)
	}
	return true
}

func (s *stream) stalled() error {
	return fmt.Errorf("no progress for %v: %w", s.cfg.StallTimeout, ErrStuck)
}

// lost stands for a message that the watchdog gave up on; see stream.waits.
const lost = -1

// impatient is called when a message has waited for room at the hub too long, and
// also late, when it waits no more or another one does: then it does nothing.
func (s *stream) impatient() {
	since := s.waits.Load()
	if since <= 0 || time.Since(s.begun)-time.Duration(since) < s.cfg.StallTimeout.D() || !s.waits.CompareAndSwap(since, lost) {
		return
	}
	if !s.climb() && s.waits.CompareAndSwap(lost, since) {
		s.patience.Reset(s.cfg.StallTimeout.D())
	}
}

// abandon has the connection given up; the first reason counts.
func (p *pump) abandon(err error) {
	select {
	case p.stuck <- err:
	default:
	}
}

// vain counts connections in a row that ended because the hub made no progress,
// and returns the error of the last rung when there were too many. accepted is
// how many messages the hub had settled when the connection began.
func (u *Uplink) vain(inRow *int, accepted int64, err error) error {
	if u.tally.accepted() != accepted || remedyOf(err) == Throttled || u.gate.closed() {
		*inRow = 0
	}
	if errors.Is(err, ErrStuck) {
		*inRow++
	}
	if u.cfg.StallConnections == 0 || *inRow < u.cfg.StallConnections {
		return nil
	}
	u.tally.climbed(RungProcess)
	return fmt.Errorf("gave up %d connections in a row: %w", *inRow, err)
}
