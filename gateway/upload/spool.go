package upload

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// On flash each file has a folder of its own:
//
//	data        its blocks, one frame each, in the order in which they came
//	head.json   what it is; written anew, synced and renamed, when that changes
//
// A frame is: length of id and content (4 bytes, big-endian), CRC-32C of both,
// length of the id (1 byte), id, content. A torn one at the end was never
// acknowledged, and is cut off.

// Bounds of what leaves may say.
const (
	maxBlock   = 4 << 20 // bytes of one block
	maxID      = 64      // bytes of a block's id, as storage has it
	maxName    = 1024    // bytes of a file's name, as storage has it
	maxBlocks  = 50000   // of one file, as storage has it
	frameHead  = 4 + 4 + 1
	perBlock   = 128 // bytes that a block counts for besides its content
	maxPerLeaf = 10  // files of one leaf at a time, as the hub has it (wire contract, section 4.4)
)

// Why a block or a file is not taken.
var (
	ErrBound  = fmt.Errorf("%w: the spool for files is at its bound", gateway.ErrStoreFull)
	ErrTooBig = fmt.Errorf("%w: the file is larger than max_file", gateway.ErrTooLarge)
	ErrMany   = errors.New("too many files of this leaf at a time")
	ErrName   = errors.New("not a file name")
	ErrBlock  = errors.New("there is no such block")
	ErrGone   = errors.New("there is no such file")
	ErrWhole  = errors.New("the file is finished already")
)

// Spool is the files on flash. Safe for concurrent use.
type Spool struct {
	dir   string
	cfg   atomic.Pointer[Config] // see Configure
	log   *slog.Logger
	whole chan struct{} // capacity 1: a file has been finished

	mu     sync.Mutex
	files  map[string]*file // guarded by mu, by id
	bytes  int64            // of all files, guarded by mu
	counts State            // guarded by mu
	last   uint64           // guarded by mu, the last number given
	sent   []string         // guarded by mu, the last files that were sent: a leaf may say again that they are whole
}

// State counts since the start of the gateway.
type State struct {
	Sent      int64 // files that the hub has
	SentBytes int64 // their content, and that of blocks of files not yet whole there
	Dropped   int64 // files given up: abandoned by their leaf or refused by the hub
	Files     int   // on flash, now
	Waiting   int   // of those, whole
	Bytes     int64 // on flash, now
	LastError string
}

// file is one file. Its own lock orders what is written to it; Spool.mu guards the
// fields.
type file struct {
	id   string
	head head

	writing sync.Mutex // held while data or head are written; before Spool.mu
	data    *os.File   // nil when not open
	end     int64      // of the last good frame
	blocks  map[string]span
	gone    bool
}

// span is where a block's content stands.
type span struct {
	offset int64
	length int
	order  int // which frame
}

