package broker

import (
	"errors"
	"sync"

	"github.com/fieldgate/fieldgate/gateway"
)

// Why a publication is not put into an inbox.
var (
	errSessionOver = errors.New("session is over")
	errInflight    = errors.New("more messages in flight than allowed")
)

// handover is one message between its arrival and its acknowledgement.
type handover struct {
	packetID uint16
	sum      uint64 // of what was published, to recognise it when it comes again
	owner    *session
	settled  bool  // its fate is known
	err      error // nil: in custody
	row      *gateway.Stream
}

// inbox keeps the acknowledgements that one MQTT session (one client id) is
// waiting for. It outlives a connection: what was in hand-over when the
// connection broke is recognised when the leaf sends it again, and not taken
// twice. Safe for concurrent use.
//
// What was acknowledged is forgotten at once, although the acknowledgement may
// have been lost with the connection: a leaf uses packet ids again, and a new
// message that repeats the last one must not be mistaken for it. Such a message
// is taken twice rather than lost.
type inbox struct {
	max int // unacknowledged messages per connection

	mu       sync.Mutex           // guards the following
	changed  sync.Cond            // there may be room, or the owner has changed
	owner    *session             // whose connection acknowledgements go to; nil: none
	queue    []*handover          // of the owner, in the order of arrival
	byID     map[uint16]*handover // not acknowledged, also of former connections
	refusing bool                 // a message of an MQTT 3.1.1 owner was not taken: nothing more is read
	refused  bool                 // and its turn has come: nothing more is acknowledged
	draining bool                 // nothing more is taken
	// current is what the leaf sends in a row: what follows a message that the store
	// did not take is not taken either. An MQTT 3.1.1 connection ends with that. An
	// MQTT 5 leaf begins a new row when it can have been told: what it had sent before
	// must not pass what it sends again.
	current *gateway.Stream
}

func newInbox(max int) *inbox {
	in := &inbox{max: max, byID: make(map[uint16]*handover), current: new(gateway.Stream)}
	in.changed.L = &in.mu
	return in
}

// take makes s the owner. The former one gets nothing any more.
func (in *inbox) take(s *session) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.changeLocked(s)
}

// release ends the ownership of s. It may be called again, and by a session
// that owns the inbox no longer.
func (in *inbox) release(s *session) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.owner == s {
		in.changeLocked(nil)
	}
}

func (in *inbox) changeLocked(owner *session) {
	in.owner, in.queue, in.current = owner, nil, new(gateway.Stream)
	in.refusing, in.refused, in.draining = false, false, false
	for id, h := range in.byID {
		// What was refused must be handed over anew; of the rest no more is
		// remembered than a leaf may have in flight.
		if h.err != nil || h.settled && len(in.byID) > in.max {
			delete(in.byID, id)
		}
	}
	in.changed.Broadcast()
}

// idle says that nobody owns the inbox and nothing is left in it.
func (in *inbox) idle() (orphan, empty bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.owner == nil, len(in.byID) == 0
}

// drain makes the inbox take nothing more.
func (in *inbox) drain() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.draining = true
}

// quiet says that the owner is not waiting for anything.
func (in *inbox) quiet() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.queue) == 0
}

// wait blocks while an MQTT 3.1.1 session has as many messages in flight as it
// may: it is not read from, which is the only backpressure that this version
// knows. An MQTT 5 session was told the number, and breaks it only by mistake.
func (in *inbox) wait(s *session) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.owner == s && (in.refusing || in.draining || s.version() < version5 && len(in.queue) >= in.max) {
		in.changed.Wait()
	}
	switch {
	case in.owner != s:
		return errSessionOver
	case len(in.queue) >= in.max:
		return errInflight
	}
	return nil
}

// row returns what the next publication belongs to.
func (in *inbox) row() *gateway.Stream {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.current
}

