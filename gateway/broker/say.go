package broker

import (
	"bytes"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

// What the gateway says of itself is on topics below fieldgate/. A topic has one text
// at a time: whoever subscribes is sent it (retained, in MQTT's word), and after that
// each that takes its place. Since leaves share no topics there is no way to publish
// there, and nothing that a leaf has sent is ever retained. Who may listen to all
// leaves may listen to this, and no other leaf: it tells of all leaves.

// saidTopics is the first level of what the gateway says of itself.
const saidTopics = "fieldgate"

// Say makes a payload the text of a topic, which is to begin with fieldgate/, and
// sends it to those who listen. One that is the text already is not sent again: news is
// false. The payload is the broker's from then on.
func (b *Broker) Say(topic string, payload []byte) (news bool) {
	b.saying.Lock()
	defer b.saying.Unlock()
	if before, known := b.said[topic]; known && bytes.Equal(before, payload) {
		return false
	}
	b.said[topic] = payload
	b.tell(topic, func() *Tapped { return &Tapped{Payload: payload} })
	for login := range *b.listening.Load() {
		b.mu.Lock()
		d := b.desks[login]
		b.mu.Unlock()
		if d == nil || !b.mayListen(login, AnyLeaf) {
			continue
		}
		d.mu.Lock()
		for _, box := range d.boxes {
			if i := saidFilter(box.subs, topic); i >= 0 && box.owner != nil {
				d.sayLocked(box.owner, box.subs[i], topic, payload, false)
			}
		}
		d.mu.Unlock()
	}
	return true
}

// readSaid reads a filter for what the gateway says of itself.
func (b *Broker) readSaid(login, filter string) (subscription, bool) {
	first, rest, ok := strings.Cut(filter, "/")
	sub := subscription{filter: filter, kind: toSaid, rest: filter}
	return sub, ok && rest != "" && first == saidTopics && b.mayListen(login, AnyLeaf)
}

// saidFilter is the index of a subscription for the topic, -1 if there is none.
func saidFilter(subs []subscription, topic string) int {
	for i, s := range subs {
		if s.kind == toSaid && plain.Overlap(s.rest, topic) {
			return i
		}
	}
	return -1
}

func (d *desk) sayLocked(s *session, sub subscription, topic string, payload []byte, retained bool) {
	d.postLocked(s, &parcel{
		topic: topic, payload: payload, retained: retained, properties: appendIdent(nil, sub), answer: func(gateway.Verdict) {},
	})
}

// sayAgain sends a session the texts of what these filters of it match.
func (s *session) sayAgain(subs []subscription) {
	b, d := s.b, s.desk
	b.saying.Lock()
	defer b.saying.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.box.owner != s {
		return
	}
	for topic, payload := range b.said {
		if i := saidFilter(subs, topic); i >= 0 {
			d.sayLocked(s, subs[i], topic, payload, true)
		}
	}
}

// resume sends a session that was kept what it would have heard meanwhile.
func (s *session) resume() {
	s.desk.mu.Lock()
	subs := append([]subscription(nil), s.box.subs...)
	s.desk.mu.Unlock()
	s.sayAgain(subs)
}

// Retain handling of MQTT 5 (section 3.8.3.1); in MQTT 3.1.1 it is always 0.
const (
	retainedIfNew = 1
	retainedNever = 2
)

// freshSaid are those subscriptions of a SUBSCRIBE about what the gateway says of
// itself whose texts are to be sent.
func (s *session) freshSaid(filters packets.Subscriptions, subs []subscription) (fresh []subscription) {
	s.desk.mu.Lock()
	defer s.desk.mu.Unlock()
	for i, sub := range subs {
		known := false
		for _, old := range s.box.subs {
			known = known || old.filter == sub.filter
		}
		handling := filters[i].RetainHandling
		if sub.kind == toSaid && handling != retainedNever && (handling != retainedIfNew || !known) {
			fresh = append(fresh, sub)
		}
	}
	return fresh
}
