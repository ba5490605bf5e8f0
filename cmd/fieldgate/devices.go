package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/broker"
	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/twin"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// devices is the leaves as local callers reach them, and all that is known of each.
type devices struct {
	roster *roster
	down   *gateway.Down
	twins  *twin.Twins
	proofs *identity.Proofs
	broker func() broker.State
	uplink func() uplink.State
	path   func() gateway.State
	clock  gateway.Clock
	peers  func() map[string]bool // of drivers: who answers
	seen   *sightings
	fleet  *fleet
	recent *recent
	files  leafFiles

	changes  *applier
	changing sync.Mutex // held while leaves are admitted or changed, here and on flash
}

var _ control.Devices = (*devices)(nil)

// States of a leaf.
const (
	isConnected = "connected"
	isAsleep    = "asleep" // away, and wants what comes meanwhile
	isAway      = "away"
	isDisabled  = "disabled"
)

// Devices is described at control.Devices.
func (d *devices) Devices() []control.Device {
	mqtt, hub, wants, peers := d.broker(), d.uplink(), d.down.Wants(), d.peers()
	parked := make(map[string]bool)
	for _, leaf := range d.path().Parked {
		parked[leaf] = true
	}
	now := d.clock().Wall
	leaves, sendsOnly := d.roster.all(), d.fleet.sendsOnly()
	all := make([]control.Device, 0, len(leaves))
	for _, l := range leaves {
		x := control.Device{
			ID: l.ID, State: isAway, Connections: mqtt.Leaves[l.ID], Auth: string(d.proofs.Auth(l.ID)),
			Listens: listens(wants[l.ID]), Refused: hub.Refused[l.ID], RetryAt: hub.RefusedUntil[l.ID], Parked: parked[l.ID],
			LastSeen: later(mqtt.Seen[l.ID], d.seen.last(l.ID)), Hub: hubSays(&hub, d.proofs.Waits(l.ID, now), l.ID),
		}
		awake := wants[l.ID] != 0 && !wants[l.ID].Has(gateway.Asleep)
		switch {
		case l.Disabled:
			x.State = isDisabled
		case x.Connections > 0 || awake:
			x.State, x.LastSeen = isConnected, time.Now()
		case peers[l.ID]: // that it would be missed if it were gone is not sure: it says when it wants to
			x.State = isConnected
		case wants[l.ID] != 0:
			x.State = isAsleep
		}
		if wants[l.ID] == 0 && x.Connections == 0 {
			x.SendsOnly = sendsOnly[l.ID]
		}
		x.LastSeen = x.LastSeen.UTC()
		all = append(all, x)
	}
	return all
}

// hubSays is the hub's last word on a leaf.
func hubSays(hub *uplink.State, waits identity.Wait, leaf string) string {
	switch _, refused := hub.Refused[leaf]; {
	case refused:
		return control.HubRefuses
	case waits == identity.WaitToken:
		return control.HubAwaitsToken
	case hub.Taken[leaf]:
		return control.HubTakes
	case waits == identity.WaitEnrolment:
		return control.HubEnrols
	}
	return control.HubUnasked
}

// listens spells what a leaf has asked for.
func listens(wants gateway.Interest) []string {
	names := []string{}
	for _, w := range []struct {
		what gateway.Interest
		name string
	}{{gateway.WantsCommands, "commands"}, {gateway.WantsCalls, "methods"}, {gateway.WantsDesired, "desired"}} {
		if wants.Has(w.what) {
			names = append(names, w.name)
		}
	}
	return names
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Call is described at control.Devices.
func (d *devices) Call(ctx context.Context, c *gateway.Call) (*gateway.Reply, error) {
	return d.down.Call(ctx, c)
}

// Send is described at control.Devices.
func (d *devices) Send(ctx context.Context, c *gateway.Command) (gateway.Verdict, error) {
	return d.down.Send(ctx, c)
}

// Messages is described at control.Devices.
func (d *devices) Messages(leaf string) []control.Passage { return d.recent.of(leaf) }

// Look is described at control.Devices.
func (d *devices) Look(ctx context.Context, leaf string) ([]byte, time.Duration, error) {
	return d.twins.Look(ctx, leaf)
}

// sightings is when leaves of drivers were last heard of. The zero value is ready.
// Safe for concurrent use.
type sightings struct{ times sync.Map } // by leaf: *atomic.Int64, Unix nanoseconds

func (s *sightings) note(leaf string) {
	at, ok := s.times.Load(leaf)
	if !ok {
		at, _ = s.times.LoadOrStore(leaf, new(atomic.Int64))
	}
	at.(*atomic.Int64).Store(time.Now().UnixNano())
}

// last is the zero time for a leaf that was never heard of.
func (s *sightings) last(leaf string) time.Time {
	at, ok := s.times.Load(leaf)
	if !ok {
		return time.Time{}
	}
	return time.Unix(0, at.(*atomic.Int64).Load())
}

// watch notes who is heard of on a driver's ways.
func (s *sightings) watch(w gateway.Ways) gateway.Ways {
	up, attendance, known := w.Up, w.Attendance, w.Leaves
	w.Up = gateway.HandlerFunc(func(ctx context.Context, m *gateway.Message, done gateway.Done) {
		if known.Known(m.Leaf) { // else strangers would fill the memory
			s.note(m.Leaf)
		}
		up.Handle(ctx, m, done)
	})
	w.Attendance = attended(func(leaf string, way gateway.Reach, wants gateway.Interest) {
		s.note(leaf)
		attendance.Attend(leaf, way, wants)
	})
	return w
}

// attended makes a function an Attendance.
type attended func(leaf string, way gateway.Reach, wants gateway.Interest)

// Attend calls f.
func (f attended) Attend(leaf string, way gateway.Reach, wants gateway.Interest) { f(leaf, way, wants) }
