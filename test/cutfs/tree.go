package cutfs

import (
	"maps"
	"slices"
	"time"
)

const pageSize = 4096

type page [pageSize]byte

// slot is one page of a file. A page is never changed once it is in a slot.
type slot struct {
	live *page // nil for zeros
	safe *page // as of the last fsync
	held bool  // occupies room, which a hole does not
}

// node is a file, a folder or a symbolic link.
type node struct {
	id      uint64
	name    string // its last one, for people and for aiming
	folder  bool
	target  string // of a link; "" for anything else
	mode    uint32
	changed time.Time
	lookups uint64 // how often the kernel holds it

	// Of a folder: its entries, and what they are on the disk.
	entries, safeEntries map[string]*node

	// Of a file.
	size, safeSize int64
	slots          map[int64]*slot
	dirty          map[int64]bool // pages that differ, or may differ, from their safe copy
	links          int            // names that it has now
}

func newFile(mode uint32) *node {
	return &node{mode: mode, changed: time.Now(), slots: map[int64]*slot{}, dirty: map[int64]bool{}}
}

func newLink(target string) *node {
	return &node{mode: 0o777, changed: time.Now(), target: target, size: int64(len(target)), safeSize: int64(len(target))}
}

func newFolder(mode uint32) *node {
	return &node{folder: true, mode: mode, changed: time.Now(), entries: map[string]*node{}, safeEntries: map[string]*node{}}
}

