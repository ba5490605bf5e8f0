package broker

import (
	"context"
	"slices"
	"strings"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

// A login may be allowed to listen to others: a program on the site that shows or
// acts on what leaves send. What a leaf sends is matched against the filters of
// those logins alone that may listen to it, by the configuration; nobody else's are
// looked at.

// AnyLeaf stands for all leaves in Parts.MayListen.
const AnyLeaf = "*"

// allowed returns to which leaves a login may listen.
func (b *Broker) allowed(login string) []string { return (*b.listening.Load())[login] }

// mayListen says whether a login may listen to a leaf.
func (b *Broker) mayListen(login, leaf string) bool {
	allowed := b.allowed(login)
	return slices.Contains(allowed, leaf) || slices.Contains(allowed, AnyLeaf)
}

// readHeard reads a filter for what others send: leaf/{leaf}/… of one to whom the
// login may listen, or leaf/+/… of all those.
func (b *Broker) readHeard(login, filter string) (subscription, bool) {
	level, rest, ok := plain.Cut(filter)
	if !ok || len(b.allowed(login)) == 0 {
		return subscription{}, false
	}
	switch kind, _, _ := strings.Cut(rest, "/"); kind {
	case "telemetry", "alarm", "+", "#":
	default:
		return subscription{}, false
	}
	allowed := level == "+" || !strings.ContainsAny(level, "+#") && (b.mayListen(login, AnyLeaf) ||
		slices.ContainsFunc(b.allowed(login), func(leaf string) bool { return plain.Names(level, leaf) }))
	return subscription{filter: filter, kind: toHeard, level: level, rest: rest}, allowed
}

// Heard returns a handler that passes messages on to next, and tells those who
// listen what is in custody. Messages of leaves to whom nobody may listen cost
// nothing.
func (b *Broker) Heard(next gateway.Handler) gateway.Handler {
	return gateway.HandlerFunc(func(ctx context.Context, m *gateway.Message, done gateway.Done) {
		listeners := b.listenersOf(m.Leaf)
		if len(listeners) == 0 && !b.tapped() {
			next.Handle(ctx, m, done)
			return
		}
		next.Handle(ctx, m, func(err error) {
			if err == nil {
				for _, d := range listeners {
					d.hear(m)
				}
				b.tellMessage(m)
			}
			done(err)
		})
	})
}

// listenersOf returns the desks of those who may listen to the leaf and are there.
func (b *Broker) listenersOf(leaf string) (desks []*desk) {
	for login := range *b.listening.Load() {
		if !b.mayListen(login, leaf) {
			continue
		}
		b.mu.Lock()
		d := b.desks[login]
		b.mu.Unlock()
		if d != nil {
			desks = append(desks, d)
		}
	}
	return desks
}

// heardRest is where a message is heard, behind leaf/{id}/.
func heardRest(m *gateway.Message) string {
	rest := "telemetry"
	if m.Lane == gateway.LaneAlarm {
		rest = "alarm"
	}
	if m.Channel != "" {
		rest += "/" + m.Channel
	}
	return rest
}

// hear sends a copy of another's message to the sessions of this leaf that listen,
// with QoS 0. One that does not read is cut off, like every leaf.
func (d *desk) hear(m *gateway.Message) {
	rest := heardRest(m)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, box := range d.boxes {
		if box.owner == nil || !box.owner.out.open {
			continue
		}
		i := slices.IndexFunc(box.subs, func(s subscription) bool {
			return s.kind == toHeard && (s.level == "+" || plain.Names(s.level, m.Leaf)) && plain.Overlap(s.rest, rest)
		})
		if i < 0 {
			continue
		}
		level := box.subs[i].level
		if level == "+" {
			level = m.Leaf
		}
		p := &parcel{topic: plain.Topic(level, rest), payload: m.Body, answer: func(gateway.Verdict) {}}
		if len(p.topic) > maxString {
			continue
		}
		p.properties = appendIdent(nil, box.subs[i])
		for _, x := range m.Properties {
			p.properties = appendUser(p.properties, x.Name, x.Value)
		}
		d.postLocked(box.owner, p)
	}
}
