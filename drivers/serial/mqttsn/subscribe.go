package mqttsn

import (
	"slices"
	"strings"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

const (
	// maxSubscriptions bounds those of one leaf.
	maxSubscriptions = 32
	// maxFilterBytes bounds their filters, all together: they stand in one note.
	maxFilterBytes = 4 << 10
)

// subscription is one filter of a session.
type subscription struct {
	Filter string    `json:"filter"` // leaf/{id}/…
	QoS    byte      `json:"qos,omitempty"`
	Kind   TopicKind `json:"kind,omitempty"` // how the leaf has named it, and is to be told
	ID     uint16    `json:"id,omitempty"`   // predefined, or the short name
}

// cut returns the leaf's id as it stands in the filter, and what is behind it.
func (s *subscription) cut() (level, rest string) {
	level, rest, _ = plain.Cut(s.Filter)
	return level, rest
}

// wants is what the leaf has asked for.
func (s *session) wants() (wants gateway.Interest) {
	for i := range s.subs {
		_, rest := s.subs[i].cut()
		wants |= plain.Interest(rest)
	}
	return wants
}

// listens returns the subscription with the best quality of service for a topic
// behind leaf/{id}/, nil if there is none.
func (s *session) listens(topic string) (best *subscription) {
	for i := range s.subs {
		sub := &s.subs[i]
		if _, rest := sub.cut(); plain.Overlap(rest, topic) && (best == nil || sub.QoS > best.QoS) {
			best = sub
		}
	}
	return best
}

// subscription reads what SUBSCRIBE and UNSUBSCRIBE are about.
func (s *session) subscription(m *Message) (sub subscription, code ReturnCode) {
	sub = subscription{Filter: string(m.Text), Kind: m.Flags.Topic, ID: m.TopicID, QoS: byte(max(m.Flags.QoS, 0))}
	if !m.Named {
		rest, ok := s.l.topics.rest(m.Flags.Topic, m.TopicID)
		if !ok {
			return sub, InvalidTopic
		}
		sub.Filter = plain.Topic(s.leaf, rest)
		return sub, Accepted
	}
	level, rest := sub.cut()
	if !validName(m.Text) || rest == "" || !plain.Names(level, s.leaf) || strings.Contains(strings.TrimSuffix(rest, "#"), "#") {
		return sub, NotSupported
	}
	return sub, Accepted
}

// subscribe takes SUBSCRIBE (section 6.9).
func (s *session) subscribe(m *Message) {
	sub, code := s.subscription(m)
	answer := &Message{Type: SubAck, MessageID: m.MessageID, Code: code, Flags: Flags{QoS: int8(sub.QoS)}}
	i := slices.IndexFunc(s.subs, func(x subscription) bool { return x.Filter == sub.Filter && x.Kind == sub.Kind })
	bytes := len(sub.Filter)
	for _, x := range s.subs {
		bytes += len(x.Filter)
	}
	switch {
	case code != Accepted:
	case i >= 0:
		s.subs[i] = sub
	case len(s.subs) >= maxSubscriptions || bytes > maxFilterBytes:
		answer.Code = NotSupported
	default:
		s.subs = append(s.subs, sub)
	}
	if answer.Code != Accepted {
		s.l.counts.events["subscriptions_refused"]++
		s.l.warn("subscribe "+s.leaf, "subscription refused", "leaf", s.leaf, "code", int(answer.Code))
		s.send(answer, nil)
		return
	}
	answer.TopicID = sub.ID
	var told *topicID
	if sub.Kind == TopicID && !strings.ContainsAny(sub.Filter, "+#") {
		if answer.TopicID, told = s.ids.get(sub.Filter, true); told == nil {
			answer.TopicID = 0 // it is told by REGISTER, as with a wildcard
		}
	}
	number := s.number
	s.note(func() {
		if s.number != number {
			return
		}
		if told != nil {
			told.told = true
		}
		s.send(answer, nil)
		s.interest()
		s.again()
	})
}

// unsubscribe takes UNSUBSCRIBE. It has no word for a mistake.
func (s *session) unsubscribe(m *Message) {
	sub, _ := s.subscription(m)
	s.subs = slices.DeleteFunc(s.subs, func(x subscription) bool { return x.Filter == sub.Filter && x.Kind == sub.Kind })
	number := s.number
	s.note(func() {
		if s.number != number {
			return
		}
		s.send(&Message{Type: UnsubAck, MessageID: m.MessageID}, nil)
		s.interest()
	})
}

// register takes REGISTER (section 6.5).
func (s *session) register(m *Message) {
	answer := &Message{Type: RegAck, MessageID: m.MessageID, Code: NotSupported}
	if name := string(m.Text); validName(m.Text) && !strings.ContainsAny(name, "+#") && ofPlain(s.leaf, name) {
		id, x := s.ids.get(name, true)
		if answer.TopicID, answer.Code = id, Accepted; x == nil {
			answer.Code = Congestion
		} else {
			x.told = true
		}
	}
	if answer.Code != Accepted {
		s.l.counts.events["topics_refused"]++
		s.l.warn("register "+s.leaf, "topic refused", "leaf", s.leaf, "code", int(answer.Code))
	}
	s.send(answer, nil)
}
