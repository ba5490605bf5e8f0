package blob

import (
	"net/http"
	"sync"
	"time"
)

// Bounds of the storage service.
const (
	maxBlocks  = 50_000 // in a blob, committed or not
	maxBlockID = 64     // bytes before Base64
)

// overhead is what a blob and a block count beside their bytes, so that many
// empty ones have a bound too.
const overhead = 256

// blob is a committed blob. It does not change.
type blob struct {
	data     []byte
	blocks   map[string][]byte // parts of data; nil when it came in one piece
	header   http.Header       // what the client wants back
	etag     string
	modified time.Time // whole seconds
}

// entry is what lies under the name of a blob.
type entry struct {
	committed *blob             // nil before the first commit
	waiting   map[string][]byte // blocks that no list has named yet; kept until the next commit
	idLength  int               // of the ids in waiting, which must agree
}

// store keeps everything. It is safe for concurrent use.
type store struct {
	limit int64

	mu         sync.Mutex // guards everything below
	used       int64
	changes    uint64 // ever
	containers map[string]map[string]*entry
}

func newStore(limit int64) *store {
	return &store{limit: limit, containers: make(map[string]map[string]*entry)}
}

// create adds a container.
func (s *store) create(container string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[container] != nil {
		return errContainerExists
	}
	if err := s.takeLocked(overhead); err != nil {
		return err
	}
	s.containers[container] = make(map[string]*entry)
	return nil
}

// find fails when there is no such container.
func (s *store) find(container string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[container] == nil {
		return errNoContainer
	}
	return nil
}

// blob returns a committed blob.
func (s *store) blob(container, name string) (*blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := s.containers[container]
	if entries == nil {
		return nil, errNoContainer
	}
	if e := entries[name]; e != nil && e.committed != nil {
		return e.committed, nil
	}
	return nil, errNoBlob
}

// reserve sets room aside for n bytes that are to be read.
func (s *store) reserve(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takeLocked(n)
}

// release gives reserved room back.
func (s *store) release(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= int64(n)
}

func (s *store) takeLocked(n int64) error {
	if n > s.limit-s.used {
		return errFull(s.limit)
	}
	s.used += n
	return nil
}

// entryLocked returns what lies under a name, made when there is nothing.
func (s *store) entryLocked(on object) (*entry, error) {
	entries := s.containers[on.container]
	if entries == nil {
		return nil, errNoContainer
	}
	e := entries[on.name]
	if e == nil {
		if err := s.takeLocked(overhead); err != nil {
			return nil, err
		}
		e = &entry{waiting: make(map[string][]byte)}
		entries[on.name] = e
	}
	return e, nil
}

// putBlock keeps a block for a later list. It takes data over with the room
// reserved for it.
func (s *store) putBlock(on object, id string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= int64(len(data))
	e, err := s.entryLocked(on)
	if err != nil {
		return err
	}
	need := cost(data)
	old, replaces := e.waiting[id]
	switch {
	case replaces:
		need -= cost(old)
	case len(e.waiting) > 0 && len(id) != e.idLength:
		return errBlockID
	case len(e.waiting) >= maxBlocks:
		return errTooManyBlocks
	}
	if err := s.takeLocked(need); err != nil {
		return err
	}
	e.waiting[id], e.idLength = data, len(id)
	return nil
}

// put commits a whole blob if its conditions hold. It takes data over with the
// room reserved for it.
func (s *store) put(on object, data []byte, header http.Header, c conditions) (*blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= int64(len(data))
	e, err := s.entryLocked(on)
	if err != nil {
		return nil, err
	}
	return s.commitLocked(e, &blob{data: data, header: header}, c)
}

// putList commits the blocks that a list names, in its order, if the conditions
// hold.
func (s *store) putList(on object, list []blockRef, header http.Header, c conditions) (*blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.entryLocked(on)
	if err != nil {
		return nil, err
	}
	b := &blob{header: header, blocks: make(map[string][]byte, len(list))}
	parts := make([][]byte, len(list))
	size := 0
	for n, ref := range list {
		part, ok := e.block(ref)
		if !ok {
			return nil, errBlockList
		}
		parts[n] = part
		size += len(part)
	}
	if int64(size) > s.limit {
		return nil, errFull(s.limit) // a list may name a block many times
	}
	b.data = make([]byte, 0, size)
	for n, part := range parts {
		start := len(b.data)
		b.data = append(b.data, part...)
		b.blocks[list[n].id] = b.data[start:]
	}
	return s.commitLocked(e, b, c)
}

// block finds the block that a list means.
func (e *entry) block(ref blockRef) (data []byte, ok bool) {
	if ref.waiting {
		if data, ok = e.waiting[ref.id]; ok {
			return data, true
		}
	}
	if ref.committed && e.committed != nil {
		data, ok = e.committed.blocks[ref.id]
	}
	return data, ok
}

// commitLocked makes b the blob of the entry. The blocks that waited are gone.
func (s *store) commitLocked(e *entry, b *blob, c conditions) (*blob, error) {
	if err := c.check(e.committed); err != nil {
		return nil, err
	}
	need := b.cost()
	if e.committed != nil {
		need -= e.committed.cost()
	}
	for _, data := range e.waiting {
		need -= cost(data)
	}
	if err := s.takeLocked(need); err != nil {
		return nil, err
	}
	s.changes++
	b.etag, b.modified = newETag(s.changes), now()
	e.committed, e.waiting, e.idLength = b, make(map[string][]byte), 0
	return b, nil
}

// cost is what a block counts.
func cost(data []byte) int64 { return int64(len(data)) + overhead }

// cost is what a blob counts.
func (b *blob) cost() int64 { return cost(b.data) + overhead*int64(len(b.blocks)) }
