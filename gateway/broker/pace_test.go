package broker

import (
	"strconv"
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	var p pace
	now := time.Now()
	taken := 0
	for range 10_000 { // a leaf that does not wait at all, for ten seconds
		if p.take(100, now) == 0 {
			taken++
		} else {
			p.allowed++ // it is not read
		}
		now = now.Add(time.Millisecond)
	}
	if taken < 1090 || taken > 1110 {
		t.Errorf("%d publications in ten seconds, want the 100 ahead and 1000", taken)
	}
	if wait := p.take(100, now.Add(time.Hour)); wait != 0 || p.allowed > 100 {
		t.Errorf("after an hour: wait %v, %v ahead", wait, p.allowed)
	}
}

// A leaf that floods is slowed down, over all its connections together; what it sends
// arrives, and another leaf does not wait.
func TestFloodIsSlowedDown(t *testing.T) {
	const rate, more = 20, 40
	b := newBench(t, func(c *Config) { c.MaxMessagesPerSecond = rate })
	flood, other := b.leaf("pump-1", version311), b.leaf("pump-2", version311)
	began := time.Now()
	for i := range rate + more {
		flood.publish(uint16(i+1), topic1, strconv.Itoa(i))
	}
	other.publish(1, "leaf/pump-2/telemetry", "at once")
	other.puback(1)
	first := b.path.count()
	for i := range rate + more {
		flood.puback(uint16(i + 1))
	}
	if took := time.Since(began); took < more*time.Second/rate-100*time.Millisecond {
		t.Errorf("%d messages took %v at %d a second", rate+more, took, rate)
	}
	if got := b.path.count(); got != rate+more+1 {
		t.Errorf("%d handed over, want %d; %d when the other was served", got, rate+more+1, first)
	}
}

// So is one that floods with what is no message: all of it is answered in the end.
func TestFloodOfPingsIsSlowedDown(t *testing.T) {
	const rate = 1
	const ahead = 2*rate + beside
	const more = ahead / 2 // half a second's worth
	b := newBench(t, func(c *Config) { c.MaxMessagesPerSecond = rate })
	flood, other := b.leaf("pump-1", version311), b.leaf("pump-2", version311)
	began := time.Now()
	var pings []byte
	for range ahead + more {
		pings = append(pings, 0xc0, 0)
	}
	flood.send(pings)
	other.alive()
	for range ahead + more {
		flood.expect("an answer to a ping", 0xd0)
	}
	if took := time.Since(began); took < 400*time.Millisecond {
		t.Errorf("%d pings took %v at %d a second", ahead+more, took, ahead)
	}
}
