package store

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/failpoint"
)

// Bounds of the dead-letter shelf.
const (
	maxDeadLetters     = 1000
	maxDeadLetterBytes = 16 << 20
)

// Keys of the meta database. A dead letter's key ends in its number, big-endian.
var (
	installationKey  = []byte("installation")
	startKey         = []byte("start")
	deadLetterPrefix = []byte("dead/")
)

// DeadLetter is a message that the hub refused for good.
type DeadLetter = gateway.DeadLetter

// meta is the long-lived database: what is written rarely and stays.
type meta struct {
	dir      string
	db       *database
	room     func(bytes int64) error // see Store.roomToKeep
	compacts bool

	mu       sync.Mutex
	shelf    []letter // oldest first
	last     uint64   // number of the letter that came last, since the start or on the shelf
	bytes    int64    // of what is on it
	log      string   // the write-ahead log that is being written
	logged   int64    // bytes in it and in the memtable, at most
	reserved bool     // it has its place on disk
	closed   bool
}

// letter is what is remembered of a dead letter.
type letter struct {
	number uint64
	size   int64
}

// openMeta opens the meta database, and makes it if it is not there.
//
// It is compacted only where there is ample room, because Badger does not
// survive a disk that fills up meanwhile. room is Store.roomToKeep.
func openMeta(dir string, room func(bytes int64) error, log *slog.Logger) (*meta, error) {
	if err := makeFolder(dir); err != nil {
		return nil, err
	}
	if err := heal(dir, log.Warn); err != nil {
		return nil, err
	}
	ample := needRoom(dir, ampleRoom) == nil
	db, err := openDatabase(metaOptions(dir, ample), log)
	if err != nil {
		return nil, err
	}
	m := &meta{dir: dir, db: db, room: room, compacts: ample}
	if err := errors.Join(m.reserve(), m.load()); err != nil {
		return nil, errors.Join(err, db.closeSoon())
	}
	return m, nil
}

// reserve finds the log that Badger writes now, and gives it its place on disk if
// there is room.
func (m *meta) reserve() error {
	logs, err := m.db.files(".mem")
	if err != nil || len(logs) == 0 || slices.Max(logs) == m.log {
		return err
	}
	m.log, m.logged, m.reserved = slices.Max(logs), 0, false
	if needRoom(m.dir, metaReserve+startRoom) != nil {
		return nil
	}
	if err := allocate(m.log, metaReserve); err != nil {
		m.db.log.Warn("no room is reserved for the meta database", "error", err)
		return nil
	}
	m.reserved = occupied(m.log) >= metaReserve
	return nil
}

// spend makes sure that a write of that cost finds room, before it is done. What
// goes into the reserved log needs none, so that a disk that is full takes some
// megabytes of letters and notes. When the memtable is full Badger begins a new
// log, writes a table, and may compact all tables there are. The error wraps
// gateway.ErrStoreFull. The caller holds m.mu.
func (m *meta) spend(cost int64) error {
	growth := cost
	switch {
	case m.logged >= metaMemtable:
		growth += 2 * metaReserve
		if m.compacts {
			growth += tableSize(m.dir)
		}
	case m.reserved:
		growth = 0
	}
	if growth > 0 {
		if err := m.room(growth); err != nil {
			return err
		}
	}
	m.logged += cost
	return nil
}

// spent looks whether Badger has begun a new log with the write of that cost.
func (m *meta) spent(cost int64) {
	if m.logged-cost < metaMemtable {
		return
	}
	if err := m.reserve(); err != nil {
		m.db.log.Warn("no room is reserved for the meta database", "error", err)
	}
	if m.logged < cost {
		m.logged = cost
	}
}

// entriesCost is more than what a transaction of so many entries with so many bytes
// takes of log and memtable.
func entriesCost(entries, bytes int) int64 { return int64(entries+1)*entryCost + int64(bytes) }

// load finds what is on the shelf.
func (m *meta) load() (err error) {
	defer recoverAsError(&err)
	return m.db.View(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.PrefetchValues = false
		o.Prefix = deadLetterPrefix
		it := txn.NewIterator(o)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			number := strings.TrimPrefix(string(it.Item().Key()), string(deadLetterPrefix))
			if len(number) != 8 {
				continue
			}
			l := letter{binary.BigEndian.Uint64([]byte(number)), it.Item().EstimatedSize()}
			m.shelf = append(m.shelf, l)
			m.bytes += l.size
		}
		return nil
	})
}

// begin counts this start, synced, and returns its number and the installation's
// text. The number is above atLeast, which is what the segments have seen: after
// the loss of the meta database it goes on from there.
func (m *meta) begin(atLeast uint32) (start uint32, installation string, err error) {
	defer recoverAsError(&err)
	err = m.db.Update(func(txn *badger.Txn) error {
		last, err := value(txn, startKey)
		if err != nil {
			return err
		}
		if len(last) == 4 {
			start = binary.BigEndian.Uint32(last)
		}
		start = max(start, atLeast) + 1
		id, err := value(txn, installationKey)
		if err != nil {
			return err
		}
		if len(id) != 8 {
			id = []byte(strings.ToLower(rand.Text()[:8]))
			if err := txn.Set(installationKey, id); err != nil {
				return err
			}
		}
		installation = string(id)
		return txn.Set(startKey, binary.BigEndian.AppendUint32(nil, start))
	})
	return start, installation, err
}

