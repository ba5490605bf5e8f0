package routes

import (
	"context"
	"sync"

	"github.com/fieldgate/fieldgate/test/hubsim/commands"
)

// maxTopic is how many bytes a topic may have.
const maxTopic = 1<<16 - 1

// sender sends commands to a device as they come (section 2.3).
type sender struct {
	c   *connection
	qos byte

	mu     sync.Mutex        // guards locked
	locked map[uint64]string // lock tokens of what is under way, by sequence number
}

// sendCommands starts to send, and returns what ends it: commands that the
// device has not acknowledged then go back to the queue.
func (c *connection) sendCommands(qos byte) (end func()) {
	s := &sender{c: c, qos: qos, locked: make(map[uint64]string)}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.run(ctx) })
	return func() {
		cancel()
		running.Wait()
		s.unlock()
	}
}

func (s *sender) run(ctx context.Context) {
	for {
		d, err := s.c.hub.Commands.Next(ctx, s.c.source.ID)
		if err != nil {
			return // it was ended
		}
		s.send(d)
	}
}

// send sends one command. PUBACK completes it; with QoS 0 it is complete when it
// is written.
func (s *sender) send(d commands.Delivery) {
	id := s.c.source.ID
	topic := id.Path() + "/messages/devicebound/" + encodeBag(id, d.Message)
	if len(topic) > maxTopic {
		s.c.hub.Log.Warn("a command does not fit a topic", "device", id, "bytes", len(topic))
		_ = s.c.hub.Commands.Reject(id, d.LockToken) // only a lost lock could fail
		return
	}
	s.mu.Lock()
	s.locked[d.Sequence] = d.LockToken
	s.mu.Unlock()
	complete := func() { s.complete(d) }
	if s.qos == 0 {
		s.c.conn.Send(topic, d.Message.Body, 0, complete)
		return
	}
	s.c.conn.SendAs(packetID(d.Sequence), s.c.session.again(d.Sequence), topic, d.Message.Body, complete)
}

// complete takes a command off the queue. When its lock has expired it stays
// there, and comes again.
func (s *sender) complete(d commands.Delivery) {
	s.mu.Lock()
	if s.locked[d.Sequence] == d.LockToken {
		delete(s.locked, d.Sequence)
	}
	s.mu.Unlock()
	if err := s.c.hub.Commands.Complete(s.c.source.ID, d.LockToken); err != nil {
		s.c.hub.Log.Debug("a command was acknowledged too late", "device", s.c.source.ID, "error", err)
	}
}

// unlock gives everything back that was not acknowledged.
func (s *sender) unlock() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, lock := range s.locked {
		s.c.hub.Commands.Unlock(s.c.source.ID, lock)
	}
}
