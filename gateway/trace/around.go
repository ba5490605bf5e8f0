package trace

import (
	"context"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Door returns the handler with its refusals noted. Only messages to which the leaf
// itself gave an id can be asked for.
func (t *Tracer) Door(next gateway.Handler) gateway.Handler {
	return gateway.HandlerFunc(func(ctx context.Context, m *gateway.Message, done gateway.Done) {
		if m.System.MessageID == "" {
			next.Handle(ctx, m, done)
			return
		}
		next.Handle(ctx, m, func(err error) {
			t.answered(m, err)
			done(err)
		})
	})
}

// answered notes what the leaf was told, where that is the last word: refused, or
// acknowledged and never seen in custody.
func (t *Tracer) answered(m *gateway.Message, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch r := t.byID[cut(m.System.MessageID, maxID)]; {
	case err != nil:
		t.endLocked(t.recordLocked(m), Refused, err.Error())
	case r == nil && m.Seq == 0:
		t.endLocked(t.recordLocked(m), Removed, "by a module of the configuration")
	}
}

// Custody is a store that is also where the path keeps notes.
type Custody interface {
	gateway.Store
	gateway.Notes
}

// Store returns the store with what is stored and what leaves it noted.
func (t *Tracer) Store(s Custody) Custody { return &store{s, t} }

type store struct {
	Custody
	*Tracer
}

// Append is described at gateway.Store.
func (s *store) Append(lane gateway.Lane, ms []*gateway.Message, state gateway.StoredState, done func([]gateway.Position, error)) {
	s.Custody.Append(lane, ms, state, func(ps []gateway.Position, err error) {
		s.stored(ms, ps, err)
		done(ps, err)
	})
}

func (t *Tracer) stored(ms []*gateway.Message, ps []gateway.Position, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, m := range ms {
		r := t.recordLocked(m)
		switch {
		case err != nil:
			t.stepLocked(r, "not stored", err.Error())
		case !r.done:
			now := t.stepLocked(r, Stored, "").Time
			r.Stored = max(now.Sub(r.received), time.Nanosecond).Seconds()
			if !r.out {
				r.Disposition = "on flash"
			}
			t.atLocked(r, ps[i])
		}
	}
}

// Read is described at gateway.Store.
func (s *store) Read(lane gateway.Lane, most, mostBytes int, park func(string) bool) ([]gateway.Stored, error) {
	got, err := s.Custody.Read(lane, most, mostBytes, park)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range got {
		r := s.recordLocked(x.Message)
		s.stepLocked(r, Read, "")
		s.atLocked(r, x.Position)
	}
	return got, err
}

// atLocked notes where a message is on flash.
func (t *Tracer) atLocked(r *record, p gateway.Position) {
	r.pos = p
	t.byPos[p] = r
}

// Settle is described at gateway.Store. What leaves the store and is not with the
// hub has expired.
func (s *store) Settle(ps ...gateway.Position) {
	s.mu.Lock()
	for _, p := range ps {
		if r := s.byPos[p]; r != nil {
			if !r.out {
				s.endLocked(r, Expired, "older than its lane or it itself allows")
			}
			delete(s.byPos, p)
		}
	}
	s.mu.Unlock()
	s.Custody.Settle(ps...)
}

// OnGiveUp is described at gateway.Store.
func (s *store) OnGiveUp(f func([]gateway.GivenUp)) {
	s.Custody.OnGiveUp(func(runs []gateway.GivenUp) {
		s.gaveUp(runs)
		f(runs)
	})
}

func (t *Tracer) gaveUp(runs []gateway.GivenUp) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.ring {
		for _, x := range runs {
			why := "its lane was at its bound on flash"
			if x.Why == gateway.DropPurged {
				why = "purged by an operator"
			}
			if r.Leaf == x.Leaf && r.lane == x.Lane && r.start == uint64(x.Start) && x.First <= r.seq && r.seq <= x.Last {
				t.endLocked(r, Dropped, why)
			}
		}
	}
}

// Outbox returns the outbox with what is sent and settled noted.
func (t *Tracer) Outbox(o gateway.Outbox) gateway.Outbox { return &outbox{o, t} }

type outbox struct {
	gateway.Outbox
	*Tracer
}

// LinkUp is described at gateway.Outbox.
func (o *outbox) LinkUp() {
	name := o.link()
	o.mu.Lock()
	o.name = name
	o.mu.Unlock()
	o.Outbox.LinkUp()
}

// LinkDown is described at gateway.Outbox.
func (o *outbox) LinkDown() {
	o.takenBack("", "the connection was lost")
	o.Outbox.LinkDown()
}

// Recall is described at gateway.Outbox.
func (o *outbox) Recall(leaf string, pause time.Duration, refused bool) {
	why := "the leaf's link was lost"
	if refused {
		why = "the hub refuses the leaf"
	}
	o.takenBack(leaf, why)
	o.Outbox.Recall(leaf, pause, refused)
}

// takenBack notes that what is with the hub will be sent again; leaf "" is all.
func (t *Tracer) takenBack(leaf, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.ring {
		if r.out && (leaf == "" || r.Leaf == leaf) {
			r.out, r.Disposition = false, "waiting to be sent again"
			t.stepLocked(r, Recalled, why)
		}
	}
}

// Take is described at gateway.Outbox.
func (o *outbox) Take(leaf string, most int) []*gateway.Delivery {
	ds := o.Outbox.Take(leaf, most)
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, d := range ds {
		r := o.recordLocked(d.Message)
		if r.done {
			continue
		}
		r.out, r.Disposition = true, "with the hub, not settled"
		r.Attempts++
		o.stepLocked(r, Sent, "")
	}
	return ds
}

// Settle is described at gateway.Outbox.
func (o *outbox) Settle(d *gateway.Delivery, outcome gateway.Outcome, reason string) error {
	if err := o.Outbox.Settle(d, outcome, reason); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := o.byID[cut(d.System.MessageID, maxID)]; r != nil && r.out && r.seq == d.Seq {
		o.endLocked(r, words[outcome], reason)
	}
	return nil
}

// words are the dispositions of outcomes.
var words = [...]string{gateway.Accepted: Settled, gateway.Refused: Shelved, gateway.Expired: Expired}
