package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
)

// ears is who listens for what the hub sends. The subscriptions are the gateway's
// and are made when the first leaf wants what they are for; they stay.
type ears struct {
	opening chan struct{} // a lock that can be waited for with a context
	flush   chan struct{} // capacity 1: acknowledgements may be due
	calls   chan struct{} // one element for each call under way

	mu      sync.Mutex
	open    map[string]bool // filters; guarded by mu
	leaves  map[string]ear  // guarded by mu
	waiting []waiting       // commands of leaves that do not listen; guarded by mu
}

// ear is one leaf that listens.
type ear struct {
	wants gateway.Interest
	to    gateway.DownHandler
}

// waiting is a command whose leaf does not listen now.
type waiting struct {
	command *gateway.Command
	offer   *offer
}

const (
	// maxCalls is how many method calls are answered at a time; one more is told
	// that the gateway is busy.
	maxCalls = 64
	// maxWaiting is how many commands wait here for their leaf: as many as the hub
	// keeps for one device (wire contract, section 6.2).
	maxWaiting = 50
	// maxCall bounds the wait for a leaf's answer to a method (wire contract,
	// section 5.8).
	maxCall = 300 * time.Second
)

func (e *ears) init() {
	e.opening, e.flush, e.calls = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, maxCalls)
	e.open, e.leaves = make(map[string]bool), make(map[string]ear)
}

// Listen is described at uplink.Listener. A leaf asleep is not there for calls.
// Desired changes come for the gateway's own twin only.
func (c *conn) Listen(ctx context.Context, leaf string, wants gateway.Interest, to gateway.DownHandler, _ func(error)) error {
	if !c.dialect.listens() {
		return nil
	}
	if wants.Has(gateway.Asleep) {
		wants &= gateway.WantsCommands
	}
	if leaf != c.device {
		wants &^= gateway.WantsDesired
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout.D())
	defer cancel()
	c.ears.mu.Lock()
	if wants == 0 {
		delete(c.ears.leaves, leaf)
	} else {
		c.ears.leaves[leaf] = ear{wants, to}
	}
	c.ears.mu.Unlock()
	for _, s := range []struct {
		what   gateway.Interest
		filter string
		qos    byte
	}{
		{gateway.WantsCommands, hub.CommandsFilter(c.device), 1},
		{gateway.WantsCalls, hub.MethodsFilter, 0},
		{gateway.WantsDesired, hub.DesiredFilter, 0},
	} {
		if wants.Has(s.what) {
			if err := c.openFilter(ctx, s.filter, s.qos); err != nil {
				return err
			}
		}
	}
	if wants.Has(gateway.WantsCommands) {
		c.handWaiting(leaf, to)
	}
	return nil
}