// head is what is known of a file besides its content.
type head struct {
	Leaf    string    `json:"leaf"`
	Name    string    `json:"name"`
	Secret  string    `json:"secret"`           // lets a leaf write to it over HTTP
	Started time.Time `json:"started"`          // by the clock of then
	Order   []string  `json:"order,omitempty"`  // of its blocks
	Whole   bool      `json:"whole,omitempty"`  // the leaf has said so
	Number  uint64    `json:"number,omitempty"` // in the order of becoming whole
	Size    int64     `json:"size,omitempty"`   // of the whole

	// How far the way to the hub is.
	Correlation string `json:"correlation,omitempty"` // the hub's name of the upload that is under way
	Told        bool   `json:"told,omitempty"`        // the hub is being told that it is there
	Blob        string `json:"blob,omitempty"`        // where the blocks went
	Sent        int    `json:"sent,omitempty"`        // so many of Order
	Refusals    int    `json:"refusals,omitempty"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Configure changes the configuration, which must be valid. What is on flash stays,
// also above a smaller bound.
func (s *Spool) Configure(cfg Config) { s.cfg.Store(&cfg) }

// Open opens the spool in dir, and makes it if it is not there. What cannot be
// read is set aside and logged.
func Open(dir string, cfg Config, log *slog.Logger) (*Spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &Spool{dir: dir, log: log, whole: make(chan struct{}, 1), files: make(map[string]*file)}
	s.cfg.Store(&cfg)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasSuffix(e.Name(), ".damaged") {
			continue
		}
		f, err := s.load(e.Name())
		if err != nil {
			s.setAside(e.Name(), err)
			continue
		}
		s.files[f.id] = f
		s.bytes += f.end
		s.last = max(s.last, f.head.Number)
	}
	return s, nil
}

// setAside keeps what cannot be read out of the way. One file is kept for a look:
// the last.
func (s *Spool) setAside(id string, why error) {
	from := filepath.Join(s.dir, id)
	if _, err := os.Stat(filepath.Join(from, "head.json")); errors.Is(err, fs.ErrNotExist) {
		_ = os.RemoveAll(from) // begun and never told to anybody
		return
	}
	to := filepath.Join(s.dir, "last.damaged")
	err := errors.Join(os.RemoveAll(to), os.Rename(from, to))
	s.log.Error("a spooled file is damaged and was set aside", "path", to, "err", errors.Join(why, err))
	s.counts.Dropped++
}

func (s *Spool) load(id string) (*file, error) {
	text, err := os.ReadFile(filepath.Join(s.dir, id, "head.json"))
	if err != nil {
		return nil, err
	}
	f := &file{id: id, blocks: make(map[string]span)}
	if err := json.Unmarshal(text, &f.head); err != nil {
		return nil, err
	}
	data, err := os.OpenFile(filepath.Join(s.dir, id, "data"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	if err := f.scan(data); err != nil {
		return nil, err
	}
	for _, block := range f.head.Order {
		if _, there := f.blocks[block]; !there {
			return nil, fmt.Errorf("block %q is missing", block)
		}
	}
	return f, data.Truncate(f.end)
}

// scan finds the blocks.
func (f *file) scan(r io.Reader) error {
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		id, length, err := readFrame(in)
		if err != nil {
			return nil // the end, or what was being written when the power went
		}
		offset := f.end + frameHead + int64(len(id))
		f.blocks[id] = span{offset, length, len(f.blocks)}
		f.end = offset + int64(length)
	}
}

var errFrame = errors.New("no frame")

// readFrame reads one frame and returns the id of its block and the length of the
// content.
func readFrame(in io.Reader) (id string, length int, err error) {
	var h [frameHead]byte
	if _, err := io.ReadFull(in, h[:]); err != nil {
		return "", 0, err
	}
	n := binary.BigEndian.Uint32(h[:])
	idLength := int(h[8])
	if n > maxBlock+maxID || idLength > maxID || int(n) < idLength {
		return "", 0, errFrame
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(in, body); err != nil {
		return "", 0, err
	}
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(h[4:]) {
		return "", 0, errFrame
	}
	return string(body[:idLength]), int(n) - idLength, nil
}

func appendFrame(b []byte, id string, content []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(id)+len(content)))
	sum := crc32.Update(crc32.Checksum([]byte(id), castagnoli), castagnoli, content)
	b = binary.BigEndian.AppendUint32(b, sum)
	b = append(b, byte(len(id)))
	return append(append(b, id...), content...)
}

// Begin returns the file of that name that the leaf has begun and not finished, or
// begins one. The id names it in the other calls.
func (s *Spool) Begin(leaf, name string, now time.Time) (id string, err error) {
	if !validName(name) {
		return "", ErrName
	}
	s.mu.Lock()
	n := 0
	for _, f := range s.files {
		if f.head.Leaf != leaf {
			continue
		}
		if f.head.Name == name && !f.head.Whole && !f.gone {
			s.mu.Unlock()
			return f.id, nil
		}
		n++
	}
	if n >= maxPerLeaf {
		s.mu.Unlock()
		return "", ErrMany
	}
	if s.bytes+perBlock > int64(s.cfg.Load().MaxBytes) {
		s.mu.Unlock()
		return "", ErrBound
	}
	f := &file{id: strings.ToLower(rand.Text()), blocks: make(map[string]span)}
	f.head = head{Leaf: leaf, Name: name, Secret: rand.Text(), Started: now}
	f.writing.Lock()
	defer f.writing.Unlock()
	s.files[f.id] = f
	s.mu.Unlock()
	err = os.Mkdir(s.path(f), 0o700)
	if err == nil {
		err = s.writeHead(f, f.head)
	}
	if err == nil {
		err = syncDir(s.dir)
	}
	if err != nil {
		s.drop(f)
		return "", storeError(err)
	}
	return f.id, nil
}

// validName says whether a name can be one of a blob (wire contract, section
// 4.4), and of nothing outside the leaf's own folder there.
func validName(name string) bool {
	if name == "" || len(name) > maxName || strings.ContainsAny(name, "\x00\\") {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

func (s *Spool) path(f *file) string { return filepath.Join(s.dir, f.id) }

// Put keeps a block; it is on flash, synced, when it returns nil. A block with the
// id of an earlier one takes its place. content is the caller's again.
func (s *Spool) Put(id, block string, content []byte) error {
	f, err := s.find(id)
	if err != nil {
		return err
	}
	if block == "" || len(block) > maxID {
		return fmt.Errorf("%w: its id has %d bytes, 1 to %d", ErrBlock, len(block), maxID)
	}
	if len(content) > maxBlock {
		return fmt.Errorf("%w: a block of %d bytes, at most %d", gateway.ErrTooLarge, len(content), maxBlock)
	}
	f.writing.Lock()
	defer f.writing.Unlock()
	if s.holds(f, block, content) {
		if err := s.append(f, nil); err != nil { // before a crash it may not have been synced
			return storeError(err)
		}
		return nil
	}
	frame := appendFrame(make([]byte, 0, frameHead+len(block)+len(content)), block, content)
	if err := s.reserve(f, block, len(frame)); err != nil {
		return err
	}
	if err := s.append(f, frame); err != nil {
		s.free(len(frame))
		return storeError(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f.blocks[block] = span{f.end + frameHead + int64(len(block)), len(content), len(f.blocks)}
	f.end += int64(len(frame))
	return nil
}

// holds says whether the block is there already with that content: it came again
// because its acknowledgement was lost. It is not to take room twice: a file near
// max_file could never be finished.
func (s *Spool) holds(f *file, block string, content []byte) bool {
	s.mu.Lock()
	at, there := f.blocks[block]
	open := !f.gone && !f.head.Whole
	s.mu.Unlock()
	if !open || !there || at.length != len(content) {
		return false
	}
	kept, err := s.read(f, block)
	return err == nil && bytes.Equal(kept, content)
}

// reserve counts the bytes of a frame, if there is room for it.
func (s *Spool) reserve(f *file, block string, n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, again := f.blocks[block]
	switch {
	case f.gone:
		return ErrGone
	case f.head.Whole:
		return ErrWhole
	case !again && len(f.blocks) >= maxBlocks, f.end+int64(n) > int64(s.cfg.Load().MaxFile):
		return ErrTooBig
	case s.bytes+int64(n) > int64(s.cfg.Load().MaxBytes):
		return ErrBound
	}
	s.bytes += int64(n)
	return nil
}

func (s *Spool) free(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes -= int64(n)
}

// append writes a frame behind the last good one.
func (s *Spool) append(f *file, frame []byte) error {
	if f.data == nil {
		data, err := os.OpenFile(filepath.Join(s.path(f), "data"), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		f.data = data
		if err := syncDir(s.path(f)); err != nil {
			return err
		}
	}
	if _, err := f.data.WriteAt(frame, f.end); err != nil {
		return err
	}
	return f.data.Sync()
}

// Has returns the ids of the blocks that are kept, in the order in which they came.
func (s *Spool) Has(id string) ([]string, error) {
	f, err := s.find(id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, 0, len(f.blocks))
	for block := range f.blocks {
		ids = append(ids, block)
	}
	slices.SortFunc(ids, func(a, b string) int { return f.blocks[a].order - f.blocks[b].order })
	return ids, nil
}

// Arrange says of which blocks the file is made, in which order. It may be said
// again until the file is finished.
func (s *Spool) Arrange(id string, order []string) error {
	return s.change(id, func(f *file, h *head) error {
		h.Order, h.Size = slices.Clone(order), 0
		for _, block := range order {
			b, there := f.blocks[block]
			if !there {
				return fmt.Errorf("%w: %q", ErrBlock, block)
			}
			h.Size += int64(b.length)
		}
		return nil
	})
}

// Finish says that the file is whole. It is then in custody, and sent when it can
// be. That it is finished already is no error: the answer may have been lost.
func (s *Spool) Finish(id string) error {
	err := s.change(id, func(f *file, h *head) error {
		if len(h.Order) == 0 {
			return fmt.Errorf("%w: nothing was written", ErrBlock)
		}
		s.last++
		h.Number, h.Whole = s.last, true
		return nil
	})
	if errors.Is(err, ErrWhole) || errors.Is(err, ErrGone) && s.wasSent(id) {
		return nil
	}
	select {
	case s.whole <- struct{}{}:
	default:
	}
	return err
}

// change changes the head of a file that is not whole, on flash too. make is
// called with Spool.mu held.
func (s *Spool) change(id string, make func(*file, *head) error) error {
	f, err := s.find(id)
	if err != nil {
		return err
	}
	f.writing.Lock()
	defer f.writing.Unlock()
	s.mu.Lock()
	h := f.head
	switch {
	case f.gone:
		err = ErrGone
	case h.Whole:
		err = ErrWhole
	default:
		err = make(f, &h)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := s.writeHead(f, h); err != nil {
		return storeError(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f.head = h
	if h.Whole {
		f.closeData()
	}
	return nil
}

// wasSent says that the file was sent lately.
func (s *Spool) wasSent(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.sent, id)
}

// Cancel forgets a file that is not whole.
func (s *Spool) Cancel(id string) error {
	f, err := s.find(id)
	if err != nil {
		return err
	}
	f.writing.Lock()
	defer f.writing.Unlock()
	if f.head.Whole {
		return ErrWhole
	}
	s.drop(f)
	return nil
}

// State takes a snapshot.
func (s *Spool) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.counts
	st.Files, st.Bytes = len(s.files), s.bytes
	for _, f := range s.files {
		if f.head.Whole {
			st.Waiting++
		}
	}
	return st
}

func (s *Spool) find(id string) (*file, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[id]
	if f == nil {
		return nil, ErrGone
	}
	return f, nil
}

// maxSent is how many files are remembered as sent.
const maxSent = 1000

// drop removes a file. f.writing is held.
func (s *Spool) drop(f *file) {
	s.mu.Lock()
	f.gone = true
	f.closeData()
	delete(s.files, f.id)
	s.bytes -= f.end
	s.mu.Unlock()
	// Without its head it is nothing, also if the rest is still there after a crash.
	err := os.Remove(filepath.Join(s.path(f), "head.json"))
	if err := errors.Join(ignoreAbsent(err), os.RemoveAll(s.path(f))); err != nil {
		s.log.Warn("cannot remove a spooled file", "path", s.path(f), "err", err)
	}
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// closeData closes what Put has opened. Spool.mu is held.
func (f *file) closeData() {
	if f.data != nil {
		_ = f.data.Close() // all of it is synced
		f.data = nil
	}
}

// writeHead replaces the head, synced. f.writing is held.
func (s *Spool) writeHead(f *file, h head) error {
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	name := filepath.Join(s.path(f), "head.json")
	tmp, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	return syncDir(s.path(f))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// storeError says in the gateway's words what a disk error means.
func storeError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", gateway.ErrStoreFull, err)
	}
	return fmt.Errorf("%w: %w", gateway.ErrStoreFailed, err)
}

// abandon drops files that their leaves have left unfinished for too long.
func (s *Spool) abandon(now time.Time) {
	s.mu.Lock()
	var old []*file
	for _, f := range s.files {
		if !f.head.Whole && now.Sub(f.head.Started) > s.cfg.Load().Abandon.D() {
			old = append(old, f)
		}
	}
	s.mu.Unlock()
	for _, f := range old {
		f.writing.Lock()
		if !f.head.Whole && !f.gone {
			s.log.Warn("a leaf has left a file unfinished, it is dropped", "leaf", f.head.Leaf, "file", f.head.Name)
			s.drop(f)
			s.count(func(st *State) { st.Dropped++ })
		}
		f.writing.Unlock()
	}
}

func (s *Spool) count(change func(*State)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.counts)
}

// headOf returns what is known of a file now.
func (s *Spool) headOf(f *file) head {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f.head
}

// next returns the whole files in the order of becoming so.
func (s *Spool) next() []*file {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*file
	for _, f := range s.files {
		if f.head.Whole {
			list = append(list, f)
		}
	}
	slices.SortFunc(list, func(a, b *file) int { return int(int64(a.head.Number) - int64(b.head.Number)) })
	return list
}

// read returns the content of a block, checked.
func (s *Spool) read(f *file, block string) ([]byte, error) {
	s.mu.Lock()
	at, there := f.blocks[block]
	s.mu.Unlock()
	if !there {
		return nil, fmt.Errorf("%w: %q", ErrBlock, block)
	}
	data, err := os.Open(filepath.Join(s.path(f), "data"))
	if err != nil {
		return nil, err
	}
	defer data.Close()
	start := at.offset - int64(len(block)) - frameHead
	frame := io.NewSectionReader(data, start, frameHead+int64(len(block)+at.length))
	content := make([]byte, at.length)
	if id, n, err := readFrame(frame); err != nil || id != block || n != at.length {
		return nil, fmt.Errorf("block %q is damaged on flash", block)
	}
	_, err = data.ReadAt(content, at.offset)
	return content, err
}

// update changes the head of a file on its way, on flash too.
func (s *Spool) update(f *file, change func(*head)) error {
	f.writing.Lock()
	defer f.writing.Unlock()
	s.mu.Lock()
	h := f.head
	s.mu.Unlock()
	change(&h)
	if err := s.writeHead(f, h); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f.head = h
	return nil
}
