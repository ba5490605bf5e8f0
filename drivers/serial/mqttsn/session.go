package mqttsn

import (
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// phase is where a session is in its life (section 6.14, figure 4).
type phase uint8

const (
	away      phase = iota // disconnected or lost; what is kept is kept
	prompting              // CONNECT was taken, the will is being asked for
	active
	asleep
	awake // to be given what waits, then asleep again
)

// keepFor is how long a session is kept without its leaf, as at the broker.
const keepFor = 7 * 24 * time.Hour

// session is one leaf on the link, connected or not. It is a machine of its own:
// messages and time go in (receive, tick), messages and calls to the gateway come
// out. Guarded by Link.mu.
type session struct {
	l       *Link
	leaf    string
	address string // where it was last
	phase   phase
	since   time.Time // when phase last changed between away and the rest
	gone    string    // why it is away
	number  int       // of the connection: answers belong to one

	keep   bool          // not begun with the clean flag: outlives its connection
	quiet  time.Duration // that is allowed between messages, or while asleep; 0: any
	active time.Duration // quiet of the active phase
	until  time.Time     // lost when nothing has come by then; zero: never
	heard  time.Time     // when something came last
	wake   time.Time     // awake at least until then
	prompt Type          // WILLTOPICREQ or WILLMSGREQ, while prompting
	asked  repetition    // of prompt

	will  *will // in force, or kept for the next connection
	draft *will // that is being asked for
	ids   topicIDs
	subs  []subscription
	noted string           // what is on flash, or being written
	said  gateway.Interest // what the attendance was told, or will be

	incoming []*incoming // publications with QoS 1 and 2 that are not done with
	last     doneWith    // the last one that is
	handing  row         // what is to be handed to the gateway
	noting   row         // notes to be written
	asking   int         // twins that are being read

	down
}

// will is what is published when the leaf is lost.
type will struct {
	Topic  string `json:"topic"`
	QoS    int8   `json:"qos,omitempty"`
	Retain bool   `json:"retain,omitempty"`
	Data   []byte `json:"data"`
}

func newSession(l *Link, leaf string) *session {
	return &session{l: l, leaf: leaf, ids: make(topicIDs), down: down{calls: make(map[string]*calling)}}
}

// connected says that messages of the leaf's address are the session's.
func (s *session) connected() bool { return s.phase >= active }

// repetition is a message that is sent again until it is answered (section 6.13).
type repetition struct {
	tries int
	due   time.Time // zero: not written yet
}

// send sends a message and has the time run when it is written.
func (s *session) repeat(r *repetition, m *Message) {
	if r.tries++; r.tries > 1 {
		s.l.counts.events["repeated"]++
	}
	r.due = time.Time{}
	tries, number := r.tries, s.number
	s.send(m, func(bool) {
		if r.tries == tries && s.number == number {
			r.due = time.Now().Add(s.l.cfg.Retry.D())
		}
	})
}

// again says that it is time to send once more, or that it was in vain.
func (r *repetition) again(now time.Time, c *Config) (due, over bool) {
	due = !r.due.IsZero() && !now.Before(r.due)
	return due, due && r.tries > c.Retries
}

// send sends a message to the leaf. sent is called when it is written, or will not
// be; perhaps from within.
func (s *session) send(m *Message, sent func(bool)) { s.l.send(s.address, m, sent) }

// allow is how long a leaf may be silent that has announced so many seconds: half as
// much again, which section 7.2 has for short times and MQTT for all.
func allow(seconds uint16) time.Duration { return time.Duration(seconds) * time.Second * 3 / 2 }

// hear notes that something has come.
func (s *session) hear(now time.Time) {
	s.heard, s.until = now, time.Time{}
	if s.quiet > 0 {
		s.until = now.Add(s.quiet)
	}
}

// tick does what is due and returns when something will be; zero for never.
func (s *session) tick(now time.Time) (next time.Time) {
	soon := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if s.phase == away {
		if s.keep && !now.Before(s.since.Add(keepFor)) {
			s.forget()
			s.interest()
		}
		if s.keep {
			soon(s.since.Add(keepFor))
		}
		return next
	}
	if !s.until.IsZero() && !now.Before(s.until) {
		s.lose(now, "silent for too long")
		return s.tick(now)
	}
	if s.phase == prompting {
		if due, over := s.asked.again(now, &s.l.cfg); over {
			s.draft = nil
			s.end(now, "has not told its will")
			return s.tick(now)
		} else if due {
			s.repeat(&s.asked, &Message{Type: s.prompt})
		}
		soon(s.asked.due)
	}
	s.tickDown(now)
	if s.phase == awake && s.idle() {
		if now.Before(s.wake) {
			soon(s.wake)
		} else {
			s.sleepAgain(now)
		}
	}
	if s.flight != nil {
		soon(s.flight.due)
	}
	soon(s.until)
	return next
}

// connect takes CONNECT. Its address is bound already. A sleeping leaf that
// connects goes on with what it has (figure 4), whatever its flags: to begin anew
// it would have had to disconnect.
func (s *session) connect(m *Message, now time.Time) {
	slept := s.phase == asleep || s.phase == awake
	s.leave()
	if m.Flags.Clean && !slept {
		s.forget()
	}
	s.doubt(m.Flags.Clean)
	s.keep = !m.Flags.Clean || slept && s.keep
	s.number++
	s.ids.untell()
	s.active = allow(m.Duration)
	s.quiet = s.active
	s.hear(now)
	s.phase, s.draft = prompting, nil
	if m.Flags.Will {
		s.draft = &will{}
		s.ask(WillTopicReq)
		return
	}
	s.connack(now)
}

// doubt has nothing taken for a copy that may be a new message: a leaf that has
// started anew gives the same message ids again. One with the clean flag says so.
// Without it it may have forgotten all the same, which could cost a message with QoS
// 1; with QoS 2 it must remember, or exactly once would mean nothing.
func (s *session) doubt(clean bool) {
	s.last = doneWith{constant: s.last.constant}
	if clean {
		s.incoming = nil // those under way reach custody, and nobody awaits the answer
	}
}

// ask asks for a part of the will.
func (s *session) ask(t Type) {
	s.prompt, s.asked = t, repetition{}
	s.repeat(&s.asked, &Message{Type: t})
}

// connack lets the leaf in.
func (s *session) connack(now time.Time) {
	s.phase, s.since, s.gone = active, now, ""
	s.l.counts.logins["accepted"]++
	log, leaf, keep, l := s.l.log, s.leaf, s.keep, s.l
	l.do(func() { log.Info("leaf connected", "event", "leaf-connected", "leaf", leaf, "kept", keep) })
	number := s.number
	s.note(func() {
		if s.number != number || s.phase == away {
			return
		}
		s.send(&Message{Type: ConnAck}, nil)
		s.open = true
		s.interest()
	})
}

// leave ends the connection for what is under way on it, and says so.
func (s *session) leave() {
	s.open = false
	s.release(true)
	if s.phase != away {
		s.phase, s.since = away, time.Now()
	}
	s.interest()
}

// end ends the connection.
func (s *session) end(now time.Time, why string) {
	s.leave()
	s.number++
	s.since, s.gone, s.until = now, why, time.Time{}
	if s.l.at[s.address] == s {
		delete(s.l.at, s.address)
	}
	if !s.keep {
		s.forget()
	}
	s.interest()
	log, leaf := s.l.log, s.leaf
	s.l.do(func() { log.Info("leaf disconnected", "event", "leaf-disconnected", "leaf", leaf, "reason", why) })
}

// lose ends the connection of a leaf that has not said goodbye.
func (s *session) lose(now time.Time, why string) {
	if s.connected() && s.will != nil {
		s.publishWill(*s.will)
	}
	s.end(now, why)
}

// forget forgets all that a clean session does not find (section 6.3).
func (s *session) forget() {
	s.subs, s.will, s.keep = nil, nil, false
	clear(s.ids)
	s.note(nil)
}

// receive takes a message of the leaf. CONNECT is not among them.
func (s *session) receive(m *Message, now time.Time) {
	s.hear(now)
	if s.phase == prompting {
		s.receiveWill(m, now)
		return
	}
	switch m.Type {
	case PingReq:
		s.ping(m, now)
	case Disconnect:
		s.disconnect(m, now)
	case Register:
		s.register(m)
	case Subscribe:
		s.subscribe(m)
	case Unsubscribe:
		s.unsubscribe(m)
	case Publish:
		s.publish(m, now)
	case PubRel:
		s.pubrel(m)
	case RegAck:
		s.regack(m, now)
	case PubAck:
		s.puback(m, now)
	case PubRec:
		s.pubrec(m)
	case PubComp:
		s.pubcomp(m, now)
	case WillTopicUpd:
		s.updateTopic(m)
	case WillMsgUpd:
		s.updateMessage(m)
	default:
		s.l.counts.events["unexpected"]++
	}
}

// receiveWill goes on with CONNECT. What comes twice is answered twice.
func (s *session) receiveWill(m *Message, now time.Time) {
	switch {
	case m.Type == Disconnect:
		s.draft = nil
		s.end(now, "goodbye")
		s.send(&Message{Type: Disconnect}, nil)
	case m.Type == WillTopic && len(m.Text) == 0: // it wants none (section 6.3)
		s.will, s.draft = nil, nil
		s.connack(now)
	case m.Type == WillTopic:
		if !s.fitsWill(m.Text) {
			s.l.warn("will "+s.leaf, "will has no topic of this leaf", "leaf", s.leaf)
			s.l.counts.logins["will"]++
			s.draft = nil
			s.end(now, "its will has no topic of this leaf")
			s.send(&Message{Type: ConnAck, Code: NotSupported}, nil)
			return
		}
		s.draft = &will{Topic: string(m.Text), QoS: m.Flags.QoS, Retain: m.Flags.Retain}
		s.ask(WillMsgReq)
	case m.Type == WillMsg && s.prompt == WillMsgReq:
		s.draft.Data = slices.Clone(m.Data)
		s.will, s.draft = s.draft, nil
		s.connack(now)
	}
}

// fitsWill says whether a will can have this topic: that of a message.
func (s *session) fitsWill(topic []byte) bool {
	return validName(topic) && isMessage(s.leaf, string(topic))
}

// updateTopic takes WILLTOPICUPD; an empty one deletes the will (section 6.4).
func (s *session) updateTopic(m *Message) {
	code := Accepted
	switch {
	case len(m.Text) == 0:
		s.will = nil
	case !s.fitsWill(m.Text):
		code = NotSupported
	default:
		changed := will{Topic: string(m.Text), QoS: m.Flags.QoS, Retain: m.Flags.Retain}
		if s.will != nil {
			changed.Data = s.will.Data
		}
		s.will = &changed
	}
	s.note(func() { s.send(&Message{Type: WillTopicResp, Code: code}, nil) })
}

// updateMessage takes WILLMSGUPD.
func (s *session) updateMessage(m *Message) {
	code := NotSupported // there is no will
	if s.will != nil {
		changed := *s.will
		changed.Data = slices.Clone(m.Data)
		s.will, code = &changed, Accepted
	}
	s.note(func() { s.send(&Message{Type: WillMsgResp, Code: code}, nil) })
}

// disconnect takes DISCONNECT: goodbye, or good night.
func (s *session) disconnect(m *Message, now time.Time) {
	if !m.HasDuration || m.Duration == 0 {
		if !s.keep {
			s.will = nil
		}
		s.end(now, "goodbye")
		s.send(&Message{Type: Disconnect}, nil)
		return
	}
	s.quiet = allow(m.Duration)
	s.hear(now)
	if s.phase == active {
		s.l.counts.events["slept"]++
	}
	s.phase, s.open = asleep, false
	s.release(false)
	s.interest()
	s.send(&Message{Type: Disconnect}, nil)
}

// ping answers PINGREQ, or wakes a sleeping session.
func (s *session) ping(m *Message, now time.Time) {
	switch {
	case s.phase == asleep && len(m.Text) > 0:
		s.l.counts.events["woken"]++
		s.phase, s.open, s.wake = awake, true, now.Add(s.l.cfg.Wake.D())
		s.interest()
		s.pump(now)
	case s.phase == awake: // a copy: the answer comes when all is delivered
	default:
		s.send(&Message{Type: PingResp}, nil)
	}
}

// sleepAgain ends the awake phase. Its time begins anew with PINGRESP (section
// 6.14).
func (s *session) sleepAgain(now time.Time) {
	s.phase, s.open = asleep, false
	s.hear(now)
	s.interest()
	s.send(&Message{Type: PingResp}, nil)
}

// unplug is the end of the line: the session goes on, and what the leaf is sent waits at
// the hub until the line is back, or the leaf is lost.
func (s *session) unplug() {
	if s.open {
		s.release(false)
	}
	s.interest()
}

// reachable says that the leaf may be sent something now.
func (s *session) reachable() bool { return s.open && s.l.out != nil }

// interest has the attendance told what the leaf wants, if that is news. It returns what
// it has been told, or will be.
func (s *session) interest() gateway.Interest {
	wants := s.wants()
	switch {
	case wants == 0:
	case !s.l.known(s.leaf): // one that is disabled costs the hub no link
		wants = 0
	case s.phase == away && (!s.keep || s.l.closing), s.phase == prompting && !s.keep:
		wants = 0
	case !s.reachable():
		wants |= gateway.Asleep
	}
	if wants != s.said {
		s.say(wants)
	}
	return s.said
}

// again has the attendance told the same once more: what could not be delivered is
// tried again.
func (s *session) again() {
	if s.said != 0 {
		s.say(s.said)
	}
}

// say tells the attendance.
func (s *session) say(wants gateway.Interest) {
	if s.said == 0 && wants == 0 {
		return
	}
	s.said = wants
	l := s.l
	l.do(func() { l.ways.Attendance.Attend(s.leaf, l, wants) })
}
