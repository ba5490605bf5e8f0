package store

import (
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/fieldgate/fieldgate/gateway"
)

// notePrefix begins the keys of notes in the meta database: kind and name
// follow, with a zero byte between them.
const notePrefix = "note/"

// maxNoteBytes bounds what one call of SetNotes may write: a twin at the hub's
// limits (32 KiB for each of its two sections) and as much again for how it is
// written.
const maxNoteBytes = 128 << 10

var _ gateway.Notes = (*Store)(nil)

// Note implements gateway.Notes.
func (s *Store) Note(kind, name string) (v []byte, err error) {
	if !s.meta.enter() {
		return nil, errClosed
	}
	defer s.meta.mu.Unlock()
	defer recoverAsError(&err)
	err = s.meta.db.View(func(txn *badger.Txn) error {
		v, err = value(txn, noteKey(kind, name))
		return err
	})
	return v, err
}

// SetNotes implements gateway.Notes. Names and values together may have 128 KiB.
func (s *Store) SetNotes(kind string, values map[string][]byte) error {
	size := 0
	for name, v := range values {
		size += len(notePrefix) + len(kind) + 1 + len(name) + len(v)
	}
	if size > maxNoteBytes {
		return fmt.Errorf("%w: %d bytes of notes at once, at most %d", gateway.ErrTooLarge, size, maxNoteBytes)
	}
	if !s.meta.enter() {
		return errClosed
	}
	defer s.meta.mu.Unlock()
	cost := entriesCost(len(values), size)
	if err := s.meta.spend(cost); err != nil {
		return err
	}
	defer s.meta.spent(cost)
	if err := s.meta.setNotes(kind, values); err != nil {
		return fmt.Errorf("%w: cannot write notes: %w", gateway.ErrStoreFailed, err)
	}
	s.written.Add(int64(size))
	return nil
}

// EachNote implements gateway.Notes. f must not call the store.
func (s *Store) EachNote(kind string, f func(name string, value []byte) error) (err error) {
	if !s.meta.enter() {
		return errClosed
	}
	defer s.meta.mu.Unlock()
	defer recoverAsError(&err)
	return s.meta.db.View(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.Prefix = noteKey(kind, "")
		it := txn.NewIterator(o)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			v, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			if err := f(string(it.Item().Key()[len(o.Prefix):]), v); err != nil {
				return err
			}
		}
		return nil
	})
}

// enter locks the meta database, unless it is closed.
func (m *meta) enter() bool {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return false
	}
	return true
}

func (m *meta) setNotes(kind string, values map[string][]byte) (err error) {
	defer recoverAsError(&err)
	return m.db.Update(func(txn *badger.Txn) error {
		for name, v := range values {
			var err error
			if v == nil {
				err = txn.Delete(noteKey(kind, name))
			} else {
				err = txn.Set(noteKey(kind, name), v)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func noteKey(kind, name string) []byte {
	return append(append([]byte(notePrefix+kind), 0), name...)
}
