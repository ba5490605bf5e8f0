package mqttsn

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

const (
	// maxQuick bounds what waits for a leaf beside commands, which the way down
	// bounds. Beyond it calls are refused, desired changes found again later.
	maxQuick = 16
	// maxCalls is how many calls a leaf may have before it. The topics of calls and
	// answers hold the number, so that it is small: a client has room for few topics.
	maxCalls = 8
	// quarantine is how long the number of a call that was not answered is not used
	// again: the answer might still come.
	quarantine = 5 * time.Minute
)

// kind says what a parcel is.
type kind uint8

const (
	command kind = iota
	call
	desired
	document // an answer about a twin
)

// parcel is one publication for the leaf. answer is called once, without the lock;
// nil: nobody asks.
type parcel struct {
	kind    kind
	rest    string // topic behind leaf/{id}/
	payload []byte
	answer  func(gateway.Verdict)
	denied  bool // the leaf has once said that it does not know the id
}

// down is what is on its way to one leaf.
type down struct {
	open   bool      // it may be sent something, while the line is there
	quick  []*parcel // what somebody waits for
	slow   []*parcel // commands
	flight *flight   // the one under way with QoS 1 or 2 (section 6.10), or being registered
	lastID uint16    // message id
	calls  map[string]*calling
	burnt  [maxCalls + 1]time.Time // until when the number of a call is not used
}

// flight is a parcel under way.
type flight struct {
	*parcel
	m     Message // REGISTER or PUBLISH
	topic *topicID
	repetition
	begun    time.Time
	received bool // QoS 2: the leaf has it, PUBREL is under way
}

// calling is a direct method that the leaf was asked for.
type calling struct {
	n     int
	reply chan *gateway.Reply // capacity 1; nil says that the leaf is gone
}

// idle says that nothing is on its way.
func (s *session) idle() bool { return s.flight == nil && len(s.quick) == 0 && len(s.slow) == 0 }

// fits says whether a publication fits into a message, and its topic into another.
func (s *session) fits(rest string, payload int) bool {
	// Length in three octets, type; flags, ids (section 5.4.12), or ids and the name
	// (5.4.10).
	const head = 4
	topic := len(plain.Topic(s.leaf, rest))
	return head+max(5+payload, 4+topic)+overhead(s.address) <= int(s.l.cfg.MaxMessage) && topic <= maxName
}

// post puts a parcel on its way. Where it returns false, it is not answered.
func (s *session) post(p *parcel) bool {
	if p.kind == command {
		s.slow = append(s.slow, p)
	} else {
		if len(s.quick) >= maxQuick || s.phase == away || s.phase == prompting || s.listens(p.rest) == nil || !s.fits(p.rest, len(p.payload)) {
			return false
		}
		s.quick = append(s.quick, p)
	}
	s.pump(time.Now())
	return true
}

// told has the word on a parcel passed on.
func (s *session) told(p *parcel, v gateway.Verdict) {
	if p.answer != nil {
		s.l.do(func() { p.answer(v) })
	}
}

// pump sends what may be sent.
func (s *session) pump(now time.Time) {
	for s.reachable() && s.flight == nil {
		var p *parcel
		switch {
		case len(s.quick) > 0:
			p, s.quick = s.quick[0], s.quick[1:]
		case len(s.slow) > 0:
			p, s.slow = s.slow[0], s.slow[1:]
		default:
			return
		}
		s.begin(p, now)
	}
}

// begin sends a parcel.
func (s *session) begin(p *parcel, now time.Time) {
	sub := s.listens(p.rest)
	if sub == nil { // not any more
		s.told(p, gateway.Undelivered)
		return
	}
	level, _ := sub.cut()
	f := &flight{parcel: p, begun: now, m: Message{Type: Publish, Flags: Flags{QoS: int8(sub.QoS), Topic: sub.Kind}, TopicID: sub.ID, Data: p.payload}}
	if sub.Kind == TopicID {
		f.m.TopicID, f.topic = s.ids.get(plain.Topic(level, p.rest), false)
		if f.topic == nil {
			s.l.warn("topics "+s.leaf, "leaf has no room for another topic", "leaf", s.leaf)
			s.told(p, gateway.Rejected)
			return
		}
	}
	s.flight = f
	if f.topic != nil && !f.topic.told {
		s.introduce()
		return
	}
	s.fly()
}

// introduce tells the leaf the id of the topic of what is under way.
func (s *session) introduce() {
	f := s.flight
	f.repetition = repetition{}
	id := f.m.TopicID
	r := Message{Type: Register, TopicID: id, MessageID: s.messageID(), Text: []byte(f.topic.name)}
	f.m.MessageID = r.MessageID
	s.repeat(&f.repetition, &r)
}

// introducing says that what is under way is REGISTER.
func (f *flight) introducing() bool { return f.topic != nil && !f.topic.told }

