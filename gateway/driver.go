package gateway

import (
	"context"
	"time"
)

// Driver is one physical way to reach leaves. Run blocks until ctx ends or the
// driver cannot go on at all; absent hardware is not a reason to return, it is
// a state. Everything it started has ended when it returns; the leaves that it
// attended to are taken back with Attend before.
type Driver interface {
	// Name identifies the driver instance in logs and status, for example
	// "serial:/dev/serial/by-id/usb-FTDI_…".
	Name() string
	Run(ctx context.Context, ways Ways) error
	// State is a snapshot for status and metrics. Safe for concurrent use, also
	// before and after Run.
	State() DriverState
}

// Ways is what a driver is joined to. All of it is safe for concurrent use.
type Ways struct {
	// Up takes messages of leaves.
	Up Handler
	// Attendance is told which leaves can be reached over this driver: with a
	// Reach of the driver's, to which commands, calls and desired changes come.
	Attendance Attendance
	// Twins answers leaves that ask for their twin or report to it.
	Twins Twins
	// Notes is small memory on flash. A driver's kinds of notes begin with its own
	// name, like "mqttsn session".
	Notes Notes
	// Leaves tells whom the gateway takes messages from. Up looks by itself; this
	// is for a driver whose leaves log in.
	Leaves Leaves
}

// DriverState is a snapshot of a driver, for status and metrics. Counters count
// since the driver was made. It shares no memory with the driver.
type DriverState struct {
	Name string // of the instance, Driver.Name
	Kind string // of driver: "serial", "modbus", "ble"; the transport in metrics

	Up     bool      // the port is open, the adapter is there
	Err    error     // why it is not up, nil while it is or before the first attempt
	Device string    // what the configured name led to last, "/dev/ttyUSB1"; "" for none
	Since  time.Time // since when it is up or not; zero before the first attempt
	Ups    int64     // how often it came up; each after the first is a recovery

	// Leaves are those that are there now. Where only the way itself can be seen,
	// like a serial line on which leaves just talk, it is 1 while that is up.
	Leaves int
	// Logins are attempts of leaves to be let in, by result: "accepted", or why not.
	// Where nobody logs in, "accepted" counts like Ups.
	Logins map[string]int64

	Taken     [Lanes]int64     // messages in custody
	Discarded map[string]int64 // what leaves sent that did not become a message, by reason
	Commands  map[string]int64 // the leaves' words on commands, by Verdict.String
	Calls     map[string]int64 // direct methods by their end: "answered", "absent", "silent"
	Desired   int64            // changes of desired properties that leaves have had

	// Counts is everything else worth counting, by event: "answers_lost",
	// "polls_held". Names are label values of one metric for all drivers.
	Counts map[string]int64
	// Note is what is not as it should be although the driver is up, "" for nothing.
	Note string
	// Strangers are seen by the driver and are no leaves: the newest of them first, a
	// bounded number.
	Strangers []Stranger
	// Peers is what is known of each leaf or device behind the driver, in the order
	// of the configuration; nil where there is nothing to say.
	Peers []PeerState
}

// Count adds what another driver, or a part of this one, has counted: what came of
// messages, logins, commands, calls and desired changes, and Counts. Maps that are
// needed for that are made.
func (s *DriverState) Count(x *DriverState) {
	for _, m := range []struct {
		to   *map[string]int64
		from map[string]int64
	}{
		{&s.Logins, x.Logins},
		{&s.Discarded, x.Discarded},
		{&s.Commands, x.Commands},
		{&s.Calls, x.Calls},
		{&s.Counts, x.Counts},
	} {
		if *m.to == nil && len(m.from) > 0 {
			*m.to = make(map[string]int64)
		}
		for what, n := range m.from {
			(*m.to)[what] += n
		}
	}
	for lane, n := range x.Taken {
		s.Taken[lane] += n
	}
	s.Desired += x.Desired
}

// PeerState is one leaf or device behind a driver.
type PeerState struct {
	Leaf  string
	Up    bool      // it answers
	Err   string    // why it does not, "" while it does
	Since time.Time // since when; zero before the first attempt
}

// Stranger is something that a driver sees and that is no leaf.
type Stranger struct {
	Address string // as the configuration would name it
	Name    string // what it calls itself, "" for nothing
	What    string // what it seems to be, "bthome"; "" if that is not known
	Signal  int    // strength in dBm, 0 if not known
	Count   int64  // how often it was seen
	Seen    time.Time
}
