package store

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/fieldgate/fieldgate/gateway"
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
type DeadLetter struct {
	Message *gateway.Message
	Reason  string    // the hub's words
	Time    time.Time // when it was put on the shelf, by the clock of then
}

// meta is the long-lived database: what is written rarely and stays.
type meta struct {
	dir string
	db  *database

	mu     sync.Mutex
	shelf  []letter // oldest first
	bytes  int64    // of what is on it
	recent int64    // bytes written since the start: at most so much is in the memtable
	closed bool
}

// letter is what is remembered of a dead letter.
type letter struct {
	number uint64
	size   int64
}

// openMeta opens the meta database, and makes it if it is not there.
//
// It is compacted only where there is ample room, because Badger does not
// survive a disk that fills up meanwhile.
func openMeta(dir string, log *slog.Logger) (*meta, error) {
	if err := makeFolder(dir); err != nil {
		return nil, err
	}
	if err := heal(dir, log.Warn); err != nil {
		return nil, err
	}
	db, err := openDatabase(metaOptions(dir, needRoom(dir, 2*metaRoom) == nil), log)
	if err != nil {
		return nil, err
	}
	m := &meta{dir: dir, db: db}
	if err := m.load(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return m, nil
}

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
	if err := needRoom(m.dir, metaRoom); err != nil {
		return err
	}
	data := encodeDeadLetter(d)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosed
	}
	next := letter{number: 1, size: int64(len(data))}
	if n := len(m.shelf); n > 0 {
		next.number = m.shelf[n-1].number + 1
	}
	give, bytes := 0, m.bytes+next.size
	for len(m.shelf)-give > 0 && (len(m.shelf)-give >= maxDeadLetters || bytes > maxDeadLetterBytes) {
		bytes -= m.shelf[give].size
		give++
	}
	if err := m.write(next.number, data, m.shelf[:give]); err != nil {
		return fmt.Errorf("%w: cannot keep dead letter: %w", gateway.ErrStoreFailed, err)
	}
	m.shelf = append(m.shelf[give:], next)
	m.bytes = bytes
	m.recent += next.size
	return nil
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
	if err := needRoom(m.dir, 1<<20+min(m.recent, metaMemtable)); err != nil {
		// Nothing is lost: everything is in the log, for the next start.
		m.db.log.Warn("meta database is left open", "error", err)
		return nil
	}
	return m.db.Close()
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
	return DeadLetter{m, head.Reason, head.Time}, err
}
