package amqp

import (
	"context"
	"errors"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// ear is what is open at the hub on the way down to one leaf.
type ear struct {
	*conn
	leaf string
	busy chan struct{} // a lock that can be waited for with a context

	// What follows is guarded by busy.
	hold     func() // gives the leaf's identity up; nil while it is not held
	commands *door  // nil: not open
	methods  *door
	twin     *twinLinks
	wants    gateway.Interest
	watch    context.CancelFunc // ends the watch over the doors of now
	used     time.Time          // when the twin was last asked for
}

// ear returns the one of a leaf.
func (c *conn) ear(leaf string) *ear {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.ears[leaf]
	if e == nil {
		e = &ear{conn: c, leaf: leaf, busy: make(chan struct{}, 1)}
		c.ears[leaf] = e
	}
	return e
}

func (e *ear) lock(ctx context.Context) error {
	select {
	case e.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *ear) unlock() { <-e.busy }

// Listen is described at uplink.Listener. A leaf asleep is not there for calls:
// the hub is to say so to its callers at once. A leaf without an identity of its
// own is nobody to whom the hub could send anything.
func (c *conn) Listen(ctx context.Context, leaf string, wants gateway.Interest, to gateway.DownHandler, lost func(error)) error {
	if !c.hasIdentity(leaf) {
		return nil
	}
	if wants.Has(gateway.Asleep) {
		wants &= gateway.WantsCommands
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout.D())
	defer cancel()
	e := c.ear(leaf)
	if err := e.lock(ctx); err != nil {
		return timeout(ctx, err, "way down")
	}
	defer e.unlock()
	if e.watch != nil {
		e.watch()
		e.watch = nil
	}
	if err := e.open(ctx, wants, to); err != nil {
		e.close(ctx, 0)
		return err
	}
	if wants != 0 {
		e.keepWatch(wants, lost)
	}
	return nil
}

// open makes the doors those that are wanted.
func (e *ear) open(ctx context.Context, wants gateway.Interest, to gateway.DownHandler) (err error) {
	e.close(ctx, wants)
	if wants != 0 {
		if err := e.holdIdentity(ctx); err != nil {
			return err
		}
	}
	if wants.Has(gateway.WantsCommands) && e.commands == nil {
		if e.commands, err = e.openCommands(ctx, to); err != nil {
			return err
		}
	}
	if wants.Has(gateway.WantsCalls) && e.methods == nil {
		if e.methods, err = e.openMethods(ctx, to); err != nil {
			return err
		}
	}
	if wants.Has(gateway.WantsDesired) {
		if err := e.openTwin(ctx); err != nil {
			return err
		}
		if err := e.twin.notify(ctx, to); err != nil {
			return err
		}
	}
	e.wants = wants
	return nil
}

// close closes the doors that are not wanted, and those that are lost. A twin
// that was asked for lately stays open; without notifications.
func (e *ear) close(ctx context.Context, wants gateway.Interest) {
	if e.commands != nil && (!wants.Has(gateway.WantsCommands) || e.commands.isLost()) {
		e.commands.close(ctx)
		e.commands = nil
	}
	if e.methods != nil && (!wants.Has(gateway.WantsCalls) || e.methods.isLost()) {
		e.methods.close(ctx)
		e.methods = nil
	}
	if e.twin != nil && (e.twin.isLost() || !wants.Has(gateway.WantsDesired) && (e.twin.notified || time.Since(e.used) > twinIdle)) {
		e.twin.close(ctx)
		e.twin = nil
	}
	e.wants &= wants
	if e.commands == nil && e.methods == nil && e.twin == nil && e.hold != nil {
		e.hold()
		e.hold = nil
	}
}

func (e *ear) holdIdentity(ctx context.Context) (err error) {
	if e.hold == nil {
		e.hold, err = e.holdToken(ctx, e.leaf)
	}
	return err
}

// keepWatch tells when one of the doors is lost.
func (e *ear) keepWatch(wants gateway.Interest, lost func(error)) {
	ctx, cancel := context.WithCancel(e.live)
	e.watch = cancel
	doors := []*door{e.commands, e.methods, nil}
	if e.twin != nil && wants.Has(gateway.WantsDesired) {
		doors[2] = e.twin.door
	}
	for _, d := range doors {
		if d == nil {
			continue
		}
		e.start(func() {
			select {
			case <-d.lost:
				if ctx.Err() == nil {
					lost(again(d.fault()))
				}
			case <-ctx.Done():
			}
		})
	}
}

// again turns the refusal of an identity on an open link into another try: the
// hub may only have seen the token expire (wire contract, section 3.11).
func again(err error) error {
	if f, ok := errors.AsType[*uplink.Fault](err); ok && f.Remedy == uplink.Refused {
		return &uplink.Fault{Remedy: uplink.Again, Err: err}
	}
	return err
}

// twinIdle is how long a twin that nobody listens to stays open after a request.
const twinIdle = time.Minute

// sweepEars closes twins that have not been used for a while.
func (c *conn) sweepEars() {
	tick := time.NewTicker(twinIdle / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.live.Done():
			return
		}
		c.mu.Lock()
		all := make([]*ear, 0, len(c.ears))
		for _, e := range c.ears {
			all = append(all, e)
		}
		c.mu.Unlock()
		for _, e := range all {
			if e.lock(c.live) != nil {
				return
			}
			e.close(c.live, e.wants)
			e.unlock()
		}
	}
}
