package uplink

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/failpoint"
)

// flight is what went to the hub together and is judged together: one message, or
// several where several waited.
type flight struct {
	deliveries []*gateway.Delivery
	receipt    Receipt
	err        error // set instead of receipt: it can never be sent
	sent       time.Time
	bytes      int // of the bodies, if they were sent
}

// stream is one open link of a leaf: messages go out on one side, and the hub's
// answers are waited for in the same order on the other. The first answer that
// is not about its own message alone breaks the stream. What is behind it is not
// settled any more, whatever the hub says to it: it is sent again behind the
// failed one, which keeps the order and makes duplicates a tail in one piece. So
// does the refusal of several messages together: the leaf sends one at a time
// then, until the hub has named the one that it does not take.
type stream struct {
	*line
	link Link

	sending context.Context // ends when nothing is to be sent on this link any more
	stop    context.CancelFunc
	window  int64         // how many messages may be in flight
	flying  atomic.Int64  // how many are
	landed  chan struct{} // capacity 1: flying has fallen
	flights chan flight   // closed by finish; as large as the window, so it never blocks

	broken   chan struct{} // closed at the first failure
	err      error         // the failure; read it after broken is closed
	ended    chan struct{} // closed when all answers are in
	accepted atomic.Int64
	culprit  bool // the message that killed links was found; read it after ended

	// Used by settle only: what it waits for answers with, and what ends that after
	// StallTimeout. One for many answers, as making one costs more than waiting.
	waiting context.Context
	tired   *time.Timer

	climbed  atomic.Bool // the watchdog has given up this link
	patience *time.Timer // fires when a message waits too long for room at the hub
	// waits is since when a message waits for room, after begun; 0 for none, and
	// lost when the watchdog has given up on it. Who changes it first is right.
	waits atomic.Int64
	begun time.Time
}

func (l *line) newStream(link Link, window int) *stream {
	s := &stream{
		line:    l,
		link:    link,
		window:  int64(window),
		landed:  make(chan struct{}, 1),
		flights: make(chan flight, window),
		broken:  make(chan struct{}),
		ended:   make(chan struct{}),
		begun:   time.Now(),
	}
	s.sending, s.stop = context.WithCancel(l.taking)
	s.patience = time.AfterFunc(l.cfg.StallTimeout.D(), s.impatient)
	s.patience.Stop()
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
	for {
		select {
		case <-s.broken:
			return 0, s.err
		default:
		}
		// Only this goroutine takes room, so it cannot get less.
		if n := s.window - s.flying.Load(); n > 0 {
			return int(n), nil
		}
		select {
		case <-s.broken:
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-s.landed:
		}
	}
}

// send puts messages on their way, as many together as the link takes.
func (s *stream) send(ds []*gateway.Delivery) error {
	ms := make([]*gateway.Message, len(ds))
	for i, d := range ds {
		ms[i] = d.Message
	}
	for len(ds) > 0 {
		n, err := s.sendSome(ds, ms)
		if err != nil {
			return s.cause(err)
		}
		ds, ms = ds[n:], ms[n:]
	}
	return nil
}

// sendSome sends the first n of the messages.
func (s *stream) sendSome(ds []*gateway.Delivery, ms []*gateway.Message) (n int, err error) {
	room, err := s.enter(len(ds))
	if err != nil {
		return 0, err
	}
	f := flight{sent: time.Now()}
	failpoint.Hit(failpoint.UplinkSend)
	s.waits.Store(max(int64(time.Since(s.begun)), 1))
	s.patience.Reset(s.cfg.StallTimeout.D())
	f.receipt, n, f.err = s.link.Send(s.sending, ms[:room])
	s.waits.Store(0)
	s.patience.Stop()
	failpoint.Hit(failpoint.UplinkSent)
	switch {
	case f.err == nil:
	case remedyOf(f.err) == Poison:
		n = 1
	default:
		s.leave(room)
		return 0, f.err
	}
	s.leave(room - n)
	f.deliveries = ds[:n:n]
	if f.err == nil {
		for _, m := range ms[:n] {
			f.bytes += len(m.Body)
		}
		s.tally.sends(f.bytes)
	}
	s.flights <- f
	return n, nil
}

// turns is how many leaves share the room that there is for all, at least, when
// there is not enough: each gets so much in its turn, and the next one follows.
const turns = 16

