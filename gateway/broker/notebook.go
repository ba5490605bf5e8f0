package broker

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// sessionNote is the kind of note in which a kept session outlives the gateway.
// Its name is the leaf's id: of each leaf one session can be kept.
const sessionNote = "session"

// maxNotesAtOnce bounds what is written in one commit, in bytes of values.
const maxNotesAtOnce = 64 << 10

// keptSession is a session on flash.
type keptSession struct {
	Expiry  uint32       `json:"expiry"` // seconds after the connection's end
	Filters []keptFilter `json:"filters"`
}

type keptFilter struct {
	Filter string `json:"filter"`
	QoS    byte   `json:"qos,omitempty"`
	Ident  int    `json:"ident,omitempty"` // subscription identifier
}

// encodeSession returns the note of a session, nil for one that is not to be
// kept.
func encodeSession(box *mailbox) []byte {
	if box.ttl == 0 || len(box.subs) == 0 {
		return nil
	}
	k := keptSession{Expiry: uint32(box.ttl / time.Second)}
	for _, s := range box.subs {
		k.Filters = append(k.Filters, keptFilter{s.filter, s.qos, s.ident})
	}
	text, _ := json.Marshal(k) // plain values: it cannot fail
	return text
}

// decodeSession reads a note. What the leaf may not subscribe to, or not any
// more, is left out.
func decodeSession(leaf string, text []byte, read func(leaf, filter string) (subscription, bool)) (*mailbox, error) {
	var k keptSession
	if err := json.Unmarshal(text, &k); err != nil {
		return nil, err
	}
	// Packet ids begin anywhere: what the leaf says of one of the last run is to be
	// taken for nothing of this one.
	box := &mailbox{
		id: leaf, ttl: min(time.Duration(k.Expiry)*time.Second, sessionTTL), away: time.Now(), noted: true,
		lastID: uint16(rand.Uint32()),
	}
	for _, f := range k.Filters {
		if s, ok := read(leaf, f.Filter); ok && f.Ident >= 0 {
			s.qos, s.ident = min(f.QoS, 1), f.Ident
			box.subs = append(box.subs, s)
		}
	}
	return box, nil
}

// recall opens the sessions of the last run. A note that cannot be read costs
// its leaf a new subscription.
func (b *Broker) recall() error {
	strangers := 0
	err := b.notebook.notes.EachNote(sessionNote, func(leaf string, text []byte) error {
		if !b.table.Known(leaf) {
			// A leaf that is only disabled may come back, but there is a bound.
			if strangers++; strangers > b.cfg.Load().MaxConnections {
				b.notebook.set(leaf, nil)
				return nil
			}
		}
		box, err := decodeSession(leaf, text, b.readFilter)
		if err != nil {
			b.log.Warn("the note of a session cannot be read", "leaf", leaf, "err", err)
			return nil
		}
		d := b.desk(leaf)
		d.boxes = append(d.boxes, box)
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot read sessions: %w", err)
	}
	return nil
}

// noteLocked has a session noted as it is now. The channel is closed when it is
// on flash, or cannot be.
func (d *desk) noteLocked(box *mailbox) <-chan struct{} {
	text := encodeSession(box)
	if text == nil && !box.noted {
		return nil
	}
	box.noted = text != nil
	d.noteWaitLocked(1, time.Now()) // whoever sends packets for it waits (pace.go)
	return d.b.notebook.set(d.leaf, text)
}

// notebook writes notes of sessions: many at once where many leaves come at
// once. Safe for concurrent use.
type notebook struct {
	notes gateway.Notes
	log   *slog.Logger
	work  *sync.WaitGroup // of the writer

	mu      sync.Mutex
	due     map[string][]byte // by leaf; nil deletes
	order   []string          // the leaves in due
	done    chan struct{}     // closed when what is due is written
	writing bool
}

func (n *notebook) set(leaf string, text []byte) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.due == nil {
		n.due, n.done = make(map[string][]byte), make(chan struct{})
	}
	if _, known := n.due[leaf]; !known {
		n.order = append(n.order, leaf)
	}
	n.due[leaf] = text
	if !n.writing {
		n.writing = true
		n.work.Go(n.write)
	}
	return n.done
}

// write writes what is due until nothing is.
func (n *notebook) write() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.due != nil {
		due, order, done := n.due, n.order, n.done
		n.due, n.order, n.done = nil, nil, nil
		n.mu.Unlock()
		for len(order) > 0 {
			order = n.writeSome(due, order)
		}
		close(done)
		n.mu.Lock()
	}
	n.writing = false
}

// writeSome writes as many notes as fit one commit and returns the leaves left.
func (n *notebook) writeSome(due map[string][]byte, order []string) []string {
	some, size := make(map[string][]byte), 0
	for len(order) > 0 && (size == 0 || size+len(due[order[0]])+len(order[0]) < maxNotesAtOnce) {
		leaf := order[0]
		order = order[1:]
		some[leaf] = due[leaf]
		size += len(leaf) + len(due[leaf]) + 1
	}
	if err := n.notes.SetNotes(sessionNote, some); err != nil {
		// The sessions live on in memory: only a restart now costs these leaves
		// their subscriptions.
		n.log.Warn("cannot note the subscriptions of leaves", "leaves", len(some), "err", err)
	}
	return order
}
