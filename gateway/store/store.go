package store

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// closePatience bounds how long is waited for databases to close at the end, and
// at the start where that needs it. Badger retries for ever while a disk refuses
// its writes.
const closePatience = 5 * time.Second

// Store keeps messages on flash. It implements gateway.Store. Open makes one;
// it must be closed.
type Store struct {
	dir    string
	cfg    Config
	log    *slog.Logger
	lock   *os.File // the folder, locked against other processes
	tuning tuning

	lanes        [gateway.Lanes]*lane
	meta         *meta
	start        uint32
	installation string

	damage  damage
	commits atomic.Int64
	written atomic.Int64
	errors  atomic.Int64 // see gateway.StoreState
	onSync  atomic.Pointer[func(time.Duration)]
	// onGiveUp is told of what the bound drops.
	onGiveUp atomic.Pointer[func([]gateway.GivenUp)]
	closed   atomic.Bool
	looking  sync.RWMutex // held for reading while a block is looked at, see look.go

	committers sync.WaitGroup
	keeper     sync.WaitGroup
	sealers    sync.WaitGroup
	work       chan struct{} // wakes the keeper
	stopping   context.Context
	stop       context.CancelFunc
}

var (
	_ gateway.Store = (*Store)(nil)
	_ gateway.Shelf = (*Store)(nil)
)

// tuning is what tests set differently.
type tuning struct {
	retryAfter time.Duration // between attempts to get a new segment
	idleAfter  time.Duration // a drained lane gives its head up
	journalLag time.Duration // settled messages are in the journal after it: safe from kill -9
	syncLag    time.Duration // and synced after this: safe from a power cut
	// beforeFlush is called before a segment that is closed writes its table.
	beforeFlush func()
}

var shippedTuning = tuning{retryAfter: time.Second, idleAfter: 5 * time.Second, journalLag: 20 * time.Millisecond, syncLag: time.Second}

// Append implements gateway.Store.
func (s *Store) Append(lane gateway.Lane, ms []*gateway.Message, state gateway.StoredState, done func([]gateway.Position, error)) {
	s.lanes[lane].handOver(ms, state, done)
}

// Read implements gateway.Store. park must not call the store.
func (s *Store) Read(lane gateway.Lane, max, maxBytes int, park func(leaf string) bool) ([]gateway.Stored, error) {
	return s.lanes[lane].read(max, maxBytes, park)
}

// Settle implements gateway.Store. It does not wait for the disk: after a crash
// the last messages settled may be there again.
func (s *Store) Settle(ps ...gateway.Position) {
	s.eachLane(ps, (*lane).settle)
}

// Release implements gateway.Store.
func (s *Store) Release(park bool, ps ...gateway.Position) (dropped int) {
	s.eachLane(ps, func(l *lane, ps []gateway.Position) { dropped += l.release(park, ps) })
	return dropped
}

// OnGiveUp implements gateway.Store.
func (s *Store) OnGiveUp(f func([]gateway.GivenUp)) { s.onGiveUp.Store(&f) }

// eachLane calls do with runs of positions that are of one lane.
func (s *Store) eachLane(ps []gateway.Position, do func(*lane, []gateway.Position)) {
	for len(ps) > 0 {
		n := 1
		for n < len(ps) && ps[n].Lane == ps[0].Lane {
			n++
		}
		if int(ps[0].Lane) < len(s.lanes) {
			do(s.lanes[ps[0].Lane], ps[:n])
		}
		ps = ps[n:]
	}
}

// Unpark implements gateway.Store.
func (s *Store) Unpark(lane gateway.Lane) { s.lanes[lane].unpark() }

// Unread implements gateway.Store.
func (s *Store) Unread(lane gateway.Lane) int { return s.lanes[lane].countUnread() }

// Start implements gateway.Store.
func (s *Store) Start() (start uint32, installation string) { return s.start, s.installation }

// State implements gateway.Store.
func (s *Store) State() gateway.StoreState {
	state := gateway.StoreState{
		BytesWritten: s.written.Load(),
		Commits:      s.commits.Load(),
		Errors:       s.errors.Load(),
		DeadLetters:  s.meta.count(),
		Damage:       s.damage.snapshot(),
	}
	for i, l := range s.lanes {
		lane, onDisk, failing, hindered := l.snapshot()
		state.Lanes[i] = lane
		state.BytesOnDisk += onDisk
		if state.Failing == nil && failing != nil && !l.roomAgain() {
			state.Failing = failing
		}
		if state.Hindered == nil {
			state.Hindered = hindered
		}
	}
	return state
}

// DeadLetter implements gateway.Store. Errors wrap gateway.ErrStoreFull or
// gateway.ErrStoreFailed.
func (s *Store) DeadLetter(m *gateway.Message, reason string) error {
	return s.meta.put(DeadLetter{Message: m, Reason: reason, Time: time.Now()})
}

// DeadLetters calls use for each message on the dead-letter shelf, the oldest
// first, until it returns false.
func (s *Store) DeadLetters(use func(DeadLetter) bool) error { return s.meta.each(use) }

// DropDeadLetters implements gateway.Shelf.
func (s *Store) DropDeadLetters(numbers ...uint64) (int, error) { return s.meta.drop(numbers) }

// OnSync has f told how long each group commit took to be synced, failed ones
// included. f is called from the committers of all lanes and must not block.
func (s *Store) OnSync(f func(time.Duration)) { s.onSync.Store(&f) }

// synced reports a commit that began then.
func (s *Store) synced(begin time.Time) {
	if f := s.onSync.Load(); f != nil {
		(*f)(time.Since(begin))
	}
}

// Close commits what was appended, closes everything and gives the folder free.
// What was appended later is refused.
func (s *Store) Close() error {
	s.looking.Lock() // from here on nobody opens a segment to look at it
	first := s.closed.CompareAndSwap(false, true)
	s.looking.Unlock()
	if !first {
		return nil
	}
	if needRoom(s.dir, 4*closeRoom) != nil {
		if err := dropBallast(s.dir); err != nil {
			s.log.Warn("cannot give up ballast", "error", err)
		}
	}
	for _, l := range s.lanes {
		l.close()
	}
	s.committers.Wait()
	s.stop()
	s.keeper.Wait()
	for _, l := range s.lanes {
		l.closeReading()
		l.closeLooking()
	}
	if !waitFor(&s.sealers, closePatience) {
		return fmt.Errorf("%w: a segment does not close; it is recovered at the next start", gateway.ErrStoreFailed)
	}
	if err := s.meta.close(); err != nil {
		// Nothing is lost: all was synced when it was written. Badger's own files of
		// statistics can report here what a disk refused long ago.
		s.errors.Add(1)
		s.log.Error("meta database did not close cleanly", "error", err)
	}
	return s.lock.Close()
}

// waitFor waits for wg, but not longer than patience.
func waitFor(wg *sync.WaitGroup, patience time.Duration) bool {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(patience):
		return false
	}
}
