package broker

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/broker/mapping"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

// What follows is for firmware that cannot change its topics: rules say what these
// mean. A leaf may speak for others where a rule names it, and is then a bridge:
// commands for these reach them through it.

// readMapped reads a topic that no dialect knows. Whoever is not admitted has no
// messages, whoever speaks for it.
func (b *Broker) readMapped(login, topic string) (*gateway.Message, error) {
	t, ok := b.rules.Load().Read(login, topic)
	if !ok || !b.table.Known(t.Leaf) {
		return nil, errTopic
	}
	m := &gateway.Message{Leaf: t.Leaf, Kind: gateway.Telemetry, Lane: gateway.LaneTelemetry, Channel: t.Channel}
	switch t.Kind {
	case mapping.Telemetry:
	case mapping.Alarm:
		m.Lane = gateway.LaneAlarm
	default:
		return nil, errTopic
	}
	return m, nil
}

// readReport returns whose reported properties a rule finds in a topic.
func (b *Broker) readReport(login, topic string) (leaf string, ok bool) {
	t, ok := b.rules.Load().Read(login, topic)
	return t.Leaf, ok && t.Kind == mapping.Reported && b.table.Known(t.Leaf)
}

// readFilter reads a filter that a leaf may subscribe to: one that parseFilter
// knows, one for what others send or the gateway says of itself, or one for which there
// is a rule.
func (b *Broker) readFilter(login, filter string) (subscription, bool) {
	if sub, ok := parseFilter(login, filter); ok {
		return sub, true
	}
	if sub, ok := b.readHeard(login, filter); ok {
		return sub, true
	}
	if sub, ok := b.readSaid(login, filter); ok {
		return sub, true
	}
	sub := subscription{filter: filter, kind: toMapped, rest: filter}
	l, ok := b.rules.Load().Listens(login, filter)
	switch {
	case !ok:
		return subscription{filter: filter}, false
	case l.All || l.Leaf != login:
		sub.kind, sub.level = toCarried, l.Leaf
	}
	sub.wants = l.Wants
	return sub, true
}

// ofDialect says whether a topic has a meaning, right or wrong, without a rule.
func ofDialect(topic string) bool {
	first, _, _ := strings.Cut(topic, "/")
	return first == "leaf" || first == "devices" || first == saidTopics || strings.HasPrefix(first, "$")
}

// mayChatter says whether the leaf may publish there for nothing. Firmware that
// cannot change says much that nobody has a rule for, and would come back in a
// loop if it were turned away.
func (s *session) mayChatter(topic string) bool {
	return s.b.rules.Load().Speaks(s.leaf) && !ofDialect(topic)
}

// chatter counts a publication that goes nowhere.
func (b *Broker) chatter(leaf, topic string) {
	b.counters.refuse(RefuseRule)
	b.notices.warn(leaf+" rule", "publication without a rule goes nowhere", slog.String("leaf", leaf), slog.String("topic", topic))
}

// bridge is a leaf as the way to the leaves that it speaks for.
type bridge struct{ desk *desk }

var _ gateway.Reach = (*bridge)(nil)

// Command is described at gateway.DownHandler.
func (w *bridge) Command(c *gateway.Command, answer func(gateway.Verdict)) {
	w.desk.command(c, w.desk.b.counted(answer))
}

// Call is described at gateway.DownHandler.
func (w *bridge) Call(ctx context.Context, c *gateway.Call) (*gateway.Reply, error) {
	return w.desk.ask(ctx, c)
}

// Desired is described at gateway.DownHandler.
func (w *bridge) Desired(leaf string, patch []byte, version int64, heard func()) {
	w.desk.desired(leaf, patch, version, heard)
}

// way is the Reach for this leaf or one that it speaks for.
func (d *desk) way(leaf string) gateway.Reach {
	if leaf == d.leaf {
		return d.b
	}
	return d.bridge
}

// speakFor notes that this leaf has spoken for another. A filter that is open for
// all leaves, like zigbee2mqtt/#, counts for those only: else a bridge would take
// the commands of all leaves that have nothing to do with it.
func (d *desk) speakFor(leaf string) {
	if leaf == d.leaf {
		return
	}
	d.mu.Lock()
	news := !d.speaks[leaf]
	if news {
		if d.speaks == nil {
			d.speaks = make(map[string]bool)
		}
		d.speaks[leaf] = true
		d.interestOfLocked(leaf)
	}
	d.mu.Unlock()
	if news {
		d.announce()
	}
}

