package broker

import (
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

// subscription is one filter of a session. There is no tree of topics that all
// leaves share: what the gateway sends to a leaf is matched against the
// subscriptions of that leaf's own sessions, and against nobody else's.
type subscription struct {
	filter string // as the leaf sent it
	qos    byte   // granted, at most 1
	ident  int    // subscription identifier of MQTT 5, 0 for none
	kind   subscribed
	level  string // the leaf's id as it stands in the filter, "" where there is none
	rest   string // of a plain filter: what stands behind leaf/{id}/; of one by a rule, or of toSaid: all of it

	wants gateway.Interest // of one by a rule
}

// subscribed says what a filter is about.
type subscribed uint8

const (
	toTwinAnswers subscribed = iota + 1
	toDesired
	toMethods
	toCommands
	toPlain
	toMapped  // by a rule: for the leaf that is logged in
	toCarried // by a rule: for the leaf level, or for any, "", for which it speaks
	toHeard   // what another leaf sends, level, or any to which it may listen, "+"
	toSaid    // what the gateway says of itself, by the whole topic
)

// parseFilter reads a filter that a leaf may subscribe to: those of the stock
// device SDKs, and anything below leaf/{leaf}/.
func parseFilter(leaf, filter string) (subscription, bool) {
	switch filter { // the constants, not the leaf's copy of them, are kept
	case hub.TwinAnswersFilter:
		return subscription{filter: hub.TwinAnswersFilter, kind: toTwinAnswers}, true
	case hub.DesiredFilter:
		return subscription{filter: hub.DesiredFilter, kind: toDesired}, true
	case hub.MethodsFilter:
		return subscription{filter: hub.MethodsFilter, kind: toMethods}, true
	}
	if device, ok := hub.ParseCommandsFilter(filter); ok {
		return subscription{filter: filter, kind: toCommands, level: device}, plain.Names(device, leaf)
	}
	id, rest, ok := plain.Cut(filter)
	return subscription{filter: filter, kind: toPlain, level: id, rest: rest}, ok && rest != "" && plain.Names(id, leaf)
}

// interest is what a session with these subscriptions asks for.
func interest(subs []subscription) (wants gateway.Interest) {
	for i := range subs {
		s := &subs[i]
		switch s.kind {
		case toMapped:
			wants |= s.wants
		case toCommands:
			wants |= gateway.WantsCommands
		case toMethods:
			wants |= gateway.WantsCalls
		case toDesired:
			wants |= gateway.WantsDesired
		case toPlain:
			wants |= plain.Interest(s.rest)
		}
	}
	return wants
}

// find returns the subscription of a kind with the best quality of service: of the
// plain ones one that matches the topic behind leaf/{id}/, of those by a rule one
// that matches the whole topic.
func find(subs []subscription, kind subscribed, topic string) (best subscription, found bool) {
	for _, s := range subs {
		if s.kind == kind && (kind < toPlain || plain.Overlap(s.rest, topic)) && (!found || s.qos > best.qos) {
			best, found = s, true
		}
	}
	return best, found
}
