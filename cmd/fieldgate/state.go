package main

import (
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/board"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/broker"
	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/twin"
	"github.com/fieldgate/fieldgate/gateway/uplink"
	"github.com/fieldgate/fieldgate/gateway/upload"
)

// state is what the gateway says of itself: the one struct behind every view of
// it, which are status, top, status --output json, the metrics, what is said on the
// local broker, and the gateway's own reported twin. The JSON names are stable.
// Counters count from the start of the daemon; times that are not known are left out.
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
	// Ways counts by transport: "mqtt", or a kind of driver.
	Ways  map[string]wayState `json:"ways"`
	Down  downState           `json:"down"`
	Files filesState          `json:"files"`
	// Certificates says when each expires, by its place in the configuration; "hub" is
	// what the hub showed last.
	Certificates map[string]time.Time `json:"certificates"`
	ClockOffset  *float64             `json:"clock_offset_seconds"` // null: nothing disciplines the clock
	Goroutines   int                  `json:"goroutines"`
	Update       *updateState         `json:"update,omitempty"` // null: none was ever installed, or this machine has no slots
}

// wayState is one transport on which leaves are reached, all its drivers together.
type wayState struct {
	Connected int              `json:"connected"`
	Logins    map[string]int64 `json:"logins"`   // by result
	Received  map[string]int64 `json:"received"` // by lane, and "will"
	Discarded map[string]int64 `json:"discarded"`
	Events    map[string]int64 `json:"events,omitempty"`
}

// downState is what went to leaves, and what they asked for.
type downState struct {
	Commands      map[string]int64 `json:"commands"`     // by the leaf's word
	Calls         map[string]int64 `json:"method_calls"` // by their end
	TwinReads     int64            `json:"twin_reads"`
	FromCopy      int64            `json:"twin_reads_offline"`
	Reports       int64            `json:"twin_reports"`
	Kept          int64            `json:"twin_reports_kept"`
	Lost          int64            `json:"twin_reports_lost"`
	Desired       int64            `json:"twin_desired"`
	Missed        int64            `json:"twin_desired_missed"`
	WaitingLeaves int              `json:"twin_waiting_leaves"`
	Asleep        int              `json:"sessions_asleep"`
}

type filesState struct {
	Parts      int64 `json:"parts"`
	Sent       int64 `json:"sent"`
	SentBytes  int64 `json:"sent_bytes"`
	Dropped    int64 `json:"dropped"`
	Waiting    int   `json:"waiting"`
	Unfinished int   `json:"unfinished"`
	Bytes      int64 `json:"bytes"`
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
	Connects     map[string]int64     `json:"connects"`      // by result
	Offline      float64              `json:"offline_seconds"`
	Throttled    int64                `json:"throttled"`
	OwnRefused   string               `json:"own_refused,omitempty"` // why the hub does not take the gateway's own device
}

