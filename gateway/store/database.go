package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"golang.org/x/sys/unix"
)

const (
	// A segment's memtable and its write-ahead log hold only pointers and small
	// blocks. A segment is rolled before they are full, because a full one would
	// be replaced by a new one for which no room was reserved.
	segmentMemtable = 1 << 20
	// Blocks above it go to the value log, smaller ones to the write-ahead log.
	valueThreshold = 1 << 10
	// In a rewrite all blocks go to the value log: those that were there must fit,
	// also when thinning has made them small. What ends a transaction is smaller
	// than this, and must stay in the write-ahead log.
	rewriteThreshold = 32
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
	// metaReserve is as far as its write-ahead log is written before there is a
	// new one, and more than the table that is made of it.
	metaReserve = metaMemtable * 5 / 4
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
	folder *folder // dir, wherever it is moved
	log    *slog.Logger
	broken atomic.Pointer[string]

	complained chan struct{} // closed when it becomes broken for the first time
	complain   sync.Once

	threshold int // blocks from it on go to the value log

	// Bytes written by put, to know when the segment is full.
	values int64 // to the value log
	wal    int64 // to the write-ahead log

	sealing atomic.Bool // flush is at work
	locked  atomic.Bool // Close would wait for ever
	marked  bool        // has its flushMark
	flushed bool        // nothing is left to write by Close
	block   string      // what stands in the place of the next write-ahead log
	lame    bool        // a panic or a failed flush has left it so that it can be read but not closed
}

// openSegment opens a segment's database for reading and writing, and makes it
// if it is not there.
func openSegment(dir string, size int64, log *slog.Logger) (*database, error) {
	return openDatabase(segmentOptions(dir, size), log)
}

// rewriteSegment is openSegment for one that is written anew.
func rewriteSegment(dir string, size int64, log *slog.Logger) (*database, error) {
	return openDatabase(segmentOptions(dir, size).WithValueThreshold(rewriteThreshold), log)
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
		// The whole store is locked already, and a lame database would never give
		// its lock back.
		WithBypassLockGuard(true).
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

// Where Badger cannot list a folder, or make its file of statistics, it ends the
// process with log.Fatalf (its y.Check): a disk that is full or a table of open
// files that is. There is no other way to stop that than through the output of
// the standard logger, which nothing of ours uses.
var surviveFatal = sync.OnceFunc(func() { log.SetOutput(fatalAsPanic{log.Writer()}) })

// fatalAsPanic panics with what log.Fatalf says, before that ends the process.
type fatalAsPanic struct{ io.Writer }

func (w fatalAsPanic) Write(text []byte) (int, error) {
	var callers [8]uintptr
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers[:])])
	for {
		frame, more := frames.Next()
		if frame.Function == "log.Fatalf" {
			panic(strings.TrimSpace(string(text)))
		}
		if !more {
			return w.Writer.Write(text)
		}
	}
}

// openDatabase opens a database. A panic within Badger, which damaged files can
// cause, is an error. So is an Open that does not end: when it fails, Badger
// writes what it has read so far, and retries that for ever while a disk refuses.
// It then goes on in its folder, which must not be opened again.
func openDatabase(o badger.Options, log *slog.Logger) (*database, error) {
	surviveFatal()
	if !o.ReadOnly {
		if err := makeFolder(o.Dir); err != nil {
			return nil, err
		}
	}
	folder, err := holdFolder(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open database: %w", err)
	}
	db := &database{dir: o.Dir, folder: folder, log: log, threshold: int(o.ValueThreshold), complained: make(chan struct{})}
	type result struct {
		db  *badger.DB
		err error
	}
	opened := make(chan result, 1)
	go func() {
		b, err := openBadger(o.WithDir(folder.path).WithValueDir(folder.path).WithLogger((*badgerLog)(db)))
		opened <- result{b, err}
	}()
	var r result
	select {
	case r = <-opened:
	case <-db.complained:
		select {
		case r = <-opened:
		case <-time.After(closePatience):
			go func() {
				if late := <-opened; late.err == nil && late.db.Close() == nil {
					folder.release()
				}
			}()
			return nil, fmt.Errorf("%w: it does not open: %s", errAbandoned, *db.broken.Load())
		}
	}
	if r.err != nil {
		if !errors.Is(r.err, errPanic) && !errors.Is(r.err, errFault) {
			folder.release()
		}
		return nil, fmt.Errorf("cannot open database: %w", db.named(r.err))
	}
	db.DB = r.db
	db.broken.Store(nil) // what was said while opening, Open has judged
	return db, nil
}

