package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

const (
	// A segment's memtable and its write-ahead log hold only pointers and small
	// blocks. A segment is rolled before they are full, because a full one would
	// be replaced by a new one for which no room was reserved.
	segmentMemtable = 1 << 20
	// Blocks above it go to the value log, smaller ones to the write-ahead log.
	valueThreshold = 1 << 10
	// entryCost is more than the write-ahead log and the memtable each need for
	// an entry besides its value (measured: 71 and about 80 bytes).
	entryCost = 160
	// reserveSlack is reserved in the value log above the segment's size. It is
	// given back just before the segment is closed, when Badger writes a table
	// of at most a memtable's size.
	reserveSlack = 2 << 20

	// The meta database takes whole messages into its memtable (15 % of it is
	// Badger's limit for a transaction).
	metaMemtable = 4 << 20
)

// reservation is the room that a segment of the given size takes while it is
// being written, in bytes: value log, write-ahead log, and Badger's small files.
func reservation(segmentSize int64) int64 {
	return segmentSize + reserveSlack + 2*segmentMemtable + 256<<10
}

// database is one open Badger database. What Badger reports as an error without
// returning it makes the database broken.
type database struct {
	*badger.DB
	dir    string
	log    *slog.Logger
	broken atomic.Pointer[string]

	// Bytes written by put, to know when the segment is full.
	values int64 // to the value log
	wal    int64 // to the write-ahead log
}

// openSegment opens a segment's database for reading and writing, and makes it
// if it is not there.
func openSegment(dir string, size int64, log *slog.Logger) (*database, error) {
	return openDatabase(segmentOptions(dir, size), log)
}

// readSegment opens a sealed segment's database. It writes nothing.
func readSegment(dir string, size int64, log *slog.Logger) (*database, error) {
	return openDatabase(segmentOptions(dir, size).WithReadOnly(true), log)
}

func segmentOptions(dir string, size int64) badger.Options {
	return smallOptions(dir).
		WithMemTableSize(segmentMemtable).
		WithValueThreshold(valueThreshold).
		WithValueLogFileSize(size + reserveSlack).
		// No compaction, ever: a segment is written once and removed whole.
		WithNumCompactors(0).
		WithNumLevelZeroTables(1 << 20).
		WithNumLevelZeroTablesStall(1 << 21)
}

func metaOptions(dir string, compact bool) badger.Options {
	o := smallOptions(dir).
		WithMemTableSize(metaMemtable).
		// Values stay in the tree, so that every sync error is returned.
		WithValueThreshold(metaMemtable / 8).
		WithValueLogFileSize(1 << 20).
		WithNumCompactors(2)
	if !compact {
		o = o.WithNumCompactors(0).WithNumLevelZeroTables(1 << 20).WithNumLevelZeroTablesStall(1 << 21)
	}
	return o
}

// smallOptions are what all our databases share: durable, and small in memory.
func smallOptions(dir string) badger.Options {
	return badger.DefaultOptions(dir).
		WithSyncWrites(true).
		WithNumMemtables(1).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithBloomFalsePositive(0).
		WithDetectConflicts(false).
		WithMetricsEnabled(false).
		WithNumGoroutines(1).
		WithChecksumVerificationMode(options.OnTableAndBlockRead)
}

// openDatabase opens a database. A panic within Badger, which damaged files can
// cause, is an error.
func openDatabase(o badger.Options, log *slog.Logger) (db *database, err error) {
	db = &database{dir: o.Dir, log: log}
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, fmt.Errorf("cannot open database: %v", p)
		}
	}()
	db.DB, err = badger.Open(o.WithLogger((*badgerLog)(db)))
	if err != nil {
		return nil, fmt.Errorf("cannot open database: %w", err)
	}
	db.broken.Store(nil) // what was said while opening, Open has judged
	return db, nil
}

// block is an encoded block and its number.
type encodedBlock struct {
	number uint32
	frame  []byte
}

// put writes blocks in one synced transaction. After an error the database must
// not be written any more. The frames may be reused when it returns.
func (db *database) put(blocks []encodedBlock) error {
	txn := db.NewTransaction(true)
	defer txn.Discard()
	for _, b := range blocks {
		if err := txn.SetEntry(badger.NewEntry(blockKey(b.number), b.frame)); err != nil {
			return err
		}
		values, wal := blockCost(len(b.frame))
		db.values += values
		db.wal += wal
	}
	if err := txn.Commit(); err != nil {
		return err
	}
	// Badger only logs when it cannot sync the value log, and commits. Then the
	// blocks are not safe, whatever Commit said.
	if text := db.broken.Load(); text != nil {
		return errors.New(*text)
	}
	return nil
}

