package main

import (
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// state is what the gateway says of itself: the one struct behind every view of
// it. The JSON names are stable. Counters count from the start of the daemon;
// times that are not known are left out.
type state struct {
	Name    string       `json:"name"`
	Build   build        `json:"build"`
	Now     time.Time    `json:"now"`
	Clock   string       `json:"clock"` // unsynced, estimated or synced
	Started time.Time    `json:"started"`
	Uplink  uplinkState  `json:"uplink"`
	Store   storeState   `json:"store"`
	Path    pathState    `json:"messages"`
	Leaves  leafState    `json:"leaves"`
	Memory  memoryState  `json:"memory"`
	Machine machineState `json:"machine"`
	// Drivers are the ways to leaves beside the broker, in the order of the
	// configuration.
	Drivers []driverState `json:"drivers"`
	Board   boardState    `json:"board"`
}

type uplinkState struct {
	Hub          string               `json:"hub"`
	Transport    string               `json:"transport,omitempty"`        // of the connection, or of the last one
	Reason       string               `json:"transport_reason,omitempty"` // why that one, where it is not the best
	Connected    bool                 `json:"connected"`
	Since        time.Time            `json:"since"`
	Waiting      string               `json:"waiting,omitempty"`
	Attempts     int                  `json:"attempts"`
	RetryAt      time.Time            `json:"retry_at,omitzero"`
	LastError    string               `json:"last_error,omitempty"`
	ClosedUntil  time.Time            `json:"closed_until,omitzero"` // the hub has asked to wait
	LastAccepted time.Time            `json:"last_accepted,omitzero"`
	Watchdog     string               `json:"watchdog,omitempty"` // widest thing given up since then
	GaveUp       map[string]int64     `json:"gave_up"`            // by rung of the watchdog's ladder
	Links        int                  `json:"links"`
	Inflight     int                  `json:"inflight"`
	Refused      map[string]string    `json:"refused"`       // leaves that the hub does not take, and why
	RefusedUntil map[string]time.Time `json:"refused_until"` // and when it is asked again
	Bytes        map[string]int64     `json:"bytes"`         // by cause, as fieldgate_uplink_bytes_total
}

type storeState struct {
	Lanes        map[string]laneState `json:"lanes"`
	BytesOnDisk  int64                `json:"bytes_on_disk"`
	BytesWritten int64                `json:"bytes_written"`
	Failing      string               `json:"failing,omitempty"`
	DeadLetters  int                  `json:"dead_letters"`
	WrittenToday int64                `json:"bytes_written_last_day"`
	BufferLeft   *float64             `json:"buffer_left_seconds"` // null: unknown
	DrainTime    *float64             `json:"drain_seconds"`       // null: unknown
}

type laneState struct {
	Messages      int     `json:"messages"`
	Bytes         int64   `json:"bytes"`
	LimitBytes    int64   `json:"limit_bytes"`
	OldestSeconds float64 `json:"oldest_age_seconds"`
}

type pathState struct {
	Taken        map[string]int64 `json:"taken"` // by lane
	Sent         map[string]int64 `json:"sent"`  // by lane
	Rejected     map[string]int64 `json:"rejected"`
	Dropped      map[string]int64 `json:"dropped"`
	TakenPayload int64            `json:"taken_payload_bytes"`
	Replayed     int64            `json:"replayed"`
	StagedBytes  int64            `json:"staged_bytes"`
}

type leafState struct {
	Connected int      `json:"connected"` // over MQTT
	Parked    []string `json:"parked"`    // wait on flash because the hub refuses or stalls them
}

type driverState struct {
	Name      string           `json:"name"`
	Kind      string           `json:"kind"`
	Up        bool             `json:"up"`
	Error     string           `json:"error,omitempty"` // why it is not
	Device    string           `json:"device,omitempty"`
	Since     time.Time        `json:"since,omitzero"`
	Ups       int64            `json:"ups"`       // how often it came up
	Taken     map[string]int64 `json:"taken"`     // by lane
	Discarded map[string]int64 `json:"discarded"` // by reason
	Counts    map[string]int64 `json:"counts"`    // by event
	Leaves    []peerState      `json:"leaves,omitempty"`
	Note      string           `json:"note,omitempty"` // what is not as it should be
	Strangers []strangerState  `json:"strangers,omitempty"`
}

// strangerState is something that a driver sees and that is no leaf.
type strangerState struct {
	Address string    `json:"address"`
	Name    string    `json:"name,omitempty"`
	What    string    `json:"what,omitempty"`
	RSSI    int       `json:"rssi,omitempty"`
	Count   int64     `json:"count"`
	Seen    time.Time `json:"seen"`
}

type peerState struct {
	Leaf  string    `json:"leaf"`
	Up    bool      `json:"up"`
	Error string    `json:"error,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// state takes a snapshot of all parts.
func (c *collector) state() state {
	now, path := c.clock(), c.path()
	return state{
		Name: c.name, Build: c.build, Now: now.Wall.UTC(), Clock: now.Quality.String(), Started: c.started.UTC(),
		Uplink: c.uplinkState(),
		Store:  storeStateOf(path, now),
		Path:   pathStateOf(path),
		Memory: c.memory.state(c.connected()), Machine: machineOf(c.dataDir),
		Leaves: leafState{Connected: len(c.broker().Leaves), Parked: append([]string{}, path.Parked...)},

		Drivers: c.driverStates(),
		Board:   boardStateOf(c.board()),
	}
}

func (c *collector) driverStates() []driverState {
	list := make([]driverState, 0, len(c.drivers))
	for _, state := range c.drivers {
		s := state()
		d := driverState{
			Name: s.Name, Kind: s.Kind, Up: s.Up, Device: s.Device, Since: s.Since.UTC(), Ups: s.Ups,
			Taken: make(map[string]int64), Discarded: s.Discarded, Counts: s.Counts,
		}
		if s.Err != nil {
			d.Error = s.Err.Error()
		}
		d.Note = s.Note
		for _, x := range s.Strangers {
			d.Strangers = append(d.Strangers, strangerState{x.Address, x.Name, x.What, x.Signal, x.Count, x.Seen.UTC()})
		}
		for lane, n := range s.Taken {
			d.Taken[gateway.LaneNames[lane]] = n
		}
		for _, p := range s.Peers {
			d.Leaves = append(d.Leaves, peerState{p.Leaf, p.Up, p.Err, p.Since.UTC()})
		}
		list = append(list, d)
	}
	return list
}

// connected counts the leaves that are connected, on all ways.
func (c *collector) connected() int {
	n := len(c.broker().Leaves)
	for _, state := range c.drivers {
		n += state().Leaves
	}
	return n
}

func (c *collector) uplinkState() uplinkState {
	s := c.uplink()
	u := uplinkState{
		Hub: c.hub, Transport: s.Transport, Reason: s.Reason,
		Connected: s.Connected, Since: s.Since.UTC(), Waiting: s.Waiting, Attempts: s.Attempts, RetryAt: s.RetryAt,
		LastError: s.LastError, ClosedUntil: s.ClosedUntil, LastAccepted: s.LastAccepted, Watchdog: string(s.Rung),
		GaveUp: make(map[string]int64), Links: s.Links, Inflight: s.Inflight, Refused: s.Refused, RefusedUntil: s.RefusedUntil,
		Bytes: bytesByCause(s.Bytes),
	}
	for rung, n := range s.Climbed {
		u.GaveUp[string(rung)] = n
	}
	return u
}

func storeStateOf(path gateway.State, now gateway.Instant) storeState {
	s := path.Store
	out := storeState{
		Lanes: make(map[string]laneState), BytesOnDisk: s.BytesOnDisk, BytesWritten: s.BytesWritten, DeadLetters: s.DeadLetters,
	}
	out.WrittenToday = path.Forecast.WrittenLastDay
	out.BufferLeft, out.DrainTime = seconds(path.Forecast.BufferLeft), seconds(path.Forecast.DrainTime)
	if s.Failing != nil {
		out.Failing = s.Failing.Error()
	}
	for i, l := range s.Lanes {
		out.Lanes[gateway.LaneNames[i]] = laneState{l.Messages, l.Bytes, l.Limit, age(l.Oldest, now).Seconds()}
	}
	return out
}

// seconds returns nil for what is not known.
func seconds(d *time.Duration) *float64 {
	if d == nil {
		return nil
	}
	s := d.Seconds()
	return &s
}

func pathStateOf(s gateway.State) pathState {
	p := pathState{
		Taken: make(map[string]int64), Sent: make(map[string]int64), Rejected: s.Rejected,
		Dropped: make(map[string]int64), Replayed: s.Replayed, TakenPayload: s.TakenPayload, StagedBytes: s.StagedBytes,
	}
	for i, name := range gateway.LaneNames {
		p.Taken[name], p.Sent[name] = s.Taken[i], s.Sent[i]
	}
	for why, n := range s.Dropped {
		p.Dropped[string(why)] = n
	}
	return p
}
