// Package master polls Modbus RTU slaves on a serial line and writes to them. One
// Driver serves one bus; each slave on it is a leaf with an identity of its own.
//
//  1. config.go says which registers each slave has; value.go makes JSON of what
//     is in them, and the other way round,
//  2. schedule.go picks what is next: one request at a time, slaves in turn,
//  3. bus.go sends it and finds the answer in what comes back,
//  4. poll.go gathers a round of answers into one message, which package handover
//     brings into custody,
//  5. down.go takes commands and direct methods of the hub; job.go carries them
//     out and reads back what was written.
//
// # Slaves that do not answer
//
// A request without an answer is asked once more. After three in a row the slave is
// taken to be away: its leaf sleeps, and it is only probed, after 1 s, then 2 s,
// 4 s and so on up to a minute, all slaves that are away together with at most a
// twentieth of the time of the bus. An answer, also an exception, brings it back.
// A slave that has not answered is not asked again for as long as its timeout: an
// answer that comes late would be taken for that to the next request, since frames
// carry no number. Others are asked meanwhile.
//
// # The gateway at a bound
//
// A slave's registers keep their values; a message of old ones helps nobody. So
// while max_inflight messages wait for custody no round begins: it is left out and
// counted (polls_held). What was read before waits and is not lost, and a change
// that happens meanwhile is reported by the first round afterwards.
package master

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/drivers/handover"
	"github.com/fieldgate/fieldgate/drivers/serial/port"
	"github.com/fieldgate/fieldgate/gateway"
)

// kind of driver, for status and metrics.
const kind = "modbus"

// Driver serves one bus. It implements gateway.Driver and is the Reach of its
// slaves.
type Driver struct {
	cfg    Config
	clock  gateway.Clock
	log    *slog.Logger
	keeper *port.Keeper
	tally  *tally
	slaves []*slave
	byLeaf map[string]*slave

	// Set by Run:
	ways  gateway.Ways
	queue *handover.Queue

	// Belongs to the bus:
	probesFrom time.Time // when the next slave that is away may be probed

	mu sync.Mutex
	// guarded by mu, with what the slaves say so of:
	line *port.Port // while it is open and idle: what ring interrupts
	rung bool
}

// slave is one device on the bus.
type slave struct {
	SlaveConfig
	lane      gateway.Lane
	registers []*register // as configured
	sorted    []*register // by table and address
	polled    int         // how many are

	// Belongs to the bus:
	served  time.Time // when it had its last turn
	rest    time.Time // not to be asked before
	misses  int       // requests in a row without an answer
	round   *round    // under way
	worked  bool      // its last turn was a job
	probed  bool      // in this opening
	probeAt time.Time // while it is away
	backoff time.Duration

	// guarded by the driver's mu:
	alive bool
	jobs  []*job
	owed  bool // a command was not delivered: attend again when it answers
	why   string
	since time.Time
}

// New makes a driver for one bus. It does not touch the port. The error is that
// of Validate.
func New(cfg Config, clock gateway.Clock, log *slog.Logger) (*Driver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	log = log.With("driver", kind, "port", cfg.Port)
	d := &Driver{
		cfg: cfg, clock: clock, log: log, keeper: port.NewKeeper(cfg.Config, log), tally: newTally(log),
		byLeaf: make(map[string]*slave),
	}
	for _, c := range cfg.Slaves {
		s := newSlave(c)
		d.slaves = append(d.slaves, s)
		d.byLeaf[c.Leaf] = s
	}
	return d, nil
}

func newSlave(c SlaveConfig) *slave {
	s := &slave{SlaveConfig: c, lane: gateway.Lane(slices.Index(gateway.LaneNames[:], c.Lane))}
	for _, rc := range c.Registers {
		r := &register{RegisterConfig: rc, unit: byte(c.Address)}
		if r.Report != reportNever {
			s.polled++
		}
		s.registers = append(s.registers, r)
	}
	s.sorted = slices.Clone(s.registers)
	slices.SortStableFunc(s.sorted, func(a, b *register) int {
		return cmp.Or(strings.Compare(a.Table, b.Table), cmp.Compare(a.Address, b.Address))
	})
	return s
}

// everybody says that it is all slaves at once, of whom none answers.
func (s *slave) everybody() bool { return s.Address == 0 }

