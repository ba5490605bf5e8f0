package gateway

import (
	"context"
	"time"
)

// DeadLetter is a message that the hub refused for good, on the shelf.
type DeadLetter struct {
	Number  uint64 // on the shelf; grows
	Message *Message
	Reason  string    // the hub's words
	Time    time.Time // when it was put there, by the clock of then
}

// Shelf is what an operator can do with dead letters; the store has it. It holds
// at most 1,000 messages and 16 MiB: the oldest give way. Safe for concurrent use.
type Shelf interface {
	// DeadLetters calls use for each letter, the oldest first, until it returns
	// false. use may call the shelf.
	DeadLetters(use func(DeadLetter) bool) error

	// DropDeadLetters takes letters off the shelf, synced, and returns how many of
	// the numbers were there.
	DropDeadLetters(numbers ...uint64) (int, error)
}

// Replay puts a dead letter back into its lane, as a new hand-over with the same
// message id, and returns when it is in custody again; then it can leave the
// shelf. Modules do not see it a second time. Where the error is nil and the hub
// refuses it again, it is on the shelf again under a new number.
func (p *Path) Replay(ctx context.Context, d DeadLetter) error {
	m := *d.Message // the stamps of the old hand-over stay with the letter
	if err := p.admit(&m); err != nil {
		return err
	}
	fate := make(chan error, 1)
	p.take(ctx, &m, func(err error) { fate <- err })
	// Whatever becomes of ctx: custody says what it does within bounded time, and
	// a letter whose fate is not known would be sent twice.
	if err := <-fate; err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.replayed++
	return nil
}
