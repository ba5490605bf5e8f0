package leafsim

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Options describe a leaf. ID and Line must be set; the zero value of anything
// else means what its comment says.
type Options struct {
	ID   string
	Line Line // how it reaches the gateway

	Rate       float64 // messages per second, 0 for as fast as the window allows
	Silent     bool    // connect, and send only what Send asks for
	Count      uint64  // stop after so many messages, 0 for no end
	Window     int     // how many may be unacknowledged at a time, 0 for 16
	AlarmEvery int     // every so many messages one goes into the alarm lane, 0 for never
	Size       int     // bytes of a body, 0 for as small as it gets

	Log    *AckLog      // where acknowledgements are written down, nil for memory only
	Logger *slog.Logger // nil for silence
}

// Stats counts what a leaf has done so far.
type Stats struct {
	Made      uint64 // messages made, each counted once
	Resent    uint64 // times a message was sent again
	Acked     uint64 // messages acknowledged
	Connects  uint64 // connections that came to stand
	Failures  uint64 // attempts to connect that failed
	Connected bool
}

// Leaf is one simulated device. Run it once; the other methods may be called
// from any goroutine at any time.
type Leaf struct {
	o    Options
	stop chan struct{} // closed by Stop
	once sync.Once
	wake chan struct{} // capacity 1: asked has grown

	// Owned by Run.
	pending []*Message // made and not acknowledged, in order
	sent    int        // how many of pending are on the present connection
	n       map[string]uint64
	due     time.Time // when the next message is to be made

	mu    sync.Mutex
	acks  []Ack  // guarded by mu, like what follows
	asked uint64 // messages that Send asked for
	stats Stats
	last  error // why the last connection ended or failed
}

// New makes a leaf.
func New(o Options) *Leaf {
	if o.Window == 0 {
		o.Window = 16
	}
	o.Window = o.Line.window(o.Window)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = o.Logger.With("leaf", o.ID)
	return &Leaf{o: o, stop: make(chan struct{}), wake: make(chan struct{}, 1), n: make(map[string]uint64)}
}

// Send has a silent leaf make and send n more messages.
func (l *Leaf) Send(n uint64) {
	l.mu.Lock()
	l.asked += n
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// silent says that nobody has asked for more messages.
func (l *Leaf) silent() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.o.Silent && l.made() >= l.asked
}

// ID returns the leaf's id.
func (l *Leaf) ID() string { return l.o.ID }

// Stop ends the making of new messages. Run returns when those already made are
// acknowledged.
func (l *Leaf) Stop() { l.once.Do(func() { close(l.stop) }) }

// Acked returns the acknowledgements so far, in their order.
func (l *Leaf) Acked() []Ack {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Ack(nil), l.acks...)
}

// Stats returns the counts so far.
func (l *Leaf) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// LastError says why the last connection failed or ended, nil if none did.
func (l *Leaf) LastError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// Bounds of the pause before another attempt to connect. A leaf on the bench is
// less patient than one in the field, so that tests are quick.
const (
	firstPause = 50 * time.Millisecond
	maxPause   = 2 * time.Second
)

