package gateway_test

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"github.com/fieldgate/fieldgate/gateway"
)

// disk is what survives a crash of the fake store: messages in commit order.
type disk struct {
	mu     sync.Mutex
	starts uint32
	rows   [gateway.Lanes][]*row
	blocks [gateway.Lanes]uint32
	shelf  []*gateway.Message
	full   bool // every commit fails
	// failNext is how many commits fail from now on.
	failNext int
	stall    bool // commits wait
	change   *sync.Cond
}

type row struct {
	pos     gateway.Position
	m       *gateway.Message
	state   gateway.StoredState
	settled bool
	gone    bool // dropped at the bound while Out
}

func newDisk() *disk {
	d := &disk{}
	d.change = sync.NewCond(&d.mu)
	return d
}

func (d *disk) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	d.change.Broadcast()
}

// fakeStore keeps the contract of gateway.Store in memory, over a disk that
// outlives it. One committer commits one Append after the other.
type fakeStore struct {
	*disk
	start uint32
	queue []commit
	dead  bool // commits fail: the power is gone
	ended bool
	wg    sync.WaitGroup
	// onGiveUp is told what the bound drops.
	onGiveUp func([]gateway.GivenUp)
}

type commit struct {
	lane  gateway.Lane
	ms    []*gateway.Message
	state gateway.StoredState
	done  func([]gateway.Position, error)
}

func (d *disk) open() *fakeStore {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.starts++
	s := &fakeStore{disk: d, start: d.starts}
	for l := range d.rows {
		for _, r := range d.rows[l] {
			r.state = gateway.Unread
			r.settled = r.settled || r.gone
		}
	}
	s.wg.Go(s.commitLoop)
	return s
}

// cut makes the store fail as a crash would: nothing more reaches the disk.
func (s *fakeStore) cut() { s.set(func() { s.dead = true }) }

// close ends the store.
func (s *fakeStore) close() {
	s.set(func() { s.ended = true })
	s.wg.Wait()
}

func (s *fakeStore) commitLoop() {
	for {
		s.mu.Lock()
		for !s.ended && (len(s.queue) == 0 || s.stall && !s.dead) {
			s.change.Wait()
		}
		if len(s.queue) == 0 {
			s.mu.Unlock()
			return
		}
		c := s.queue[0]
		s.queue = s.queue[1:]
		ps, err := s.commitLocked(c)
		s.mu.Unlock()
		c.done(ps, err)
	}
}

func (s *fakeStore) commitLocked(c commit) ([]gateway.Position, error) {
	if s.failNext > 0 {
		s.failNext--
		return nil, fmt.Errorf("fake disk: %w", gateway.ErrStoreFull)
	}
	if s.full || s.dead {
		return nil, fmt.Errorf("fake disk: %w", gateway.ErrStoreFull)
	}
	s.blocks[c.lane]++
	ps := make([]gateway.Position, len(c.ms))
	for i, m := range c.ms {
		ps[i] = gateway.Position{Lane: c.lane, Block: s.blocks[c.lane], Index: uint16(i)}
		s.rows[c.lane] = append(s.rows[c.lane], &row{pos: ps[i], m: m, state: c.state})
	}
	return ps, nil
}

func (s *fakeStore) Append(l gateway.Lane, ms []*gateway.Message, state gateway.StoredState, done func([]gateway.Position, error)) {
	s.set(func() { s.queue = append(s.queue, commit{l, slices.Clone(ms), state, done}) })
}

func (s *fakeStore) Read(l gateway.Lane, max, maxBytes int, park func(string) bool) ([]gateway.Stored, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []gateway.Stored
	for _, r := range s.rows[l] {
		switch {
		case r.settled || r.state != gateway.Unread:
		case park(r.m.Leaf):
			r.state = gateway.Parked
		default:
			r.state = gateway.Out
			out = append(out, gateway.Stored{Position: r.pos, Message: r.m})
			maxBytes -= r.m.Size()
		}
		if len(out) == max || maxBytes <= 0 {
			break
		}
	}
	return out, nil
}

func (s *fakeStore) find(p gateway.Position) *row {
	i, ok := slices.BinarySearchFunc(s.rows[p.Lane], p, func(r *row, p gateway.Position) int {
		return cmp.Or(cmp.Compare(r.pos.Block, p.Block), cmp.Compare(r.pos.Index, p.Index))
	})
	if !ok {
		return nil
	}
	return s.rows[p.Lane][i]
}

func (s *fakeStore) Settle(ps ...gateway.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range ps {
		if r := s.find(p); r != nil && !s.dead {
			r.settled = true
		}
	}
}

func (s *fakeStore) Release(park bool, ps ...gateway.Position) (dropped int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range ps {
		r := s.find(p)
		if r != nil && r.gone && !r.settled {
			r.settled = true
			dropped++
		}
		if r != nil && !r.settled {
			r.state = gateway.Unread
			if park {
				r.state = gateway.Parked
			}
		}
	}
	return dropped
}

// OnGiveUp is described at gateway.Store.
func (s *fakeStore) OnGiveUp(f func([]gateway.GivenUp)) { s.onGiveUp = f }

// dropOldest gives up the first n messages of a lane, as a bound would.
func (s *fakeStore) dropOldest(l gateway.Lane, n int) {
	var runs []gateway.GivenUp
	s.set(func() {
		for _, r := range s.rows[l] {
			if n == 0 || s.dead {
				break
			}
			if r.settled || r.gone {
				continue
			}
			n--
			if r.state == gateway.Out {
				r.gone = true
				continue
			}
			r.settled = true
			m := r.m
			runs = append(runs, gateway.GivenUp{Leaf: m.Leaf, Lane: l, Start: m.Start, First: m.Seq, Last: m.Seq, Dropped: m.Dropped})
		}
	})
	s.onGiveUp(runs)
}

func (s *fakeStore) Unpark(l gateway.Lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rows[l] {
		if r.state == gateway.Parked {
			r.state = gateway.Unread
		}
	}
}

func (s *fakeStore) Unread(l gateway.Lane) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.rows[l] {
		if !r.settled && r.state == gateway.Unread {
			n++
		}
	}
	return n
}

func (s *fakeStore) DeadLetter(m *gateway.Message, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full {
		return gateway.ErrStoreFull
	}
	s.shelf = append(s.shelf, m)
	return nil
}

func (s *fakeStore) Start() (uint32, string) { return s.start, "test0001" }

func (s *fakeStore) State() gateway.StoreState { return gateway.StoreState{} }

// unsettled counts what is on the disk and not settled.
func (d *disk) unsettled() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for l := range d.rows {
		for _, r := range d.rows[l] {
			if !r.settled {
				n++
			}
		}
	}
	return n
}
