package mqttsn

import (
	"bytes"
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

const (
	// maxIncoming is how many publications of a leaf may be on their way into
	// custody. A client has one (section 6.6); what comes beyond is told congestion,
	// or dropped where it asks for no answer.
	maxIncoming = 16
	// maxAsking is how many twins a leaf may be reading at once.
	maxAsking = 2
)

// row is work for one goroutine, which is there while there is some. Guarded by
// Link.mu.
type row struct {
	list []func()
	busy bool
}

// add has f called without the lock, after all that was added before.
func (r *row) add(l *Link, f func()) {
	r.list = append(r.list, f)
	if r.busy {
		return
	}
	r.busy = true
	l.work.Go(func() {
		l.mu.Lock()
		for len(r.list) > 0 {
			f := r.list[0]
			r.list = r.list[1:]
			l.mu.Unlock()
			f()
			l.mu.Lock()
		}
		r.busy = false
		l.mu.Unlock()
	})
}

// incoming is a publication of the leaf that it will have an answer to.
type incoming struct {
	id     uint16 // message id
	topic  uint16 // as the leaf has written it
	qos    int8
	sum    uint64 // to recognise a copy
	number int    // of the connection that gets the answer
	taken  bool   // QoS 2: in custody, awaits PUBREL
}

// doneWith is the last publication with QoS 1 that was acknowledged. A copy of it
// means that the acknowledgement was lost.
type doneWith struct {
	id, topic uint16
	sum       uint64
	valid     bool
	// constant: the leaf has used the same id for another one, so that an id
	// recognises nothing.
	constant bool
}

var seed = maphash.MakeSeed()

func sumOf(m *Message) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	h.WriteByte(byte(m.Flags.Topic))
	h.WriteByte(byte(m.TopicID >> 8))
	h.WriteByte(byte(m.TopicID))
	h.Write(m.Data)
	return h.Sum64()
}

// isMessage says whether a topic is one of messages.
func isMessage(leaf, topic string) bool {
	_, ok := plain.ParseMessage(leaf, topic)
	return ok
}

// topic finds the name of a topic in a PUBLISH.
func (s *session) topic(kind TopicKind, id uint16) (string, bool) {
	if kind != TopicID {
		rest, ok := s.l.topics.rest(kind, id)
		return plain.Topic(s.leaf, rest), ok
	}
	x := s.ids[id]
	if x == nil {
		return "", false
	}
	return x.name, true
}

// publish takes PUBLISH (sections 6.6 to 6.8).
func (s *session) publish(m *Message, now time.Time) {
	in, again := s.arrived(m)
	if again {
		return
	}
	topic, ok := s.topic(m.Flags.Topic, m.TopicID)
	if !ok {
		s.l.discard("topic_id", "leaf", s.leaf)
		if m.Flags.QoS >= 0 { // also with QoS 0 (section 6.6)
			s.send(&Message{Type: PubAck, TopicID: m.TopicID, MessageID: m.MessageID, Code: InvalidTopic}, nil)
		}
		return
	}
	if len(s.handing.list) >= maxIncoming || in != nil && len(s.incoming) >= maxIncoming && !s.dropTaken() {
		s.l.discard("too_many", "leaf", s.leaf)
		s.refuse(in, Congestion)
		return
	}
	if in != nil {
		s.incoming = append(s.incoming, in)
	}
	s.take(topic, m, in)
}

// arrived makes a record of a publication that asks for an answer, nil for one
// that does not. again says that it came before, and is dealt with.
func (s *session) arrived(m *Message) (in *incoming, again bool) {
	if m.Flags.QoS < 1 {
		return nil, false
	}
	in = &incoming{id: m.MessageID, topic: m.TopicID, qos: m.Flags.QoS, sum: sumOf(m), number: s.number}
	i := slices.IndexFunc(s.incoming, func(x *incoming) bool { return x.id == in.id && x.qos == in.qos })
	if i >= 0 {
		old := s.incoming[i]
		if old.sum == in.sum && (m.Flags.DUP || in.qos == 2) {
			s.l.counts.events["copies"]++
			old.number = s.number
			if old.taken {
				s.send(&Message{Type: PubRec, MessageID: old.id}, nil)
			}
			return nil, true
		}
		old.number = -1 // its answer would be taken for that of the new one
		s.incoming = slices.Delete(s.incoming, i, i+1)
	}
	same := s.last.valid && s.last.id == in.id && in.qos == 1
	switch {
	case same && m.Flags.DUP && s.last.sum == in.sum && !s.last.constant:
		s.l.counts.events["copies"]++
		s.send(&Message{Type: PubAck, TopicID: in.topic, MessageID: in.id}, nil)
		return nil, true
	case same && !m.Flags.DUP:
		s.last.constant = true
	}
	return in, false
}