// openFilter subscribes once.
func (c *conn) openFilter(ctx context.Context, filter string, qos byte) error {
	select {
	case c.ears.opening <- struct{}{}:
		defer func() { <-c.ears.opening }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c.ears.mu.Lock()
	open := c.ears.open[filter]
	c.ears.mu.Unlock()
	if open {
		return nil
	}
	if err := c.subscribe(ctx, filter, qos); err != nil {
		return err
	}
	c.ears.mu.Lock()
	defer c.ears.mu.Unlock()
	c.ears.open[filter] = true
	return nil
}

// listening returns the leaf's handler if it wants this now.
func (c *conn) listening(leaf string, what gateway.Interest) gateway.DownHandler {
	c.ears.mu.Lock()
	defer c.ears.mu.Unlock()
	e := c.ears.leaves[leaf]
	if !e.wants.Has(what) {
		return nil
	}
	return e.to
}

// take does what a message of the hub asks for. It does not wait.
func (c *conn) take(p *packets.PublishPacket) {
	if command, ok := hub.FromMQTT(c.device, p.TopicName, p.Payload, c.cfg.LockTime()); ok {
		c.takeCommand(command, p)
		return
	}
	if rid, status, version, ok := hub.ParseTwinAnswer(p.TopicName); ok {
		c.answerTwin(rid, twinAnswer{status, version, p.Payload})
		return
	}
	if version, ok := hub.ParseDesired(p.TopicName); ok {
		if to := c.listening(c.device, gateway.WantsDesired); to != nil {
			to.Desired(c.device, p.Payload, version, func() {})
		}
		return
	}
	if name, rid, ok := hub.ParseMethod(p.TopicName); ok {
		c.takeCall(name, rid, p.Payload)
		return
	}
	c.log.Debug("the hub sends what nobody asked for", "topic", p.TopicName)
}

// takeCommand hands a command to its leaf, or keeps it while the hub's lock lasts.
// One that names no leaf is for nobody: the hub keeps it until it expires, and
// tells its sender so.
func (c *conn) takeCommand(command *gateway.Command, p *packets.PublishPacket) {
	id := p.MessageID
	if p.Qos == 0 {
		id = 0
	}
	o := c.acks.expect(id, command.LockedTo)
	if command.Leaf == "" {
		c.log.Warn("a command names no leaf", "message_id", command.System.MessageID, "property", hub.PropertyLeaf)
		c.answerCommand(o, gateway.Undelivered)
		return
	}
	if to := c.listening(command.Leaf, gateway.WantsCommands); to != nil {
		to.Command(command, func(v gateway.Verdict) { c.answerCommand(o, v) })
		return
	}
	c.ears.mu.Lock()
	now := time.Now()
	c.ears.waiting = slices.DeleteFunc(c.ears.waiting, func(w waiting) bool { return now.After(w.command.LockedTo) })
	full := len(c.ears.waiting) >= maxWaiting
	if !full {
		c.ears.waiting = append(c.ears.waiting, waiting{command, o})
	}
	c.ears.mu.Unlock()
	if full {
		c.answerCommand(o, gateway.Undelivered)
	}
}

// handWaiting hands over what came before the leaf listened.
func (c *conn) handWaiting(leaf string, to gateway.DownHandler) {
	c.ears.mu.Lock()
	var own []waiting
	c.ears.waiting = slices.DeleteFunc(c.ears.waiting, func(w waiting) bool {
		if w.command.Leaf != leaf {
			return false
		}
		own = append(own, w)
		return true
	})
	c.ears.mu.Unlock()
	now := time.Now()
	for _, w := range own {
		if now.Before(w.command.LockedTo) {
			to.Command(w.command, func(v gateway.Verdict) { c.answerCommand(w.offer, v) })
		}
	}
}

// answerCommand notes the leaf's word, and has it go out. It does not wait: the
// reader may be the one that calls it.
func (c *conn) answerCommand(o *offer, v gateway.Verdict) {
	c.acks.answer(o, v)
	select {
	case c.ears.flush <- struct{}{}:
	default: // it is about to look
	}
}

// takeCall has a leaf answer a method call. The hub's caller hears of a leaf that
// is not there from us: to the hub it is the gateway that is called.
func (c *conn) takeCall(name, rid string, body []byte) {
	select {
	case c.ears.calls <- struct{}{}:
	default:
		c.background.Go(func() {
			c.reply(rid, gateway.Reply{Status: 429, Body: complaint("the gateway answers too many calls")})
		})
		return
	}
	c.background.Go(func() {
		defer func() { <-c.ears.calls }()
		ctx, cancel := context.WithTimeout(c.live, maxCall)
		defer cancel()
		if reply, ok := c.call(ctx, name, rid, body); ok {
			c.reply(rid, reply)
		}
	})
}

// call returns the answer; ok is false when there is none.
func (c *conn) call(ctx context.Context, name, rid string, body []byte) (reply gateway.Reply, ok bool) {
	what, ok := hub.ParseLeafCall(body)
	if !ok && c.listening(c.device, gateway.WantsCalls) != nil {
		what, ok = hub.LeafCall{Leaf: c.device, Payload: body}, true // of the gateway itself
	}
	if !ok {
		return gateway.Reply{Status: 400, Body: complaint(`the payload names no leaf: send {"leaf": "its id", "payload": …}`)}, true
	}
	to := c.listening(what.Leaf, gateway.WantsCalls)
	if to == nil {
		return absent, true
	}
	r, err := to.Call(ctx, &gateway.Call{Leaf: what.Leaf, Name: name, ID: rid, Body: what.Payload})
	if errors.Is(err, gateway.ErrAbsent) {
		return absent, true
	}
	if err != nil {
		return gateway.Reply{}, false // the hub tells its caller that time is up
	}
	return *r, true
}

func (c *conn) reply(rid string, r gateway.Reply) {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload = hub.MethodAnswerTopic(r.Status, rid), r.Body
	_ = c.send(p) // without it the hub tells its caller that time is up
}

var absent = gateway.Reply{Status: 404, Body: complaint("the leaf is not there")}

// complaint is a reply of the gateway itself.
func complaint(text string) []byte {
	b, _ := json.Marshal(map[string]string{"error": text}) // plain values: it cannot fail
	return b
}