// fly sends the PUBLISH that is under way.
func (s *session) fly() {
	f := s.flight
	f.repetition = repetition{}
	if f.m.Flags.QoS > 0 {
		f.m.MessageID = s.messageID()
		s.repeat(&f.repetition, &f.m)
		return
	}
	f.m.MessageID = 0
	s.flight = nil
	s.send(&f.m, func(ok bool) {
		// With QoS 0 it is the leaf's when it is written.
		v := gateway.Completed
		if !ok {
			v = gateway.Undelivered
		}
		s.told(f.parcel, v)
	})
}

func (s *session) messageID() uint16 {
	if s.lastID++; s.lastID == 0 {
		s.lastID++
	}
	return s.lastID
}

// landed ends what is under way, and goes on with the next.
func (s *session) landed(v gateway.Verdict, now time.Time) {
	s.told(s.flight.parcel, v)
	s.flight = nil
	s.pump(now)
}

// regack takes REGACK.
func (s *session) regack(m *Message, now time.Time) {
	f := s.flight
	if f == nil || !f.introducing() || m.MessageID != f.m.MessageID {
		return
	}
	switch m.Code {
	case Accepted:
		f.topic.told = true
		s.fly()
		s.pump(now)
	case Congestion: // again when its time is over
	default:
		s.landed(gateway.Rejected, now)
	}
}

// puback takes PUBACK: the leaf's word on what it was sent.
func (s *session) puback(m *Message, now time.Time) {
	f := s.flight
	if f == nil || f.introducing() || f.received || m.MessageID != f.m.MessageID {
		return
	}
	switch {
	case m.Code == Accepted:
		s.landed(gateway.Completed, now)
	case m.Code == Congestion: // again when its time is over
	case m.Code == InvalidTopic && f.topic != nil && !f.denied:
		f.denied = true
		f.topic.told = false
		s.introduce()
	default:
		s.landed(gateway.Rejected, now)
	}
}

// pubrec takes PUBREC: with it the leaf has what it was sent. What PUBREL and PUBCOMP
// add is that both may forget its id.
func (s *session) pubrec(m *Message) {
	f := s.flight
	if f == nil || f.introducing() || m.MessageID != f.m.MessageID || f.m.Flags.QoS != 2 {
		s.send(&Message{Type: PubRel, MessageID: m.MessageID}, nil) // one from before
		return
	}
	if !f.received {
		f.received = true
		s.told(f.parcel, gateway.Completed)
	}
	f.repetition = repetition{}
	s.repeat(&f.repetition, &Message{Type: PubRel, MessageID: f.m.MessageID})
}

// pubcomp takes PUBCOMP.
func (s *session) pubcomp(m *Message, now time.Time) {
	if f := s.flight; f != nil && f.received && m.MessageID == f.m.MessageID {
		s.flight = nil
		s.pump(now)
	}
}

// tickDown repeats what is under way, or gives it up.
func (s *session) tickDown(now time.Time) {
	f := s.flight
	if f == nil {
		return
	}
	due, over := f.again(now, &s.l.cfg)
	switch {
	case over && s.phase == awake: // asleep again, without our word for it
		s.phase, s.open = asleep, false
		s.release(false)
		s.interest()
	case over && !s.heard.After(f.begun):
		s.lose(now, "does not answer")
	case over: // it answers, but not this: those behind it wait as they would at the hub
		if !f.received {
			s.told(f.parcel, gateway.Undelivered)
		}
		s.flight = nil
		s.pump(now)
		s.again()
	case due && f.received:
		s.repeat(&f.repetition, &Message{Type: PubRel, MessageID: f.m.MessageID})
	case due && f.introducing():
		s.repeat(&f.repetition, &Message{Type: Register, TopicID: f.m.TopicID, MessageID: f.m.MessageID, Text: []byte(f.topic.name)})
	case due:
		f.m.Flags.DUP = true
		s.repeat(&f.repetition, &f.m)
	}
}

// release ends what is on its way. Answers about twins are kept for a leaf that
// only goes to sleep.
func (s *session) release(all bool) {
	var kept []*parcel
	lost := s.quick
	if s.flight != nil && !s.flight.received {
		lost = slices.Concat([]*parcel{s.flight.parcel}, lost)
	}
	for _, p := range slices.Concat(lost, s.slow) {
		if p.kind == document && !all {
			p.denied = false
			kept = append(kept, p)
			continue
		}
		s.told(p, gateway.Undelivered)
	}
	s.flight, s.quick, s.slow = nil, kept, nil
	for _, c := range s.calls {
		s.dropCall(c)
	}
}

var _ gateway.Reach = (*Link)(nil)

