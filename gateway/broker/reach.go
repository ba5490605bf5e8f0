package broker

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

var _ gateway.Reach = (*Broker)(nil)

// Command is described at gateway.DownHandler. The leaf's session that was
// connected last, of those that want it, gets the command.
func (b *Broker) Command(c *gateway.Command, answer func(gateway.Verdict)) {
	b.desk(c.Leaf).command(c, b.counted(answer))
}

// counted counts what becomes of a command.
func (b *Broker) counted(answer func(gateway.Verdict)) func(gateway.Verdict) {
	return func(v gateway.Verdict) {
		b.counters.count(func(s *State) { s.Commands[v.String()]++ })
		answer(v)
	}
}

func (d *desk) command(c *gateway.Command, answer func(gateway.Verdict)) {
	d.mu.Lock()
	s, p := d.commandParcelLocked(c)
	v := gateway.Undelivered
	switch {
	case s == nil && d.wantsLocked(c.Leaf, gateway.WantsCommands):
		// The leaf has asked for commands of other names only. To wait would hold
		// up those.
		v = gateway.Rejected
	case s == nil:
	case len(p.topic) > maxString:
		v = gateway.Rejected
	case s.box.takeLate(*p.command):
		v = gateway.Completed
	default:
		p.answer = answer
		if d.postLocked(s, p) {
			d.mu.Unlock()
			return
		}
	}
	d.mu.Unlock()
	if v == gateway.Rejected {
		d.b.notices.warn(d.leaf+" command", "command cannot be delivered", slog.String("leaf", d.leaf), slog.Int("topic_bytes", topicBytes(p)))
	}
	answer(v)
}

func topicBytes(p *parcel) int {
	if p == nil {
		return 0
	}
	return len(p.topic)
}

// takeLate says whether a command was acknowledged after its connection had
// ended, and forgets it then.
func (box *mailbox) takeLate(name commandName) bool {
	i := box.sentIndex(name)
	if i < 0 || !box.sent[i].acked {
		return false
	}
	box.sent = slices.Delete(box.sent, i, i+1)
	return true
}

// wantsLocked says whether a session that is served wants that for the leaf.
func (d *desk) wantsLocked(leaf string, what gateway.Interest) bool {
	return slices.ContainsFunc(d.boxes, func(x *mailbox) bool {
		return x.owner != nil && x.owner.out.open && d.interestIn(leaf, x.subs).Has(what)
	})
}

// commandParcelLocked words a command for the session that gets it; nil if there
// is none.
func (d *desk) commandParcelLocked(c *gateway.Command) (*session, *parcel) {
	name := nameOf(c)
	for _, box := range d.boxes {
		if box.owner == nil || !box.owner.out.open {
			continue
		}
		p := &parcel{payload: c.Body, command: &name}
		if d.wordMapped(p, box, c) {
			return box.owner, p
		}
		if c.Leaf != d.leaf {
			continue
		}
		if sub, ok := find(box.subs, toCommands, ""); ok {
			p.topic, p.qos = hub.CommandTopic(sub.level, c), sub.qos
			p.properties = appendIdent(nil, sub)
			return box.owner, p
		}
		topic := "command/" + plain.CommandName(c)
		if sub, ok := find(box.subs, toPlain, topic); ok {
			p.topic, p.qos = plain.Topic(sub.level, topic), sub.qos
			p.properties = appendCommand(nil, sub, c)
			return box.owner, p
		}
	}
	return nil, nil
}

// Call is described at gateway.DownHandler.
func (b *Broker) Call(ctx context.Context, c *gateway.Call) (*gateway.Reply, error) {
	return b.desk(c.Leaf).ask(ctx, c)
}

// ask has a leaf answer a call, this one or one that it speaks for.
func (d *desk) ask(ctx context.Context, c *gateway.Call) (*gateway.Reply, error) {
	asked, before := d.call(c)
	for before != nil { // where answers carry no id there is one call at a time
		select {
		case <-before.over:
		case <-ctx.Done():
		}
		if err := ctx.Err(); err != nil { // the leaf need not do what nobody waits for
			d.b.counters.count(func(s *State) { s.Calls[CallSilent]++ })
			return nil, err
		}
		asked, before = d.call(c)
	}
	if asked == nil {
		d.b.counters.count(func(s *State) { s.Calls[CallAbsent]++ })
		return nil, gateway.ErrAbsent
	}
	select {
	case r := <-asked.reply:
		if r == nil {
			d.b.counters.count(func(s *State) { s.Calls[CallAbsent]++ })
			return nil, gateway.ErrAbsent
		}
		d.b.counters.count(func(s *State) { s.Calls[CallAnswered]++ })
		return r, nil
	case <-ctx.Done():
		d.mu.Lock()
		d.endCallLocked(asked) // an answer is too late from now on
		d.mu.Unlock()
		d.b.counters.count(func(s *State) { s.Calls[CallSilent]++ })
		return nil, ctx.Err()
	}
}

// calling is a direct method that a leaf was asked for.
type calling struct {
	rid     string
	session *session            // only it may answer
	reply   chan *gateway.Reply // capacity 1; nil says that the leaf is gone
	topic   string              // on which the answer comes by a rule; "" without one
	over    chan struct{}       // closed when the next call may have the topic
}

// lateAnswer is how long the topic of a call that was not answered is kept from the
// next one: what comes there meanwhile is the late answer to the first.
const lateAnswer = 10 * time.Second

