package master

import (
	"errors"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/modbus"
)

// missesToAway is after how many requests in a row without an answer a slave is
// taken to be away.
const missesToAway = 3

// How long a slave that is away is left alone: from probeMin, doubled each time up
// to probeMax.
const (
	probeMin = time.Second
	probeMax = time.Minute
)

// probeShare: after a probe that took a time, for so many times as long no other
// slave that is away is probed.
const probeShare = 19

// next says whose turn it is and whether for a job, or for how long there is
// nothing to do. Of those that have something to do the one has its turn whose last
// was the longest ago, and a slave's jobs and polls take turns, too.
func (d *Driver) next(now time.Time) (turn *slave, isJob bool, wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	first := now.Add(time.Hour)
	for _, s := range d.slaves {
		pollAt, jobAt := s.pollAt(now, d.probesFrom), now.Add(time.Hour)
		if len(s.jobs) > 0 {
			jobAt = later(now, s.rest)
		}
		if at := earlier(pollAt, jobAt); at.After(now) {
			first = earlier(first, at)
			continue
		}
		if turn == nil || s.served.Before(turn.served) {
			turn = s
			isJob = !jobAt.After(now) && (pollAt.After(now) || !s.worked)
		}
	}
	if turn != nil {
		turn.served, turn.worked = now, isJob
	}
	return turn, isJob, first.Sub(now)
}

// pollAt is when the slave's next request of a poll round is due.
func (s *slave) pollAt(now, probesFrom time.Time) time.Time {
	at := now.Add(time.Hour)
	switch {
	case s.everybody():
		return at
	case s.round != nil:
		at = now
	case !s.alive && !s.probed:
		at = now
	case !s.alive:
		at = later(s.probeAt, probesFrom)
	default:
		for _, r := range s.registers {
			if r.Report != reportNever {
				at = earlier(at, r.due)
			}
		}
	}
	return later(at, s.rest)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// heard draws the conclusions from an answer, or from none, that took the bus
// since begin. It returns the error of a port that is lost.
func (d *Driver) heard(s *slave, begin time.Time, err error) error {
	e, refused := errors.AsType[modbus.Exception](err)
	switch {
	case err == nil:
		d.cameUp(s)
	case refused:
		d.tally.exception(e)
		d.cameUp(s)
	case isSilence(err):
		d.missed(s, begin, err)
	default:
		return err
	}
	return nil
}

// missed notes that a slave has not answered.
func (d *Driver) missed(s *slave, begin time.Time, err error) {
	now := time.Now()
	d.tally.silence(err)
	s.misses++
	s.rest = now.Add(s.Timeout.D())
	alive := d.answers(s)
	if alive && s.misses < missesToAway {
		return
	}
	if !alive && s.probed {
		d.probesFrom = now.Add(probeShare * now.Sub(begin))
	}
	if alive {
		d.tally.count("slaves_lost")
	}
	s.probed = true
	s.backoff = min(max(2*s.backoff, probeMin), probeMax)
	s.probeAt = now.Add(s.backoff)
	d.wentDown(s, err.Error())
}
