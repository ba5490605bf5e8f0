package broker

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

const (
	// window is how many messages with QoS 1 a leaf may have unacknowledged; an
	// MQTT 5 leaf may ask for fewer (receive maximum).
	window = 16
	// sessionTTL is how long a session without a connection is kept, unless an
	// MQTT 5 leaf asks for less.
	sessionTTL = 7 * 24 * time.Hour
	// maxFilterBytes bounds the filters of one session, all together: they stand in
	// one note on flash.
	maxFilterBytes = 8 << 10
)

// desk is where one leaf is served on the way down: its MQTT sessions with what
// each has subscribed to, and what is under way to it. Nothing of it is shared
// with another leaf, except that one that speaks for others (mapped.go) is served
// here for these as well. A desk is never removed: there are as many as leaves that
// have ever logged in. Safe for concurrent use.
type desk struct {
	b    *Broker
	leaf string
	// bridge is the way to the leaves that this one speaks for.
	bridge *bridge

	mu      sync.Mutex                  // guards the following, and all mailboxes and outflows of the leaf
	boxes   []*mailbox                  // the one connected last stands first
	calls   map[string]*calling         // methods that the leaf has not answered, by request id
	awaited map[string]*calling         // those whose answer comes on a topic by a rule, by that; also for a while those that were not answered
	lastRID uint64                      // begins anywhere: a late answer to the gateway's last run is nobody's
	say     []attending                 // to be told to the attendance, in this order
	saying  bool                        // somebody is telling it
	said    map[string]gateway.Interest // what the attendance was told, or will be, last, of this leaf and of those it speaks for
	speaks  map[string]bool             // for which other leaves this one has spoken, by a rule
	seen    time.Time                   // when a connection last began or ended; zero: never
	paces   paces
}

// attending is what the attendance is told.
type attending struct {
	leaf  string
	wants gateway.Interest
}

// mailbox is one MQTT session on the way down. It outlives its connection if the
// leaf has asked for that. Guarded by desk.mu.
type mailbox struct {
	id     string // names the session
	owner  *session
	subs   []subscription
	ttl    time.Duration // how long it outlives its connection; 0: it does not
	away   time.Time     // since when there is no connection
	sent   []sentCommand // with QoS 1, that the leaf has not acknowledged
	lastID uint16        // packet id
	noted  bool          // it is on flash, or will be
}

// sentCommand is a command that a leaf may have. While the session lives it is
// sent again under the same packet id and marked as a copy, and not at all when
// the acknowledgement was only late.
type sentCommand struct {
	name  commandName
	id    uint16
	acked bool
}

// commandName names a command for good.
type commandName struct {
	leaf     string
	number   uint64
	enqueued int64 // Unix time in milliseconds
}

func nameOf(c *gateway.Command) commandName {
	return commandName{c.Leaf, c.Number, c.Enqueued.UnixMilli()}
}

// desk returns the leaf's desk.
func (b *Broker) desk(leaf string) *desk {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.desks[leaf]
	if d == nil {
		d = &desk{b: b, leaf: leaf, calls: make(map[string]*calling), lastRID: uint64(rand.Uint32()), said: make(map[string]gateway.Interest)}
		d.bridge = &bridge{d}
		b.desks[leaf] = d
	}
	return d
}

func (b *Broker) allDesks() []*desk {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]*desk, 0, len(b.desks))
	for _, d := range b.desks {
		all = append(all, d)
	}
	return all
}