// dropTaken forgets the oldest publication with QoS 2 that awaits PUBREL.
func (s *session) dropTaken() bool {
	i := slices.IndexFunc(s.incoming, func(x *incoming) bool { return x.taken })
	if i < 0 {
		return false
	}
	s.incoming = slices.Delete(s.incoming, i, i+1)
	return true
}

// take brings a publication on its way. m is the caller's again afterwards.
func (s *session) take(topic string, m *Message, in *incoming) {
	l := s.l
	if msg, ok := plain.ParseMessage(s.leaf, topic); ok {
		msg.Body, msg.Captured = bytes.Clone(m.Data), l.clock()
		if m.Flags.Retain {
			// Not stored, but said, as the hub does (wire contract, section 2.7).
			msg.Properties = []gateway.Property{{Name: "mqtt-retain", Value: "true"}}
		}
		lane := msg.Lane
		s.handing.add(l, func() {
			l.ways.Up.Handle(l.ctx, msg, func(err error) { s.settled(in, &lane, err) })
		})
		return
	}
	r, ok := plain.ParseRequest(s.leaf, topic)
	switch {
	case !ok:
		l.discard("topic", "leaf", s.leaf)
		s.refuse(in, NotSupported)
	case r.Kind == hub.GetTwin:
		s.getTwin()
		s.accept(in)
	case r.Kind == hub.AnswerMethod:
		if !s.answerCall(r.RID, r.Status, m.Data) {
			l.counts.events["late_replies"]++
		}
		s.accept(in)
	default:
		patch := bytes.Clone(m.Data)
		s.handing.add(l, func() {
			l.ways.Twins.Report(s.leaf, patch, func(_ int64, err error) { s.reported(in, err) })
		})
	}
}

// settled takes the gateway's word on a message. It is called from anywhere and
// calls nobody.
func (s *session) settled(in *incoming, lane *gateway.Lane, err error) {
	s.l.mu.Lock()
	defer s.l.unlockQuickly()
	if err == nil {
		s.l.counts.taken[*lane]++
		s.accept(in)
		return
	}
	s.reject(in, err)
}

// reported takes the word on reported properties. What is wrong with them for good
// is also said on twin/error.
func (s *session) reported(in *incoming, err error) {
	s.l.mu.Lock()
	defer s.l.unlockQuickly()
	s.l.counts.events["reports"]++
	if err == nil {
		s.accept(in)
		return
	}
	if refused, final := errors.AsType[*gateway.TwinError](err); final {
		s.l.warn("reported "+s.leaf, "reported properties refused", "leaf", s.leaf, "reason", err)
		s.post(&parcel{kind: document, rest: plain.Error, payload: hub.TwinErrorBody(refused)})
		s.refuse(in, NotSupported)
		return
	}
	s.reject(in, err)
}

// reject answers what was not taken.
func (s *session) reject(in *incoming, err error) {
	code, why := judge(err)
	if why != "" {
		s.l.discard(why, "leaf", s.leaf)
	}
	s.refuse(in, code)
}

// noAnswer stands for a return code: the leaf had better repeat by itself.
const noAnswer ReturnCode = 0xFF

// judge says what to tell the leaf, and how to count it.
func judge(err error) (code ReturnCode, why string) {
	switch {
	case errors.Is(err, gateway.ErrShuttingDown), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return noAnswer, ""
	case errors.Is(err, gateway.ErrStoreFull), errors.Is(err, gateway.ErrStoreFailed):
		return Congestion, "congestion"
	case errors.Is(err, gateway.ErrTooLarge):
		return NotSupported, "too_large"
	case errors.Is(err, gateway.ErrUnknownLeaf):
		return NotSupported, "unknown_leaf"
	}
	return Congestion, "refused"
}

