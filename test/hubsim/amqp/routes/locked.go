package routes

import (
	"context"
	"encoding/hex"
	"strings"
	"sync"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/commands"
)

// queue is a queue whose messages are locked until they are settled.
// *commands.Notices is one.
type queue interface {
	Receive() (commands.Delivery, bool)
	Next(ctx context.Context) (commands.Delivery, error)
	Complete(lock string) error
	Reject(lock string) error
	Abandon(lock string) error
	Unlock(lock string)
}

// lockedLink hands the messages of a queue to one link.
type lockedLink struct {
	c      *connection
	link   *server.Link
	queue  queue
	render func(commands.Delivery) *amqp.Message

	mu    sync.Mutex // guards what follows
	locks map[string]struct{}
	ended bool
}

// lockedEndpoint is the hub's side of a link that empties a queue.
func (c *connection) lockedEndpoint(l *server.Link, q queue, render func(commands.Delivery) *amqp.Message) server.Endpoint {
	s := &lockedLink{c: c, link: l, queue: q, render: render, locks: make(map[string]struct{})}
	return server.Endpoint{Pump: s.run, Gone: s.gone}
}

// run sends messages as they come and the client wants them.
func (s *lockedLink) run() {
	for s.link.Ready() {
		d, ok := s.queue.Receive()
		if !ok {
			s.link.Idle()
			var err error
			if d, err = s.queue.Next(s.link.Context()); err != nil {
				return
			}
		}
		if !s.send(d) {
			s.queue.Unlock(d.LockToken)
		}
	}
}

// send returns false when the message could not go out: the link has ended, or
// the client has taken its credit back meanwhile.
func (s *lockedLink) send(d commands.Delivery) bool {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return false
	}
	s.locks[d.LockToken] = struct{}{}
	s.mu.Unlock()
	encoded := s.render(d).Append(nil)
	sent := s.link.Deliver(encoded, lockTag(d.LockToken), func(state amqp.State) { s.settle(d.LockToken, state) })
	if !sent {
		s.release(d.LockToken)
	}
	return sent
}

// release forgets a lock, and says whether it was known.
func (s *lockedLink) release(lock string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.locks[lock]
	delete(s.locks, lock)
	return known
}

// settle does what the client's outcome means (section 3.6).
func (s *lockedLink) settle(lock string, state amqp.State) {
	if !s.release(lock) {
		return
	}
	var err error
	switch state.Outcome {
	case amqp.Accepted:
		err = s.queue.Complete(lock)
	case amqp.Rejected:
		err = s.queue.Reject(lock)
	default:
		err = s.queue.Abandon(lock)
	}
	if err != nil { // the lock has expired: the message comes again
		s.c.hub.Log.Debug("settlement came too late", "address", s.link.Address(), "error", err)
	}
}

// gone puts back what the client has not settled.
func (s *lockedLink) gone() {
	s.mu.Lock()
	s.ended = true
	locks := s.locks
	s.locks = nil
	s.mu.Unlock()
	for lock := range locks {
		s.queue.Unlock(lock)
	}
}

// lockTag writes the GUID of a lock as a delivery tag: 16 bytes, of which the
// first three groups are little-endian (section 3.6).
func lockTag(lock string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(lock, "-", ""))
	if err != nil || len(b) != 16 {
		return []byte(lock)
	}
	return []byte{
		b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6],
		b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15],
	}
}