type storeState struct {
	Lanes        map[string]laneState `json:"lanes"`
	BytesOnDisk  int64                `json:"bytes_on_disk"`
	BytesWritten int64                `json:"bytes_written"`
	Failing      string               `json:"failing,omitempty"`
	DeadLetters  int                  `json:"dead_letters"`
	WrittenToday int64                `json:"bytes_written_last_day"`
	Commits      int64                `json:"commits"`
	Errors       int64                `json:"errors"`
	Hindered     string               `json:"hindered,omitempty"`
	LostMessages int64                `json:"damaged_messages"`
	LostCommits  int64                `json:"damaged_commits"`
	LostMeta     int64                `json:"damaged_meta"`
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
	Admitted  int      `json:"admitted"`  // by the configuration
	Present   int      `json:"present"`   // connected, on all ways
	Waiting   int      `json:"waiting"`   // how many are parked
	Refused   int      `json:"refused"`   // how many of these the hub does not take
	Away      int      `json:"away"`      // how many of these are not there, or can send nothing to the hub yet
	Unknown   []string `json:"unknown"`   // of which messages wait, and that are not admitted
	Taken     int      `json:"taken"`     // how many it takes, by its last word
	Unasked   int      `json:"unasked"`   // how many it was not asked about yet
	Enrolling int      `json:"enrolling"` // how many are to be enrolled first
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
	now, path, broker, link := c.clock(), c.path(), c.broker(), c.uplink()
	drivers, gone := c.drivers()
	counted := slices.Concat(drivers, gone)
	s := state{
		Name: c.name, Build: c.build, Now: now.Wall.UTC(), Clock: now.Quality.String(), Started: c.started.UTC(),
		Uplink: uplinkStateOf(c.hub, link),
		Store:  storeStateOf(path, now),
		Path:   pathStateOf(path),
		Leaves: leafState{
			Connected: len(broker.Leaves), Parked: append([]string{}, path.Parked...),
			Waiting: len(path.Parked), Unknown: []string{},
		},
		Machine: machineOf(c.dataDir),
		Drivers: driverStatesOf(drivers), Board: boardStateOf(c.board()),
		Ways: waysOf(broker, counted), Down: downStateOf(broker, counted, c.twins()), Files: filesStateOf(broker, c.files()),
		Certificates: make(map[string]time.Time), Goroutines: runtime.NumGoroutine(), Update: c.updates(),
	}
	s.Leaves.countAway(c.devices(), s.Now)
	for _, leaf := range path.Parked {
		if !c.admitted(leaf) && s.stored() > 0 { // the path learns later that nothing is left
			s.Leaves.Unknown = append(s.Leaves.Unknown, leaf)
		}
	}
	slices.Sort(s.Leaves.Unknown)
	s.Uplink.Refused = maps.Clone(link.Refused)
	maps.DeleteFunc(s.Uplink.Refused, func(leaf, _ string) bool { return !c.admitted(leaf) })
	s.Leaves.Refused = len(s.Uplink.Refused)
	s.Uplink.OwnRefused = c.ownRefused()
	words := c.census(&link, now.Wall)
	for _, n := range words {
		s.Leaves.Admitted += n
	}
	s.Leaves.Taken, s.Leaves.Unasked, s.Leaves.Enrolling = words[control.HubTakes], words[control.HubUnasked], words[control.HubEnrols]
	for _, way := range s.Ways {
		s.Leaves.Present += way.Connected
	}
	s.Memory = c.memory.state(s.Leaves.Present)
	for name, at := range c.certs {
		if expiry := at(); !expiry.IsZero() {
			s.Certificates[name] = expiry.UTC()
		}
	}
	if offset, ok := board.ClockOffset(); ok {
		seconds := offset.Seconds()
		s.ClockOffset = &seconds
	}
	return s
}

// countAway counts the leaves that are away.
func (l *leafState) countAway(all []control.Device, now time.Time) {
	for i := range all {
		if _, grave := troubleOf(&all[i], peerState{}, now); grave == isGone {
			l.Away++
		}
	}
}

// waysOf counts by transport.
func waysOf(b broker.State, drivers []gateway.DriverState) map[string]wayState {
	ways := make(map[string]wayState)
	of := func(kind string) wayState {
		if w, known := ways[kind]; known {
			return w
		}
		return wayState{
			Logins: make(map[string]int64), Received: make(map[string]int64),
			Discarded: make(map[string]int64), Events: make(map[string]int64),
		}
	}
	mqtt := of(overMQTT)
	mqtt.Connected = len(b.Leaves)
	for result, n := range b.Connects {
		mqtt.Logins[string(result)] = int64(n)
	}
	for lane, n := range b.Published {
		mqtt.Received[gateway.LaneNames[lane]] = int64(n.QoS0 + n.QoS1)
	}
	mqtt.Received["will"], mqtt.Discarded["garbage"] = int64(b.Wills), int64(b.Garbage)
	mqtt.Events["missed_by_operators"] = int64(b.TapDropped)
	ways[overMQTT] = mqtt
	for _, d := range drivers {
		w := of(d.Kind)
		w.Connected += d.Leaves
		for lane, n := range d.Taken {
			w.Received[gateway.LaneNames[lane]] += n
		}
		add(w.Logins, d.Logins)
		add(w.Discarded, d.Discarded)
		add(w.Events, d.Counts)
		ways[d.Kind] = w
	}
	return ways
}

