package gateway

import (
	"encoding/binary"
	"slices"
	"time"
)

// A command is the hub's until the leaf has acknowledged it; the hub locks it
// for us meanwhile, and offers it again when the lock has ended. Three things
// can go wrong, and each has its rule here:
//
//   - The leaf is away. The command waits in memory. When the lock ends, the hub
//     has it again, and nothing was counted against it; what is left here is a
//     copy, which the leaf gets only if it wakes while the hub is away.
//   - The lock ends while the leaf has the command in its hands. The hub's next
//     offer joins the delivery under way instead of starting another one.
//   - The leaf has acknowledged, and the hub does not hear of it. The command's
//     name was noted on flash before the hub was told, so that its next offer is
//     answered without the leaf.

// commandNote is the kind of note that says which commands a leaf has had.
const commandNote = "command"

// maxCommands is how many commands of a leaf are kept in memory, copies included:
// as many as the hub keeps (wire contract, section 5.7).
const maxCommands = 50

// copyTTL is how long a copy without an expiry is kept: the hub's default (wire
// contract, section 5.7).
const copyTTL = time.Hour

// maxRemembered is how many answered commands of a leaf are remembered: more
// than the hub keeps for one device (50: wire contract, section 5.7).
const maxRemembered = 64

// commands are the commands of one leaf, guarded by Down.mu.
type commands struct {
	waiting  []*delivery // in the hub's order; each until there is a word on it
	handing  bool        // somebody is handing over, in order
	answered []answered  // oldest first
	writing  bool        // somebody is noting what was answered
	dirty    bool        // there is more to note
	tell     answers     // to be called when it is noted
}

// delivery is one command on its way to the leaf.
type delivery struct {
	c      *Command
	answer func(Verdict) // of the hub's last offer; nil when its lock has ended: a copy
	offers int           // how often the hub has offered it while we had it
	lock   *time.Timer   // to the end of its lock
	way    Reach         // who has it; nil: nobody
	tried  Reach         // who could not deliver it: is tried again when it says Attend
	done   bool          // has left waiting
}

// answered is the leaf's word on a command that it will not see again.
type answered struct {
	name    commandName
	verdict Verdict
}

// commandName names a command of a leaf for good: a device that was deleted and
// made again has other commands with the same numbers.
type commandName struct {
	number   uint64
	enqueued int64 // milliseconds of Unix time
}

func (c *Command) name() commandName { return commandName{c.Number, c.Enqueued.UnixMilli()} }

// take is the door for an offer of the hub.
func (d *Down) take(c *Command, answer func(Verdict)) {
	d.mu.Lock()
	a := d.audienceLocked(c.Leaf)
	if i := slices.IndexFunc(a.commands.answered, func(x answered) bool { return x.name == c.name() }); i >= 0 {
		verdict := a.commands.answered[i].verdict
		d.mu.Unlock()
		answer(verdict)
		return
	}
	var old func(Verdict)
	if i := slices.IndexFunc(a.commands.waiting, func(x *delivery) bool { return x.c.name() == c.name() }); i >= 0 {
		x := a.commands.waiting[i]
		old, x.answer = x.answer, answer
		x.c = c // the same, with another lock
		x.lock.Stop()
		d.lockLocked(a, x)
	} else {
		x := &delivery{c: c, answer: answer}
		d.lockLocked(a, x)
		a.commands.waiting = append(a.commands.waiting, x)
		a.commands.dropCopies(maxCommands)
	}
	d.handLocked(a)
	d.mu.Unlock()
	if old != nil {
		old(Undelivered)
	}
}

// lockLocked watches the hub's lock of the last offer.
func (d *Down) lockLocked(a *audience, x *delivery) {
	x.offers++
	offer := x.offers
	x.lock = time.AfterFunc(time.Until(x.c.LockedTo), func() { d.lapse(a, x, offer) })
}

// lapse is the end of the hub's lock: there is nobody any more to answer to. What
// is with the leaf stays, so that the next offer can join it.
func (d *Down) lapse(a *audience, x *delivery, offer int) {
	d.mu.Lock()
	// The hub has offered it again, or it has its answer, or its time was up twice:
	// by the lock and by whoever sent it from here.
	if x.offers != offer || x.done || x.answer == nil {
		d.mu.Unlock()
		return
	}
	answer, word := x.answer, Undelivered
	if x.c.local && x.way != nil {
		word = unanswered
	}
	x.answer = nil
	d.handLocked(a) // those behind it need not wait for it any more
	d.mu.Unlock()
	answer(word)
}

func (q *commands) drop(x *delivery) {
	x.lock.Stop()
	x.done = true
	q.waiting = slices.DeleteFunc(q.waiting, func(y *delivery) bool { return y == x })
}

// dropCopies keeps no more than so many commands. Those that the hub waits for an
// answer to are bounded by what it offers.
func (q *commands) dropCopies(most int) {
	for _, x := range slices.Clone(q.waiting) {
		if len(q.waiting) > most && x.answer == nil && x.way == nil {
			q.drop(x)
		}
	}
}

