package amqp

import (
	"context"
	"errors"
	"fmt"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/gateway/hub"
)

// session is shared by a few leaves.
type session struct {
	wire  *goamqp.Session
	links int  // guarded by sessions.busy
	dead  bool // guarded by sessions.busy; no more links on it
}

// sessions gives each leaf a place in a session.
type sessions struct {
	*conn
	busy chan struct{} // a lock that can be waited for with a context
	all  []*session    // guarded by busy
}

// attach opens the telemetry link of a leaf.
func (p *sessions) attach(ctx context.Context, leaf string) (s *session, sender *goamqp.Sender, err error) {
	s, err = p.open(ctx, func(wire *goamqp.Session) error {
		sender, err = wire.NewSender(ctx, hub.TelemetryAddress(p.proofs.Identity(leaf)), &goamqp.SenderOptions{
			SettlementMode: goamqp.SenderSettleModeUnsettled.Ptr(),
			Properties: map[string]any{
				hub.LinkClientVersion: p.about,
				hub.LinkAPIVersion:    hub.APIVersion,
			},
		})
		return err
	})
	return s, sender, err
}

// open has links opened for one leaf in a session that has room. A session that
// turns out to be dead is left behind, once.
func (p *sessions) open(ctx context.Context, links func(*goamqp.Session) error) (*session, error) {
	for again := true; ; again = false {
		s, err := p.take(ctx)
		if err != nil {
			return nil, faultOf(fmt.Errorf("cannot open session: %w", timeout(ctx, err, "session")))
		}
		if err = links(s.wire); err == nil {
			return s, nil
		}
		_, dead := errors.AsType[*goamqp.SessionError](err)
		p.release(s, dead)
		if !dead || !again {
			return nil, faultOf(fmt.Errorf("cannot open link: %w", timeout(ctx, err, "link")))
		}
	}
}

// take returns a session with room, and counts one link on it. Leaves that come
// together wait here for one session to be opened, and share it.
func (p *sessions) take(ctx context.Context) (*session, error) {
	select {
	case p.busy <- struct{}{}:
		defer func() { <-p.busy }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for _, s := range p.all {
		if !s.dead && s.links < p.cfg.LeavesPerSession {
			s.links++
			return s, nil
		}
	}
	wire, err := p.wire.NewSession(ctx, nil)
	if err != nil {
		return nil, err
	}
	s := &session{wire: wire, links: 1}
	p.all = append(p.all, s)
	return s, nil
}

// release takes one link off a session, and says whether the session is dead. The
// last one to leave a dead session takes it off the list.
func (p *sessions) release(s *session, dead bool) {
	p.busy <- struct{}{}
	defer func() { <-p.busy }()
	s.links--
	s.dead = s.dead || dead
	if !s.dead || s.links > 0 {
		return
	}
	for i, other := range p.all {
		if other == s {
			p.all = append(p.all[:i], p.all[i+1:]...)
			return
		}
	}
}
