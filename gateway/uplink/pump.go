package uplink

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/fieldgate/fieldgate/gateway"
)

// pump moves messages over one connection.
type pump struct {
	*Uplink
	out  gateway.Outbox
	conn Conn
	room *semaphore.Weighted // messages in flight over all leaves, first come first served
	// taking ends when no more messages are to be sent; live ends when there is
	// no use in waiting for answers either.
	taking, live context.Context
	lines        sync.WaitGroup
	taken        atomic.Int64 // messages, since the present round began
	stuck        chan error   // capacity 1: why the watchdog gives the connection up
}

// serve carries messages until the connection is lost or ctx ends, and returns
// why. The connection is closed and everything has ended when it returns.
func (u *Uplink) serve(ctx context.Context, conn Conn, out gateway.Outbox) error {
	taking, stop := context.WithCancel(ctx)
	defer stop()
	live, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	p := &pump{
		Uplink: u, out: out, conn: conn, taking: taking, live: live,
		room: semaphore.NewWeighted(int64(u.cfg.MaxInflight)), stuck: make(chan error, 1),
	}
	ended := make(chan struct{})
	p.lines.Go(p.feed)
	if hub, ok := conn.(Listener); ok && u.Down != nil {
		p.lines.Go(func() { p.hear(hub) })
	}
	renewal := make(chan string, 1)
	if r, ok := u.Transport.(Renewer); ok {
		p.lines.Go(func() { renewal <- r.AwaitRenewal(taking) })
	}
	go func() {
		p.lines.Wait()
		close(ended)
	}()
	var stuck, replaced error
	select {
	case <-conn.Done():
	case stuck = <-p.stuck:
	case <-ctx.Done():
		p.farewell(ended)
	case <-u.changes.wanted():
		replaced = &renewed{whyChanged}
		stop()
		p.farewell(ended)
	case why := <-renewal:
		if why != "" {
			replaced = &renewed{why}
			stop()
		}
		p.farewell(ended)
	}
	stop()
	kill()
	conn.Close()
	<-ended
	if err := cmp.Or(ctx.Err(), stuck, replaced, conn.Err()); err != nil {
		return err
	}
	return errClosed
}

// errClosed stands for the words that the hub did not find when it hung up.
var errClosed = errors.New("closed by the hub without a reason")

// renewed says that a connection was closed because another one is to take its
// place. It is no failure.
type renewed struct{ why string }

func (r *renewed) Error() string { return r.why }

// whyChanged is the reason of a connection that Renew has ended.
const whyChanged = "the configuration has changed"

// farewell lets the hub settle what it has: each message settled now is one that
// is not sent twice.
func (p *pump) farewell(ended <-chan struct{}) {
	t := time.NewTimer(farewell)
	defer t.Stop()
	select {
	case <-ended:
	case <-p.conn.Done():
	case <-t.C:
	}
}

// The leaves that have something to send are served in rounds: those that come
// within roundLasts of its beginning are in it. The next one begins when about
// roundHas messages have come, by the rate of the last one, within these bounds. The
// first message after a silence goes at once. Most of what a message costs at low
// rates is waking up for it, here, in the kernel and at the hub; at high ones it is
// the leaves that must not wait.
const (
	roundLasts = time.Millisecond
	roundHas   = 32
	roundMin   = 2 * time.Millisecond
	roundMax   = 10 * time.Millisecond
)

// roundAfter returns how long after the last round the next one begins, when the
// last one had n messages, and came so long after the one before it.
func roundAfter(last time.Duration, n int64) time.Duration {
	if n == 0 {
		return roundMax
	}
	return min(max(last/time.Duration(n)*roundHas, roundMin), roundMax)
}

// feed gives each leaf that has something to send a line of its own, and wakes
// the line.
func (p *pump) feed() {
	lines := make(map[string]*line)
	round := time.Now() // when the present one began
	last := roundMax    // how long after the one before it
	for {
		leaf, err := p.out.NextLeaf(p.taking)
		if err != nil {
			return
		}
		if age := time.Since(round); age > roundLasts {
			time.Sleep(roundAfter(last, p.taken.Swap(0)) - age)
			now := time.Now()
			last, round = now.Sub(round), now
		}
		l := lines[leaf]
		if l == nil {
			l = p.newLine(leaf)
			lines[leaf] = l
			p.lines.Go(l.run)
		}
		l.wake()
	}
}
