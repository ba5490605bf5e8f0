package broker

import (
	"maps"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// State is a snapshot for status and metrics. Counters count since the start.
type State struct {
	// Leaves holds the number of open connections of each connected leaf.
	Leaves map[string]int
	// Seen says of each leaf that has ever logged in when a connection of it last
	// began or ended.
	Seen map[string]time.Time
	// Connecting is the number of open connections that have not logged in.
	Connecting int
	// Connects counts logins by their result.
	Connects map[ConnectResult]uint64
	// Published counts the messages handed over, by lane and by whether the
	// leaf awaits an acknowledgement.
	Published [gateway.Lanes]struct{ QoS0, QoS1 uint64 }
	// Acknowledged counts the messages acknowledged to leaves.
	Acknowledged uint64
	// Resent counts messages that came again while the first copy was in
	// hand-over, or in custody but not acknowledged: they were not taken twice.
	Resent uint64
	// Refused counts the messages not taken, by reason.
	Refused map[RefuseReason]uint64
	// Commands counts what became of commands (cloud-to-device messages), by the
	// leaf's word.
	Commands map[string]uint64
	// Calls counts direct methods by their end.
	Calls map[CallResult]uint64
	// LateReplies counts answers to methods for which nobody waited any more.
	LateReplies uint64
	// Desired counts the changes of desired properties that leaves have had.
	Desired uint64
	// TwinReads and Reports count what leaves asked about their twins.
	TwinReads, Reports uint64
	// Asleep is the number of sessions that are kept for leaves that are away.
	Asleep int
	// Garbage counts the connections closed because what they sent is not MQTT.
	Garbage uint64
	// FileParts counts the parts of files that are on flash, and their ends.
	FileParts uint64
	// Wills counts the last wills handed over.
	Wills uint64
	// TapDropped counts what operators who listen have missed, as they did not read it.
	TapDropped uint64
}

// ConnectResult is how a login ended. The texts are label values of metrics.
type ConnectResult string

// The results of a login.
const (
	ConnectAccepted    ConnectResult = "accepted"
	ConnectCredentials ConnectResult = "credentials" // unknown or disabled leaf, wrong password, token or id in it
	ConnectExpired     ConnectResult = "expired"     // token of the past
	ConnectClientID    ConnectResult = "client_id"   // not the id of the credential
	ConnectUsername    ConnectResult = "username"    // missing or malformed
	ConnectWill        ConnectResult = "will"        // a will that the leaf may not publish
	ConnectVersion     ConnectResult = "version"     // neither MQTT 3.1.1 nor MQTT 5, or a feature that is not offered
	ConnectBusy        ConnectResult = "busy"        // a bound is reached: to be tried again
)

// RefuseReason is why a message was not taken. The texts are label values of
// metrics.
type RefuseReason string

// The reasons why a message is not taken.
const (
	RefuseTopic    RefuseReason = "topic"    // another leaf's, or none of the dialects'
	RefuseRule     RefuseReason = "rule"     // without a rule, of firmware that has some: acknowledged all the same
	RefuseQoS      RefuseReason = "qos"      // QoS 2
	RefuseInflight RefuseReason = "inflight" // more than max_inflight_messages at once
	RefuseTooLarge RefuseReason = "oversize" // larger than the hub takes
	RefuseLeaf     RefuseReason = "leaf"     // unknown or disabled by now
	RefuseFull     RefuseReason = "full"     // the store is at its bound
	RefuseFailed   RefuseReason = "failed"   // the store cannot write, or the gateway is shutting down
)

// CallResult is how a direct method ended. The texts are label values of
// metrics.
type CallResult string

// The ends of a direct method.
const (
	CallAnswered CallResult = "answered"
	CallAbsent   CallResult = "absent" // nobody listened, or the leaf went away
	CallSilent   CallResult = "silent" // no answer in time
)

// counters holds what State reports, except what is counted from the sessions.
type counters struct {
	mu sync.Mutex
	s  State // guarded by mu; Leaves and Connecting unused
}

func (c *counters) count(f func(s *State)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.s)
}

func (c *counters) connect(r ConnectResult) { c.count(func(s *State) { s.Connects[r]++ }) }
func (c *counters) refuse(r RefuseReason)   { c.count(func(s *State) { s.Refused[r]++ }) }

// snapshot shares no memory with the counters.
func (c *counters) snapshot() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.s
	s.Connects = maps.Clone(s.Connects)
	s.Refused = maps.Clone(s.Refused)
	s.Commands = maps.Clone(s.Commands)
	s.Calls = maps.Clone(s.Calls)
	return s
}
