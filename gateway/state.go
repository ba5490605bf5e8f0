package gateway

import (
	"maps"
	"time"
)

// counts are what State reports, guarded by Path.mu. The zero value is not
// ready: see the maps.
type counts struct {
	taken [Lanes]int64

	takenBytes   [Lanes]int64 // sizes as bounds count them
	takenPayload int64        // bytes of bodies
	sent         [Lanes]int64
	rejected     map[string]int64
	dropped      map[DropReason]int64
	replayed     int64
}

// State is a snapshot of the path for status and metrics. It shares no memory
// with the path.
type State struct {
	Taken        [Lanes]int64         // messages taken into custody since start, by lane
	TakenPayload int64                // bytes of their bodies
	Sent         [Lanes]int64         // settled by the hub since start, by lane
	Rejected     map[string]int64     // not taken, so not acknowledged: by reason (full, failed, oversize, leaf, shutdown, other)
	Dropped      map[DropReason]int64 // by the path and the store, since start
	Replayed     int64                // dead letters put back into their lanes, since start
	LinkUp       bool                 // the uplink takes messages
	StagedBytes  int64                // messages held in memory at the moment
	Leaves       int                  // leaves that have sent something since start
	Parked       []string             // leaves that wait on flash because the hub refuses or stalls them
	Looked       time.Time            // when the path last looked at what is due: while it runs, no more than LookEvery ago
	Store        StoreState
	Forecast     Forecast
}

// State takes a snapshot. Safe for concurrent use.
func (p *Path) State() State {
	store := p.store.State()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := State{
		Taken: p.counts.taken, Sent: p.counts.sent,
		Rejected: maps.Clone(p.counts.rejected), Dropped: maps.Clone(p.counts.dropped),
		TakenPayload: p.counts.takenPayload, Replayed: p.counts.replayed, LinkUp: p.linkUp, StagedBytes: p.held, Leaves: len(p.senders), Looked: p.looked, Store: store,
	}
	s.Forecast = p.forecasts.forecast(p.sampleLocked(time.Now(), store), store)
	for _, l := range store.Lanes {
		for why, n := range l.Dropped {
			s.Dropped[why] += n
		}
	}
	for id, x := range p.senders {
		if x.parked {
			s.Parked = append(s.Parked, id)
		}
	}
	return s
}

// proofBytes is room for the properties that the gateway adds on the way to the
// hub: lane, numbers and times.
const proofBytes = 256

// hubSize is what the hub counts: body, values of system properties, names and
// values of application properties (wire contract, section 6.2).
func (m *Message) hubSize() int {
	s := &m.System
	n := proofBytes + len(m.Body) + len(s.MessageID) + len(s.CorrelationID) + len(s.UserID) + len(s.ContentType) +
		len(s.ContentEncoding) + len(s.CreationTime) + len(s.OutputName) + len(s.Schema) +
		len(s.InterfaceID) + len(s.Component)
	for _, p := range m.Properties {
		n += len(p.Name) + len(p.Value)
	}
	return n
}
