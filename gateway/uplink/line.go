package uplink

import (
	"sync/atomic"
	"time"
)

// record is what is remembered of a leaf's troubles. It belongs to the leaf's
// line, and after that has ended to the next connection's.
type record struct {
	failures int  // in a row, of its links
	refusals int  // in a row, of its identity
	careful  bool // one message at a time, to find the one that kills the link

	stalls atomic.Int32 // in a row, without a message accepted between; see watchdog.go
}

// line is the way of one leaf over one connection: one goroutine that sends, so
// that order is kept.
type line struct {
	*pump
	leaf   string
	record *record
	woken  chan struct{} // holds one wake-up
	stream *stream       // nil while there is no link

	// After Recall the leaf is ours again only when NextLeaf says so, but a
	// wake-up of before may still be on its way; it comes before notBefore.
	notBefore time.Time
	refused   bool // as told to the last Recall
}

func (p *pump) newLine(leaf string) *line {
	r := p.records[leaf]
	if r == nil {
		r = new(record)
		p.records[leaf] = r
	}
	return &line{pump: p, leaf: leaf, record: r, woken: make(chan struct{}, 1)}
}

// wake says that the leaf is ours and has something to send.
func (l *line) wake() {
	select {
	case l.woken <- struct{}{}:
	default: // it has not looked yet: it will take these too
	}
}

// run serves the leaf until the pump stops.
func (l *line) run() {
	idle := time.NewTimer(l.cfg.IdleDetach.D())
	defer idle.Stop()
	for {
		var err error
		select {
		case <-l.taking.Done():
			l.detach()
			return
		case <-l.woken:
			err = l.send()
		case <-l.stream.brokenC():
			err = l.stream.err
		case <-idle.C:
			err = l.detach()
		}
		if err != nil {
			l.giveBack(err)
		}
		idle.Reset(l.cfg.IdleDetach.D())
	}
}

// send sends what the leaf has, until the outbox has nothing more.
func (l *line) send() error {
	if early := time.Until(l.notBefore); early > 0 {
		l.out.Recall(l.leaf, early, l.refused)
		return nil
	}
	for l.gate.wait(l.taking) {
		if err := l.attach(); err != nil {
			return err
		}
		free, err := l.stream.free(l.taking)
		if err != nil {
			return err
		}
		batch := l.out.Take(l.leaf, free)
		if len(batch) == 0 {
			return nil
		}
		l.taken.Add(int64(len(batch)))
		if err := l.stream.send(batch); err != nil {
			return err
		}
	}
	return nil
}

// attach opens the leaf's link if it has none.
func (l *line) attach() error {
	if s := l.stream; s != nil {
		if !l.record.careful || s.accepted.Load() < int64(l.cfg.Window) {
			return nil
		}
		// The message that killed a link did not come up again.
		if err := l.detach(); err != nil {
			return err
		}
		l.record.careful = false
	}
	link, err := l.conn.Open(l.taking, l.leaf)
	if err != nil {
		return err
	}
	window := l.cfg.Window
	if l.record.careful {
		window = 1
	}
	l.stream = l.newStream(link, window)
	l.tally.update(func(s *State) { s.Links++ })
	return nil
}

// detach closes the link when the hub has settled everything that is on its
// way: closed before, a late answer for it would end the session of others. The
// error is that of the stream, if it failed meanwhile.
func (l *line) detach() error {
	s := l.stream
	if s == nil {
		return nil
	}
	l.stream = nil
	err := s.finish()
	l.tally.update(func(s *State) { s.Links-- })
	if s.accepted.Load() > 0 {
		l.record.failures, l.record.refusals = 0, 0
	}
	if s.culprit {
		l.record.careful = false
	}
	return err
}

// giveBack gives the leaf back to the outbox after a failure, for as long as the
// failure asks for.
func (l *line) giveBack(err error) {
	l.detach()
	select {
	case <-l.taking.Done():
		return // LinkDown takes everything back
	case <-l.conn.Done():
		return
	default:
	}
	pause := l.pause(l.leaf, l.record, err)
	l.refused = remedyOf(err) == Refused
	l.notBefore = time.Now().Add(pause)
	l.tally.update(func(s *State) { s.Recalls++ })
	l.Log.Debug("leaf waits", "leaf", l.leaf, "remedy", remedyOf(err).String(), "error", err, "pause_ms", pause.Milliseconds())
	l.out.Recall(l.leaf, pause, l.refused)
}

// pause books a failure of one of the leaf's ways, whose record r is, and returns
// how long it is to wait.
func (p *pump) pause(leaf string, r *record, err error) time.Duration {
	switch remedyOf(err) {
	case Refused:
		r.refusals++
		pause := p.auth.upper(r.refusals)
		if p.tally.refused(leaf, err, pause) {
			p.Log.Warn("hub refuses leaf", "event", "leaf-refused", "leaf", leaf, "error", err, "pause_ms", pause.Milliseconds())
		}
		return pause
	case Throttled:
		wait, fresh := p.gate.shut(pauseOf(err), cameAt(err))
		if fresh {
			p.tally.throttled(wait)
			p.Log.Warn("hub asks to wait", "leaf", leaf, "error", err, "pause_ms", wait.Milliseconds())
		}
		return wait
	case Suspect:
		r.careful = true
	case Again:
	default:
		r.failures++
		return p.backoff.full(r.failures)
	}
	r.failures++
	if r.failures == 1 {
		return 0
	}
	return p.backoff.full(r.failures - 1)
}