// value returns a copy of a key's value, nil when the key is not there.
func value(txn *badger.Txn, key []byte) ([]byte, error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return item.ValueCopy(nil)
}

// put puts a letter on the shelf and takes the oldest off where that is full.
func (m *meta) put(d DeadLetter) (err error) {
	data := encodeDeadLetter(d)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosed
	}
	if n := len(m.shelf); n > 0 {
		m.last = max(m.last, m.shelf[n-1].number)
	}
	next := letter{number: m.last + 1, size: int64(len(data))}
	give, bytes := 0, m.bytes+next.size
	for len(m.shelf)-give > 0 && (len(m.shelf)-give >= maxDeadLetters || bytes > maxDeadLetterBytes) {
		bytes -= m.shelf[give].size
		give++
	}
	cost := entriesCost(give+1, len(data))
	if err := m.spend(cost); err != nil {
		return err
	}
	defer m.spent(cost)
	failpoint.Hit(failpoint.MetaShelve)
	if err := m.write(next.number, data, m.shelf[:give]); err != nil {
		return fmt.Errorf("%w: cannot keep dead letter: %w", gateway.ErrStoreFailed, err)
	}
	failpoint.Hit(failpoint.MetaShelved)
	m.shelf = append(m.shelf[give:], next)
	m.last = next.number
	m.bytes = bytes
	return nil
}

// drop takes letters off the shelf and returns how many were there.
func (m *meta) drop(numbers []uint64) (n int, err error) {
	if !m.enter() {
		return 0, errClosed
	}
	defer m.mu.Unlock()
	var stay, gone []letter
	for _, l := range m.shelf {
		if slices.Contains(numbers, l.number) {
			gone = append(gone, l)
		} else {
			stay = append(stay, l)
		}
	}
	if len(gone) == 0 {
		return 0, nil
	}
	if n := len(m.shelf); n > 0 {
		m.last = max(m.last, m.shelf[n-1].number) // a number never comes back while we run
	}
	cost := entriesCost(len(gone), 0)
	if err := m.spend(cost); err != nil {
		return 0, err
	}
	defer m.spent(cost)
	if err := m.remove(gone); err != nil {
		return 0, fmt.Errorf("%w: cannot drop dead letters: %w", gateway.ErrStoreFailed, err)
	}
	m.shelf = stay
	for _, l := range gone {
		m.bytes -= l.size
	}
	return len(gone), nil
}

func (m *meta) remove(letters []letter) (err error) {
	defer recoverAsError(&err)
	return m.db.Update(func(txn *badger.Txn) error {
		for _, l := range letters {
			if err := txn.Delete(deadLetterKey(l.number)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (m *meta) write(number uint64, data []byte, old []letter) (err error) {
	defer recoverAsError(&err)
	return m.db.Update(func(txn *badger.Txn) error {
		for _, l := range old {
			if err := txn.Delete(deadLetterKey(l.number)); err != nil {
				return err
			}
		}
		return txn.Set(deadLetterKey(number), data)
	})
}

// each calls use for the letters, oldest first, until it returns false. Damaged
// ones are passed over.
func (m *meta) each(use func(DeadLetter) bool) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return errClosed
	}
	numbers := make([]uint64, len(m.shelf))
	for i, l := range m.shelf {
		numbers[i] = l.number
	}
	m.mu.Unlock()
	for _, number := range numbers {
		d, ok, err := m.get(number)
		if err != nil {
			return err
		}
		if ok && !use(d) {
			return nil
		}
	}
	return nil
}

func (m *meta) get(number uint64) (d DeadLetter, ok bool, err error) {
	defer recoverAsError(&err)
	err = m.db.View(func(txn *badger.Txn) error {
		data, err := value(txn, deadLetterKey(number))
		if err == nil && data != nil {
			d, err = decodeDeadLetter(data)
			d.Number = number
			ok = err == nil
			err = nil
		}
		return err
	})
	return d, ok, err
}

func (m *meta) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.shelf)
}

func (m *meta) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	if err := needRoom(m.dir, 1<<20+min(m.logged, metaReserve)); err != nil {
		// Nothing is lost: everything is in the log, for the next start.
		m.db.log.Warn("meta database is left open", "error", err)
		return nil
	}
	failpoint.Hit(failpoint.MetaClose)
	err := m.db.closeSoon() // after a panic Badger may wait for a lock for ever
	failpoint.Hit(failpoint.MetaClosed)
	return err
}

func deadLetterKey(number uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(nil), deadLetterPrefix...), number)
}

// letterHead is what stands before the message in a stored dead letter.
type letterHead struct {
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
}

// encodeDeadLetter frames a letter: its head as JSON, length-prefixed, then the
// message in its stored form.
func encodeDeadLetter(d DeadLetter) []byte {
	head, err := json.Marshal(letterHead{d.Reason, d.Time.UTC()})
	if err != nil { // a year that RFC 3339 cannot spell
		head = []byte("{}")
	}
	buf := binary.AppendUvarint(nil, uint64(len(head)))
	return appendMessage(append(buf, head...), d.Message)
}

func decodeDeadLetter(data []byte) (DeadLetter, error) {
	in := decoder{rest: data}
	headData := in.bytes()
	if in.err != nil {
		return DeadLetter{}, in.err
	}
	var head letterHead
	if err := json.Unmarshal(headData, &head); err != nil {
		return DeadLetter{}, err
	}
	m, err := decodeMessage(in.rest)
	return DeadLetter{Message: m, Reason: head.Reason, Time: head.Time}, err
}
