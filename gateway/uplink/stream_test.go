package uplink

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/fieldgate/fieldgate/gateway"
)

// slowLink is a link whose Send does what a test wants, and is then accepted.
type slowLink struct {
	send    func()
	aborted int
}

func (l *slowLink) Send(_ context.Context, ms []*gateway.Message) (Receipt, int, error) {
	l.send()
	return l, len(ms), nil
}
func (l *slowLink) Wait(context.Context) error { return nil }
func (l *slowLink) Abort(Rung)                 { l.aborted++ }
func (l *slowLink) Close(context.Context)      {}

// settled is an outbox that is only told that messages are settled.
type settled struct{ gateway.Outbox }

func (settled) Settle(*gateway.Delivery, gateway.Outcome, string) error { return nil }

// The timer of a message that waited for room may fire just as the hub takes it, and
// be late: a link that is well is not given up for it.
func TestLateImpatienceGivesUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := func() gateway.Instant { return gateway.Instant{Wall: time.Now(), Quality: gateway.Synced} }
		u := New(DefaultConfig(), Parts{Clock: now, Log: slog.New(slog.DiscardHandler)})
		p := &pump{
			Uplink: u, out: settled{}, taking: t.Context(), live: t.Context(),
			room: semaphore.NewWeighted(10), stuck: make(chan error, 1),
		}
		link := &slowLink{}
		s := p.newLine("a").newStream(link, 10)
		send := func(during func()) {
			link.send = during
			if err := s.send([]*gateway.Delivery{{Message: &gateway.Message{Leaf: "a"}}}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		stall := u.cfg.StallTimeout.D()
		send(func() { time.Sleep(stall / 2) })
		s.impatient() // the message has gone
		send(func() {
			s.impatient() // of the message before
			time.Sleep(stall - 1)
		})
		time.Sleep(2 * stall)
		s.impatient()
		if link.aborted > 0 {
			t.Errorf("the link was given up %d times", link.aborted)
		}
		u.gate.shut(2*stall, time.Now())
		send(func() { time.Sleep(stall + 1) })
		if link.aborted > 0 {
			t.Error("the link was given up while the hub asked to wait")
		}
		time.Sleep(3 * stall)
		send(func() { time.Sleep(stall + 1) })
		if link.aborted != 1 {
			t.Errorf("a link without room was given up %d times, want 1", link.aborted)
		}
		_ = s.finish()
	})
}
