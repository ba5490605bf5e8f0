package uplink

import (
	"cmp"
	"context"
	"errors"
	"sync"
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
		room: semaphore.NewWeighted(int64(u.cfg.MaxInflight)),
	}
	ended := make(chan struct{})
	p.lines.Go(p.feed)
	go func() {
		p.lines.Wait()
		close(ended)
	}()
	select {
	case <-conn.Done():
	case <-ctx.Done():
		p.farewell(ended)
	}
	stop()
	kill()
	conn.Close()
	<-ended
	if err := cmp.Or(ctx.Err(), conn.Err()); err != nil {
		return err
	}
	return errClosed
}

// errClosed stands for the words that the hub did not find when it hung up.
var errClosed = errors.New("closed by the hub without a reason")

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

// feed gives each leaf that has something to send a line of its own, and wakes
// the line.
func (p *pump) feed() {
	lines := make(map[string]*line)
	for {
		leaf, err := p.out.NextLeaf(p.taking)
		if err != nil {
			return
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
