package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The way down, in the order in which it happens:
//
//  1. The broker and the drivers say with Attend which leaves they reach, and
//     what each of them has asked for.
//  2. The uplink learns from NextInterest what to listen for at the hub: a leaf
//     that wants nothing costs no link.
//  3. What the hub sends comes in as Command, Call or Desired, and passes the
//     modules in reverse.
//  4. Down hands it to the way on which the leaf is: a Reach.
//  5. The leaf's word goes back: a command is completed, rejected or abandoned
//     (commands.go), a call is answered, and a desired change needs no answer,
//     because a leaf that missed one finds it by its version (package twin).

// Command is one cloud-to-device message. Whoever makes it fills it once; from
// then on it is immutable.
type Command struct {
	Leaf       string
	System     System
	Properties []Property
	Body       []byte // owned by the command
	To         string // the hub's address of the leaf, as it stands in the message
	Ack        string // which feedback the back end asked for, "" for none

	Number     uint64    // the hub's sequence number; with Enqueued it names the leaf's command for good
	Enqueued   time.Time // when the hub got it, to the millisecond
	Deliveries uint32    // how often it was delivered and abandoned before
	LockedTo   time.Time // by the monotonic clock: then the hub offers it again, whatever we say; never zero

	local bool // of a program on this machine: see local.go
}

// Verdict is the leaf's word on a command.
type Verdict uint8

// The verdicts (wire contract, section 3.6).
const (
	Completed Verdict = iota // the leaf has it
	Rejected                 // the leaf never wants to see it: the hub's dead-letter queue
	Abandoned                // the leaf wants it later: the hub offers it again and counts
	// Undelivered: there is no word. From a Reach it says that the leaf was not
	// reached; to the uplink that the hub is told nothing, and offers the command
	// again when its lock ends. An abandon would count against the command.
	Undelivered
)

func (v Verdict) String() string {
	return [...]string{"completed", "rejected", "abandoned", "undelivered"}[min(v, Undelivered)]
}

// Call is one direct method call.
type Call struct {
	Leaf string
	Name string // of the method
	ID   string // chosen by the caller, opaque
	Body []byte // JSON; empty for none
}

// Reply is the leaf's answer to a Call.
type Reply struct {
	Status int    // chosen by the leaf, not by HTTP's rules
	Body   []byte // JSON; empty for none
}

// ErrAbsent says that the leaf cannot be reached now, or does not listen for
// what was sent. The hub's caller gets 404103.
var ErrAbsent = errors.New("the leaf is not there")

// Interest is what a leaf has asked for, a set.
type Interest uint8

// What a leaf can ask for.
const (
	WantsCommands Interest = 1 << iota // cloud-to-device messages
	WantsCalls                         // direct methods
	WantsDesired                       // notifications of desired changes
	// Asleep: the leaf is away and wants the rest when it is back. What comes for
	// it meanwhile waits at the hub, or here until the hub's lock on it ends.
	Asleep
	// CannotAsk stands with WantsDesired: the leaf never reads its twin, so that it
	// is told all of it at first.
	CannotAsk
)

// Has says whether all of what is in i.
func (i Interest) Has(what Interest) bool { return i&what == what }

// DownHandler takes what the hub sends to leaves. Safe for concurrent use.
type DownHandler interface {
	// Command hands over a command and returns without waiting for the leaf.
	// answer is called exactly once, from any goroutine, and must not block.
	// Commands of one leaf are handed over in the hub's order.
	Command(c *Command, answer func(Verdict))

	// Call passes on a direct method and waits for the reply until ctx ends. The
	// error is ErrAbsent or that of ctx.
	Call(ctx context.Context, c *Call) (*Reply, error)

	// Desired passes on a change of desired properties as the hub sent it, with
	// $version in it. It does not block, and a leaf that is away misses it. heard
	// is called when the leaf has it: never from within Desired, perhaps more than
	// once, and not at all when it was lost on the way. It does not block.
	Desired(leaf string, patch []byte, version int64, heard func())
}

// Reach is one way to leaves: the broker, or a driver. It answers Undelivered and
// ErrAbsent for leaves that have gone meanwhile. It is compared, so it is a
// pointer or another comparable type.
type Reach interface{ DownHandler }

// Attendance is told which leaves can be reached. Down is one.
type Attendance interface {
	// Attend says what the leaf wants on this way from now on; 0 says that it is
	// gone for good. It does not block.
	Attend(leaf string, way Reach, wants Interest)
}

// DownModule is a Module that has a step on the way down as well.
type DownModule interface {
	WrapDown(next DownHandler) DownHandler
}

// Downward is the way down as the uplink sees it: Down is one. Safe for
// concurrent use.
type Downward interface {
	DownHandler

	// LinkUp says that the connection stands: NextInterest then returns every
	// leaf that wants anything.
	LinkUp()

	// LinkDown says that the connection is lost and nothing is listened for.
	// Answers to what came before may still be called, and do nothing.
	LinkDown()

	// NextInterest waits until the interest of a leaf has changed since it was
	// last returned, and returns it: what the uplink is to listen for at the hub
	// from now on.
	NextInterest(ctx context.Context) (leaf string, wants Interest, err error)

	// Listening says that the hub sends what the leaf wants, as NextInterest said,
	// from now on.
	Listening(leaf string, wants Interest)
}

// Down is the way down. Safe for concurrent use.
type Down struct {
	first atomic.Pointer[DownHandler] // the last module, or the end of the way itself
	notes Notes
	clock Clock
	log   *slog.Logger

	mu      sync.Mutex
	linkUp  bool
	leaves  map[string]*audience
	changed []string       // leaves whose interest is to be told, each once
	news    chan struct{}  // capacity 1: changed is not empty
	writing sync.WaitGroup // of notes
}