// Command is described at gateway.DownHandler.
func (l *Link) Command(c *gateway.Command, answer func(gateway.Verdict)) {
	l.mu.Lock()
	defer l.unlockQuickly()
	counted := func(v gateway.Verdict) {
		l.mu.Lock()
		l.counts.commands[v.String()]++
		l.mu.Unlock()
		answer(v)
	}
	p := &parcel{kind: command, rest: "command/" + plain.CommandName(c), payload: c.Body, answer: counted}
	s := l.sessions[c.Leaf]
	switch {
	case s == nil || !s.reachable():
		l.do(func() { counted(gateway.Undelivered) })
	case s.listens(p.rest) == nil && s.wants().Has(gateway.WantsCommands):
		// The leaf has asked for commands of other names only. To wait would hold
		// up those.
		l.do(func() { counted(gateway.Rejected) })
	case s.listens(p.rest) == nil:
		l.do(func() { counted(gateway.Undelivered) })
	case !s.fits(p.rest, len(p.payload)):
		l.warn("command "+s.leaf, "command does not fit into a message", "leaf", s.leaf, "bytes", len(p.payload))
		l.do(func() { counted(gateway.Rejected) })
	default:
		s.post(p)
	}
}

// Call is described at gateway.DownHandler.
func (l *Link) Call(ctx context.Context, c *gateway.Call) (*gateway.Reply, error) {
	s := l.sessions[c.Leaf] // the map itself never changes
	if s == nil {
		return nil, gateway.ErrAbsent
	}
	asked := s.call(c)
	end := func(how string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.counts.calls[how]++
		if how == "silent" && s.calls[strconv.Itoa(asked.n)] == asked {
			delete(s.calls, strconv.Itoa(asked.n))
			s.burnt[asked.n] = time.Now().Add(quarantine)
		}
	}
	if asked == nil {
		end("absent")
		return nil, gateway.ErrAbsent
	}
	select {
	case r := <-asked.reply:
		if r == nil {
			end("absent")
			return nil, gateway.ErrAbsent
		}
		end("answered")
		return r, nil
	case <-ctx.Done():
		end("silent")
		return nil, ctx.Err()
	}
}

// call puts a call on its way; nil if the leaf does not listen for it, or cannot be
// sent it.
func (s *session) call(c *gateway.Call) *calling {
	l := s.l
	l.mu.Lock()
	defer l.unlockQuickly()
	now := time.Now()
	n := 1
	for n <= maxCalls && (s.calls[strconv.Itoa(n)] != nil || now.Before(s.burnt[n])) {
		n++
	}
	if n > maxCalls || !s.reachable() || c.Name == "" {
		return nil
	}
	rid := strconv.Itoa(n)
	asked := &calling{n: n, reply: make(chan *gateway.Reply, 1)}
	p := &parcel{kind: call, rest: "command/" + plain.Level(c.Name) + "/" + rid, payload: c.Body}
	p.answer = func(v gateway.Verdict) {
		if v != gateway.Completed {
			l.mu.Lock()
			s.dropCall(asked)
			l.mu.Unlock()
		}
	}
	if !s.fits(p.rest, len(p.payload)) {
		l.warn("call "+s.leaf, "call does not fit into a message", "leaf", s.leaf, "bytes", len(p.payload))
		return nil
	}
	s.calls[rid] = asked
	if !s.post(p) {
		delete(s.calls, rid)
		return nil
	}
	return asked
}

// dropCall ends a call that the leaf cannot answer any more.
func (s *session) dropCall(c *calling) {
	rid := strconv.Itoa(c.n)
	if s.calls[rid] == c {
		delete(s.calls, rid)
		s.burnt[c.n] = time.Now().Add(quarantine)
		c.reply <- nil
	}
}

// answerCall takes a leaf's answer. It says whether somebody has waited for it. A
// body that is no JSON becomes a JSON text: the hub takes nothing else.
func (s *session) answerCall(rid string, status int, body []byte) bool {
	c := s.calls[rid]
	if c == nil {
		if n, err := strconv.Atoi(rid); err == nil && n >= 1 && n <= maxCalls {
			s.burnt[n] = time.Time{} // this was the answer that might still come
		}
		return false
	}
	delete(s.calls, rid)
	r := &gateway.Reply{Status: status, Body: slices.Clone(body)}
	if len(body) > 0 && !json.Valid(body) {
		r.Body, _ = json.Marshal(strings.ToValidUTF8(string(body), "\uFFFD")) // a text: it cannot fail
	}
	c.reply <- r
	return true
}

// Desired is described at gateway.DownHandler.
func (l *Link) Desired(leaf string, patch []byte, _ int64, heard func()) {
	l.mu.Lock()
	defer l.unlockQuickly()
	s := l.sessions[leaf]
	if s == nil || !s.reachable() {
		return
	}
	if !s.fits(plain.Desired, len(patch)) {
		l.warn("desired "+leaf, "desired change does not fit into a message", "leaf", leaf, "bytes", len(patch))
		return
	}
	s.post(&parcel{kind: desired, rest: plain.Desired, payload: patch, answer: func(v gateway.Verdict) {
		if v == gateway.Completed {
			l.mu.Lock()
			l.counts.desired++
			l.mu.Unlock()
			heard()
		}
	}})
}
