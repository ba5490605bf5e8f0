package broker

import (
	"log/slog"
	"time"
)

// What one leaf can make the gateway do for it is bounded by paces: over one of them its
// connection is not read from for a while. Nothing of what it sends is lost, and the
// others do not wait.

const (
	// beside is how many packets a second a leaf may send that are no publications
	// whatever it may publish: for the subscriptions it begins with.
	beside = 100
	// A user property, and a filter, count for so many bytes: what they cost is not
	// their length.
	propertyBytes = 128
	filterBytes   = 1 << 10
	// bytesAhead is which part of a second's bytes may come ahead. It is little, for it
	// goes up to the hub in one piece, and what others send waits behind it.
	bytesAhead = 8
	// loginsPerSecond is how often a leaf may log in, with loginsAhead.
	loginsPerSecond, loginsAhead = 10, 60
	// notesOwed bounds for how many changes a leaf has to wait: some are made by
	// connections that come and go, which wait for none.
	notesOwed = 5
	// notesPerSecond is how often what a leaf has subscribed to may change on flash, with
	// as many ahead as it may have subscriptions.
	notesPerSecond = 1
)

// pace counts what a leaf does.
type pace struct {
	allowed float64   // below 0 it is owed
	counted time.Time // when allowed was last counted; zero: never
}

// take takes n out of so many a second, of which some may come ahead, and returns how
// long to wait for it. 0 a second is no bound.
func (p *pace) take(n int, perSecond, ahead float64, now time.Time) time.Duration {
	if perSecond == 0 {
		return 0
	}
	if p.counted.IsZero() {
		p.allowed = ahead
	} else {
		p.allowed = min(ahead, p.allowed+now.Sub(p.counted).Seconds()*perSecond)
	}
	p.counted = now
	p.allowed -= float64(n)
	return time.Duration(max(0, -p.allowed) / perSecond * float64(time.Second))
}

// paces are those of one leaf, over all its connections.
type paces struct {
	messages pace // that it publishes
	beside   pace // its other packets, of which there are two at most for a message in either direction
	bytes    pace // of both
	logins   pace
	notes    pace // about its session, on flash
}

// keepPace waits until the leaf may send one more packet, of so many bytes. What is
// owed counts at other limits as soon as these do. It returns false when the connection
// is over.
func (s *session) keepPace(kind byte, bytes int) bool {
	if s.desk == nil { // it has not logged in, or is here to pair: it may send little anyway
		return true
	}
	for packets := 1; ; packets, bytes = 0, 0 { // it is taken once
		changed := *s.b.changed.Load() // before the limits
		wait := s.owe(kind, packets, bytes)
		if again, alive := s.pause(wait, changed); !again {
			return alive
		}
	}
}

// owe takes packets of a kind out of what the leaf may send, and returns how long it is
// to wait.
func (s *session) owe(kind byte, packets, bytes int) time.Duration {
	d, cfg, now := s.desk, s.b.cfg.Load(), time.Now()
	perSecond := float64(cfg.MaxBytesPerSecond)
	if perSecond > 0 {
		perSecond = max(perSecond, float64(cfg.MaxPacketSize)) // else one packet takes seconds
	}
	var wait, noting time.Duration
	d.mu.Lock()
	sending := d.paces.bytes.take(bytes, perSecond, perSecond/bytesAhead, now)
	if most := float64(cfg.MaxMessagesPerSecond); kind == typePublish {
		wait = d.paces.messages.take(packets, most, most, now)
	} else {
		if most > 0 {
			most = 2*most + beside
		}
		wait = d.paces.beside.take(packets, most, most, now)
	}
	if kind == typeSubscribe || kind == typeUnsubscribe {
		noting = d.noteWaitLocked(0, now)
	}
	d.mu.Unlock()
	longest := max(wait, sending, noting)
	switch {
	case longest == 0:
	case longest == noting:
		s.slow("leaf changes its subscriptions faster than it may, and waits", "changes_per_second", notesPerSecond)
	case longest == sending:
		s.slow("leaf sends more than it may, and waits", "bytes_per_second", int(perSecond))
	case kind == typePublish:
		s.slow("leaf publishes faster than it may, and waits", "messages_per_second", cfg.MaxMessagesPerSecond)
	default:
		s.slow("leaf sends packets that are no messages faster than it may, and waits", "packets_per_second", 2*cfg.MaxMessagesPerSecond+beside)
	}
	return longest
}

// bounded is a pace that there is unless a leaf may publish as it likes.
func (c *Config) bounded(perSecond float64) float64 {
	if c.MaxMessagesPerSecond == 0 {
		return 0
	}
	return perSecond
}

// noteWaitLocked counts notes on flash, and returns how long to wait for them.
func (d *desk) noteWaitLocked(n int, now time.Time) time.Duration {
	cfg := d.b.cfg.Load()
	wait := d.paces.notes.take(n, cfg.bounded(notesPerSecond), float64(cfg.MaxSubscriptions), now)
	d.paces.notes.allowed = max(d.paces.notes.allowed, -notesOwed)
	return min(wait, notesOwed*time.Second/notesPerSecond)
}

// paceLogin waits until the leaf, which has proven who it is, may log in once more. One
// that would have to wait for longer than a login may take is turned away.
func (s *session) paceLogin(leaf string) *refusal {
	d := s.b.desk(leaf)
	d.mu.Lock()
	wait := d.paces.logins.take(1, s.b.cfg.Load().bounded(loginsPerSecond), loginsAhead, time.Now())
	late := wait > s.b.cfg.Load().ConnectTimeout.D()/2
	if late {
		d.paces.logins.allowed++
	}
	d.mu.Unlock()
	if wait > 0 {
		s.b.notices.warn(leaf+" logins", "leaf logs in more often than it may, and waits", slog.String("leaf", leaf), slog.Int("logins_per_second", loginsPerSecond))
	}
	if late {
		return refuseBusy
	}
	if _, alive := s.pause(wait, nil); !alive {
		return refuseBusy
	}
	return nil
}

func (s *session) slow(words, unit string, most int) {
	s.b.notices.warn(s.leaf+" "+unit, words, slog.String("leaf", s.leaf), slog.Int(unit, most))
}

// pause waits for a time. alive is false if the connection is over before, and again is
// true if the limits have changed before, which closes changed.
func (s *session) pause(d time.Duration, changed <-chan struct{}) (again, alive bool) {
	if d == 0 {
		return false, true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false, true
	case <-changed:
		return true, true
	case <-s.ctx.Done():
		return false, false
	}
}
