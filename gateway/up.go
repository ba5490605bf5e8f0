package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/gateway/failpoint"
)

// The way of a message up, in the order in which it happens:
//
//  1. A driver or the broker calls Handle. The message is admitted: its leaf
//     must be known, its size must suit the hub, and it gets its capture time.
//  2. The modules see it, in the order of the configuration. One may drop it or
//     pass on another in its place.
//  3. Custody numbers it and decides where it waits: staged in memory while
//     the hub takes messages promptly, else stored on flash (custody.go).
//  4. The uplink takes it from the outbox and sends it (outbox.go). What was
//     stored without being kept in memory is read back first (backlog.go).
//  5. The hub settles it, or a group commit has synced it to flash, whichever is
//     first: done is called and the leaf is acknowledged. Only the hub's word,
//     or a stated rule, takes it out of the store.

// Leaves tells which leaves may send. Safe for concurrent use.
type Leaves interface {
	// Known says that the leaf is admitted and enabled.
	Known(id string) bool
}

// Path is the way of messages up, from Handle to the outbox. It is the Handler
// that drivers and broker are given and the Outbox that the uplink is given.
// Safe for concurrent use.
type Path struct {
	cfg    atomic.Pointer[Config] // see Configure
	store  Store
	leaves Leaves
	clock  Clock
	log    *slog.Logger
	first  atomic.Pointer[Handler] // the first module, or custody itself

	start  uint32 // of this gateway, see Store.Start
	budget budget // belongs to feed

	// mu guards everything below. It is held for bookkeeping only; of the store
	// only methods that do not wait for the disk are called with it held.
	mu      sync.Mutex
	room    sync.Cond // on mu: held went below the hard bound, or closing
	senders map[string]*sender
	ready   []*sender // have something to send and nobody at work on it
	linkUp  bool
	closing bool
	looked  time.Time   // when tick last ran
	held    int64       // bytes of all entries in memory
	lanes   [Lanes]lane // bookkeeping per lane
	flying  int         // calls of Store.Append whose done has not returned
	counts  counts      // for State
	// forecasts has the samples that keepTime takes.
	forecasts forecaster
	sampled   time.Time     // when; only keepTime touches it
	epoch     uint64        // grows when links or parked leaves change; see backlog.go
	toFree    []freed       // stored messages to give back to the store; see backlog.go
	readyC    chan struct{} // capacity 1: ready is not empty
	feedC     chan struct{} // capacity 1: backlog.go has something to look at
	timeC     chan struct{} // capacity 1: run.go has a new deadline
	idleC     chan struct{} // capacity 1: flying became 0
}

// lane is the bookkeeping of one lane.
type lane struct {
	pending  int      // messages in commits under way that will be unread
	holdup   int      // messages in commits under way that must be given back first; see backlog.go
	toUnpark int      // of holdup, those that were committed as parked
	reading  bool     // messages are on their way from the store into memory
	heldBack int64    // with LiveFirst: bytes in memory that were read back
	idPrefix string   // of the message ids that the gateway gives
	waiting  []*entry // staged, in the order of their spill deadlines; settled ones included
}

// NewPath joins the parts of the path. It starts nothing: see Run. cfg must be
// valid.
func NewPath(cfg Config, store Store, leaves Leaves, modules []Module, clock Clock, log *slog.Logger) *Path {
	p := &Path{
		store: store, leaves: leaves, clock: clock, log: log,
		senders: make(map[string]*sender),
		counts:  counts{rejected: make(map[string]int64), dropped: make(map[DropReason]int64)},
		readyC:  make(chan struct{}, 1),
		feedC:   make(chan struct{}, 1),
		timeC:   make(chan struct{}, 1),
		idleC:   make(chan struct{}, 1),
	}
	p.room.L = &p.mu
	p.cfg.Store(&cfg)
	p.budget = budget{cfg: &cfg, log: log}
	p.budget.notes, _ = store.(Notes)
	store.OnGiveUp(p.gaveUp)
	start, installation := store.Start()
	p.start = start
	for l := range p.lanes {
		p.lanes[l].idPrefix = fmt.Sprintf("fg-%s-%d-%s-", installation, start, Lane(l))
	}
	p.SetModules(modules)
	return p
}

// Configure changes the configuration, which must be valid, while messages pass. A
// lane's Custody and LiveFirst must stay as they were: the order of what is under
// way was made for them.
func (p *Path) Configure(cfg Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cfg.Store(&cfg)
	p.roomLocked()
	signal(p.feedC)
	signal(p.timeC)
}