// enter takes room for messages, at most n: in the window of the leaf, which free
// has seen, and among all.
func (s *stream) enter(n int) (room int, err error) {
	if !s.room.TryAcquire(int64(n)) {
		n = min(n, max(1, s.cfg.MaxInflight/turns))
		if err := s.room.Acquire(s.sending, int64(n)); err != nil {
			return 0, err
		}
	}
	s.flying.Add(int64(n))
	s.tally.inflight(+n)
	return n, nil
}

// leave gives the room back.
func (s *stream) leave(n int) {
	if n == 0 {
		return
	}
	s.tally.inflight(-n)
	s.room.Release(int64(n))
	s.flying.Add(-int64(n))
	select {
	case s.landed <- struct{}{}:
	default:
	}
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
	live, cancel := context.WithCancel(s.live)
	defer cancel()
	for f := range s.flights {
		err := f.err
		if err == nil {
			err = s.await(live, f.receipt)
		}
		s.judge(f, err) // first: nothing more is sent behind a failure
		s.leave(len(f.deliveries))
	}
}

// await waits for one answer. When the hub does not give it in StallTimeout
// while the connection is alive, the watchdog climbs.
func (s *stream) await(live context.Context, r Receipt) error {
	for {
		err, late := s.patientWait(live, r)
		if !late {
			return err
		}
		if s.climb() {
			break
		}
	}
	if err := r.Wait(live); err == nil {
		return nil // it came just now
	}
	return &Fault{Remedy: BackOff, Err: s.stalled()}
}

// patientWait waits for StallTimeout; late says that no answer has come by then.
func (s *stream) patientWait(live context.Context, r Receipt) (err error, late bool) {
	if s.waiting == nil {
		var cancel context.CancelFunc
		s.waiting, cancel = context.WithCancel(live)
		s.tired = time.AfterFunc(s.cfg.StallTimeout.D(), cancel)
	} else {
		s.tired.Reset(s.cfg.StallTimeout.D())
	}
	err = r.Wait(s.waiting)
	if !s.tired.Stop() {
		s.waiting = nil
	}
	return err, errors.Is(err, context.Canceled) && live.Err() == nil
}

// judge acts on one answer.
func (s *stream) judge(f flight, err error) {
	select {
	case <-s.broken:
		s.tally.done(f.bytes, false)
		return
	default:
	}
	remedy := remedyOf(err)
	s.tally.done(f.bytes, err == nil || remedy == Poison && len(f.deliveries) == 1) // else they are sent again
	switch {
	case err == nil:
		s.take(f)
	case len(f.deliveries) > 1 && remedy == Poison:
		s.fail(&Fault{Remedy: Suspect, Err: err})
	case remedy == Poison:
		s.refuse(f, err)
	case remedy == Suspect && s.window == 1:
		if s.refuse(f, err) {
			s.culprit = true
			s.fail(&Fault{Remedy: Again, Err: err})
		}
	default:
		s.fail(err)
	}
}

// take settles what the hub has accepted.
func (s *stream) take(f flight) {
	n := len(f.deliveries)
	for _, d := range f.deliveries {
		failpoint.Hit(failpoint.UplinkSettle)
		_ = s.out.Settle(d, gateway.Accepted, "") // fails for what is refused only
		failpoint.Hit(failpoint.UplinkSettled)
		s.Acked(time.Since(f.sent))
	}
	s.tally.update(func(t *State) { t.Accepted, t.LastAccepted, t.Rung = t.Accepted+int64(n), time.Now(), "" })
	if s.accepted.Add(int64(n)) == int64(n) {
		s.record.stalls.Store(0)
		s.gate.accepted()
		if s.tally.welcome(s.leaf) {
			s.Log.Info("hub takes leaf again", "event", "leaf-accepted", "leaf", s.leaf)
		}
	}
}

// refuse settles a message that the hub will never take. If that cannot be kept
// on the shelf, the stream breaks: what is behind it must not pass it.
func (s *stream) refuse(f flight, err error) bool {
	d := f.deliveries[0]
	// Custody warns, when the message is on the shelf.
	s.Log.Debug("hub refuses message", "leaf", s.leaf, "lane", d.Lane.String(), "seq", d.Seq, "error", err)
	if unkept := s.out.Settle(d, gateway.Refused, err.Error()); unkept != nil {
		s.fail(&Fault{Remedy: BackOff, Err: unkept})
		return false
	}
	s.tally.update(func(t *State) { t.Rejected++ })
	return true
}

// fail breaks the stream.
func (s *stream) fail(err error) {
	s.err = dated{err, time.Now()} // the line hears of it when it is done with something else
	close(s.broken)
	s.stop()
}