// call puts a call on its way; nil if no session listens for it. With a call under
// way behind which it has to wait, that is before.
func (d *desk) call(c *gateway.Call) (asked, before *calling) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lastRID++
	asked = &calling{rid: strconv.FormatUint(d.lastRID, 10), reply: make(chan *gateway.Reply, 1), over: make(chan struct{})}
	p := d.wordCallLocked(asked, c)
	if asked.session == nil || len(p.topic) > maxString {
		return nil, nil
	}
	if before := d.awaited[asked.topic]; before != nil {
		return nil, before
	}
	p.answer = func(v gateway.Verdict) {
		if v != gateway.Completed {
			d.mu.Lock()
			d.dropCallLocked(asked)
			d.mu.Unlock()
		}
	}
	d.calls[asked.rid] = asked
	if asked.topic != "" {
		if d.awaited == nil {
			d.awaited = make(map[string]*calling)
		}
		d.awaited[asked.topic] = asked
	}
	if !d.postLocked(asked.session, p) {
		delete(d.calls, asked.rid)
		d.freeTopicLocked(asked)
		return nil, nil
	}
	return asked, nil
}

// wordCallLocked words a call for the session that gets it, and notes which that
// is.
func (d *desk) wordCallLocked(asked *calling, c *gateway.Call) *parcel {
	p := &parcel{payload: c.Body}
	for _, box := range d.boxes {
		if box.owner == nil || !box.owner.out.open {
			continue
		}
		if d.wordMappedCall(p, box, asked, c) {
			asked.session = box.owner
			return p
		}
		if c.Leaf != d.leaf {
			continue
		}
		if sub, ok := find(box.subs, toMethods, ""); ok {
			p.topic, p.properties = hub.MethodTopic(c.Name, asked.rid), appendIdent(nil, sub)
			asked.session = box.owner
			return p
		}
		topic := "command/" + plain.Level(c.Name) + "/" + asked.rid
		if sub, ok := find(box.subs, toPlain, topic); ok && c.Name != "" {
			p.topic, p.properties = plain.Topic(sub.level, topic), appendCall(nil, sub, asked.rid)
			asked.session = box.owner
			return p
		}
	}
	return p
}

// endCallLocked takes a call off the list; nobody can answer it any more. Its topic
// is free only after a while, unless the leaf says something there before.
func (d *desk) endCallLocked(c *calling) {
	if d.calls[c.rid] != c {
		return
	}
	delete(d.calls, c.rid)
	if c.topic != "" {
		time.AfterFunc(lateAnswer, func() {
			d.mu.Lock()
			d.freeTopicLocked(c)
			d.mu.Unlock()
		})
	}
}

// freeTopicLocked lets the next call have the topic of this one.
func (d *desk) freeTopicLocked(c *calling) {
	if c.topic != "" && d.awaited[c.topic] == c {
		delete(d.awaited, c.topic)
		close(c.over)
	}
}

// dropCallLocked ends a call that the leaf cannot answer any more.
func (d *desk) dropCallLocked(c *calling) {
	if d.calls[c.rid] == c {
		d.endCallLocked(c)
		c.reply <- nil
	}
}

// answerCall takes a leaf's answer. It says whether somebody has waited for it.
func (d *desk) answerCall(s *session, rid string, status int, body []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.calls[rid]
	if c == nil || c.session != s || c.topic != "" {
		return false
	}
	d.answerLocked(c, status, body)
	return true
}

// answerLocked hands an answer over. A body that is no JSON becomes a JSON text:
// the hub takes nothing else.
func (d *desk) answerLocked(c *calling, status int, body []byte) {
	delete(d.calls, c.rid)
	d.freeTopicLocked(c)
	if len(body) > 0 && !json.Valid(body) {
		body, _ = json.Marshal(string(body)) // a text: it cannot fail
	}
	c.reply <- &gateway.Reply{Status: status, Body: body}
}

// Desired is described at gateway.DownHandler. Every session of the leaf that
// listens gets the change.
func (b *Broker) Desired(leaf string, patch []byte, version int64, heard func()) {
	b.desk(leaf).desired(leaf, patch, version, heard)
}

func (d *desk) desired(leaf string, patch []byte, version int64, heard func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, box := range d.boxes {
		if box.owner == nil || !box.owner.out.open {
			continue
		}
		parcels, ok := d.wordMappedDesired(box, leaf, patch)
		if !ok && leaf == d.leaf {
			parcels = wordDesired(box, patch, version)
		}
		left := len(parcels)
		if ok && left == 0 {
			go heard() // there is nothing to say; never from within
		}
		for _, p := range parcels {
			p.answer = func(v gateway.Verdict) {
				d.mu.Lock()
				if v == gateway.Completed {
					left--
				}
				all := left == 0
				d.mu.Unlock()
				if all {
					d.b.counters.count(func(s *State) { s.Desired++ })
					heard()
				}
			}
			d.postLocked(box.owner, p)
		}
	}
}

// wordDesired words a change for a session in the dialect in which it listens; none
// if it does not.
func wordDesired(box *mailbox, patch []byte, version int64) []*parcel {
	if sub, ok := find(box.subs, toDesired, ""); ok {
		return []*parcel{{topic: hub.DesiredTopic(version), payload: patch, qos: sub.qos, properties: appendIdent(nil, sub)}}
	}
	if sub, ok := find(box.subs, toPlain, plain.Desired); ok {
		return []*parcel{{topic: plain.Topic(sub.level, plain.Desired), payload: patch, qos: sub.qos, properties: appendIdent(nil, sub)}}
	}
	return nil
}
