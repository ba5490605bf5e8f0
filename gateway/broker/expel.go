package broker

import (
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Expel ends the connections of a leaf at once. Whoever has taken the leaf from the
// table, or disabled it there, calls it afterwards; without that it would take
// until the next sweep. What the leaf has subscribed to is kept for when it is
// admitted again, unless forget.
func (b *Broker) Expel(leaf string, forget bool) {
	b.mu.Lock()
	for _, s := range b.sessions {
		if s.leaf == leaf {
			b.running.Go(func() { s.stop(packets.ErrNotAuthorized, "it is admitted no more, or was disabled") })
		}
	}
	d := b.desks[leaf]
	b.mu.Unlock()
	if d == nil {
		return
	}
	if forget {
		d.mu.Lock()
		for _, box := range d.boxes {
			box.ttl = 0 // it ends with its connection, or now
		}
		d.mu.Unlock()
	}
	d.expire(time.Now())
}
