package broker

import (
	"log/slog"
	"time"
)

// pace counts what a leaf publishes.
type pace struct {
	allowed float64   // publications; below 0 they are owed
	counted time.Time // when allowed was last counted; zero: never
}

// take takes one publication out of so many a second, of which a second's worth may
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
	if most == 0 {
		return true
	}
	s.desk.mu.Lock()
	wait := s.desk.pace.take(most, time.Now())
	s.desk.mu.Unlock()
	if wait == 0 {
		return true
	}
	s.b.notices.warn(s.leaf+" pace", "leaf publishes faster than it may, and waits", slog.String("leaf", s.leaf), slog.Int("messages_per_second", most))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}
