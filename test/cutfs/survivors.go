package cutfs

import (
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// Mode says what becomes of what was not synced when the power goes.
type Mode int

// The modes.
const (
	Strict     Mode = iota // all of it is gone
	RandomHalf             // of pages, lengths and names, each is there or not by the toss of a coin
	Torn                   // like RandomHalf, and of the page written last only some sectors are there
)

// Modes are all modes.
var Modes = []Mode{Strict, RandomHalf, Torn}

func (m Mode) String() string { return [...]string{"strict", "random-half", "torn"}[m] }

// Names says what it takes to make a change of names durable.
type Names int

// The kinds of file system.
const (
	// Journaled is ext4: changes of names reach the disk in their order. fsync of
	// a file brings there how it got its name and everything before that.
	Journaled Names = iota
	// ByFile is like f2fs and harder than that: fsync of a file brings to the
	// disk how it got its name, and that of the folders above it; other changes
	// get there in any order.
	ByFile
	// ByFolder is what POSIX promises and no file system that the store accepts
	// does: names are durable only after fsync of their folder.
	ByFolder
)

func (n Names) String() string { return [...]string{"journaled", "by file", "by folder"}[n] }

// Image is what is on a disk without power. It never changes.
type Image struct{ root *node }

// Blank is an empty disk.
func Blank() *Image { return &Image{newFolder(0o755)} }

// Survivors returns what would be left if the power went now. The file system
// itself stays as it is.
func (f *FS) Survivors(mode Mode, random *rand.Rand) *Image {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := survey{fs: f, mode: mode, random: random, entries: map[*node]map[string]*node{}, copies: map[*node]*node{}}
	chosen := s.choose()
	for _, r := range f.pending {
		if chosen[r] {
			r.apply(s.of)
		}
	}
	return &Image{s.copy(f.root)}
}

// survey makes an image.
type survey struct {
	fs      *FS
	mode    Mode
	random  *rand.Rand
	entries map[*node]map[string]*node // of folders that chosen changes change
	copies  map[*node]*node
}

func (s *survey) coin() bool { return s.mode != Strict && s.random.IntN(2) == 0 }

// choose says which changes of names made it to the disk.
func (s *survey) choose() map[*renaming]bool {
	chosen := map[*renaming]bool{}
	if s.mode == Strict {
		return chosen
	}
	if s.fs.names == Journaled {
		for _, r := range s.fs.pending[:s.random.IntN(len(s.fs.pending)+1)] {
			chosen[r] = true
		}
		return chosen
	}
	for _, r := range s.fs.pending {
		if s.random.IntN(4) == 0 { // what these need comes on top, which makes it about half
			chosen[r] = true
		}
	}
	withNeeds(s.fs.pending, chosen)
	return chosen
}

func (s *survey) of(folder *node) map[string]*node {
	entries, ok := s.entries[folder]
	if !ok {
		entries = maps.Clone(folder.safeEntries)
		s.entries[folder] = entries
	}
	return entries
}

// copy returns what is left of a file or folder.
func (s *survey) copy(n *node) *node {
	if done := s.copies[n]; done != nil { // a half-done rename may leave two names
		return done
	}
	if n.target != "" {
		c := newLink(n.target)
		c.name, c.changed = n.name, n.changed
		s.copies[n] = c
		return c
	}
	if !n.folder {
		c := s.copyFile(n)
		s.copies[n] = c
		return c
	}
	c := newFolder(n.mode)
	c.name, c.changed = n.name, n.changed
	s.copies[n] = c
	entries := s.of(n)
	for _, name := range slices.Sorted(maps.Keys(entries)) { // in order: the same seed gives the same image
		c.entries[name] = s.copy(entries[name])
	}
	c.safeEntries = maps.Clone(c.entries)
	return c
}

func (s *survey) copyFile(n *node) *node {
	c := newFile(n.mode)
	c.name, c.changed = n.name, n.changed
	c.size = n.safeSize
	if n.size != n.safeSize && s.coin() {
		c.size = n.size
	}
	for _, index := range slices.Sorted(maps.Keys(n.slots)) {
		if index*pageSize >= c.size && !n.slots[index].held {
			continue
		}
		p := s.choosePage(n, index)
		if p != nil && (index+1)*pageSize > c.size { // what is behind the end is zeros
			cut := *p
			clear(cut[max(0, c.size-index*pageSize):])
			p = &cut
		}
		if p != nil || n.slots[index].held {
			c.slots[index] = &slot{live: p, safe: p, held: true}
		}
	}
	c.safeSize = c.size
	return c
}

const sectorSize = 512

// choosePage says what is on the disk of a page.
func (s *survey) choosePage(n *node, index int64) *page {
	p := n.slots[index]
	switch {
	case !n.dirty[index]:
		return p.live
	case s.mode == Torn && s.fs.lastWritten == (place{n, index}):
		torn := new(page)
		if p.safe != nil {
			*torn = *p.safe
		}
		if p.live != nil {
			copy(torn[:sectorSize*(1+s.random.IntN(pageSize/sectorSize-1))], p.live[:])
		}
		return torn
	case s.coin():
		return p.live
	}
	return p.safe
}

// Save writes the image to a folder that it makes, with holes where there are
// zeros.
func (i *Image) Save(dir string) error { return save(i.root, dir) }

func save(n *node, path string) error {
	if n.folder {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		for name, child := range n.entries {
			if err := save(child, filepath.Join(path, name)); err != nil {
				return err
			}
		}
		return nil
	}
	if n.target != "" {
		return os.Symlink(n.target, path)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	for index, s := range n.slots {
		if s.live == nil {
			continue
		}
		if _, err := f.WriteAt(s.live[:], index*pageSize); err != nil {
			return err
		}
	}
	return f.Truncate(n.size)
}