// errAbandoned says that Badger is still at work on a database for which nobody
// waits any more.
var errAbandoned = errors.New("database is given up")

// folder is a folder by a path that leads to it also when it has been moved or
// another one has its name: Badger uses paths, also when it has been given up and
// goes on in the background.
type folder struct {
	path string
	fd   int
	once sync.Once // for release
}

func holdFolder(dir string) (*folder, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	held := &folder{path: fmt.Sprintf("/proc/self/fd/%d", fd), fd: fd}
	real, err := os.Stat(dir)
	if err != nil {
		held.release()
		return nil, err
	}
	if info, err := os.Stat(held.path); err != nil || !os.SameFile(info, real) {
		held.release() // no /proc: then by its name
		return &folder{path: dir, fd: -1}, nil
	}
	return held, nil
}

// release is called when nobody uses the path any more. Where that is not certain
// it is not called: the number would be given to another folder.
func (f *folder) release() {
	f.once.Do(func() {
		if f.fd >= 0 {
			_ = unix.Close(f.fd)
		}
	})
}

// named puts the folder's name into an error of Badger's.
func (db *database) named(err error) error {
	if err == nil || db.folder.fd < 0 {
		return err
	}
	return &namedError{err, strings.NewReplacer(db.folder.path+"/", db.dir+"/")}
}

type namedError struct {
	error
	names *strings.Replacer
}

func (e *namedError) Error() string { return e.names.Replace(e.error.Error()) }

func (e *namedError) Unwrap() error { return e.error }

// checkTables reads the tables of a database as Badger will, but here, where a
// panic can be caught: Badger reads them in goroutines of its own, and a block
// with a wrong checksum would be the end of the process (table.go, VerifyChecksum).
func checkTables(o badger.Options) error {
	f, err := os.Open(filepath.Join(o.Dir, badger.ManifestFilename))
	if err != nil {
		return nil // Badger makes one, or says so
	}
	defer f.Close()
	return guarded(func() error {
		manifest, _, err := badger.ReplayManifestFile(f, 0, o)
		if err != nil {
			return nil // it will say so
		}
		// One that the manifest does not name Badger would remove. While a segment
		// is written that is right: it was not completed.
		if found, _ := filepath.Glob(filepath.Join(o.Dir, "*.sst")); o.ReadOnly && len(found) != len(manifest.Tables) {
			return fmt.Errorf("%d tables are there, the manifest names %d", len(found), len(manifest.Tables))
		}
		for id := range manifest.Tables {
			if err := checkTable(table.NewFilename(id, o.Dir), id); err != nil {
				return fmt.Errorf("table %d: %w", id, err)
			}
		}
		return nil
	})
}

func checkTable(path string, id uint64) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return guarded(func() error {
		t, err := table.OpenInMemoryTable(data, id, &table.Options{ChkMode: options.OnTableAndBlockRead})
		if err != nil {
			return err
		}
		return t.VerifyChecksum()
	})
}

func openBadger(o badger.Options) (db *badger.DB, err error) {
	if err := checkTables(o); err != nil {
		return nil, err
	}
	err = guarded(func() (err error) {
		db, err = badger.Open(o)
		return err
	})
	return db, err
}

