package gateway

import (
	"context"
	"math/rand/v2"
)

// Programs on this machine reach leaves as the hub does, with it and without. What
// they send stands in line with what the hub sends, and is nobody's any more when
// they do not wait for it: it is neither noted nor kept.

// Send hands over a command of a program on this machine and waits for the leaf's
// word until ctx ends, which must have a deadline. A leaf that is asleep may wake
// meanwhile. The error is ErrAbsent when the leaf has not had the command and will
// not get it, or that of ctx when it may have it and has not answered. c needs its
// Leaf and what is to be said; the rest is filled here.
func (d *Down) Send(ctx context.Context, c *Command) (Verdict, error) {
	c.local, c.Number, c.Enqueued = true, rand.Uint64(), d.clock().Wall
	c.LockedTo, _ = ctx.Deadline()
	d.mu.Lock()
	reachable := d.audienceLocked(c.Leaf).wants().Has(WantsCommands)
	d.mu.Unlock()
	if !reachable {
		return Undelivered, ErrAbsent
	}
	word := make(chan Verdict, 1)
	d.Command(c, func(v Verdict) { word <- v })
	select {
	case v := <-word:
		return localWord(v)
	case <-ctx.Done():
	}
	d.mu.Lock()
	for _, x := range d.audienceLocked(c.Leaf).commands.waiting {
		if x.c.local && x.c.name() == c.name() {
			x.lock.Reset(0)
		}
	}
	d.mu.Unlock()
	return localWord(<-word)
}

// unanswered is the word on a local command that is with the leaf when its time is
// up.
const unanswered = Undelivered + 1

func localWord(v Verdict) (Verdict, error) {
	switch v {
	case Undelivered:
		return v, ErrAbsent
	case unanswered:
		return Undelivered, context.DeadlineExceeded
	}
	return v, nil
}

// Wants returns what each leaf has asked for, of those that have asked for
// anything.
func (d *Down) Wants() map[string]Interest {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make(map[string]Interest, len(d.leaves))
	for leaf, a := range d.leaves {
		if wants := a.wants(); wants != 0 {
			all[leaf] = wants
		}
	}
	return all
}