// add queues the acknowledgement of a publication. It returns nil if this is a
// copy of one that is in hand-over already, or in custody and never
// acknowledged: it is acknowledged in its turn, and not to be handed over.
func (in *inbox) add(s *session, packetID uint16, dup bool, sum uint64) (*handover, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.owner != s {
		return nil, errSessionOver
	}
	if h := in.byID[packetID]; dup && h != nil && h.sum == sum {
		if h.owner != s {
			h.owner = s
			in.queue = append(in.queue, h)
			in.wakeLocked(h)
		}
		return nil, nil
	}
	h := &handover{packetID: packetID, sum: sum, owner: s}
	in.byID[packetID] = h
	in.queue = append(in.queue, h)
	return h, nil
}

// settle ends a hand-over. It does not block.
func (in *inbox) settle(h *handover, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	h.settled, h.err = true, err
	switch {
	case err == nil:
	case h.owner != in.owner:
		if in.byID[h.packetID] == h {
			delete(in.byID, h.packetID) // nobody to tell; it will come again
		}
	case in.owner.version() < version5:
		in.refusing = true // what comes behind it would overtake it
	}
	in.wakeLocked(h)
}

// wakeLocked wakes the owner's acknowledger if h is what it waits for.
func (in *inbox) wakeLocked(h *handover) {
	if h.settled && len(in.queue) > 0 && in.queue[0] == h {
		select {
		case in.owner.ready <- struct{}{}:
		default: // it is awake already
		}
	}
}

// acknowledgements takes the settled messages at the head of the queue and
// appends their PUBACKs to buf: in the order of the publications (MQTT 3.1.1
// and 5.0, section 4.6), whatever the order in which they were settled. n is
// how many say that the message is in custody. refused means that an MQTT 3.1.1
// session has come to a message that is not: this version has no word for it,
// so nothing more is acknowledged and the connection is to be closed.
func (in *inbox) acknowledgements(s *session, buf []byte) (acks []byte, n int, refused error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.owner == s && !in.refused && len(in.queue) > 0 && in.queue[0].settled {
		h := in.queue[0]
		if h.err != nil && s.version() < version5 {
			in.refused = true
			return buf, n, h.err
		}
		in.queue[0] = nil
		in.queue = in.queue[1:]
		if in.byID[h.packetID] == h {
			delete(in.byID, h.packetID)
		}
		switch {
		case h.err == nil:
			n++
		case h.row == in.current && notStored(h.err):
			in.current = new(gateway.Stream)
		}
		buf = appendPuback(buf, h)
	}
	// Room is made before the leaf can know of it: an MQTT 5 leaf publishes the
	// next message as soon as it reads the acknowledgement.
	in.changed.Broadcast()
	return buf, n, nil
}

// notStored says that the store has not taken a message that it might take when it
// comes again.
func notStored(err error) bool {
	return errors.Is(err, gateway.ErrStoreFull) || errors.Is(err, gateway.ErrStoreFailed)
}

// appendPuback appends a PUBACK (section 3.4).
func appendPuback(buf []byte, h *handover) []byte {
	high, low := byte(h.packetID>>8), byte(h.packetID)
	if h.err == nil {
		return append(buf, typePuback<<4, 2, high, low)
	}
	return append(buf, typePuback<<4, 3, high, low, pubackCode(h.err))
}

// pubackCode says in MQTT 5 why a message was not taken (section 3.4.2.1).
func pubackCode(err error) byte {
	switch {
	case errors.Is(err, errTopic), errors.Is(err, gateway.ErrUnknownLeaf):
		return 0x87 // not authorized
	case errors.Is(err, gateway.ErrTooLarge):
		return 0x95 // packet too large
	case errors.Is(err, gateway.ErrStoreFull):
		return 0x97 // quota exceeded
	}
	return 0x83 // implementation specific error
}

// refuseReason is the same for metrics.
func refuseReason(err error) RefuseReason {
	switch {
	case errors.Is(err, errTopic):
		return RefuseTopic
	case errors.Is(err, gateway.ErrUnknownLeaf):
		return RefuseLeaf
	case errors.Is(err, gateway.ErrTooLarge):
		return RefuseTooLarge
	case errors.Is(err, gateway.ErrStoreFull):
		return RefuseFull
	}
	return RefuseFailed
}
