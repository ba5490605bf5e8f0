package amqp

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// shared is the way of the leaves that have no identity of their own: one link of
// the gateway's for all of them. A second link of one device the hub may take for
// the first one come anew, and end that (wire contract, section 3.9).
type shared struct {
	*conn
	busy chan struct{} // a lock that can be waited for with a context
	now  *trunk        // guarded by busy; nil: none is open

	// careful is how many more transfers go one at a time, whosesoever they are,
	// each holding alone: a message that ends the link is found by that.
	careful atomic.Int64
	alone   chan struct{} // capacity 1
}

// carefulFor is how many transfers go one at a time after a message has ended the
// link: as many leaves as that may come before the one that has it.
const carefulFor = 256

// trunk is one life of the link.
type trunk struct {
	base  *link
	users int         // guarded by shared.busy
	ended atomic.Bool // is good for Close only

	mu     sync.Mutex
	flying int  // transfers without an answer; guarded by mu
	solved bool // it is known, or will never be, which transfer ended it; guarded by mu
}

// open gives a leaf its share of the link, which is opened if it is not.
func (s *shared) open(ctx context.Context, leaf string) (uplink.Link, error) {
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	case <-ctx.Done():
		return nil, timeout(ctx, ctx.Err(), "link")
	}
	if s.now == nil || s.now.ended.Load() {
		base, err := s.openLink(ctx, leaf)
		if err != nil {
			return nil, err
		}
		s.now = &trunk{base: base}
	}
	s.now.users++
	b := s.now.base
	return &share{link{conn: b.conn, leaf: leaf, session: b.session, sender: b.sender, alias: leaf}, s, s.now}, nil
}

// leave is the end of one leaf's share; the last one closes the link.
func (s *shared) leave(ctx context.Context, t *trunk) {
	s.busy <- struct{}{}
	t.users--
	last := t.users == 0
	if last && s.now == t {
		s.now = nil
	}
	<-s.busy
	if last {
		t.base.Close(ctx)
	}
}

// share is the link as one leaf sees it.
type share struct {
	link
	all   *shared
	trunk *trunk
}

// Send is described at uplink.Link.
func (l *share) Send(ctx context.Context, ms []*gateway.Message) (uplink.Receipt, int, error) {
	r := &shareReceipt{share: l}
	if l.all.careful.Load() > 0 {
		select {
		case l.all.alone <- struct{}{}:
			l.all.careful.Add(-1)
			r.alone = true
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
	l.trunk.mu.Lock()
	l.trunk.flying++
	l.trunk.mu.Unlock()
	wire, n, err := l.link.Send(ctx, ms)
	if err != nil {
		return nil, n, r.landed(err)
	}
	r.wire = wire
	return r, n, nil
}

// Abort is described at uplink.Link: it costs all who share the link.
func (l *share) Abort(rung uplink.Rung) {
	l.trunk.ended.Store(true)
	if rung != uplink.RungLink {
		l.trunk.base.dead.Store(true)
	}
	l.link.Abort(rung)
}

// Close gives up the leaf's share.
func (l *share) Close(ctx context.Context) { l.all.leave(ctx, l.trunk) }

// shareReceipt is the hub's answer to one transfer of a leaf.
type shareReceipt struct {
	*share
	wire  uplink.Receipt
	alone bool
}

// Wait is described at uplink.Receipt.
func (r *shareReceipt) Wait(ctx context.Context) error {
	err := r.wire.Wait(ctx)
	if err != nil && errors.Is(err, ctx.Err()) {
		return err // there is no answer yet
	}
	return r.landed(err)
}

// landed takes a transfer off the link and returns what its end means to the
// leaf. A link that has ended because of some message is no reason to doubt those
// of a leaf, unless only one was under way.
func (r *shareReceipt) landed(err error) error {
	t := r.trunk
	t.mu.Lock()
	if f, ok := errors.AsType[*uplink.Fault](err); ok && f.Remedy == uplink.Suspect {
		if t.solved || t.flying > 1 {
			r.all.careful.Store(carefulFor)
			err = &uplink.Fault{Remedy: uplink.Again, Err: f.Err}
		}
		t.solved = true
	}
	t.flying--
	t.mu.Unlock()
	if r.alone {
		r.alone = false
		<-r.all.alone
	}
	if r.link.ended.Load() {
		t.ended.Store(true)
	}
	if r.link.dead.Load() {
		t.base.dead.Store(true)
	}
	return err
}
