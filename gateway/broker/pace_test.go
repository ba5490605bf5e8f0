package broker

import (
	"encoding/binary"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	var p pace
	now := time.Now()
	taken := 0
	for range 10_000 { // a leaf that does not wait at all, for ten seconds
		if p.take(1, 100, 100, now) == 0 {
			taken++
		} else {
			p.allowed++ // it is not read
		}
		now = now.Add(time.Millisecond)
	}
	if taken < 1090 || taken > 1110 {
		t.Errorf("%d publications in ten seconds, want the 100 ahead and 1000", taken)
	}
	if wait := p.take(1, 100, 100, now.Add(time.Hour)); wait != 0 || p.allowed > 100 {
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

// A limit that is raised, or taken away, counts at once for a leaf that waits by the old one.
func TestRaisedLimitWakes(t *testing.T) {
	for name, c := range map[string]struct {
		owes  func(p *paces) *pace
		debt  float64 // for long, by the old limit
		raise func(*Config)
	}{
		"messages":           {func(p *paces) *pace { return &p.messages }, 1000, func(c *Config) { c.MaxMessagesPerSecond = 1e6 }},
		"messages, no bound": {func(p *paces) *pace { return &p.messages }, 1000, func(c *Config) { c.MaxMessagesPerSecond = 0 }},
		"bytes":              {func(p *paces) *pace { return &p.bytes }, 1 << 30, func(c *Config) { c.MaxBytesPerSecond = 1 << 32 }},
		"bytes, no bound":    {func(p *paces) *pace { return &p.bytes }, 1 << 30, func(c *Config) { c.MaxBytesPerSecond = 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(c *Config) { c.MaxMessagesPerSecond, c.MaxBytesPerSecond = 1, c.MaxPacketSize })
			leaf := b.leaf("pump-1", version311)
			d := b.b.desk("pump-1")
			began := time.Now()
			d.mu.Lock()
			p := c.owes(&d.paces)
			p.allowed, p.counted = -c.debt, began
			d.mu.Unlock()
			leaf.publish(1, topic1, "late")
			b.until("the leaf waits", func() bool {
				d.mu.Lock()
				defer d.mu.Unlock()
				return p.counted.After(began)
			})
			cfg := b.cfg
			c.raise(&cfg)
			if err := b.b.Configure(cfg); err != nil {
				t.Fatal(err)
			}
			leaf.puback(1)
		})
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

// A leaf that sends more bytes than it may is slowed down, and properties count for more
// than their length.
func TestManyBytesAreSlowedDown(t *testing.T) {
	const rate, body, n = 64 << 10, 32 << 10, 3
	b := newBench(t, func(c *Config) { c.MaxBytesPerSecond, c.MaxPacketSize = rate, rate })
	flood, other := b.leaf("pump-1", version5), b.leaf("pump-2", version311)
	began := time.Now()
	for i := range n {
		flood.publish(uint16(i+1), topic1, strings.Repeat("x", body))
	}
	other.publish(1, "leaf/pump-2/telemetry", "at once")
	other.puback(1)
	for i := range n {
		flood.puback(uint16(i + 1))
	}
	if took, least := time.Since(began), time.Second*(n*body-rate/bytesAhead)/rate-100*time.Millisecond; took < least {
		t.Errorf("%d bytes took %v at %d a second", n*body, took, rate)
	}
	pair := slices.Concat([]byte{propertyUser}, text("a"), text("b"))
	for packet, want := range map[string]int{
		string(flood.publication(1, topic1, "x", slices.Repeat(pair, 3)...)):                            3 * propertyBytes,
		string(flood.publication(1, topic1, "x")):                                                       0,
		string(frame(0x82, slices.Concat([]byte{0, 1, 0}, text("a"), []byte{0}, text("b"), []byte{0}))): 2 * filterBytes,
	} {
		_, header := binary.Uvarint([]byte(packet[1:]))
		if _, extra, err := checkPacket(version5, packet[0], []byte(packet[1+header:])); extra != want || err != nil {
			t.Errorf("% x counts for %d bytes more, want %d: %v", packet[:4], extra, want, err)
		}
	}
}

// A leaf that comes and goes without a pause waits for its logins, and is turned away
// where too many of its connections wait.
func TestLoginsAreSlowedDown(t *testing.T) {
	const more = 10
	b := newBench(t, nil)
	logIn := func(id string) byte {
		c, err := net.Dial("tcp", b.plain)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		code, _ := b.wire(c).connect(hello{clientID: id, user: hubUser(id), password: b.token(id)})
		return code
	}
	began := time.Now()
	for range loginsAhead + more {
		if code := logIn("pump-1"); code != 0 {
			t.Fatalf("CONNACK code %d", code)
		}
	}
	if took := time.Since(began); took < time.Second*more/loginsPerSecond-100*time.Millisecond {
		t.Errorf("%d logins took %v at %d a second", loginsAhead+more, took, loginsPerSecond)
	}
	d := b.b.desk("pump-1")
	d.mu.Lock()
	d.paces.logins.allowed = -1000
	d.mu.Unlock()
	if code := logIn("pump-1"); code != 3 {
		t.Errorf("with many that wait: CONNACK code %d, want 3", code)
	}
	if code := logIn("pump-2"); code != 0 {
		t.Errorf("another leaf: CONNACK code %d", code)
	}
}

// What costs flash has a slow pace: a session that is kept and changed all the time. One
// that is not kept may change as it likes.
func TestChangesOnFlashAreSlowedDown(t *testing.T) {
	const ahead = 5 // the least that can be set
	b := newBench(t, func(c *Config) { c.MaxSubscriptions = ahead })
	change := func(w *wire, n int) time.Duration {
		began := time.Now()
		for i := range n {
			if i%2 == 0 {
				w.subscribe(1, "leaf/pump-1/command/x")
				w.expect("SUBACK", 0x90)
			} else {
				w.send(frame(0xa2, append([]byte{0, 1}, text("leaf/pump-1/command/x")...)))
				w.expect("UNSUBACK", 0xb0)
			}
		}
		return time.Since(began)
	}
	w := b.dial()
	w.connect(hello{clientID: "pump-1", user: hubUser("pump-1"), password: b.token("pump-1")})
	if change(w, 100); b.b.desk("pump-1").paces.notes.allowed < 0 {
		t.Error("a session that is not kept is slowed down")
	}
	w.c.Close()
	w = b.leaf("pump-1", version311)
	// What is done is owed: the one behind the first that is too much waits for it.
	if took := change(w, ahead+2); took < time.Second/notesPerSecond-100*time.Millisecond {
		t.Errorf("%d changes took %v with %d ahead", ahead+2, took, ahead)
	}
	// What comes and goes changes it too, and waits for nothing: that does not add up.
	d := b.b.desk("pump-1")
	d.mu.Lock()
	for range 1000 {
		d.noteWaitLocked(1, time.Now())
	}
	wait := d.noteWaitLocked(0, time.Now())
	d.mu.Unlock()
	if wait <= 0 || wait > notesOwed*time.Second/notesPerSecond {
		t.Errorf("after many changes the next waits for %v", wait)
	}
}