// closeSoon closes a database that may be left open: Badger retries for ever
// while a disk refuses its writes, and everything is in its logs already. Then
// the error says why, and Badger goes on trying in the background.
func (db *database) closeSoon() error {
	done := make(chan error, 1)
	go func() {
		err := db.Close()
		db.folder.release()
		done <- db.named(err)
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(closePatience):
	}
	cause := "no cause is known"
	if text := db.broken.Load(); text != nil {
		cause = *text
	}
	return fmt.Errorf("database does not close within %v: %s", closePatience, cause)
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
		values, wal := blockCost(len(b.frame), db.threshold)
		db.values += values
		db.wal += wal
	}
	if err := txn.Commit(); err != nil {
		return db.named(err)
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
// write-ahead log of a database with that threshold.
func blockCost(frame, threshold int) (values, wal int64) {
	if frame < threshold {
		return 0, int64(frame) + entryCost
	}
	return int64(frame) + 64, entryCost
}

// get calls use with the frame of a block, which is valid only during the call.
// It reports found = false when the database does not have the block. A panic
// within Badger, which damaged files can cause, is an error.
func (db *database) get(number uint32, use func(frame []byte)) (found bool, err error) {
	err = db.guarded(func() error {
		return db.View(func(txn *badger.Txn) error {
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
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		return false, nil
	}
	return found, err
}

// scan calls use for every block in order of their numbers, with its frame, which
// is valid only during the call; nil when it cannot be read.
func (db *database) scan(use func(number uint32, frame []byte)) error {
	return db.guarded(func() error { return db.View(scanner(use)) })
}

// keys calls use for the number of every block, in order.
func (db *database) keys(use func(number uint32)) error {
	return db.guarded(func() error {
		return db.View(func(txn *badger.Txn) error {
			o := badger.DefaultIteratorOptions
			o.PrefetchValues = false
			it := txn.NewIterator(o)
			defer it.Close()
			for it.Rewind(); it.Valid(); it.Next() {
				if key := it.Item().Key(); len(key) == 4 {
					use(binary.BigEndian.Uint32(key))
				}
			}
			return nil
		})
	})
}

func scanner(use func(number uint32, frame []byte)) func(txn *badger.Txn) error {
	return func(txn *badger.Txn) error {
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
	}
}

// errFault is a fault on memory that is mapped to a file: there was no room on
// the disk for what was written, or the disk could not read what was read.
var errFault = errors.New("mapped file is out of reach")

// errPanic is a panic within Badger.
var errPanic = errors.New("database is damaged")

// guarded calls do. A panic within it is an error, also one for a fault on mapped
// memory, which would otherwise be the end of the process: errFault. That works
// for what do does itself, not in goroutines of Badger's.
func guarded(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer recoverAsError(&err)
	return do()
}

func recoverAsError(err *error) {
	switch p := recover().(type) {
	case nil:
	case interface{ Addr() uintptr }:
		*err = fmt.Errorf("%w: %v", errFault, p)
	default:
		*err = fmt.Errorf("%w: %v", errPanic, p)
	}
}

// guarded is the same for work on the database. Badger may hold locks after a
// panic, on which Close would wait for ever: the database is lame then.
func (db *database) guarded(do func() error) error {
	err := db.named(guarded(do))
	db.lame = db.lame || errors.Is(err, errFault) || errors.Is(err, errPanic)
	return err
}

// flushMark is a key that no block has. Where Badger drops it, it flushes.
var flushMark = []byte("flush")

// mark writes flushMark, which flush needs. It takes what fits has left in the
// write-ahead log.
func (db *database) mark() error {
	if db.marked {
		return nil
	}
	err := db.Update(func(txn *badger.Txn) error { return txn.Set(flushMark, nil) })
	db.marked = err == nil
	return err
}

// flush writes the table of what is in the write-ahead log, after which the
// database is of no use but for shut, which then has nothing left to write. Both
// Close and DropPrefix write it through a memory map, and when others take the
// room at that moment the process gets SIGBUS. In Close that happens in a
// goroutine of Badger's, where nothing can be done about it; in DropPrefix it
// happens in ours. DropPrefix would go on to compact, again in other goroutines,
// but needs a new write-ahead log before that: a link in its place that leads
// nowhere ends it there.
//
// When flush fails the database can still be read, and flush tried again, but it
// is lame. The caller has called mark.
func (db *database) flush() error {
	if err := db.unblock(); err != nil || db.flushed {
		return err
	}
	before := len(db.Tables())
	err := db.blockNextLog()
	if err != nil {
		return err
	}
	db.sealing.Store(true)
	err = guarded(func() error { return db.DropPrefix(flushMark) })
	db.sealing.Store(false)
	db.flushed = len(db.Tables()) > before
	switch unblocked := db.unblock(); {
	case db.flushed:
		db.lame = db.lame || errors.Is(err, errFault)
		return unblocked
	case err == nil:
		err = errors.New("no table was written")
	}
	db.lame = true
	db.dropTorn()
	return fmt.Errorf("cannot write table: %w", db.named(err))
}

// blockNextLog makes sure that Badger can make no new write-ahead log.
func (db *database) blockNextLog() error {
	logs, err := db.files(".mem")
	if err != nil {
		return err
	}
	last := 0
	for _, name := range logs {
		n, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(name), ".mem"))
		if err != nil {
			return err
		}
		last = max(last, n)
	}
	path := filepath.Join(db.folder.path, fmt.Sprintf("%05d.mem", last+1))
	if err := os.Symlink(filepath.Base(path), path); err != nil {
		return err
	}
	db.block = path
	return nil
}

// unblock takes away what blockNextLog has put there. It must be gone before
// anything else is done to the files of the database.
func (db *database) unblock() error {
	if db.block == "" {
		return nil
	}
	if err := os.Remove(db.block); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db.block = ""
	return nil
}

// dropTorn gives back the room of tables that were not completed.
func (db *database) dropTorn() {
	tables, err := db.files(".sst")
	if err != nil {
		return
	}
	for _, path := range tables {
		// Badger has it mapped, so removing it would not free anything.
		if err := errors.Join(os.Truncate(path, 0), os.Remove(path)); err != nil {
			db.log.Debug("cannot remove torn table", "file", path, "error", err)
		}
	}
}

// shut closes the database when it has been flushed or nothing was written. One
// that is lame is left as it is.
func (db *database) shut() error {
	if db.lame || db.locked.Load() {
		return nil
	}
	return db.closeSoon()
}

// drop closes the database when all that is in it is to go. The files of a lame
// one give their room back: removing them would not, Badger has them mapped.
func (db *database) drop() error {
	if err := withdrawFullLogs(db.folder.path); err != nil {
		db.log.Debug("a crash now may be reported as damage", "folder", db.dir, "error", err)
	}
	if db.values+db.wal > 0 {
		if err := db.mark(); err != nil {
			return err
		}
		_ = db.flush() // else it is lame now
	}
	if !db.lame && !db.locked.Load() {
		return db.closeSoon()
	}
	logs, err := db.files(".vlog", ".mem", ".sst")
	for _, path := range logs {
		err = errors.Join(err, os.Truncate(path, 0))
	}
	return err
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
	entries, err := os.ReadDir(db.folder.path)
	if err != nil {
		return nil, db.named(err)
	}
	var paths []string
	for _, e := range entries {
		for _, s := range suffixes {
			if strings.HasSuffix(e.Name(), s) {
				paths = append(paths, filepath.Join(db.folder.path, e.Name()))
			}
		}
	}
	return paths, nil
}

// badgerLog takes what a database says about itself. Errors are remembered: some
// are not returned from any call.
type badgerLog database

func (l *badgerLog) Errorf(format string, args ...any) {
	if strings.HasPrefix(format, "Invalid read") {
		// Badger forgets to unlock the log it has read (value.go, Read).
		l.locked.Store(true)
	}
	if l.sealing.Load() {
		return // what is said while it is flushed, flush returns
	}
	text := strings.ReplaceAll(strings.TrimSpace(fmt.Sprintf(format, args...)), l.folder.path+"/", l.dir+"/")
	level := slog.LevelDebug
	if l.broken.CompareAndSwap(nil, &text) {
		level = slog.LevelWarn // what it retries for ever it would also repeat for ever
	}
	l.complain.Do(func() { close(l.complained) })
	l.log.Log(context.Background(), level, "database reports an error", "folder", l.dir, "error", text)
}

func (l *badgerLog) Warningf(format string, args ...any) {
	l.log.Debug("database warns", "folder", l.dir, "text", strings.TrimSpace(fmt.Sprintf(format, args...)))
}

func (*badgerLog) Infof(string, ...any)  {}
func (*badgerLog) Debugf(string, ...any) {}