// SetModules puts others in the place of the modules. A message that is in one of
// the former goes on through these.
func (p *Path) SetModules(modules []Module) {
	first := Handler(HandlerFunc(p.take))
	for i := len(modules) - 1; i >= 0; i-- {
		first = modules[i].Wrap(first)
	}
	p.first.Store(&first)
}

// Handle is the door: see Handler.
func (p *Path) Handle(ctx context.Context, m *Message, done Done) {
	if err := p.admit(m); err != nil {
		p.mu.Lock()
		p.counts.rejected[rejectReason(err)]++
		p.mu.Unlock()
		done(err)
		return
	}
	(*p.first.Load()).Handle(ctx, m, done)
}

// admit is step 1.
func (p *Path) admit(m *Message) error {
	if !p.leaves.Known(m.Leaf) {
		return fmt.Errorf("leaf %q: %w", m.Leaf, ErrUnknownLeaf)
	}
	if m.Lane >= Lanes {
		return fmt.Errorf("lane %d does not exist", m.Lane)
	}
	if size := m.hubSize(); size > int(p.cfg.Load().MaxMessage) {
		return fmt.Errorf("%d bytes of at most %d: %w", size, int(p.cfg.Load().MaxMessage), ErrTooLarge)
	}
	// Refused on its way to flash it would take those behind it along.
	if size := m.Size(); size > MaxStored {
		return fmt.Errorf("%d bytes of at most %d with what surrounds its properties: %w", size, MaxStored, ErrTooLarge)
	}
	if m.Captured.Wall.IsZero() {
		m.Captured = p.clock()
	}
	return nil
}

// take is step 3. It waits while memory is at its bound.
func (p *Path) take(ctx context.Context, m *Message, done Done) {
	p.mu.Lock()
	err := p.waitForRoomLocked(ctx)
	if err == nil {
		err = m.refusedLocked()
	}
	if err != nil {
		p.counts.rejected[rejectReason(err)]++
		p.mu.Unlock()
		done(err)
		return
	}
	p.counts.taken[m.Lane]++
	p.counts.takenBytes[m.Lane] += int64(m.Size())
	p.counts.takenPayload += int64(len(m.Body))
	f := p.flowLocked(m.Leaf, m.Lane)
	e := &entry{m: m, done: done, flow: f, size: m.Size(), since: time.Now()}
	p.number(e)
	p.held += int64(e.size)
	failpoint.Hit(failpoint.CustodyTake)
	switch state, store := p.placeLocked(f); {
	case !store:
		p.stageLocked(e)
	case state == Out:
		p.holdLocked(e)
		p.commitLocked(f, []*entry{e}, Out)
	default:
		// Older messages of the flow that are only in memory go to flash
		// before this one: order on flash is order of arrival.
		p.spillLocked(f, Out)
		p.commitLocked(f, []*entry{e}, state)
	}
	p.mu.Unlock()
}

// waitForRoomLocked is the backpressure: twice the staging bound is what memory
// may hold at all, with commits under way included.
func (p *Path) waitForRoomLocked(ctx context.Context) error {
	if p.held > 2*int64(p.cfg.Load().StagedBytes) && !p.closing {
		stop := context.AfterFunc(ctx, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.room.Broadcast()
		})
		defer stop()
	}
	for p.held > 2*int64(p.cfg.Load().StagedBytes) && !p.closing && ctx.Err() == nil {
		p.room.Wait()
	}
	switch {
	case p.closing:
		return ErrShuttingDown
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return nil
}

// refusedLocked returns why nothing more of the message's stream is taken, nil if
// it is.
func (m *Message) refusedLocked() error {
	if m.Stream == nil {
		return nil
	}
	return m.Stream.refusal
}

// refuseStreamLocked notes that the message was refused.
func (m *Message) refuseStreamLocked(err error) {
	if m != nil && m.Stream != nil {
		m.Stream.refusal = err
	}
}

// placeLocked decides where the next message of a flow waits for the hub. store
// false means in memory only, and the state does not count.
func (p *Path) placeLocked(f *flow) (state StoredState, store bool) {
	switch {
	case f.sender.parked:
		return Parked, true
	case !p.linkUp, p.mustQueueLocked(f.lane), p.held > int64(p.cfg.Load().StagedBytes):
		return Unread, true
	case p.cfg.Load().Lanes[f.lane].Custody == CustodyDisk:
		return Out, true
	}
	return 0, false
}

// mustQueueLocked says that the lane has messages on flash that must reach the
// hub before any new one.
func (p *Path) mustQueueLocked(l Lane) bool {
	lane := &p.lanes[l]
	return !p.cfg.Load().Lanes[l].LiveFirst &&
		(lane.pending > 0 || lane.holdup > 0 || lane.reading || p.store.Unread(l) > 0)
}
