package mqtt

import (
	"sync"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/gateway"
)

// acks sends the acknowledgements of commands in the order in which these came
// (MQTT 3.1.1, section 4.6), however leaves answer. One whose leaf has not answered
// when the hub's lock on it has ended is passed over: the hub offers it again.
type acks struct {
	mu    sync.Mutex // guards everything below
	queue []*offer   // oldest first
}

// offer is one command of the hub.
type offer struct {
	id       uint16 // of the packet, 0 where no acknowledgement is wanted
	lockedTo time.Time
	answered bool
	verdict  gateway.Verdict
}

// expect notes a command that is to be acknowledged.
func (a *acks) expect(id uint16, lockedTo time.Time) *offer {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := &offer{id: id, lockedTo: lockedTo}
	a.queue = append(a.queue, o)
	return o
}

// answer notes the leaf's word.
func (a *acks) answer(o *offer, v gateway.Verdict) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o.answered, o.verdict = true, v
}

// due returns the ids whose turn has come. MQTT knows no reject, so a command that
// its leaf never wants to see is acknowledged like one that it has; what the leaf
// wants later, or was not reached with, is left to the end of its lock.
func (a *acks) due(now time.Time) (ids []uint16) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.queue) > 0 && (a.queue[0].answered || now.After(a.queue[0].lockedTo)) {
		o := a.queue[0]
		a.queue[0] = nil
		a.queue = a.queue[1:]
		if o.id != 0 && o.answered && (o.verdict == gateway.Completed || o.verdict == gateway.Rejected) {
			ids = append(ids, o.id)
		}
	}
	return ids
}

// flush acknowledges what is due. Only one goroutine does, so that the order
// holds.
func (c *conn) flush() {
	for _, id := range c.acks.due(time.Now()) {
		p := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
		p.MessageID = id
		if c.send(p) != nil {
			return // the hub offers it again
		}
	}
}
