package cutfs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Kind is a kind of operation.
type Kind int

// The kinds. What only reads is none of them, except that opening is.
const (
	Write  Kind = iota // of bytes and lengths, and reserving of room
	Sync               // of a file or a folder
	Open               // of a file, and making a file or a folder
	Rename             // of a file or a folder
	Remove             // of a file or a folder
)

// Kinds are all kinds.
var Kinds = []Kind{Write, Sync, Open, Rename, Remove}

func (k Kind) String() string { return [...]string{"write", "sync", "open", "rename", "remove"}[k] }

// Op is one operation that a program has asked for.
type Op struct {
	Kind Kind
	// Name is the last name of the file or folder, after a renaming the old one.
	Name string
	// Changes is false for an Open that neither makes nor changes anything.
	Changes bool
}

// Fault makes operations fail.
type Fault struct {
	Kind    Kind
	Nth     int // which operation of the kind fails, counted from 1 and from when the fault was set
	Errno   syscall.Errno
	Forever bool // and all operations of the kind after it
}

// meets says whether the fault can be the answer to op: a file system without
// room, or one that cannot be written, still opens what is there.
func (b *Fault) meets(op Op) bool {
	return b.Kind == op.Kind && (op.Changes || b.Errno == syscall.EIO)
}

// fault is a fault that is set.
type fault struct {
	Fault
	seen int
	hit  chan struct{} // closed when it strikes for the first time
}

// trigger is a cut that waits for its operation.
type trigger struct {
	match func(Op) bool
	after bool
}

// Break sets a fault, in place of the one before. The channel is closed when it
// strikes.
func (f *FS) Break(b Fault) (hit <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = &fault{Fault: b, hit: make(chan struct{})}
	return f.broken.hit
}

// Mend ends the fault.
func (f *FS) Mend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = nil
}

// Counts says how many operations of each kind there were.
func (f *FS) Counts() map[Kind]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	counts := map[Kind]int{}
	for k, n := range f.counts {
		counts[Kind(k)] = n
	}
	return counts
}

// Cut cuts the power.
func (f *FS) Cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cutLocked()
}

// CutWhen cuts the power at the first operation for which match returns true:
// before it has any effect, or right after that and before it is answered. The
// channel is closed when the power is cut, by this or by Cut. match is called
// with a lock held and must call nothing of the file system.
func (f *FS) CutWhen(match func(Op) bool, after bool) (cut <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trigger = &trigger{match, after}
	return f.cut
}

func (f *FS) cutLocked() {
	if !f.isCut() {
		close(f.cut)
	}
}

func (f *FS) isCut() bool {
	select {
	case <-f.cut:
		return true
	default:
		return false
	}
}

// Thaw lets the calls return that wait since the cut. They fail.
func (f *FS) Thaw() { f.thaw.Do(func() { close(f.thawed) }) }

// do runs an operation that changes something. change is called with the lock
// held, at most once.
func (f *FS) do(op Op, change func() fuse.Status) fuse.Status {
	f.mu.Lock()
	status := f.doLocked(op, change)
	cut := f.isCut()
	f.mu.Unlock()
	if cut {
		<-f.thawed
		return fuse.EIO
	}
	return status
}

func (f *FS) doLocked(op Op, change func() fuse.Status) fuse.Status {
	if f.isCut() {
		return fuse.EIO
	}
	strikes := f.trigger != nil && f.trigger.match(op)
	if strikes && !f.trigger.after {
		f.cutLocked()
		return fuse.EIO
	}
	f.counts[op.Kind]++
	if errno := f.failure(op); errno != 0 {
		return fuse.Status(errno)
	}
	status := change()
	if strikes {
		f.cutLocked()
	}
	return status
}

// failure says how the operation fails, 0 for not at all.
func (f *FS) failure(op Op) syscall.Errno {
	b := f.broken
	if b == nil || !b.meets(op) {
		return 0
	}
	b.seen++
	if b.seen < b.Nth || b.seen > b.Nth && !b.Forever {
		return 0
	}
	if b.seen == b.Nth {
		close(b.hit)
	}
	return b.Errno
}

// writeBack takes a dirty page of a memory map from the kernel. It also comes
// when the program has died: then it was written and never synced.
func (f *FS) writeBack(op Op, change func() fuse.Status) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isCut() {
		return change()
	}
	status := f.doLocked(op, change)
	if f.isCut() { // at this operation: nobody waits for the answer, the page is dirty
		return change()
	}
	return status
}