// handLocked hands over what waits, in order, to where the leaf is awake. The
// lock is released meanwhile; whoever comes then leaves the rest to us.
func (d *Down) handLocked(a *audience) {
	if a.commands.handing {
		return
	}
	a.commands.handing = true
	for {
		d.dropExpiredLocked(a)
		x := d.nextLocked(a)
		if x == nil {
			break
		}
		way, c := x.way, x.c
		d.mu.Unlock()
		way.Command(c, func(v Verdict) { d.hear(a, x, way, v) })
		d.mu.Lock()
	}
	a.commands.handing = false
}

// dropExpiredLocked forgets copies that have expired, and those of local commands.
// What the hub still locks for us it counts itself. An untrusted clock expires
// nothing.
func (d *Down) dropExpiredLocked(a *audience) {
	now := d.clock()
	for _, x := range slices.Clone(a.commands.waiting) {
		if x.way == nil && x.answer == nil && (x.c.local || x.c.expired(now)) {
			a.commands.drop(x)
		}
	}
}

// expired says that the leaf must not get the command any more.
func (c *Command) expired(now Instant) bool {
	expiry := c.System.Expiry
	if expiry.IsZero() {
		expiry = c.Enqueued.Add(copyTTL)
	}
	return now.Quality != Unsynced && now.Wall.After(expiry)
}

// nextLocked returns the next delivery to hand over, marked as handed over, or
// nil.
func (d *Down) nextLocked(a *audience) *delivery {
	way := a.way(WantsCommands)
	if way == nil {
		return nil
	}
	for _, x := range a.commands.waiting {
		switch {
		case x.way != nil: // with the leaf
		case x.answer == nil && d.linkUp: // the hub offers it again if it still has it
		case x.answer != nil && !x.c.System.Expiry.IsZero() && x.c.expired(d.clock()):
			// The hub counts it when its lock ends.
		case x.tried == way:
			return nil // nothing overtakes it
		default:
			x.way = way
			return x
		}
	}
	return nil
}

// hear takes the leaf's word on a command.
func (d *Down) hear(a *audience, x *delivery, way Reach, v Verdict) {
	d.mu.Lock()
	answer := d.heardLocked(a, x, way, v)
	d.mu.Unlock()
	if answer != nil {
		answer(v)
	}
}

// heardLocked returns whom to tell at once, or nil.
func (d *Down) heardLocked(a *audience, x *delivery, way Reach, v Verdict) (answer func(Verdict)) {
	q := &a.commands
	if v == Undelivered {
		x.way, x.tried = nil, way
		q.dropCopies(maxCommands)
		d.handLocked(a) // the leaf may be somewhere else meanwhile
		return nil
	}
	q.drop(x)
	if x.c.local || v != Completed && v != Rejected {
		return x.answer
	}
	q.answered = append(q.answered, answered{x.c.name(), v})
	q.answered = q.answered[max(0, len(q.answered)-maxRemembered):]
	if answer := x.answer; answer != nil {
		q.tell = append(q.tell, func() { answer(v) })
	}
	q.dirty = true
	if !q.writing {
		q.writing = true
		d.writing.Go(func() { d.note(a) })
	}
	return nil
}

// note writes down what a leaf has answered, then tells the hub, until there is
// no more.
func (d *Down) note(a *audience) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := &a.commands
	for q.dirty {
		q.dirty = false
		value, tell := encodeAnswered(q.answered), q.tell
		q.tell = nil
		d.mu.Unlock()
		if err := d.notes.SetNotes(commandNote, map[string][]byte{a.leaf: value}); err != nil {
			// It is remembered in memory. Only a crash now, before the hub has
			// heard, can bring the command to the leaf again.
			d.log.Warn("cannot note that a leaf has had a command", "leaf", a.leaf, "err", err)
		}
		tell.call()
		d.mu.Lock()
	}
	q.writing = false
}

// answeredSize is the length of one entry of a command note: number, time,
// verdict.
const answeredSize = 8 + 8 + 1

func encodeAnswered(list []answered) []byte {
	b := make([]byte, 0, len(list)*answeredSize)
	for _, x := range list {
		b = binary.BigEndian.AppendUint64(b, x.name.number)
		b = binary.BigEndian.AppendUint64(b, uint64(x.name.enqueued))
		b = append(b, byte(x.verdict))
	}
	return b
}

// decodeAnswered reads what it can: an entry that makes no sense costs a command
// that comes twice at worst.
func decodeAnswered(b []byte) (list []answered) {
	for ; len(b) >= answeredSize; b = b[answeredSize:] {
		v := Verdict(b[16])
		if v != Completed && v != Rejected {
			continue
		}
		name := commandName{binary.BigEndian.Uint64(b), int64(binary.BigEndian.Uint64(b[8:]))}
		list = append(list, answered{name, v})
	}
	return list[max(0, len(list)-maxRemembered):]
}

// recall reads the notes of the last run.
func (d *Down) recall() error {
	return d.notes.EachNote(commandNote, func(leaf string, value []byte) error {
		d.leaves[leaf] = &audience{leaf: leaf, commands: commands{answered: decodeAnswered(value)}}
		return nil
	})
}
