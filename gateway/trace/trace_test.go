package trace

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/fieldgate/fieldgate/gateway"
)

// flash is a store that has synced everything at once.
type flash struct {
	Custody
	err     error
	last    uint32
	gaveUp  func([]gateway.GivenUp)
	settled []gateway.Position
}

func (f *flash) Append(l gateway.Lane, ms []*gateway.Message, _ gateway.StoredState, done func([]gateway.Position, error)) {
	var ps []gateway.Position
	for range ms {
		f.last++
		ps = append(ps, gateway.Position{Lane: l, Block: f.last})
	}
	if f.err != nil {
		ps = nil
	}
	done(ps, f.err)
}
func (f *flash) Settle(ps ...gateway.Position)      { f.settled = append(f.settled, ps...) }
func (f *flash) OnGiveUp(g func([]gateway.GivenUp)) { f.gaveUp = g }

// out is an outbox with one message in it.
type out struct {
	gateway.Outbox
	m *gateway.Message
}

func (o *out) Take(string, int) []*gateway.Delivery                    { return []*gateway.Delivery{{Message: o.m}} }
func (o *out) Settle(*gateway.Delivery, gateway.Outcome, string) error { return nil }
func (o *out) LinkUp()                                                 {}
func (o *out) LinkDown()                                               {}
func (o *out) Recall(string, time.Duration, bool)                      {}

func message(id string, seq uint64) *gateway.Message {
	return &gateway.Message{
		Leaf: "pump-1", Lane: gateway.LaneTelemetry, Body: []byte("body"), Start: 1, Seq: seq,
		System: gateway.System{MessageID: id}, Captured: gateway.Instant{Wall: time.Unix(1000, 0)},
	}
}

func tracer() (*Tracer, *flash, Custody) {
	t := New(func() gateway.Instant { return gateway.Instant{Wall: time.Unix(1002, 0)} }, func() string { return "amqp" })
	f := new(flash)
	s := t.Store(f)
	s.OnGiveUp(func([]gateway.GivenUp) {})
	return t, f, s
}

func (t *Tracer) words(id string) string {
	m, _ := t.Find(id)
	var text strings.Builder
	text.WriteString(m.Disposition)
	for _, s := range m.Steps {
		text.WriteString(", " + s.What)
		if s.Link != "" {
			text.WriteString(" " + s.Link)
		}
	}
	return text.String()
}

