package gateway

import (
	"strconv"
	"time"
)

// Kind says what a message is.
type Kind uint8

// The kinds of message that travel up.
const (
	Telemetry Kind = iota // device-to-cloud data
	Will                  // the last will of an MQTT leaf, sent when it vanished
)

// Lane is the index of a queue with its own order, priority, time to live and
// bound. A lower number has priority over a higher one.
type Lane uint8

// The lanes of the default configuration. The numbers are written to flash:
// they never change their meaning.
const (
	LaneAlarm     Lane = 0 // overtakes telemetry
	LaneTelemetry Lane = 1
	Lanes              = 2 // how many there are
)

// LaneNames spells the lanes for configuration, logs, metrics and the hub.
var LaneNames = [Lanes]string{LaneAlarm: "alarm", LaneTelemetry: "telemetry"}

func (l Lane) String() string {
	if int(l) < len(LaneNames) {
		return LaneNames[l]
	}
	return "lane" + strconv.Itoa(int(l))
}

// Property is one application property. Names and values are text on every
// transport: the hub's routes see nothing else.
type Property struct{ Name, Value string }

// PropertyTrust is the one property of the gateway's own that a driver or the broker sets itself: it
// says that the leaf has proven less than others, and how little. It is absent where
// the leaf has proven who it is.
const PropertyTrust = "fieldgate-trust"

// What PropertyTrust can say.
const (
	TrustAdvertised = "advertised" // taken from the air: whoever sends with that address
	TrustUnpaired   = "unpaired"   // connected, but never paired: whoever answers at that address
	TrustJustWorks  = "just-works" // paired, without a proof at that time
	TrustOperator   = "operator"   // an operator of the gateway said it in the leaf's place
)

// LowersTrust says that a property is PropertyTrust with one of its values. Since all
// of them only lower the trust in a message, any leaf may say that of itself.
func LowersTrust(p Property) bool {
	return p.Name == PropertyTrust && (p.Value == TrustAdvertised || p.Value == TrustUnpaired || p.Value == TrustJustWorks || p.Value == TrustOperator)
}

// System holds the message properties that the hub itself knows. A zero value
// means not set. The comments name the key in the hub's MQTT property bag.
type System struct {
	MessageID       string    // $.mid, the leaf's own; custody gives one where it is empty
	CorrelationID   string    // $.cid
	UserID          string    // $.uid
	ContentType     string    // $.ct
	ContentEncoding string    // $.ce
	CreationTime    string    // $.ctime, ISO 8601 as the leaf sent it
	Expiry          time.Time // $.exp; custody drops the message after it
	OutputName      string    // $.on
	Schema          string    // $.schema
	InterfaceID     string    // $.ifid
	Component       string    // $.sub
}

// Message is one message on its way from a leaf to the hub. Whoever makes it
// fills the first block of fields; the path stamps the second block once, on
// entry, before anybody else sees the message. From then on it is immutable and
// may be read from any goroutine: whoever needs a different message makes a new
// one, which may share Body and Properties.
type Message struct {
	Leaf       string // id of the leaf, as the hub knows it
	Kind       Kind
	Lane       Lane
	Channel    string // free name for a stream within the leaf, "" for none
	System     System
	Properties []Property // in the order in which the leaf sent them
	Body       []byte     // owned by the message from the moment it is handed over

	// Stream is what the leaf sends in a row and will send again from the first
	// message on that is not taken; nil where each message stands for itself.
	Stream *Stream

	Captured Instant // when the gateway received it
	Start    uint32  // the gateway start that numbered it; grows with each start
	Seq      uint64  // 1, 2, 3 … per leaf, lane and start, without gaps
	Dropped  uint64  // how many of leaf, lane and Start with a lower Seq were given up, as far as is known; see gaps.go
}

// Stream is a row of messages that a leaf repeats as a whole: an MQTT 3.1.1
// connection, which ends at the first message that is not taken, or what an MQTT 5
// leaf has sent before it is told of one that is not. Once the path
// has refused one, it refuses all that are handed over behind it, which would
// otherwise overtake it. The zero value is ready.
type Stream struct {
	refusal error // guarded by Path.mu
}

// Size is what a message counts for in bounds, in bytes: its body, its
// properties and a constant for what surrounds them.
func (m *Message) Size() int {
	n := 128 + len(m.Leaf) + len(m.Channel) + len(m.Body) +
		len(m.System.MessageID) + len(m.System.CorrelationID) + len(m.System.UserID) +
		len(m.System.ContentType) + len(m.System.ContentEncoding) + len(m.System.CreationTime) +
		len(m.System.OutputName) + len(m.System.Schema) + len(m.System.InterfaceID) + len(m.System.Component)
	for _, p := range m.Properties {
		n += 16 + len(p.Name) + len(p.Value)
	}
	return n
}

// MaxStored is the largest Size of a message that can be kept: the largest that
// the hub takes, and what surrounds a good number of properties.
const MaxStored = 300 << 10

// TimeQuality says how far a wall clock reading can be trusted.
type TimeQuality uint8

// The qualities, from worst to best. Their numbers are written to flash.
const (
	Unsynced  TimeQuality = iota // the clock has not been set since power-on
	Estimated                    // computed from a trusted clock, or not older than the last good time
	Synced                       // disciplined by a time source
)

func (q TimeQuality) String() string {
	return [...]string{"unsynced", "estimated", "synced"}[min(q, Synced)]
}

// Instant is a reading of the gateway's clock that can be repaired later: while
// the wall clock is not to be trusted, Boot and Uptime still say when it was.
type Instant struct {
	Wall    time.Time     // UTC
	Quality TimeQuality   // of Wall
	Boot    uint64        // identifies the boot of the machine (not the start of the process)
	Uptime  time.Duration // since that boot, including sleep
}

// Repair returns i with its wall time computed from now, where that is better
// than what i says: both readings must be of one boot and now must be trusted.
func (i Instant) Repair(now Instant) Instant {
	if i.Quality != Unsynced || now.Quality == Unsynced || i.Boot != now.Boot {
		return i
	}
	i.Wall = now.Wall.Add(i.Uptime - now.Uptime)
	i.Quality = Estimated
	return i
}

// Age returns how long before now i was, and whether that is known: within one
// boot by the machine's uptime, which no step of the wall clock touches; across
// boots by wall clocks, if both were steered by a time source: one that was only
// not impossible may have been hours behind. It is not negative.
func (i Instant) Age(now Instant) (age time.Duration, known bool) {
	switch {
	case i.Boot != 0 && i.Boot == now.Boot:
		age = now.Uptime - i.Uptime
	case i.Quality == Synced && now.Quality == Synced:
		age = now.Wall.Sub(i.Wall)
	default:
		return 0, false
	}
	return max(age, 0), true
}

// Clock reads the time. Safe for concurrent use.
type Clock func() Instant