// fits says whether blocks of that cost can be written without needing room that
// was not reserved.
func (db *database) fits(values, wal, segmentSize int64) bool {
	return db.values+values <= segmentSize && db.wal+wal <= segmentMemtable-entryCost
}

// blockCost is what a block of that size adds to the value log and to the
// write-ahead log.
func blockCost(frame int) (values, wal int64) {
	if frame < valueThreshold {
		return 0, int64(frame) + entryCost
	}
	return int64(frame) + 64, entryCost
}

// get calls use with the frame of a block, which is valid only during the call.
// It reports found = false when the database does not have the block. A panic
// within Badger, which damaged files can cause, is an error.
func (db *database) get(number uint32, use func(frame []byte)) (found bool, err error) {
	defer recoverAsError(&err)
	err = db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(blockKey(number))
		if err != nil {
			return err
		}
		return item.Value(func(frame []byte) error {
			found = true
			use(frame)
			return nil
		})
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		return false, nil
	}
	return found, err
}

// scan calls use for every block in order of their numbers, with its frame, which
// is valid only during the call; nil when it cannot be read.
func (db *database) scan(use func(number uint32, frame []byte)) (err error) {
	defer recoverAsError(&err)
	return db.View(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.PrefetchValues = false
		it := txn.NewIterator(o)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			key := it.Item().Key()
			if len(key) != 4 {
				continue
			}
			number := binary.BigEndian.Uint32(key)
			err := it.Item().Value(func(frame []byte) error {
				use(number, frame)
				return nil
			})
			if err != nil {
				use(number, nil)
			}
		}
		return nil
	})
}

func recoverAsError(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("database is damaged: %v", p)
	}
}

func blockKey(number uint32) []byte {
	return binary.BigEndian.AppendUint32(nil, number)
}

// reserve allocates the room that the segment will need while it is written.
// Badger writes through memory maps: without room it would be killed by SIGBUS
// instead of getting an error.
func (db *database) reserve(segmentSize int64) error {
	logs, err := db.files(".vlog", ".mem")
	if err != nil {
		return err
	}
	for _, path := range logs {
		size := segmentSize + reserveSlack
		if strings.HasSuffix(path, ".mem") {
			size = 2 * segmentMemtable
		}
		if err := allocate(path, size); err != nil {
			return err
		}
	}
	return nil
}

// giveBack frees what was reserved and not written, or with all also what is in
// the value log. Nothing may be written afterwards. It is at least 3 MiB:
// reserveSlack, and half of the write-ahead log, which is left before it is
// half full.
func (db *database) giveBack(segmentSize int64, all bool) error {
	logs, err := db.files(".vlog", ".mem")
	if err != nil {
		return err
	}
	const page = 4096
	for _, path := range logs {
		// What was counted is an upper bound of what was written.
		written, size := db.values, segmentSize+reserveSlack
		if strings.HasSuffix(path, ".mem") {
			written, size = db.wal, 2*segmentMemtable
		} else if all {
			written = 0
		}
		from := (written + 2*page) &^ (page - 1)
		if err := punch(path, from, size-from); err != nil {
			return err
		}
	}
	return nil
}

func (db *database) files(suffixes ...string) ([]string, error) {
	entries, err := os.ReadDir(db.dir)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		for _, s := range suffixes {
			if strings.HasSuffix(e.Name(), s) {
				paths = append(paths, filepath.Join(db.dir, e.Name()))
			}
		}
	}
	return paths, nil
}

// badgerLog takes what a database says about itself. Errors are remembered: some
// are not returned from any call.
type badgerLog database

func (l *badgerLog) Errorf(format string, args ...any) {
	text := strings.TrimSpace(fmt.Sprintf(format, args...))
	l.broken.CompareAndSwap(nil, &text)
	l.log.Warn("database reports an error", "folder", l.dir, "error", text)
}

func (l *badgerLog) Warningf(format string, args ...any) {
	l.log.Debug("database warns", "folder", l.dir, "text", strings.TrimSpace(fmt.Sprintf(format, args...)))
}

func (*badgerLog) Infof(string, ...any)  {}
func (*badgerLog) Debugf(string, ...any) {}