// Name identifies the driver by its port, "modbus:/dev/serial/by-id/usb-FTDI_…".
func (d *Driver) Name() string { return kind + ":" + d.cfg.Port }

// Run serves the bus until ctx ends, and then returns nil. It may be called once.
func (d *Driver) Run(ctx context.Context, ways gateway.Ways) error {
	d.ways = ways
	d.queue = handover.New(d.cfg.MaxInflight, ways.Up, d.tally)
	var parts sync.WaitGroup
	parts.Go(func() { d.queue.Run(ctx) })
	for _, s := range d.slaves {
		d.attend(s)
	}
	d.keeper.Run(ctx, d.serve)
	for _, s := range d.slaves {
		d.ways.Attendance.Attend(s.Leaf, d, 0)
	}
	parts.Wait()
	return nil
}

// serve is one opening of the port.
func (d *Driver) serve(ctx context.Context, p *port.Port) error {
	d.open()
	defer d.shut()
	b := newBus(p, &d.cfg, d.tally.stray)
	for ctx.Err() == nil {
		s, isJob, wait := d.next(time.Now())
		var err error
		switch {
		case s == nil:
			err = d.idle(p, wait)
		case isJob:
			err = d.work(b, s)
		default:
			err = d.poll(b, s)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// open begins an opening: who is there is not known yet.
func (d *Driver) open() {
	d.probesFrom = time.Time{}
	for _, s := range d.slaves {
		s.rest, s.probeAt, s.probed, s.misses, s.backoff = time.Time{}, time.Time{}, false, 0, 0
		if s.everybody() {
			d.cameUp(s)
		}
	}
}

// shut ends an opening: nobody can be reached.
func (d *Driver) shut() {
	for _, s := range d.slaves {
		s.round = nil
		d.wentDown(s, "the port is not open")
	}
}

// idle waits for the next thing to do. It reads meanwhile, to notice at once when
// the port is gone.
func (d *Driver) idle(p *port.Port, wait time.Duration) error {
	d.mu.Lock()
	if d.rung {
		d.rung = false
		d.mu.Unlock()
		return nil
	}
	err := p.SetReadDeadline(time.Now().Add(wait))
	d.line = p
	d.mu.Unlock()
	if err != nil {
		return err
	}
	n, err := p.Read(make([]byte, 256))
	d.mu.Lock()
	d.line, d.rung = nil, false
	d.mu.Unlock()
	if n > 0 {
		d.tally.stray(n)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// ringLocked has the bus look for what there is to do.
func (d *Driver) ringLocked() {
	d.rung = true
	if d.line != nil {
		_ = d.line.SetReadDeadline(time.Now()) // a port that is gone is noticed by its reader
	}
}

// answers says whether the slave is there, as far as is known.
func (d *Driver) answers(s *slave) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return s.alive
}

// attend says whether the slave can be reached.
func (d *Driver) attend(s *slave) {
	d.mu.Lock()
	wants := gateway.WantsCommands | gateway.WantsCalls
	if !s.alive {
		wants |= gateway.Asleep
	}
	s.owed = false
	d.mu.Unlock()
	d.ways.Attendance.Attend(s.Leaf, d, wants)
}

// cameUp says that a slave answers.
func (d *Driver) cameUp(s *slave) {
	d.mu.Lock()
	news := !s.alive
	if news {
		s.alive, s.why, s.since = true, "", time.Now()
	}
	owed := s.owed
	d.mu.Unlock()
	s.misses, s.backoff = 0, 0
	if news {
		d.log.Info("slave answers", "leaf", s.Leaf, "address", s.Address)
	}
	if news || owed {
		d.attend(s)
	}
}

// wentDown says that it does not, and gives up what it was to do.
func (d *Driver) wentDown(s *slave, why string) {
	d.mu.Lock()
	news, first := s.alive, s.since.IsZero()
	s.alive = false
	if news || first {
		s.since = time.Now()
	}
	s.why = why
	jobs := s.jobs
	s.jobs = nil
	s.owed = s.owed || len(jobs) > 0
	d.mu.Unlock()
	if news || first {
		d.log.Warn("slave does not answer", "leaf", s.Leaf, "address", s.Address, "why", why)
	}
	for _, j := range jobs {
		j.finish(nil, gateway.ErrAbsent)
	}
	if news {
		d.attend(s)
	}
}
