package broker

import (
	"log/slog"
	"time"
)

// pace counts packets of a leaf.
type pace struct {
	allowed float64   // packets; below 0 they are owed
	counted time.Time // when allowed was last counted; zero: never
}

// take takes one packet out of so many a second, of which a second's worth may
// come ahead, and returns how long to wait for it.
func (p *pace) take(perSecond int, now time.Time) time.Duration {
	rate := float64(perSecond)
	if p.counted.IsZero() {
		p.allowed = rate
	} else {
		p.allowed = min(rate, p.allowed+now.Sub(p.counted).Seconds()*rate)
	}
	p.counted = now
	p.allowed--
	if p.allowed >= 0 {
		return 0
	}
	return time.Duration(-p.allowed / rate * float64(time.Second))
}

// pace waits until the leaf may publish once more: meanwhile its connection is not
// read from. It returns false when the connection is over.
func (s *session) pace() bool {
	most := s.b.cfg.Load().MaxMessagesPerSecond
	return s.keepPace(&s.desk.pace, most, "leaf publishes faster than it may, and waits", "messages_per_second")
}

// beside is how many packets a second a leaf may send that are no publications
// whatever it may publish: for the subscriptions it begins with.
const beside = 100

// paceBeside is pace for a packet that is no publication. There are two of them at
// most for a message in either direction.
func (s *session) paceBeside() bool {
	if s.desk == nil { // it has not logged in, or is here to pair: it may send little anyway
		return true
	}
	most := s.b.cfg.Load().MaxMessagesPerSecond
	if most > 0 {
		most = 2*most + beside
	}
	return s.keepPace(&s.desk.beside, most, "leaf sends packets that are no messages faster than it may, and waits", "packets_per_second")
}

func (s *session) keepPace(p *pace, most int, words, unit string) bool {
	if most == 0 {
		return true
	}
	s.desk.mu.Lock()
	wait := p.take(most, time.Now())
	s.desk.mu.Unlock()
	if wait == 0 {
		return true
	}
	s.b.notices.warn(s.leaf+" "+unit, words, slog.String("leaf", s.leaf), slog.Int(unit, most))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}
