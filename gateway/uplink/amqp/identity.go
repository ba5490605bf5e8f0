package amqp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/identity/enrol"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// errNoTime: a token that is dated by a clock that is not set is refused, and
// then the leaf would wait on the long schedule.
var errNoTime = errors.New("no token without trusted time")

// proveIdentity puts a fresh token for the leaf on the connection and returns
// when it expires, by the gateway's clock. The hub counts identities, of which
// several leaves may share one.
func (c *conn) proveIdentity(ctx context.Context, leaf string) (expiry time.Time, err error) {
	at := c.clock()
	if at.Quality == gateway.Unsynced {
		return time.Time{}, errNoTime
	}
	now := at.Wall
	device := c.proofs.Identity(leaf)
	fresh, err := c.admit(device, now)
	if err != nil {
		return time.Time{}, err
	}
	if expiry, err = c.putToken(ctx, leaf, device, now); err != nil {
		if fresh {
			c.admitted(device, time.Time{})
		}
		return time.Time{}, err
	}
	c.admitted(device, expiry)
	return expiry, nil
}

// putToken gets a token and asks the hub to accept it.
func (c *conn) putToken(ctx context.Context, leaf, device string, now time.Time) (expiry time.Time, err error) {
	token, expiry, err := c.proofs.Token(ctx, leaf, now, now.Add(c.cfg.TokenTTL.D()))
	if err != nil {
		err = fmt.Errorf("no token: %w", err)
		if lasting(err) {
			err = &uplink.Fault{Remedy: uplink.Refused, Err: err}
		}
		return time.Time{}, err
	}
	err = c.cbs.put(ctx, hub.Audience(c.cfg.Host, device), token)
	if f, ok := errors.AsType[*uplink.Fault](err); ok && f.Remedy == uplink.Refused {
		c.proofs.Refused(leaf)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("token not accepted: %w", err)
	}
	return expiry, nil
}

// lasting says that asking again soon changes nothing. A leaf that has to bring a
// fresh token may do so at any time, and the hub is not troubled before it has.
func lasting(err error) bool {
	return errors.Is(err, identity.ErrNoKey) ||
		errors.Is(err, enrol.ErrRefused) || errors.Is(err, enrol.ErrOtherHub)
}

// renewal renews the token of a leaf in place while anybody holds it.
type renewal struct {
	holders int // guarded by conn.mu
	life    context.Context
	stop    context.CancelFunc
}

// holdToken proves the leaf's identity with a fresh token and keeps it proven until
// release is called.
func (c *conn) holdToken(ctx context.Context, leaf string) (release func(), err error) {
	expiry, err := c.proveIdentity(ctx, leaf)
	if err != nil {
		return nil, err
	}
	r, fresh := c.renewal(leaf)
	if fresh {
		c.start(func() { c.keepRenewed(leaf, r, expiry) })
	}
	var once sync.Once
	return func() { once.Do(func() { c.giveUp(leaf, r) }) }, nil
}

// renewal returns the leaf's renewal with one holder more; it is fresh for the first.
func (c *conn) renewal(leaf string) (r *renewal, fresh bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r = c.renewals[leaf]
	if fresh = r == nil; fresh {
		r = new(renewal)
		r.life, r.stop = context.WithCancel(c.live)
		c.renewals[leaf] = r
	}
	r.holders++
	return r, fresh
}

// giveUp ends the renewal with its last holder.
func (c *conn) giveUp(leaf string, r *renewal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.holders--; r.holders > 0 {
		return
	}
	r.stop()
	if c.renewals[leaf] == r {
		delete(c.renewals, leaf)
	}
}

// keepRenewed renews the leaf's token in place until it is stopped. A renewal that
// fails is tried again until the token expires; then the hub closes the links,
// and that is this leaf's trouble alone.
func (c *conn) keepRenewed(leaf string, r *renewal, expiry time.Time) {
	defer c.ended(leaf, r)
	timer := time.NewTimer(renewAfter(expiry.Sub(c.clock().Wall)))
	defer timer.Stop()
	for {
		select {
		case <-r.life.Done():
			return
		case <-timer.C:
		}
		next, err := c.renew(r.life, leaf, expiry)
		if err != nil {
			if r.life.Err() == nil {
				c.log.Warn("token not renewed", "leaf", leaf, "error", err)
			}
			return
		}
		expiry = next
		timer.Reset(renewAfter(expiry.Sub(c.clock().Wall)))
	}
}

// ended lets the next holder begin a renewal anew.
func (c *conn) ended(leaf string, r *renewal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.renewals[leaf] == r {
		delete(c.renewals, leaf)
	}
}

// renew puts a new token before the old one expires. It gives up when the hub
// refuses the leaf or time is up.
func (c *conn) renew(ctx context.Context, leaf string, expiry time.Time) (time.Time, error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, c.cfg.Timeout.D())
		next, err := c.proveIdentity(attempt, leaf)
		cancel()
		if err == nil {
			return next, nil
		}
		fault, ok := errors.AsType[*uplink.Fault](err)
		left := expiry.Sub(c.clock().Wall)
		if ok && fault.Remedy == uplink.Refused || left <= 0 || ctx.Err() != nil {
			return time.Time{}, err
		}
		// A quarter of what is left, so that it is tried a few times more; and of no
		// more than a token's life, should the clock have been set back meanwhile.
		pause := time.NewTimer(max(min(left, c.cfg.TokenTTL.D())/4, time.Second))
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// renewAfter returns when to renew a token that lives for life: between 80 and
// 85 % of it (wire contract, section 1.4: what other devices do), spread so that
// leaves that were opened together do not renew together.
func renewAfter(life time.Duration) time.Duration {
	if life <= 0 {
		return 0
	}
	return life*80/100 + rand.N(life*5/100+1)
}

// Prove is described at uplink.Prover.
func (c *conn) Prove(ctx context.Context, leaf, token string, expiry time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout.D())
	defer cancel()
	fresh, err := c.admit(leaf, c.clock().Wall)
	if err != nil {
		return errors.New(err.Error()) // there is no room: that is no word on the token
	}
	if err := c.cbs.put(ctx, hub.Audience(c.cfg.Host, leaf), token); err != nil {
		if fresh {
			c.admitted(leaf, time.Time{})
		}
		return err
	}
	c.admitted(leaf, expiry)
	return nil
}