// Run connects, sends and connects again until everything to be sent is
// acknowledged (then it returns nil) or ctx ends. Everything it started has
// ended when it returns. An error of the acknowledgement log ends it too: a
// record that is not complete proves nothing.
func (l *Leaf) Run(ctx context.Context) error {
	defer l.o.Line.close()
	pause := firstPause
	for {
		before := l.Stats().Acked
		err := l.connection(ctx)
		if l.finished() {
			return nil
		}
		if logError, ok := errors.AsType[*logError](err); ok {
			return logError
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if l.Stats().Acked > before {
			pause = firstPause
		}
		l.o.Logger.Debug("connection ended", "error", err)
		if !sleep(ctx, rand.N(pause)) {
			return ctx.Err()
		}
		pause = min(2*pause, maxPause)
	}
}

// sleep waits for d and says whether it did: ctx ends it early.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// connection lives through one connection: dial, send again what is pending,
// go on with new messages.
func (l *Leaf) connection(ctx context.Context) error {
	c, err := l.o.Line.dial(ctx, l.o.ID, l.o.Window)
	l.note(func(s *Stats) {
		if err != nil {
			s.Failures++
			return
		}
		s.Connects++
		s.Connected = true
	})
	if err == nil {
		err = l.exchange(ctx, c)
		c.close()
		l.note(func(s *Stats) { s.Connected = false })
	}
	l.mu.Lock()
	l.last = err
	l.mu.Unlock()
	return err
}

var errLost = errors.New("connection lost")

// exchange sends and takes acknowledgements until everything is done, the
// connection is lost or ctx ends.
func (l *Leaf) exchange(ctx context.Context, c conn) error {
	l.sent = 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !l.finished() {
		if err := l.sendDue(ctx, c); err != nil {
			return err
		}
		timer.Reset(l.untilDue())
		stop := l.stop
		if l.stopped() {
			stop = nil // else this loop would spin on it
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-stop:
		case <-l.wake:
		case <-timer.C:
		case m, ok := <-c.acks():
			if !ok {
				return errLost
			}
			if err := l.acknowledge(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// sendDue sends what waits to be sent again, then makes and sends new messages
// as far as rate and window allow.
func (l *Leaf) sendDue(ctx context.Context, c conn) error {
	for {
		if l.sent == len(l.pending) {
			if !l.mayMake() {
				return nil
			}
			l.make()
		}
		m := l.pending[l.sent]
		again := !m.Sent.IsZero()
		if !again {
			m.Sent = time.Now()
		}
		if err := c.send(ctx, m); err != nil {
			return err
		}
		l.sent++
		if again {
			l.note(func(s *Stats) { s.Resent++ })
		}
		if len(l.pending) >= l.o.Window && l.sent == len(l.pending) {
			return nil
		}
	}
}

func (l *Leaf) made() uint64 { return l.n[Telemetry] + l.n[Alarm] }

func (l *Leaf) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return l.o.Count > 0 && l.made() >= l.o.Count
	}
}

func (l *Leaf) finished() bool { return len(l.pending) == 0 && l.stopped() }

func (l *Leaf) mayMake() bool {
	return !l.silent() && !l.stopped() && len(l.pending) < l.o.Window && l.untilDue() <= 0
}

// untilDue says how long the next message is to wait; an hour where something
// else must happen first.
func (l *Leaf) untilDue() time.Duration {
	if l.silent() || l.stopped() || len(l.pending) >= l.o.Window {
		return time.Hour
	}
	if l.o.Rate <= 0 {
		return 0
	}
	return time.Until(l.due)
}

// make makes the next message. After a time without connection the leaf does
// not hurry to make up for it: messages not made are not missing.
func (l *Leaf) make() {
	if l.o.Rate > 0 {
		step := time.Duration(float64(time.Second) / l.o.Rate)
		if l.due = l.due.Add(step); time.Since(l.due) > step {
			l.due = time.Now().Add(step)
		}
	}
	lane := Telemetry
	if l.o.AlarmEvery > 0 && (l.made()+1)%uint64(l.o.AlarmEvery) == 0 {
		lane = Alarm
	}
	l.n[lane]++
	l.pending = append(l.pending, newMessage(l.o.ID, lane, l.n[lane], l.o.Size))
	l.note(func(s *Stats) { s.Made++ })
}

// logError marks an error of the acknowledgement log.
type logError struct{ error }

func (e *logError) Unwrap() error { return e.error }

// acknowledge takes m, and only it, off the list.
func (l *Leaf) acknowledge(m *Message) error {
	for i, p := range l.pending[:l.sent] {
		if p != m {
			continue
		}
		a := Ack{Leaf: m.Leaf, Lane: m.Lane, N: m.N, Sent: m.Sent, At: time.Now()}
		if l.o.Log != nil {
			if err := l.o.Log.Write(a); err != nil {
				return &logError{err}
			}
		}
		l.pending = append(l.pending[:i:i], l.pending[i+1:]...)
		l.sent--
		l.mu.Lock()
		defer l.mu.Unlock()
		l.acks = append(l.acks, a)
		l.stats.Acked++
		return nil
	}
	return nil
}

func (l *Leaf) note(change func(*Stats)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.stats)
}
