package uplink

import (
	"context"
	"sync"

	"github.com/fieldgate/fieldgate/gateway"
)

// Pauser is an Outbox that can end the pauses for which Recall has asked, of all
// leaves.
type Pauser interface {
	EndPauses()
}

// change is what an uplink is to go on with.
type change struct {
	cfg       Config
	transport Transport
}

// changes is what is to be taken over between two connections.
type changes struct {
	mu   sync.Mutex
	next *change       // nil: nothing; guarded by mu
	news chan struct{} // closed while next is not nil; guarded by mu
}

// Renew has the uplink go on with another transport and configuration, which must
// be valid. It returns at once. The connection is replaced like one whose token has
// to be renewed: the hub settles what it has, for a few seconds at most, and what it
// does not settle is sent again. Waits after failures end, and leaves that the hub
// has refused are tried again. Safe for concurrent use; the last one counts.
func (u *Uplink) Renew(cfg Config, t Transport) {
	c := &u.changes
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil {
		close(c.news)
	}
	c.next = &change{cfg, t}
}

// wanted is closed while there is a change to be taken over.
func (c *changes) wanted() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.news
}

// take returns the change to be taken over, nil for none.
func (c *changes) take() *change {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.next
	if next != nil {
		c.next, c.news = nil, make(chan struct{})
	}
	return next
}

// isWanted says whether there is a change to be taken over.
func (c *changes) isWanted() bool {
	select {
	case <-c.wanted():
		return true
	default:
		return false
	}
}

// adopt takes over a change, if there is one. There is no connection now.
func (u *Uplink) adopt(out gateway.Outbox) {
	next := u.changes.take()
	if next == nil {
		return
	}
	u.configure(next.cfg)
	u.records, u.earRecords = make(map[string]*record), make(map[string]*record)
	u.tally.update(func(s *State) {
		if m, ok := u.Transport.(Metered); ok {
			u.tally.before = u.tally.before.plus(m.Traffic())
		}
		u.Transport = next.transport
		clear(s.Taken)
		clear(s.Refused)
		clear(s.RefusedUntil)
	})
	if p, ok := out.(Pauser); ok {
		p.EndPauses()
	}
}

// unlessChanged returns a context that ends with ctx, or when a change is to be
// taken over. end must be called.
func (u *Uplink) unlessChanged(ctx context.Context) (_ context.Context, end context.CancelFunc) {
	ctx, end = context.WithCancel(ctx)
	wanted := u.changes.wanted()
	go func() {
		select {
		case <-wanted:
			end()
		case <-ctx.Done():
		}
	}()
	return ctx, end
}
