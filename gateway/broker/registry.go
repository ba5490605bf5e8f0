package broker

import (
	"context"
	"log/slog"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fieldgate/fieldgate/gateway"
)

// enter counts a new connection in, if the bounds allow it. One address may
// have only a quarter of all connections waiting for their login, so that it
// cannot keep the leaves of others out.
func (b *Broker) enter(s *session) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	strangers := max(1, b.cfg.Load().MaxConnections/4)
	if b.closing || len(b.conns) >= b.cfg.Load().MaxConnections || b.waiting[s.source] >= strangers {
		return false
	}
	b.conns[s] = struct{}{}
	b.waiting[s.source]++
	return true
}

// strangerLeftLocked ends the wait for a login.
func (b *Broker) strangerLeftLocked(s *session) {
	if b.waiting[s.source]--; b.waiting[s.source] == 0 {
		delete(b.waiting, s.source)
	}
}

// admit makes a session the leaf's. A former connection of the same session is
// closed: whoever proves to be the leaf may.
func (b *Broker) admit(s *session, leaf string) *refusal {
	former, refused := b.register(s, leaf)
	if refused != nil {
		return refused
	}
	s.desk = b.desk(leaf)
	s.present = s.desk.open(s)
	if former != nil {
		former.stop(packets.ErrSessionTakenOver, "another connection has taken its place")
	}
	b.log.Info("leaf connected", "event", "leaf-connected", "transport", "mqtt", "leaf", leaf, "source", s.source, "version", int(s.version()))
	return nil
}

// register enters an admitted session and returns the one it replaces, or nil.
func (b *Broker) register(s *session, leaf string) (former *session, refused *refusal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := s.id
	if id == "" { // mochi has made one up
		id = s.client.ID
	}
	former = b.sessions[id]
	if b.closing || former == nil && b.turnLocked(leaf).sessions >= b.cfg.Load().MaxConnectionsPerLeaf {
		return nil, refuseBusy
	}
	s.id, s.leaf, s.turn, s.inbox = id, leaf, b.turnLocked(leaf), b.inboxes[id]
	if s.inbox == nil {
		s.inbox = newInbox(b.cfg.Load().MaxInflightMessages)
		b.inboxes[id] = s.inbox
	}
	s.inbox.take(s)
	s.turn.sessions++
	b.sessions[id] = s
	b.strangerLeftLocked(s)
	delete(b.wills, id)
	return former, nil
}

// current says whether a connection is the newest of its session. It may be called
// with the lock of a desk held; nobody takes that with b.mu held.
func (b *Broker) current(s *session) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sessions[s.id] == s
}

// turnLocked returns the turn of a leaf; whoever counts on it counts itself in
// before the lock is released.
func (b *Broker) turnLocked(leaf string) *turn {
	t := b.turns[leaf]
	if t == nil {
		t = &turn{token: make(chan struct{}, 1)}
		b.turns[leaf] = t
	}
	return t
}

// dropTurnLocked forgets a turn that nobody counts on.
func (b *Broker) dropTurnLocked(leaf string) {
	if t := b.turns[leaf]; t.sessions == 0 && t.guests == 0 {
		delete(b.turns, leaf)
	}
}

// leave counts a connection out.
func (b *Broker) leave(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, s)
	if s.leaf == "" {
		b.strangerLeftLocked(s)
		b.guestLeftLocked(s)
		return
	}
	s.inbox.release(s)
	if b.sessions[s.id] == s {
		delete(b.sessions, s.id)
	}
	s.turn.sessions--
	b.dropTurnLocked(s.leaf)
}

// sweep does once a second what is due: it ends the connections of leaves that
// are no longer admitted or whose token has expired, sends delayed wills, and
// forgets inboxes.
func (b *Broker) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			b.endExpired()
			b.sendDueWills(ctx, now)
			b.dropInboxes()
			b.expireSessions(now)
			b.notices.sweep(now)
		case <-ctx.Done():
			return
		}
	}
}

// endExpired closes what may not stay. MQTT has no renewal of a token within a
// connection, so stock SDKs come back with a new one (wire contract, section
// 1.4).
func (b *Broker) endExpired() {
	now := b.clock()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.sessions {
		switch expired := !s.expiry.IsZero() && now.Quality != gateway.Unsynced && !now.Wall.Before(s.expiry); {
		case expired:
			b.running.Go(func() { s.stop(packets.ErrNotAuthorized, "its token has expired") })
		case !b.table.Known(s.leaf):
			b.running.Go(func() { s.stop(packets.ErrNotAuthorized, "it is admitted no more, or was disabled") })
		}
	}
}

// expireSessions forgets sessions that have been away for too long.
func (b *Broker) expireSessions(now time.Time) {
	for _, d := range b.allDesks() {
		d.expire(now)
	}
}

// dropInboxes forgets what nobody waits for: inboxes without connection that
// are empty, and of the others as many as there are more than connections
// allowed.
func (b *Broker) dropInboxes() {
	b.mu.Lock()
	defer b.mu.Unlock()
	spare := b.cfg.Load().MaxConnections
	for id, in := range b.inboxes {
		orphan, empty := in.idle()
		if !orphan || b.sessions[id] != nil {
			continue
		}
		if spare--; empty || spare < 0 {
			delete(b.inboxes, id)
		}
	}
}

// sendWill sends the will of a connection that has ended without a goodbye, or
// lets it wait where the leaf asked for that. A gateway that stops sends no
// wills, not even those that wait: it is not the leaves that vanished.
func (b *Broker) sendWill(ctx context.Context, s *session) {
	b.mu.Lock()
	now := s.willIn == 0 && !b.closing
	if s.willIn > 0 && b.sessions[s.id] == nil {
		b.wills[s.id] = delayedWill{s.will, time.Now().Add(s.willIn)}
	}
	b.mu.Unlock()
	if now {
		b.handWill(ctx, s.will)
	}
}

func (b *Broker) sendDueWills(ctx context.Context, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, w := range b.wills {
		if now.Before(w.due) {
			continue
		}
		delete(b.wills, id)
		b.running.Go(func() { b.handWill(ctx, w.m) })
	}
}

// handWill hands a will to the path, between the leaf's other messages.
func (b *Broker) handWill(ctx context.Context, m *gateway.Message) {
	t := b.borrowTurn(m.Leaf)
	defer b.returnTurn(m.Leaf)
	if t.take(ctx) {
		b.counters.count(func(s *State) { s.Wills++ })
		b.up.Handle(ctx, m, func(err error) { b.settleWill(m, err) })
		t.give()
	}
}

// borrowTurn returns the turn of a leaf to somebody who is not its session, until
// returnTurn.
func (b *Broker) borrowTurn(leaf string) *turn {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.turnLocked(leaf)
	t.guests++
	return t
}

func (b *Broker) returnTurn(leaf string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turns[leaf].guests--
	b.dropTurnLocked(leaf)
}

func (b *Broker) settleWill(m *gateway.Message, err error) {
	if err == nil {
		return
	}
	b.counters.refuse(refuseReason(err))
	b.notices.warn(m.Leaf, "will not taken", slog.String("leaf", m.Leaf), slog.Any("reason", err))
}