// add adds counters to others of the same names.
func add(to, from map[string]int64) {
	for name, n := range from {
		to[name] += n
	}
}

func downStateOf(b broker.State, drivers []gateway.DriverState, t twin.State) downState {
	d := downState{
		Commands: make(map[string]int64), Calls: make(map[string]int64),
		TwinReads: int64(b.TwinReads), FromCopy: t.FromCopy, Reports: t.Reported, Kept: t.Kept, Lost: t.Refused,
		Desired: int64(b.Desired), Missed: t.Missed, WaitingLeaves: t.Waiting, Asleep: b.Asleep,
	}
	for result, n := range b.Commands {
		d.Commands[result] += int64(n)
	}
	for result, n := range b.Calls {
		d.Calls[string(result)] += int64(n)
	}
	for _, x := range drivers {
		add(d.Commands, x.Commands)
		add(d.Calls, x.Calls)
		d.Desired += x.Desired
	}
	return d
}

func filesStateOf(b broker.State, f upload.State) filesState {
	return filesState{
		Parts: int64(b.FileParts), Sent: f.Sent, SentBytes: f.SentBytes, Dropped: f.Dropped,
		Waiting: f.Waiting, Unfinished: f.Files - f.Waiting, Bytes: f.Bytes,
	}
}

func driverStatesOf(drivers []gateway.DriverState) []driverState {
	list := make([]driverState, 0, len(drivers))
	for _, s := range drivers {
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

func uplinkStateOf(hub string, s uplink.State) uplinkState {
	u := uplinkState{
		Hub: hub, Transport: s.Transport, Reason: s.Reason,
		Connected: s.Connected, Since: s.Since.UTC(), Waiting: s.Waiting, Attempts: s.Attempts, RetryAt: s.RetryAt,
		LastError: s.LastError, ClosedUntil: s.ClosedUntil, LastAccepted: s.LastAccepted, Watchdog: string(s.Rung),
		GaveUp: make(map[string]int64), Links: s.Links, Inflight: s.Inflight, Refused: s.Refused, RefusedUntil: s.RefusedUntil,
		Bytes: map[string]int64{
			"payload": s.Bytes.Payload, "retry": s.Bytes.Retry, "keepalive": s.Bytes.KeepAlive, "tls": s.Bytes.TLS, "protocol": s.Bytes.Protocol,
		},
		Connects: s.Connects, Offline: s.Offline.Seconds(), Throttled: s.Throttled,
	}
	for _, rung := range uplink.Rungs {
		u.GaveUp[string(rung)] = s.Climbed[rung]
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
	if s.Hindered != nil {
		out.Hindered = s.Hindered.Error()
	}
	out.Commits, out.Errors = s.Commits, s.Errors
	out.LostMessages, out.LostCommits, out.LostMeta = int64(s.Damage.Messages), int64(s.Damage.Commits), int64(s.Damage.Meta)
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
	for _, why := range gateway.DropReasons {
		p.Dropped[string(why)] = s.Dropped[why]
	}
	return p
}

// age is how long ago an instant was, as far as that can be told: within one
// boot always, across boots only by a wall clock that was set.
func age(then, now gateway.Instant) time.Duration {
	switch {
	case then.Boot == now.Boot && then.Boot != 0:
		return now.Uptime - then.Uptime
	case then.Quality == gateway.Unsynced, now.Quality == gateway.Unsynced:
		return 0
	default:
		return max(0, now.Wall.Sub(then.Wall))
	}
}