// open makes a session that has just logged in the owner of its mailbox, and
// takes it from a former connection. With two connections of a session at once it
// is the one that b.sessions has. It says whether there was one to find. What
// is under way waits until the session is served: serve.
func (d *desk) open(s *session) (present bool) {
	l := &s.login
	ttl := time.Duration(s.grantedExpiry()) * time.Second
	if s.version() < version5 && l.keep && !l.clean {
		ttl = sessionTTL
	}
	d.mu.Lock()
	d.seen = time.Now()
	if !d.b.current(s) { // a newer connection was here first
		s.box = &mailbox{id: s.id}
		d.mu.Unlock()
		return false
	}
	i := slices.IndexFunc(d.boxes, func(x *mailbox) bool { return x.id == s.id })
	var box *mailbox
	var lost []*parcel
	if i >= 0 {
		box = d.boxes[i]
		lost = d.releaseLocked(box)
		d.boxes = slices.Delete(d.boxes, i, i+1)
	}
	if present = box != nil && l.keep && !l.clean; !present {
		noted := box != nil && box.noted
		box = &mailbox{id: s.id, noted: noted}
	}
	changed := box.ttl != ttl
	box.owner, box.ttl, box.away = s, ttl, time.Time{}
	s.box = box
	d.boxes = slices.Insert(d.boxes, 0, box)
	if box.noted && (changed || !present) {
		d.noteLocked(box)
	}
	d.interestLocked()
	d.mu.Unlock()
	undelivered(lost)
	d.announce()
	return present
}

// serve begins to send to a session that has had its CONNACK.
func (d *desk) serve(s *session) {
	d.mu.Lock()
	s.out.open = s.box.owner == s
	d.interestLocked()
	d.mu.Unlock()
	d.announce()
}

// close ends what is under way to a session. From then on nothing is sent to it.
func (d *desk) close(s *session) {
	d.mu.Lock()
	d.seen = time.Now()
	box := s.box
	if box.owner != s {
		d.mu.Unlock()
		return
	}
	lost := d.releaseLocked(box)
	if box.ttl == 0 {
		d.boxes = slices.DeleteFunc(d.boxes, func(x *mailbox) bool { return x == box })
		box.subs = nil
		if box.noted {
			d.noteLocked(box)
		}
	}
	d.interestLocked()
	d.mu.Unlock()
	undelivered(lost)
	d.announce()
}

// releaseLocked takes a mailbox from its connection and returns what was under
// way on it. That the leaf listens no more is said even if another connection of
// it comes at once: who tells it of desired changes must know that some may be
// lost.
func (d *desk) releaseLocked(box *mailbox) (lost []*parcel) {
	s := box.owner
	if s == nil {
		return nil
	}
	box.owner, box.away = nil, time.Now()
	lost = s.out.end()
	for _, c := range d.calls {
		if c.session == s {
			d.dropCallLocked(c)
		}
	}
	d.interestLocked()
	return lost
}

// undelivered answers parcels that did not reach the leaf.
func undelivered(lost []*parcel) {
	for _, p := range lost {
		p.answer(gateway.Undelivered)
	}
}

// interestLocked queues what the attendance is to be told, if it is news. While
// any session is served it is what these want; else what sessions that are kept
// will want.
func (d *desk) interestLocked() {
	d.interestOfLocked(d.leaf)
	for leaf := range d.carriedLocked() {
		d.interestOfLocked(leaf)
	}
}

// interestOfLocked is interestLocked for this leaf or one that it speaks for.
func (d *desk) interestOfLocked(leaf string) {
	var awake, asleep gateway.Interest
	for _, box := range d.boxes {
		switch {
		case box.owner != nil && box.owner.out.open:
			awake |= d.interestIn(leaf, box.subs)
		case box.owner != nil || box.ttl > 0:
			asleep |= d.interestIn(leaf, box.subs)
		}
	}
	wants := awake
	if awake == 0 && asleep != 0 {
		wants = asleep | gateway.Asleep
	}
	if !d.b.table.Known(leaf) {
		wants = 0
	}
	if wants != d.said[leaf] {
		d.say = append(d.say, attending{leaf, wants})
		d.said[leaf] = wants
	}
}

// again has the attendance told the same once more: what could not be delivered
// is tried again.
func (d *desk) again() {
	d.mu.Lock()
	for leaf, wants := range d.said {
		if wants != 0 {
			d.say = append(d.say, attending{leaf, wants})
		}
	}
	d.mu.Unlock()
	d.announce()
}

