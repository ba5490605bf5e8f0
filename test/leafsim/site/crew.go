package site

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fieldgate/fieldgate/test/leafsim"
)

// Crew is a number of leaves that run together.
type Crew struct {
	leaves []*leafsim.Leaf
	group  *errgroup.Group
	cancel context.CancelFunc
}

// Launch starts leaves of the site, all with the same options. They run until
// Finish or until ctx ends.
func (s *Site) Launch(ctx context.Context, devices []Device, o leafsim.Options) (*Crew, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &Crew{cancel: cancel}
	for _, d := range devices {
		if d.Kind == Modbus || d.Kind == BTHome || d.Kind == Valve { // it is on its bus already
			continue
		}
		l, err := s.Leaf(d, o)
		if err != nil {
			cancel()
			return nil, err
		}
		c.leaves = append(c.leaves, l)
	}
	c.group, ctx = errgroup.WithContext(ctx)
	for _, l := range c.leaves {
		c.group.Go(func() error {
			if err := l.Run(ctx); err != nil {
				return fmt.Errorf("leaf %s: %w", l.ID(), err)
			}
			return nil
		})
	}
	return c, nil
}

// Stats is the sum over the leaves; Connected says whether all are.
func (c *Crew) Stats() (sum leafsim.Stats) {
	sum.Connected = true
	for _, l := range c.leaves {
		s := l.Stats()
		sum.Made += s.Made
		sum.Resent += s.Resent
		sum.Acked += s.Acked
		sum.Connects += s.Connects
		sum.Failures += s.Failures
		sum.Connected = sum.Connected && s.Connected
	}
	return sum
}

// Send has each leaf, if it is silent, send n more messages.
func (c *Crew) Send(n uint64) {
	for _, l := range c.leaves {
		l.Send(n)
	}
}

// Leaves are the leaves of the crew.
func (c *Crew) Leaves() []*leafsim.Leaf { return c.leaves }

// Finish lets the leaves finish what is under way and waits for them. The error
// is the first of theirs; ctx bounds the wait, and the error then says who
// still waits for an acknowledgement.
func (c *Crew) Finish(ctx context.Context) error {
	for _, l := range c.leaves {
		l.Stop()
	}
	defer context.AfterFunc(ctx, c.cancel)()
	err := c.group.Wait()
	c.cancel()
	if err != nil && ctx.Err() != nil {
		return errors.Join(append(c.waiting(), ctx.Err())...)
	}
	return err
}

// waiting says for each leaf that has unacknowledged messages how many.
func (c *Crew) waiting() (errs []error) {
	for _, l := range c.leaves {
		if s := l.Stats(); s.Acked < s.Made {
			errs = append(errs, fmt.Errorf("leaf %s still waits for %d acknowledgements, its last error: %v", l.ID(), s.Made-s.Acked, l.LastError()))
		}
	}
	return errs
}

// Abandon ends the leaves at once, as if their power was cut.
func (c *Crew) Abandon() {
	c.cancel()
	_ = c.group.Wait() // that they were cancelled is no news
}

// Await asks every few milliseconds whether a condition is met, until it is or
// ctx ends. what names the condition in the error. A gateway that ends
// meanwhile is an error too.
func (s *Site) Await(ctx context.Context, what string, met func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %s: %w", what, ctx.Err())
		case <-s.hubsim.Done():
			return fmt.Errorf("while waiting for %s: hubsim ended, see %s", what, s.hubsim.log)
		case <-s.gatewayDone():
			return fmt.Errorf("while waiting for %s: fieldgate ended with exit code %d, see %s", what, s.gateway.ExitCode(), s.gateway.log)
		case <-tick.C:
		}
	}
	return nil
}

// gatewayDone is closed when the gateway has ended; nil, for never, when there
// is none.
func (s *Site) gatewayDone() <-chan struct{} {
	if s.gateway == nil {
		return nil
	}
	return s.gateway.Done()
}

// AwaitArrival waits until everything acknowledged so far has arrived at the
// hub. What is then missing, or otherwise wrong, is in the report. It must not
// be used while leaves send.
func (s *Site) AwaitArrival(ctx context.Context) error {
	acks, err := leafsim.ReadAcks(s.AckFile())
	if err != nil {
		return err
	}
	type message struct {
		leaf, lane string
		n          uint64
	}
	missing := make(map[message]bool, len(acks))
	for _, a := range acks {
		missing[message{a.Leaf, a.Lane, a.N}] = true
	}
	seen := 0
	return s.Await(ctx, "everything acknowledged to arrive", func() bool {
		list := s.Arrivals()
		for _, a := range list[seen:] {
			if b, err := leafsim.ParseBody(a.Body); err == nil {
				delete(missing, message{b.Leaf, b.Lane, b.N})
			}
		}
		seen = len(list)
		return len(missing) == 0
	})
}
