package uplink_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// patientOutbox says how often pauses were ended.
type patientOutbox struct {
	*outbox
	ended int
}

func (o *patientOutbox) EndPauses() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended++
	clear(o.until)
	o.changed()
}

// A connection that stands is replaced without a pause, and what it has not settled
// goes over the next one.
func TestRenewReplacesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, next, out := newWire(), newWire(), &patientOutbox{outbox: newOutbox(t)}
		u, stop := start(t, uplink.DefaultConfig(), w, out)
		out.publish("a", 3)
		synctest.Wait()
		time.Sleep(time.Minute)
		u.Renew(uplink.DefaultConfig(), next)
		time.Sleep(4 * time.Second) // a farewell lasts three at most
		out.publish("a", 2)
		time.Sleep(time.Second)
		s := u.State()
		stop()
		if len(w.dials) != 1 || len(next.dials) != 1 {
			t.Errorf("dialled %d times the old way and %d times the new one, want once each", len(w.dials), len(next.dials))
		}
		if !s.Connected || len(out.settled) != 5 || out.ended != 1 {
			t.Errorf("connected %v, %d settled of 5, pauses ended %d times", s.Connected, len(out.settled), out.ended)
		}
	})
}

// One that waits for its next attempt, or for an answer that never comes, does not
// make the change wait.
func TestRenewEndsWaits(t *testing.T) {
	for name, dial := range map[string]func(int) error{
		"next attempt": func(int) error { return &uplink.Fault{Remedy: uplink.Refused, Err: errors.New("who are you")} },
		"answer":       nil, // hangs
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var old uplink.Transport = hanging{}
				if dial != nil {
					w := newWire()
					w.dial = dial
					old = w
				}
				out := newOutbox(t)
				u, stop := startTransport(t, uplink.DefaultConfig(), old, out)
				time.Sleep(30 * time.Minute)
				began := time.Now()
				var next []*wire
				for range 3 {
					next = append(next, newWire())
					u.Renew(uplink.DefaultConfig(), next[len(next)-1])
				}
				synctest.Wait()
				s := u.State()
				stop()
				if !s.Connected || !s.Since.Equal(began) {
					t.Errorf("connected %v since %v after the change", s.Connected, s.Since.Sub(began))
				}
				// The last one counts. Those before may have been taken over meanwhile.
				if a, b, last := len(next[0].dials), len(next[1].dials), len(next[2].dials); a > 1 || b > 1 || last != 1 {
					t.Errorf("dialled %d, %d and %d times", a, b, last)
				}
			})
		})
	}
}

// hanging is a hub that never answers.
type hanging struct{}

func (hanging) Dial(ctx context.Context) (uplink.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

var _ uplink.Pauser = (*gateway.Path)(nil)
