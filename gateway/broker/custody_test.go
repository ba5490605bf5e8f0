package broker

import (
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/fieldgate/fieldgate/gateway"
)

const topic1 = "leaf/pump-1/telemetry"

func bothVersions(t *testing.T, test func(t *testing.T, version byte)) {
	for _, version := range []byte{version311, version5} {
		t.Run(fmt.Sprintf("level %d", version), func(t *testing.T) { test(t, version) })
	}
}

// An acknowledgement waits for custody, the connection does not.
func TestAcknowledgementWaitsForCustody(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newBench(t, nil)
		b.path.hold = true
		w := b.leaf("pump-1", version)
		w.publish(7, topic1, "a")
		b.untilHanded(1)
		w.alive() // the answer comes, and no PUBACK before it
		b.path.settle(0)
		w.puback(7)
		if got := string(b.path.message(0).Body); got != "a" {
			t.Errorf("body %q, want a", got)
		}
	})
}

// Messages settled in any order are acknowledged in the order published.
func TestAcknowledgementsInOrder(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newBench(t, nil)
		b.path.hold = true
		w := b.leaf("pump-1", version)
		for id := range uint16(4) {
			w.publish(id+1, topic1, "x")
		}
		b.untilHanded(4)
		for _, i := range []int{3, 1, 2} {
			b.path.settle(i)
		}
		w.alive() // nothing yet: the first is not in custody
		b.path.settle(0)
		for id := range uint16(4) {
			w.puback(id + 1)
		}
	})
}

// An MQTT 3.1.1 leaf is not read from while it has too many messages in flight.
func TestBackpressure311(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxInflightMessages = 3 })
	b.path.hold = true
	w := b.leaf("pump-1", version311)
	const n = 40
	for id := range uint16(n) {
		w.publish(id+1, topic1, strconv.Itoa(int(id)))
	}
	for i := range n {
		b.untilHanded(i + 1)
		b.path.settle(i)
		w.puback(uint16(i + 1))
	}
	if b.path.mostOpen > 3 {
		t.Errorf("%d messages in flight, want at most 3", b.path.mostOpen)
	}
	for i := range n {
		if got := string(b.path.message(i).Body); got != strconv.Itoa(i) {
			t.Errorf("message %d is %q", i, got)
		}
	}
}

// A leaf that waits for room is let go when its connection breaks.
func TestBackpressureEndsWithConnection(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxInflightMessages = 1 })
	b.path.hold = true
	w := b.leaf("pump-1", version311)
	w.publish(1, topic1, "a")
	w.publish(2, topic1, "b")
	b.untilHanded(1)
	again := b.leaf("pump-1", version311) // takes the session over
	w.expectClosed()
	b.path.settle(0)
	again.resend(1, topic1, "a")
	again.puback(1)
	b.until("old connection gone", func() bool { return b.b.State().Leaves["pump-1"] == 1 })
}

// An MQTT 5 leaf knows its bound; QoS 0 does not count.
func TestReceiveMaximum5(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxInflightMessages = 2 })
	b.path.hold = true
	w := b.leaf("pump-1", version5)
	w.publish(1, topic1, "a")
	w.publish(2, topic1, "b")
	w.publish(0, topic1, "c")
	b.untilHanded(3)
	b.path.settle(0)
	w.puback(1)
	w.publish(3, topic1, "d")
	b.untilHanded(4)
	w.publish(4, topic1, "e")
	w.expect("DISCONNECT, receive maximum exceeded", 0xe0, 0x93)
	w.expectClosed()
}

// What the path does not take is not acknowledged: MQTT 5 says why.
func TestRefusal5(t *testing.T) {
	for _, tc := range []struct {
		err  error
		code byte
	}{
		{gateway.ErrStoreFull, 0x97},
		{gateway.ErrStoreFailed, 0x83},
		{gateway.ErrTooLarge, 0x95},
		{gateway.ErrUnknownLeaf, 0x87},
		{gateway.ErrShuttingDown, 0x83},
		{errors.New("other"), 0x83},
	} {
		b := newBench(t, nil)
		b.path.verdict = func(m *gateway.Message) error {
			if string(m.Body) == "bad" {
				return fmt.Errorf("wrapped: %w", tc.err)
			}
			return nil
		}
		w := b.leaf("pump-1", version5)
		w.publish(1, topic1, "good")
		w.publish(2, topic1, "bad")
		w.publish(3, topic1, "good")
		w.puback(1)
		w.expect(tc.err.Error(), 0x40, 0, 2, tc.code)
		w.puback(3)
		if n := b.b.State().Refused[refuseReason(tc.err)]; n != 1 {
			t.Errorf("%v: counted %d times", tc.err, n)
		}
		b.end()
	}
}

// What an MQTT 5 leaf has sent before it can know of a refusal by the store is of one
// row with the refused message, so that the path takes none of it.
func TestRowEndsWhenTheLeafIsTold(t *testing.T) {
	b := newBench(t, nil)
	b.path.hold = true
	b.path.verdict = func(m *gateway.Message) error {
		switch string(m.Body) {
		case "2", "5":
			return gateway.ErrStoreFull
		case "4":
			return gateway.ErrTooLarge
		}
		return nil
	}
	w := b.leaf("pump-1", version5)
	publish := func(id uint16) {
		w.publish(id, topic1, fmt.Sprint(id))
		b.untilHanded(int(id))
	}
	publish(1)
	publish(2)
	b.path.settle(1) // refused, but number 1 is to be answered first
	publish(3)
	b.path.settle(0)
	b.path.settle(2)
	w.puback(1)
	w.expect("quota exceeded", 0x40, 0, 2, 0x97)
	w.puback(3)
	publish(4)
	b.path.settle(3)
	w.expect("too large", 0x40, 0, 4, 0x95)
	publish(5)
	b.path.settle(4)
	w.expect("quota exceeded", 0x40, 0, 5, 0x97)
	publish(6)
	rows := make([]*gateway.Stream, 6)
	b.path.mu.Lock()
	for i, m := range b.path.messages {
		rows[i] = m.Stream
	}
	b.path.mu.Unlock()
	if rows[0] == nil || rows[1] != rows[0] || rows[2] != rows[0] {
		t.Error("number 3 came before number 2 was answered, and is of another row")
	}
	if rows[3] == rows[2] || rows[4] != rows[3] || rows[5] == rows[4] || rows[5] == nil {
		t.Error("the row does not end with what the store has not taken, and with nothing else")
	}
}

