package broker

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever is published, settled, resent and broken, in any order: a connection
// reads acknowledgements in the order in which it published, only of messages
// that are in custody, and a copy of a message in hand-over or in custody is not
// handed over again.
func TestInboxModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &inboxModel{inbox: newInbox(1000), settled: make(map[*handover]bool)}
		m.connect(t)
		t.Repeat(map[string]func(*rapid.T){
			"publish":     m.publish,
			"settle":      m.settle,
			"acknowledge": m.acknowledge,
			"reconnect":   m.connect,
		})
	})
}

type inboxModel struct {
	inbox   *inbox
	s       *session
	nextID  uint16
	unacked []uint16 // by the leaf, in the order of publishing
	sent    []uint16 // of those, on this connection
	open    []*handover
	settled map[*handover]bool
	handed  map[uint16]*handover
}

func (m *inboxModel) connect(*rapid.T) {
	m.s = &session{conn: &guardedConn{version: version311}, ready: make(chan struct{}, 1)}
	m.inbox.take(m.s)
	m.sent = nil
	for _, id := range m.unacked { // a leaf sends again what is not acknowledged
		m.add(id, true)
	}
}

func (m *inboxModel) publish(*rapid.T) {
	m.nextID++
	m.unacked = append(m.unacked, m.nextID)
	m.add(m.nextID, false)
}

func (m *inboxModel) add(id uint16, dup bool) {
	h, err := m.inbox.add(m.s, id, dup, uint64(id))
	if err != nil {
		panic(err)
	}
	m.sent = append(m.sent, id)
	if h == nil {
		return
	}
	if m.handed == nil {
		m.handed = make(map[uint16]*handover)
	}
	if m.handed[id] != nil {
		panic("handed over twice")
	}
	m.handed[id] = h
	m.open = append(m.open, h)
}

func (m *inboxModel) settle(t *rapid.T) {
	if len(m.open) == 0 {
		t.Skip("nothing in hand-over")
	}
	i := rapid.IntRange(0, len(m.open)-1).Draw(t, "which")
	h := m.open[i]
	m.open = append(m.open[:i:i], m.open[i+1:]...)
	m.settled[h] = true
	m.inbox.settle(h, nil)
}

func (m *inboxModel) acknowledge(t *rapid.T) {
	woken := len(m.s.ready) == 1
	if woken {
		<-m.s.ready
	}
	acks, n, refused := m.inbox.acknowledgements(m.s, nil)
	if refused != nil || len(acks) != 4*n {
		t.Fatalf("%d acknowledgements in %d bytes, %v", n, len(acks), refused)
	}
	if n > 0 && !woken {
		t.Fatalf("%d acknowledgements due, and nobody was woken", n)
	}
	for ; len(acks) > 0; acks = acks[4:] {
		id := uint16(acks[2])<<8 | uint16(acks[3])
		if id != m.sent[0] {
			t.Fatalf("acknowledged %d, want %d", id, m.sent[0])
		}
		if !m.settled[m.handed[id]] {
			t.Fatalf("acknowledged %d before it was in custody", id)
		}
		m.sent = m.sent[1:]
		m.unacked = m.unacked[1:]
	}
	if len(m.sent) > 0 && m.settled[m.handed[m.sent[0]]] {
		t.Fatalf("%d is in custody and was not acknowledged", m.sent[0])
	}
}

// Orphaned inboxes are remembered, but not more than there may be connections.
func TestInboxesBounded(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxConnections = 4 })
	b.path.hold = true
	for i := range 7 {
		w := b.dial()
		w.connect(hello{clientID: strings.Repeat("c", i+1), user: "pump-1", password: secret})
		w.publish(1, topic1, "x")
		b.untilHanded(i + 1)
		w.c.Close()
		b.until("gone", func() bool { return len(b.b.State().Leaves) == 0 })
	}
	b.until("some forgotten", func() bool {
		b.b.mu.Lock()
		defer b.b.mu.Unlock()
		return len(b.b.inboxes) == 4
	})
	for i := range 7 {
		b.path.settle(i)
	}
}

func TestNotices(t *testing.T) {
	var out strings.Builder
	n := newNotices(slog.New(slog.NewTextHandler(&out, nil)))
	for range 5 {
		n.warn("a", "message", slog.String("leaf", "a"))
	}
	n.warn("b", "message", slog.Any("reason", errors.New("once")))
	if got := strings.Count(out.String(), "\n"); got != 2 {
		t.Errorf("%d lines at once, want 2:\n%s", got, &out)
	}
	out.Reset()
	n.sweep(time.Now())
	if out.Len() > 0 {
		t.Errorf("before the pause is over: %s", &out)
	}
	n.sweep(time.Now().Add(noticePause))
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "leaf=a again=4") {
		t.Errorf("after the pause: %q", got)
	}
	for i := range 2 * maxNotices {
		n.warn(strings.Repeat("k", i), "message")
	}
	if len(n.seen) > maxNotices {
		t.Errorf("%d remembered", len(n.seen))
	}
}