// carriedLocked are the other leaves that sessions may listen for, or have.
func (d *desk) carriedLocked() map[string]bool {
	if d.b.rules.Load() == nil {
		return nil
	}
	leaves := make(map[string]bool, len(d.speaks))
	for leaf := range d.speaks {
		leaves[leaf] = true
	}
	for leaf, wants := range d.said {
		leaves[leaf] = leaves[leaf] || wants != 0
	}
	for _, box := range d.boxes {
		for _, s := range box.subs {
			if s.kind == toCarried && s.level != "" {
				leaves[s.level] = true
			}
		}
	}
	delete(leaves, d.leaf)
	return leaves
}

// interestIn is what subscriptions ask for on behalf of the leaf.
func (d *desk) interestIn(leaf string, subs []subscription) (wants gateway.Interest) {
	if leaf == d.leaf {
		return interest(subs)
	}
	for _, s := range subs {
		if s.kind == toCarried && (s.level == leaf || s.level == "" && d.speaks[leaf]) {
			wants |= s.wants
		}
	}
	return wants
}

// findMapped returns how something reaches the leaf by a rule, and the subscription
// of the session for it.
func (d *desk) findMapped(box *mailbox, kind mapping.Kind, what gateway.Interest, leaf, name string) (mapping.Way, subscription, bool) {
	mapped := toMapped
	if leaf != d.leaf {
		mapped = toCarried
	}
	way, ok := d.b.rules.Load().Way(kind, d.leaf, leaf, name)
	if !ok || !d.interestIn(leaf, box.subs).Has(what) {
		return way, subscription{}, false
	}
	sub, ok := find(box.subs, mapped, way.Topic)
	return way, sub, ok
}

// wordMapped words a command by a rule, if the session listens there.
func (d *desk) wordMapped(p *parcel, box *mailbox, c *gateway.Command) bool {
	way, sub, ok := d.findMapped(box, mapping.Command, gateway.WantsCommands, c.Leaf, plain.CommandName(c))
	if ok {
		p.topic, p.qos, p.properties = way.Topic, sub.qos, appendCommand(nil, sub, c)
	}
	return ok
}

// wordMappedCall words a call by a rule, if the session listens there.
func (d *desk) wordMappedCall(p *parcel, box *mailbox, asked *calling, c *gateway.Call) bool {
	way, sub, ok := d.findMapped(box, mapping.Call, gateway.WantsCalls, c.Leaf, plain.Level(c.Name))
	if !ok || c.Name == "" {
		return false
	}
	p.topic, p.payload, p.properties = way.Topic, bare(c.Body), appendIdent(nil, sub)
	asked.topic = way.Reply
	return true
}

// wordMappedDesired words a change of desired properties by a rule, if the session
// listens there: where the topic has a name, each property on its own.
func (d *desk) wordMappedDesired(box *mailbox, leaf string, patch []byte) (parcels []*parcel, ok bool) {
	way, sub, ok := d.findMapped(box, mapping.Desired, gateway.WantsDesired, leaf, anyName)
	switch {
	case !ok:
		return nil, false
	case !way.Named:
		return []*parcel{{topic: way.Topic, payload: patch, qos: sub.qos, properties: appendIdent(nil, sub)}}, true
	}
	var values map[string]json.RawMessage
	if json.Unmarshal(patch, &values) != nil {
		return nil, false
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if strings.HasPrefix(name, "$") || string(values[name]) == "null" {
			continue // the hub's own, and what is gone: there is nothing to set
		}
		way, sub, listens := d.findMapped(box, mapping.Desired, gateway.WantsDesired, leaf, plain.Level(name))
		if listens && len(way.Topic) <= maxString {
			parcels = append(parcels, &parcel{topic: way.Topic, payload: bare(values[name]), qos: sub.qos, properties: appendIdent(nil, sub)})
		}
	}
	return parcels, true
}

// anyName stands for a name in a topic.
const anyName = "+"

// bare is a JSON value as firmware wants it: a text without its quotes, null as
// nothing.
func bare(value []byte) []byte {
	var text string
	switch {
	case string(value) == "null":
		return nil
	case len(value) > 0 && value[0] == '"' && json.Unmarshal(value, &text) == nil:
		return []byte(text)
	}
	return value
}

// answerMapped takes a publication as the answer to the call that waits for one on
// its topic, if any does: from whichever connection of the leaf, as firmware may be
// a script.
func (d *desk) answerMapped(topic string, body []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.awaited[topic]
	switch {
	case c == nil:
	case d.calls[c.rid] == c:
		d.answerLocked(c, 200, body)
	default: // too late for its caller, and not for the next one
		d.freeTopicLocked(c)
		d.b.counters.count(func(st *State) { st.LateReplies++ })
	}
}
