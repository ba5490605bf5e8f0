package uplink

import (
	"context"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Prover is a Conn on which a token of a leaf, which it may have brought itself, can be
// shown to the hub. Safe for concurrent use.
type Prover interface {
	// Prove returns nil when the hub accepts the token, which expires then, for
	// the leaf, and a *Fault with Refused when the hub says no.
	Prove(ctx context.Context, leaf, token string, expiry time.Time) error
}

// Prove asks the hub whether it accepts a token of the leaf. An error
// says that it could not be asked.
func (u *Uplink) Prove(ctx context.Context, leaf, token string, expiry time.Time) (accepted bool, err error) {
	conn := u.current.Load()
	if conn == nil {
		return false, gateway.ErrLinkDown
	}
	hub, ok := (*conn).(Prover)
	if !ok {
		return false, gateway.ErrLinkDown
	}
	err = hub.Prove(ctx, leaf, token, expiry)
	if remedyOf(err) == Refused {
		return false, nil
	}
	if err == nil {
		u.tally.proven(leaf)
	}
	return err == nil, err
}
