package uplink

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// flight is one message that is with the hub.
type flight struct {
	delivery *gateway.Delivery
	receipt  Receipt
	err      error // set instead of receipt: it can never be sent
	sent     time.Time
}

// stream is one open link of a leaf: messages go out on one side, and the hub's
// answers are waited for in the same order on the other. The first answer that
// is not about its own message alone breaks the stream. What is behind it is not
// settled any more, whatever the hub says to it: it is sent again behind the
// failed one, which keeps the order and makes duplicates a tail in one piece.
type stream struct {
	*line
	link Link

	sending context.Context // ends when nothing is to be sent on this link any more
	stop    context.CancelFunc
	slots   chan struct{} // one element for each message in flight
	flights chan flight   // closed by finish; as large as slots, so it never blocks

	broken   chan struct{} // closed at the first failure
	err      error         // the failure; read it after broken is closed
	ended    chan struct{} // closed when all answers are in
	accepted atomic.Int64
	culprit  bool // the message that killed links was found; read it after ended
}

func (l *line) newStream(link Link, window int) *stream {
	s := &stream{
		line:    l,
		link:    link,
		slots:   make(chan struct{}, window),
		flights: make(chan flight, window),
		broken:  make(chan struct{}),
		ended:   make(chan struct{}),
	}
	s.sending, s.stop = context.WithCancel(l.taking)
	go s.settle() // finish waits for it
	return s
}

// brokenC returns the channel that is closed when the stream has failed; no
// stream never fails.
func (s *stream) brokenC() <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.broken
}

// free waits until there is room in the window and returns how much.
func (s *stream) free(ctx context.Context) (int, error) {
	select {
	case <-s.broken:
		return 0, s.err
	case <-ctx.Done():
		return 0, ctx.Err()
	case s.slots <- struct{}{}:
		<-s.slots // only this goroutine takes room, so it cannot get less
		return cap(s.slots) - len(s.slots), nil
	}
}

// send puts one message on its way.
func (s *stream) send(d *gateway.Delivery) error {
	if err := s.enter(); err != nil {
		return s.cause(err)
	}
	f := flight{delivery: d, sent: time.Now()}
	f.receipt, f.err = s.link.Send(s.sending, d.Message)
	if f.err != nil && remedyOf(f.err) != Poison {
		s.leave()
		return s.cause(f.err)
	}
	s.flights <- f
	return nil
}

// enter takes room for one message: in the window of the leaf, and among all.
func (s *stream) enter() error {
	select {
	case <-s.sending.Done():
		return s.sending.Err()
	case s.slots <- struct{}{}:
	}
	if err := s.room.Acquire(s.sending, 1); err != nil {
		<-s.slots
		return err
	}
	s.tally.inflight(+1)
	return nil
}

// leave gives the room back.
func (s *stream) leave() {
	s.tally.inflight(-1)
	s.room.Release(1)
	<-s.slots
}

// cause returns why the stream broke, if it did: sending ends then too, and its
// own error says less.
func (s *stream) cause(err error) error {
	select {
	case <-s.broken:
		return s.err
	default:
		return err
	}
}

// finish stops sending, waits for all answers, and closes the link. It returns
// the failure if the stream is broken.
func (s *stream) finish() error {
	s.stop()
	close(s.flights)
	<-s.ended
	s.link.Close(s.live)
	return s.cause(nil)
}

// settle waits for the answers in the order in which the messages were sent.
func (s *stream) settle() {
	defer close(s.ended)
	for f := range s.flights {
		err := f.err
		if err == nil {
			err = s.await(f.receipt)
		}
		s.leave()
		s.judge(f, err)
	}
}

// await waits for one answer. A hub that does not give it in StallTimeout while
// the connection is alive has lost it; the link is given up then.
func (s *stream) await(r Receipt) error {
	ctx, cancel := context.WithTimeout(s.live, s.cfg.StallTimeout.D())
	defer cancel()
	err := r.Wait(ctx)
	if err == nil || s.live.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	s.link.Abort()
	if err := r.Wait(s.live); err == nil {
		return nil // it came just now
	}
	return &Fault{Remedy: BackOff, Err: fmt.Errorf("no answer of the hub for %v", s.cfg.StallTimeout)}
}

// judge acts on one answer.
func (s *stream) judge(f flight, err error) {
	select {
	case <-s.broken:
		return
	default:
	}
	switch remedy := remedyOf(err); {
	case err == nil:
		s.out.Settle(f.delivery, gateway.Accepted, "")
		s.Acked(time.Since(f.sent))
		s.tally.update(func(t *State) { t.Accepted++ })
		if s.accepted.Add(1) == 1 {
			s.gate.accepted()
			if s.tally.welcome(s.leaf) {
				s.Log.Info("hub takes leaf again", "leaf", s.leaf)
			}
		}
	case remedy == Poison:
		s.refuse(f, err)
	case remedy == Suspect && cap(s.slots) == 1:
		s.refuse(f, err)
		s.culprit = true
		s.fail(&Fault{Remedy: Again, Err: err})
	default:
		s.fail(err)
	}
}

// refuse settles a message that the hub will never take.
func (s *stream) refuse(f flight, err error) {
	// Custody warns, when the message is on the shelf.
	s.Log.Debug("hub refuses message", "leaf", s.leaf, "lane", f.delivery.Lane.String(), "seq", f.delivery.Seq, "error", err)
	s.out.Settle(f.delivery, gateway.Refused, err.Error())
	s.tally.update(func(t *State) { t.Rejected++ })
}

// fail breaks the stream.
func (s *stream) fail(err error) {
	s.err = err
	close(s.broken)
	s.stop()
}