// announce tells the attendance what is queued. It holds no lock meanwhile: from
// within, commands are handed over. Whoever comes then leaves the rest to the
// first.
func (d *desk) announce() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.saying {
		return
	}
	d.saying = true
	for len(d.say) > 0 {
		next := d.say[0]
		d.say = d.say[1:]
		d.mu.Unlock()
		d.b.attendance.Attend(next.leaf, d.way(next.leaf), next.wants)
		d.mu.Lock()
	}
	d.saying = false
}

// expire forgets the sessions that have been away for too long.
func (d *desk) expire(now time.Time) {
	d.mu.Lock()
	for _, box := range slices.Clone(d.boxes) {
		if box.owner == nil && now.Sub(box.away) >= box.ttl {
			d.boxes = slices.DeleteFunc(d.boxes, func(x *mailbox) bool { return x == box })
			box.subs = nil
			d.noteLocked(box)
		}
	}
	d.interestLocked() // the leaf may be admitted no more, or again
	d.mu.Unlock()
	d.announce()
}

// subscribe adds subscriptions to a session and returns the codes that SUBACK
// has for them, or false when the session is over. The codes are to be sent
// before serve is called, and after noted is closed.
func (d *desk) subscribe(s *session, subs []subscription) (codes []byte, noted <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	box, changed := s.box, false
	for _, sub := range subs {
		code := sub.qos
		i := slices.IndexFunc(box.subs, func(x subscription) bool { return x.filter == sub.filter })
		switch {
		case sub.kind == 0:
			code = 0x87 // not authorized
		case i >= 0:
			changed = changed || box.subs[i] != sub
			box.subs[i] = sub
		case len(box.subs) >= d.b.cfg.Load().MaxSubscriptions || bytesOfFilters(box.subs)+len(sub.filter) > maxFilterBytes:
			code = 0x97 // quota exceeded
		default:
			box.subs = append(box.subs, sub)
			changed = true
		}
		if code >= 0x80 && s.version() < version5 {
			code = 0x80
		}
		codes = append(codes, code)
	}
	return codes, d.changedLocked(box, changed)
}

func bytesOfFilters(subs []subscription) (n int) {
	for _, s := range subs {
		n += len(s.filter)
	}
	return n
}

// unsubscribe takes filters from a session and returns the codes of UNSUBACK.
func (d *desk) unsubscribe(s *session, filters []string) (codes []byte, noted <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	box, changed := s.box, false
	for _, filter := range filters {
		i := slices.IndexFunc(box.subs, func(x subscription) bool { return x.filter == filter })
		if i < 0 {
			codes = append(codes, 0x11) // no subscription existed
			continue
		}
		box.subs = slices.Delete(box.subs, i, i+1)
		codes, changed = append(codes, 0), true
	}
	return codes, d.changedLocked(box, changed)
}

// changedLocked notes a session whose subscriptions may have changed.
func (d *desk) changedLocked(box *mailbox, changed bool) <-chan struct{} {
	if changed && (box.ttl > 0 || box.noted) {
		return d.noteLocked(box)
	}
	return nil
}

// keepFor changes how long a session outlives its connection.
func (d *desk) keepFor(s *session, ttl time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ttl = min(ttl, sessionTTL); !s.login.keep || s.box.owner != s || s.box.ttl == ttl {
		return
	}
	s.box.ttl = ttl
	d.noteLocked(s.box)
}

// awaken tells the attendance of sessions that were kept from a former run.
func (d *desk) awaken() {
	d.mu.Lock()
	d.interestLocked()
	d.mu.Unlock()
	d.announce()
}

// state counts the sessions that are kept without a connection, and says when a
// connection last began or ended.
func (d *desk) state() (asleep int, seen time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, box := range d.boxes {
		if box.owner == nil {
			asleep++
		}
	}
	return asleep, d.seen
}
