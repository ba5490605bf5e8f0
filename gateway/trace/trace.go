// Package trace remembers what became of the last messages, for an operator who asks
// why one has not arrived. It stands around the store, the outbox and the door of
// the path, and sees what passes; the path knows nothing of it.
//
// It is memory only: nothing is written for it, and a restart forgets it. Of a
// message it keeps who sent it and when what happened to it, never its body.
package trace

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

const (
	// Messages is how many messages are remembered; the oldest gives way. At a few
	// hundred bytes each that is about a megabyte.
	Messages = 2048
	// maxSteps is how many steps of one message are remembered: the first ones, and
	// always the last. A message that is sent in vain for days has thousands.
	maxSteps = 8
	// maxReason bounds a reason, and maxID an id, in bytes.
	maxReason = 300
	maxID     = 128
)

// What can happen to a message.
const (
	Received = "received"    // the gateway took it from the leaf
	Refused  = "refused"     // the gateway did not take it: the leaf was not acknowledged
	Removed  = "removed"     // a module took it out
	Stored   = "stored"      // synced to flash
	Read     = "read back"   // from flash, to be sent
	Sent     = "sent"        // handed to the link
	Recalled = "taken back"  // the link was lost before the hub had answered
	Settled  = "settled"     // the hub has it
	Shelved  = "dead letter" // the hub refused it for good
	Expired  = "expired"     // older than its lane or it itself allows
	Dropped  = "dropped"     // given up at the bound of its lane
)

// Step is something that happened to a message.
type Step struct {
	Time   time.Time `json:"time"` // by the gateway's clock, as it was then
	What   string    `json:"what"`
	Reason string    `json:"reason,omitempty"`
	Link   string    `json:"link,omitempty"` // the transport on which it was sent
}

// Message is what is known of one message.
type Message struct {
	ID      string `json:"message_id"`
	Leaf    string `json:"leaf"`
	Lane    string `json:"lane"`
	Channel string `json:"channel,omitempty"`
	Bytes   int    `json:"bytes"` // of the body
	// Disposition is where it is now: waiting, on flash, with the hub, or the last
	// word of those above.
	Disposition string  `json:"disposition"`
	Attempts    int     `json:"attempts"`                 // how often it was sent
	Stored      float64 `json:"stored_seconds,omitempty"` // how long it took until it was on flash, 0 if it never was
	Steps       []Step  `json:"steps"`
	More        int     `json:"more_steps,omitempty"` // that are not remembered
}

// record is a Message as it is kept.
type record struct {
	Message
	start, seq uint64
	lane       gateway.Lane
	received   time.Time
	pos        gateway.Position // on flash, see Tracer.byPos
	out        bool             // with the hub, and not settled
	done       bool             // the last word is said
}

// Tracer remembers the last messages. Safe for concurrent use.
type Tracer struct {
	clock gateway.Clock
	link  func() string

	mu    sync.Mutex
	ring  []*record                    // guarded by mu; full when it has Messages
	next  int                          // where the next one goes when it is full; guarded by mu
	byID  map[string]*record           // the youngest of each id; guarded by mu
	byPos map[gateway.Position]*record // those on flash; guarded by mu
	name  string                       // of the present link; guarded by mu
}

// New makes a tracer. link names the transport of the present connection; it is
// asked once for each.
func New(clock gateway.Clock, link func() string) *Tracer {
	return &Tracer{clock: clock, link: link, byID: make(map[string]*record), byPos: make(map[gateway.Position]*record)}
}

// Find returns what is known of a message. The result is the caller's.
func (t *Tracer) Find(id string) (m Message, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.byID[id]
	if r == nil {
		return Message{}, false
	}
	m = r.Message
	m.Steps = slices.Clone(r.Steps)
	return m, true
}

// recordLocked returns the record of a message, and makes one for a new one.
func (t *Tracer) recordLocked(m *gateway.Message) *record {
	id := cut(m.System.MessageID, maxID)
	if r := t.byID[id]; r != nil && r.Leaf == m.Leaf && r.start == uint64(m.Start) && r.seq == m.Seq {
		return r
	}
	r := &record{
		Message: Message{ID: id, Leaf: m.Leaf, Lane: m.Lane.String(), Channel: cut(m.Channel, maxID), Bytes: len(m.Body)},
		start:   uint64(m.Start), seq: m.Seq, lane: m.Lane, received: m.Captured.Wall,
	}
	r.Steps = append(make([]Step, 0, 4), Step{Time: m.Captured.Wall.UTC(), What: Received})
	r.Disposition = "waiting in memory"
	if len(t.ring) < Messages {
		t.ring = append(t.ring, r)
	} else {
		t.forgetLocked(t.ring[t.next])
		t.ring[t.next] = r
		t.next = (t.next + 1) % Messages
	}
	t.byID[id] = r
	return r
}

func (t *Tracer) forgetLocked(r *record) {
	if t.byID[r.ID] == r {
		delete(t.byID, r.ID)
	}
	if t.byPos[r.pos] == r {
		delete(t.byPos, r.pos)
	}
}

func (t *Tracer) stepLocked(r *record, what, reason string) *Step {
	s := Step{Time: t.clock().Wall.UTC(), What: what, Reason: cut(reason, maxReason)}
	if what == Sent {
		s.Link = t.name
	}
	if len(r.Steps) == maxSteps {
		r.Steps[maxSteps-1] = s
		r.More++
	} else {
		r.Steps = append(r.Steps, s)
	}
	return &r.Steps[len(r.Steps)-1]
}

// endLocked notes the last word on a message.
func (t *Tracer) endLocked(r *record, what, reason string) {
	if r.done {
		return
	}
	r.done, r.out, r.Disposition = true, false, what
	t.stepLocked(r, what, reason)
}

// cut shortens a text. What it returns keeps nothing else in memory: a message id is
// part of its topic, which can be 64 KiB long.
func cut(text string, most int) string {
	if len(text) > most {
		return strings.ToValidUTF8(strings.Clone(text[:most]), "?")
	}
	return strings.Clone(text)
}