// accept acknowledges what is in custody, or needs none.
func (s *session) accept(in *incoming) {
	if in == nil {
		return
	}
	if in.qos == 2 {
		in.taken = true
		s.answer(in, &Message{Type: PubRec, MessageID: in.id})
		return
	}
	if s.drop(in) {
		s.last = doneWith{in.id, in.topic, in.sum, true, s.last.constant}
	}
	s.answer(in, &Message{Type: PubAck, TopicID: in.topic, MessageID: in.id})
}

// refuse tells the leaf that its publication was not taken.
func (s *session) refuse(in *incoming, code ReturnCode) {
	if in == nil {
		return
	}
	s.drop(in)
	if code != noAnswer {
		s.answer(in, &Message{Type: PubAck, TopicID: in.topic, MessageID: in.id, Code: code})
	}
}

// answer sends an answer, if the connection is the one that waits for it.
func (s *session) answer(in *incoming, m *Message) {
	if in.number == s.number && s.connected() {
		s.send(m, nil)
	}
}

// drop forgets a publication, and says whether it was there.
func (s *session) drop(in *incoming) bool {
	i := slices.Index(s.incoming, in)
	if i < 0 {
		return false
	}
	s.incoming = slices.Delete(s.incoming, i, i+1)
	return true
}

// pubrel takes PUBREL: the leaf knows that its publication is in custody.
func (s *session) pubrel(m *Message) {
	s.incoming = slices.DeleteFunc(s.incoming, func(x *incoming) bool { return x.taken && x.id == m.MessageID })
	s.send(&Message{Type: PubComp, MessageID: m.MessageID}, nil)
}

// getTwin answers a leaf that asks for its twin, where it listens for the answer.
func (s *session) getTwin() {
	l := s.l
	l.counts.events["twin_reads"]++
	if s.listens(plain.Document) == nil {
		return
	}
	if s.asking >= maxAsking {
		s.twinFault(&gateway.TwinError{Status: 429, Code: 429001, Message: "too many requests at once"})
		return
	}
	s.asking++
	number := s.number
	l.work.Go(func() {
		text, _, err := l.ways.Twins.Twin(l.ctx, s.leaf)
		l.mu.Lock()
		defer signal(l.news)
		defer l.unlock()
		s.asking--
		switch {
		case s.number != number:
		case err != nil:
			s.twinFault(hub.TwinFault(err))
		case !s.fits(plain.Document, len(text)):
			s.twinFault(&gateway.TwinError{Status: 413, Code: 413000, Message: "the twin does not fit into a message"})
		default:
			s.post(&parcel{kind: document, rest: plain.Document, payload: text})
		}
	})
}

func (s *session) twinFault(e *gateway.TwinError) {
	s.post(&parcel{kind: document, rest: plain.Error, payload: hub.TwinErrorBody(e)})
}

// Pauses between attempts to publish a will that the store does not take.
const (
	willPauseMin = 100 * time.Millisecond
	willPauseMax = 30 * time.Second
)

// publishWill publishes the will of a leaf that is lost. There is nobody to repeat
// it, so it is tried until it is taken.
func (s *session) publishWill(w will) {
	l := s.l
	msg, ok := plain.ParseMessage(s.leaf, w.Topic)
	if !ok {
		return
	}
	l.counts.events["wills"]++
	msg.Kind, msg.Body, msg.Captured = gateway.Will, w.Data, l.clock()
	if w.Retain {
		msg.Properties = append(msg.Properties, gateway.Property{Name: "mqtt-retain", Value: "true"})
	}
	msg.Properties = append(msg.Properties, gateway.Property{Name: "iothub-MessageType", Value: "Will"})
	s.handing.add(l, func() {
		for pause := willPauseMin; l.ctx.Err() == nil; pause = min(2*pause, willPauseMax) {
			one := *msg // the gateway writes into what it takes
			fate := make(chan error, 1)
			l.ways.Up.Handle(l.ctx, &one, func(err error) { fate <- err })
			err := <-fate
			if code, _ := judge(err); err == nil || code == NotSupported {
				l.mu.Lock()
				if err == nil {
					l.counts.taken[one.Lane]++
				}
				l.mu.Unlock()
				return
			}
			select {
			case <-l.ctx.Done():
			case <-time.After(pause):
			}
		}
	})
}