// audience is what is known of one leaf, guarded by Down.mu.
type audience struct {
	leaf     string
	ways     []attending
	told     Interest // what NextInterest returned last
	noted    bool     // is in Down.changed
	commands commands
}

// attending is one way on which the leaf is, or will be.
type attending struct {
	way   Reach
	wants Interest
}

// NewDown joins the way down. It reads from notes which commands leaves have had.
func NewDown(modules []Module, notes Notes, clock Clock, log *slog.Logger) (*Down, error) {
	d := &Down{notes: notes, clock: clock, log: log, leaves: make(map[string]*audience), news: make(chan struct{}, 1)}
	d.SetModules(modules)
	if err := d.recall(); err != nil {
		return nil, fmt.Errorf("cannot read what leaves have been told: %w", err)
	}
	return d, nil
}

// SetModules puts others in the place of the modules. What is in one of the former
// goes on through these.
func (d *Down) SetModules(modules []Module) {
	first := DownHandler(ends{d})
	for _, m := range modules {
		if m, ok := m.(DownModule); ok {
			first = m.WrapDown(first)
		}
	}
	d.first.Store(&first)
}

// Run waits until ctx ends and then until everything that was to be noted is.
// Broker, drivers and uplink should have ended by then.
func (d *Down) Run(ctx context.Context) error {
	<-ctx.Done()
	d.writing.Wait()
	return nil
}

// Command is step 3 for a command.
func (d *Down) Command(c *Command, answer func(Verdict)) { (*d.first.Load()).Command(c, answer) }

// Call is step 3 for a direct method.
func (d *Down) Call(ctx context.Context, c *Call) (*Reply, error) {
	return (*d.first.Load()).Call(ctx, c)
}

// Desired is step 3 for a change of desired properties.
func (d *Down) Desired(leaf string, patch []byte, version int64, heard func()) {
	(*d.first.Load()).Desired(leaf, patch, version, heard)
}

// ends is step 4: behind the modules.
type ends struct{ *Down }

func (e ends) Command(c *Command, answer func(Verdict)) { e.take(c, answer) }

func (e ends) Call(ctx context.Context, c *Call) (*Reply, error) {
	e.mu.Lock()
	way := e.audienceLocked(c.Leaf).way(WantsCalls)
	e.mu.Unlock()
	if way == nil {
		return nil, ErrAbsent
	}
	return way.Call(ctx, c)
}

func (e ends) Desired(leaf string, patch []byte, version int64, heard func()) {
	e.mu.Lock()
	ways := slices.Clone(e.audienceLocked(leaf).ways)
	e.mu.Unlock()
	for _, a := range ways {
		if a.wants.Has(WantsDesired) && !a.wants.Has(Asleep) {
			a.way.Desired(leaf, patch, version, heard)
		}
	}
}

// Attend is described at Attendance.
func (d *Down) Attend(leaf string, way Reach, wants Interest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.audienceLocked(leaf)
	a.ways = slices.DeleteFunc(a.ways, func(x attending) bool { return x.way == way })
	if wants != 0 {
		// The newest stands first: where the leaf has shown itself last, it is.
		a.ways = slices.Insert(a.ways, 0, attending{way, wants})
	}
	for _, x := range a.commands.waiting {
		if x.tried == way {
			x.tried = nil
		}
	}
	d.noteLocked(a)
	d.handLocked(a)
}

// audienceLocked returns what is known of a leaf.
func (d *Down) audienceLocked(leaf string) *audience {
	a := d.leaves[leaf]
	if a == nil {
		a = &audience{leaf: leaf}
		d.leaves[leaf] = a
	}
	return a
}

// way returns the way on which the leaf is awake and wants that, or nil.
func (a *audience) way(wants Interest) Reach {
	for _, x := range a.ways {
		if x.wants.Has(wants) && !x.wants.Has(Asleep) {
			return x.way
		}
	}
	return nil
}

// wants is the leaf's interest over all its ways. It is asleep when all are.
func (a *audience) wants() Interest {
	var wants Interest
	asleep := len(a.ways) > 0
	for _, x := range a.ways {
		wants |= x.wants
		asleep = asleep && x.wants.Has(Asleep)
	}
	if !asleep {
		wants &^= Asleep
	}
	return wants
}

// noteLocked puts a leaf whose interest has changed in line for NextInterest.
func (d *Down) noteLocked(a *audience) {
	if a.noted || a.wants() == a.told {
		return
	}
	a.noted = true
	d.changed = append(d.changed, a.leaf)
	signal(d.news)
}

// NextInterest is described at Downward.
func (d *Down) NextInterest(ctx context.Context) (leaf string, wants Interest, err error) {
	for {
		if leaf, wants, ok := d.nextChanged(); ok {
			return leaf, wants, nil
		}
		select {
		case <-d.news:
		case <-ctx.Done():
			return "", 0, ctx.Err()
		}
	}
}

func (d *Down) nextChanged() (leaf string, wants Interest, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.changed) > 0 {
		a := d.leaves[d.changed[0]]
		d.changed = d.changed[1:]
		a.noted = false
		if wants := a.wants(); wants != a.told { // it may have changed back
			a.told = wants
			return a.leaf, wants, true
		}
	}
	return "", 0, false
}

// Listening is described at Downward. Commands need no notice: the hub has kept
// them.
func (d *Down) Listening(string, Interest) {}

// LinkUp is described at Downward.
func (d *Down) LinkUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.linkUp = true
	for _, a := range d.leaves {
		a.told = 0
		d.noteLocked(a)
	}
}

// LinkDown is described at Downward.
func (d *Down) LinkDown() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.linkUp = false
	for _, a := range d.leaves {
		d.handLocked(a) // copies
	}
}