// MQTT 3.1.1 has no word for it: the connection ends, and nothing from the
// refused message on is acknowledged.
func TestRefusal311(t *testing.T) {
	b := newBench(t, nil)
	b.path.hold = true
	b.path.verdict = func(m *gateway.Message) error {
		if string(m.Body) == "bad" {
			return gateway.ErrStoreFull
		}
		return nil
	}
	w := b.leaf("pump-1", version311)
	w.publish(1, topic1, "good")
	w.publish(2, topic1, "bad")
	w.publish(3, topic1, "later")
	b.untilHanded(3)
	for _, i := range []int{2, 1, 0} {
		b.path.settle(i)
	}
	w.puback(1)
	if more := w.expectClosed(); len(more) > 0 {
		t.Errorf("after the refusal came % x", more)
	}

	// The leaf sends both again: the refused one is handed over, the other is
	// in custody already.
	b.path.mu.Lock()
	b.path.hold, b.path.verdict = false, nil
	b.path.mu.Unlock()
	w = b.leaf("pump-1", version311)
	w.resend(2, topic1, "bad")
	w.resend(3, topic1, "later")
	w.puback(2)
	w.puback(3)
	if n := b.path.count(); n != 4 {
		t.Errorf("%d messages handed over, want 4", n)
	}
}

// A copy on the same connection is acknowledged once and handed over once.
func TestResentOnSameConnection(t *testing.T) {
	b := newBench(t, nil)
	b.path.hold = true
	w := b.leaf("pump-1", version311)
	w.publish(1, topic1, "a")
	w.resend(1, topic1, "a")
	w.resend(1, topic1, "b") // another message
	b.untilHanded(2)
	b.path.settle(0)
	w.puback(1)
	b.path.settle(1)
	w.puback(1)
	w.alive()
	if n := b.b.State().Resent; n != 1 || b.path.count() != 2 {
		t.Errorf("resent %d, handed over %d; want 1, 2", n, b.path.count())
	}
}

// A copy on a new connection, while the first is in hand-over or in custody
// without acknowledgement, is not handed over again.
func TestResentOnNewConnection(t *testing.T) {
	for _, when := range []string{"settled after the resend", "settled between", "settled and acknowledged before"} {
		t.Run(when, func(t *testing.T) {
			b := newBench(t, nil)
			b.path.hold = true
			w := b.leaf("pump-1", version311)
			w.publish(9, topic1, "a")
			b.untilHanded(1)
			want := 1
			if when == "settled and acknowledged before" {
				b.path.settle(0)
				w.puback(9)
				// The gateway cannot know whether this is the message of before
				// or a new one that looks the same: it takes it.
				want = 2
			}
			w.c.Close()
			b.until("connection gone", func() bool { return len(b.b.State().Leaves) == 0 })
			if when == "settled between" {
				b.path.settle(0)
			}
			w = b.leaf("pump-1", version311)
			w.resend(9, topic1, "a")
			switch {
			case want == 2:
				b.untilHanded(2)
				b.path.settle(1)
			case when == "settled after the resend":
				b.until("resend recognised", func() bool { return b.b.State().Resent == 1 })
				w.alive()
				b.path.settle(0)
			}
			w.puback(9)
			if n := b.path.count(); n != want {
				t.Errorf("handed over %d times, want %d", n, want)
			}
		})
	}
}

// A packet id used anew for another message is another message.
func TestPacketIDReusedOnNewConnection(t *testing.T) {
	b := newBench(t, nil)
	b.path.hold = true
	w := b.leaf("pump-1", version311)
	w.publish(9, topic1, "a")
	b.untilHanded(1)
	w.c.Close()
	b.until("connection gone", func() bool { return len(b.b.State().Leaves) == 0 })
	w = b.leaf("pump-1", version311)
	w.publish(9, topic1, "a") // not marked as a copy
	b.untilHanded(2)
	b.path.settle(0)
	w.alive()
	b.path.settle(1)
	w.puback(9)
}

// A path at its bound stops the reading of that leaf, not of others, and the
// wait ends with the connection.
func TestPathAtItsBound(t *testing.T) {
	b := newBench(t, nil)
	blocked := make(chan struct{})
	b.path.block = blocked
	w := b.leaf("pump-1", version311)
	w.publish(1, topic1, "a")
	b.until("in the path", func() bool {
		b.b.mu.Lock()
		defer b.b.mu.Unlock()
		t := b.b.turns["pump-1"]
		return t != nil && len(t.token) == 1
	})
	b.path.mu.Lock()
	b.path.block = nil
	b.path.mu.Unlock()
	other := b.leaf("pump-2", version311)
	other.publish(1, "leaf/pump-2/telemetry", "b")
	other.puback(1)

	w = b.leaf("pump-1", version311) // ends the first connection's wait
	w.resend(1, topic1, "a")
	w.puback(1)
	close(blocked)
	if n := b.path.count(); n != 2 {
		t.Errorf("handed over %d, want 2", n)
	}
}