func TestWhatBecameOfAMessage(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*Tracer, *flash, Custody, *gateway.Message)
		want string
	}{
		{"sent and settled", func(x *Tracer, _ *flash, _ Custody, m *gateway.Message) {
			o := x.Outbox(&out{m: m})
			o.LinkUp()
			_ = o.Settle(o.Take("pump-1", 1)[0], gateway.Accepted, "")
		}, "settled, received, sent amqp, settled"},
		{"stored, sent in vain, sent again, refused", func(x *Tracer, _ *flash, s Custody, m *gateway.Message) {
			s.Append(m.Lane, []*gateway.Message{m}, gateway.Unread, func([]gateway.Position, error) {})
			o := x.Outbox(&out{m: m})
			o.LinkUp()
			o.Take("pump-1", 1)
			o.LinkDown()
			o.LinkUp()
			d := o.Take("pump-1", 1)[0]
			s.Settle(gateway.Position{Lane: m.Lane, Block: 1}) // as the path does within Settle
			_ = o.Settle(d, gateway.Refused, "bad")
		}, "dead letter, received, stored, sent amqp, taken back, sent amqp, dead letter"},
		{"expired on flash", func(_ *Tracer, _ *flash, s Custody, m *gateway.Message) {
			s.Append(m.Lane, []*gateway.Message{m}, gateway.Unread, func([]gateway.Position, error) {})
			s.Settle(gateway.Position{Lane: m.Lane, Block: 1})
		}, "expired, received, stored, expired"},
		{"dropped at the bound", func(_ *Tracer, f *flash, s Custody, m *gateway.Message) {
			s.Append(m.Lane, []*gateway.Message{m}, gateway.Unread, func([]gateway.Position, error) {})
			f.gaveUp([]gateway.GivenUp{{Leaf: m.Leaf, Lane: m.Lane, Start: 1, First: 1, Last: 9}})
		}, "dropped, received, stored, dropped"},
		{"not stored", func(_ *Tracer, f *flash, s Custody, m *gateway.Message) {
			f.err = errors.New("full")
			s.Append(m.Lane, []*gateway.Message{m}, gateway.Unread, func([]gateway.Position, error) {})
		}, "waiting in memory, received, not stored"},
		{"refused at the door", func(x *Tracer, _ *flash, _ Custody, m *gateway.Message) {
			door := x.Door(gateway.HandlerFunc(func(_ context.Context, _ *gateway.Message, done gateway.Done) { done(gateway.ErrStoreFull) }))
			door.Handle(context.Background(), m, func(error) {})
		}, "refused, received, refused"},
		{"removed by a module", func(x *Tracer, _ *flash, _ Custody, m *gateway.Message) {
			m.Seq, m.Start = 0, 0
			door := x.Door(gateway.HandlerFunc(func(_ context.Context, _ *gateway.Message, done gateway.Done) { done(nil) }))
			door.Handle(context.Background(), m, func(error) {})
		}, "removed, received, removed"},
	} {
		x, f, s := tracer()
		c.do(x, f, s, message("id-1", 1))
		if got := x.words("id-1"); got != c.want {
			t.Errorf("%s: got  %s\nwant %s", c.name, got, c.want)
		}
	}
	x, _, s := tracer()
	m := message("id-1", 1)
	s.Append(m.Lane, []*gateway.Message{m}, gateway.Unread, func([]gateway.Position, error) {})
	if found, ok := x.Find("id-1"); !ok || found.Stored != 2 || found.Bytes != 4 || found.Leaf != "pump-1" {
		t.Errorf("%+v", found)
	}
	if _, ok := x.Find("id-2"); ok {
		t.Error("a message that never was is known")
	}
}

// However much passes and however often one is sent, memory stays as it is.
func TestMemoryIsBounded(t *testing.T) {
	x, _, s := tracer()
	for i := range 3 * Messages {
		m := message(fmt.Sprint("id-", i%(2*Messages)), uint64(i+1))
		s.Append(m.Lane, []*gateway.Message{m}, gateway.Unread, func([]gateway.Position, error) {})
	}
	if len(x.ring) != Messages || len(x.byID) > Messages || len(x.byPos) > Messages {
		t.Errorf("%d messages, %d ids, %d positions", len(x.ring), len(x.byID), len(x.byPos))
	}
	m := message("id-x", 1)
	o := x.Outbox(&out{m: m})
	for range 100 {
		o.Take("pump-1", 1)
		o.Recall("pump-1", 0, true)
	}
	got, _ := x.Find("id-x")
	if len(got.Steps) != maxSteps || got.More != 201-maxSteps || got.Attempts != 100 || got.Steps[maxSteps-1].What != Recalled {
		t.Errorf("%d steps, %d more, %d attempts", len(got.Steps), got.More, got.Attempts)
	}
}

// An id that is part of a topic does not keep the topic in memory.
func TestNothingElseIsKept(t *testing.T) {
	x, _, s := tracer()
	topic := strings.Repeat("x", 60000)
	m := message(topic[:8], 1)
	m.Channel = topic[8:16]
	s.Append(m.Lane, []*gateway.Message{m}, gateway.Unread, func([]gateway.Position, error) {})
	got, ok := x.Find(topic[:8])
	if !ok || unsafe.StringData(got.ID) == unsafe.StringData(m.System.MessageID) || unsafe.StringData(got.Channel) == unsafe.StringData(m.Channel) {
		t.Errorf("found %v: the text of the topic is kept", ok)
	}
}

func BenchmarkTracer(b *testing.B) {
	x, _, _ := tracer()
	b.ReportAllocs()
	for i := range b.N {
		m := message("id-"+fmt.Sprint(i), uint64(i+1))
		o := x.Outbox(&out{m: m})
		_ = o.Settle(o.Take("pump-1", 1)[0], gateway.Accepted, "")
	}
}