// read fills buf from an offset on and returns how much there was.
func (n *node) read(buf []byte, at int64) int {
	length := int(max(0, min(int64(len(buf)), n.size-at)))
	for done := 0; done < length; {
		index, from := (at+int64(done))/pageSize, (at+int64(done))%pageSize
		part := buf[done:min(length, done+int(pageSize-from))]
		if s := n.slots[index]; s != nil && s.live != nil {
			copy(part, s.live[from:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return length
}

// write changes a file. The room that it needs must be there.
func (n *node) write(data []byte, at int64) (last int64) {
	n.changed = time.Now()
	for done := 0; done < len(data); {
		index, from := (at+int64(done))/pageSize, (at+int64(done))%pageSize
		last = index
		fresh := new(page)
		s := n.hold(index)
		if s.live != nil {
			*fresh = *s.live
		}
		done += copy(fresh[from:], data[done:])
		s.live = fresh
		n.dirty[index] = true
	}
	n.size = max(n.size, at+int64(len(data)))
	return last
}

// hold makes sure that a page has its place.
func (n *node) hold(index int64) *slot {
	s := n.slots[index]
	if s == nil {
		s = &slot{}
		n.slots[index] = s
	}
	s.held = true
	return s
}

// missing counts the pages of a span that have no place yet.
func (n *node) missing(at, length int64) (pages int64) {
	for index := at / pageSize; length > 0 && index <= (at+length-1)/pageSize; index++ {
		if s := n.slots[index]; s == nil || !s.held {
			pages++
		}
	}
	return pages
}

// holding counts the pages that occupy room.
func (n *node) holding() (pages int64) {
	for _, s := range n.slots {
		if s.held {
			pages++
		}
	}
	return pages
}

// allocate gives a span its room.
func (n *node) allocate(at, length int64, keepSize bool) {
	for index := at / pageSize; length > 0 && index <= (at+length-1)/pageSize; index++ {
		n.hold(index)
	}
	if !keepSize {
		n.size = max(n.size, at+length)
	}
}

// punch makes a span read as zeros and gives its whole pages back.
func (n *node) punch(at, length int64) {
	end := at + length
	for index, s := range n.slots {
		from, to := index*pageSize, (index+1)*pageSize
		switch {
		case to <= at || from >= end:
		case from >= at && to <= end:
			s.live, s.held = nil, false
			n.dirty[index] = true
		case s.live != nil:
			fresh := *s.live
			clear(fresh[max(at, from)-from : min(end, to)-from])
			s.live = &fresh
			n.dirty[index] = true
		}
	}
}

// truncate sets the length.
func (n *node) truncate(size int64) {
	if size < n.size {
		n.punch(size, (1<<62)-size)
	}
	n.size = size
	n.changed = time.Now()
}

// sync makes the file's contents durable.
func (n *node) sync() {
	for index := range n.dirty {
		s := n.slots[index]
		s.safe = s.live
		if s.live == nil && !s.held {
			delete(n.slots, index)
		}
	}
	clear(n.dirty)
	n.safeSize = n.size
}

// renaming is one change of names that a file system makes as a whole.
type renaming struct {
	at      time.Time
	node    *node // which gets a name, another name or none
	changes []entryChange
}

// entryChange says what a name in a folder stands for from now on; nil for
// nothing.
type entryChange struct {
	folder *node
	name   string
	node   *node
}

// apply makes the change in the entries that of gives for a folder.
func (r *renaming) apply(of func(*node) map[string]*node) {
	for _, c := range r.changes {
		if c.node == nil {
			delete(of(c.folder), c.name)
		} else {
			of(c.folder)[c.name] = c.node
		}
	}
}

// needs says that r cannot be on a disk without the earlier change: it is about
// the same thing, or the same name, or about something inside.
func (r *renaming) needs(earlier *renaming) bool {
	if r.node == earlier.node {
		return true
	}
	for _, c := range r.changes {
		if c.folder == earlier.node {
			return true
		}
		for _, e := range earlier.changes {
			if c.folder == e.folder && c.name == e.name || e.folder == r.node {
				return true
			}
		}
	}
	return false
}

// withNeeds adds to a choice of changes all earlier ones that those need.
func withNeeds(list []*renaming, chosen map[*renaming]bool) {
	for i, r := range slices.Backward(list) {
		if !chosen[r] {
			continue
		}
		for _, earlier := range list[:i] {
			if r.needs(earlier) {
				chosen[earlier] = true
			}
		}
	}
}

// commitAfter is when names become durable without a sync; ext4 does it after
// five seconds as well.
const commitAfter = 5 * time.Second

// rename makes a change of names in the live state and notes that it is not
// durable.
func (f *FS) rename(n *node, changes ...entryChange) {
	now := time.Now()
	r := &renaming{now, n, changes}
	r.apply(func(folder *node) map[string]*node {
		folder.changed = now
		return folder.entries
	})
	f.pending = append(f.pending, r)
	if !f.lying && now.Sub(f.pending[0].at) > commitAfter {
		f.harden(func(r *renaming) bool { return now.Sub(r.at) > commitAfter })
	}
}

// harden makes those changes of names durable that a sync is for, and what they
// need.
func (f *FS) harden(isFor func(*renaming) bool) {
	chosen := map[*renaming]bool{}
	for i, r := range slices.Backward(f.pending) {
		if !isFor(r) {
			continue
		}
		chosen[r] = true
		if f.names == Journaled { // all before it are on the disk as well
			for _, earlier := range f.pending[:i] {
				chosen[earlier] = true
			}
			break
		}
	}
	withNeeds(f.pending, chosen)
	f.pending = slices.DeleteFunc(f.pending, func(r *renaming) bool {
		if chosen[r] {
			r.apply(func(folder *node) map[string]*node { return folder.safeEntries })
		}
		return chosen[r]
	})
}

// syncFile is fsync of a file.
func (f *FS) syncFile(n *node) {
	if f.lying {
		return
	}
	n.sync()
	if f.names != ByFolder {
		f.harden(func(r *renaming) bool { return r.node == n })
	}
}

// syncFolder is fsync of a folder.
func (f *FS) syncFolder(n *node) {
	if f.lying {
		return
	}
	f.harden(func(r *renaming) bool {
		return r.node == n && f.names != ByFolder ||
			slices.ContainsFunc(r.changes, func(c entryChange) bool { return c.folder == n })
	})
}

// sortedNames lists a folder.
func (n *node) sortedNames() []string { return slices.Sorted(maps.Keys(n.entries)) }
