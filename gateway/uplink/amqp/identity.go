package amqp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/fieldgate/fieldgate/gateway/hub"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// proveIdentity puts a fresh token for the leaf on the connection and returns
// when it expires, by the gateway's clock.
func (c *conn) proveIdentity(ctx context.Context, leaf string) (expiry time.Time, err error) {
	now := c.clock().Wall
	fresh, err := c.admit(leaf, now)
	if err != nil {
		return time.Time{}, err
	}
	expiry = now.Add(c.cfg.TokenTTL.D()).Truncate(time.Second) // as a token says it
	if err := c.putToken(ctx, leaf, expiry); err != nil {
		if fresh {
			c.admitted(leaf, time.Time{})
		}
		return time.Time{}, err
	}
	c.admitted(leaf, expiry)
	return expiry, nil
}

// putToken signs a token and asks the hub to accept it.
func (c *conn) putToken(ctx context.Context, leaf string, expiry time.Time) error {
	token, err := c.tokens.DeviceToken(leaf, expiry)
	if errors.Is(err, identity.ErrNoKey) {
		return &uplink.Fault{Remedy: uplink.Refused, Err: err}
	}
	if err != nil {
		return fmt.Errorf("cannot sign token: %w", err)
	}
	if err := c.cbs.put(ctx, hub.Audience(c.cfg.Host, leaf), token); err != nil {
		return fmt.Errorf("token not accepted: %w", err)
	}
	return nil
}

// keepIdentity renews the leaf's token in place until the link is closed. A
// renewal that fails is tried again until the token expires; then the hub closes
// the link, and that is this leaf's trouble alone.
func (l *link) keepIdentity(expiry time.Time) {
	ctx, cancel := context.WithCancel(l.conn.live)
	l.forget = cancel
	l.conn.background.Go(func() {
		timer := time.NewTimer(renewAfter(expiry.Sub(l.conn.clock().Wall)))
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			next, err := l.renew(ctx, expiry)
			if err != nil {
				if ctx.Err() == nil {
					l.conn.log.Warn("token not renewed", "leaf", l.leaf, "error", err)
				}
				return
			}
			expiry = next
			timer.Reset(renewAfter(expiry.Sub(l.conn.clock().Wall)))
		}
	})
}

// renew puts a new token before the old one expires. It gives up when the hub
// refuses the leaf or time is up.
func (l *link) renew(ctx context.Context, expiry time.Time) (time.Time, error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, l.conn.cfg.Timeout.D())
		next, err := l.conn.proveIdentity(attempt, l.leaf)
		cancel()
		if err == nil {
			return next, nil
		}
		fault, ok := errors.AsType[*uplink.Fault](err)
		left := expiry.Sub(l.conn.clock().Wall)
		if ok && fault.Remedy == uplink.Refused || left <= 0 || ctx.Err() != nil {
			return time.Time{}, err
		}
		// A quarter of what is left, so that it is tried a few times more.
		pause := time.NewTimer(max(left/4, time.Second))
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
