package cutfs

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Options are what may be different about a file system. The zero value is the
// ordinary one.
type Options struct {
	Names    Names
	Capacity int64 // in bytes, 0 for 4 GiB
	// Lying makes a disk that says it has synced and has not, as a bad card does.
	Lying bool
}

const defaultCapacity = 4 << 30

// FS is a mounted file system. Its methods are safe for concurrent use.
type FS struct {
	fuse.RawFileSystem // answers that an operation does not exist
	dir                string
	names              Names
	lying              bool
	capacity           int64 // in pages, like used
	server             *fuse.Server

	mu          sync.Mutex // guards the rest, and all nodes
	root        *node
	known       map[uint64]*node // to the kernel
	lastID      uint64
	listings    map[uint64][]fuse.DirEntry // of open folders, by handle
	lastListing uint64
	used        int64
	pending     []*renaming // changes of names that are not durable, in order
	lastWritten place
	counts      [len("wsorr")]int // one for each kind
	broken      *fault
	trigger     *trigger
	cut         chan struct{} // closed at the cut
	thawed      chan struct{} // closed after it
	thaw        sync.Once
}

// place is one page of a file.
type place struct {
	file *node
	page int64
}

// ErrUnavailable says that this machine, or this user, can mount no FUSE file
// systems.
var ErrUnavailable = errors.New("no FUSE here")

// Mount serves an image at an empty folder. Unmount must be called.
func Mount(dir string, image *Image, o Options) (*FS, error) {
	if o.Capacity == 0 {
		o.Capacity = defaultCapacity
	}
	f := &FS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		dir:           dir, names: o.Names, lying: o.Lying, capacity: o.Capacity / pageSize,
		known: map[uint64]*node{}, listings: map[uint64][]fuse.DirEntry{}, lastID: fuse.FUSE_ROOT_ID,
		cut: make(chan struct{}), thawed: make(chan struct{}),
	}
	f.root = f.load(image.root)
	f.root.id, f.root.lookups = fuse.FUSE_ROOT_ID, 1
	f.known[fuse.FUSE_ROOT_ID] = f.root
	if err := unix.Access("/dev/fuse", unix.R_OK|unix.W_OK); err != nil {
		return nil, fmt.Errorf("%w: /dev/fuse: %w", ErrUnavailable, err)
	}
	// No program that is started meanwhile, or later, may inherit the connection: it
	// would wait for itself once this process is gone.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	defer keepConnections()
	var err error
	f.server, err = fuse.NewServer(f, dir, &fuse.MountOptions{
		FsName: "cutfs", Name: "cutfs", DirectMountStrict: true,
		DisableXAttrs: true, DisableReadDirPlus: true,
		ExplicitDataCacheControl: true, // nothing changes but through the kernel
		MaxWrite:                 1 << 20,
	})
	if errors.Is(err, syscall.EPERM) {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err != nil {
		return nil, err
	}
	go f.server.Serve() // ends with Unmount
	return f, f.server.WaitMount()
}

// keepConnections marks the connections to the kernel so that started programs
// do not inherit them. The library leaves that out.
func keepConnections() {
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, e := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && to == "/dev/fuse" {
			if fd, err := strconv.Atoi(e.Name()); err == nil {
				unix.CloseOnExec(fd)
			}
		}
	}
}

// load copies a tree of an image. Everything in it is durable.
func (f *FS) load(n *node) *node {
	c := *n
	if n.folder {
		c.entries, c.safeEntries = map[string]*node{}, map[string]*node{}
		for name, child := range n.entries {
			loaded := f.load(child)
			c.entries[name], c.safeEntries[name] = loaded, loaded
		}
		return &c
	}
	c.links, c.dirty, c.slots = 1, map[int64]bool{}, map[int64]*slot{}
	for index, s := range n.slots {
		copied := *s
		c.slots[index] = &copied
	}
	f.used += c.holding()
	return &c
}

// Unmount ends the service. Whoever used the file system must have ended before.
func (f *FS) Unmount() error {
	f.Thaw()
	err := f.server.Unmount()
	for range 50 { // the kernel may still be busy with a process that has died
		if err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
		err = f.server.Unmount()
	}
	return errors.Join(err, unix.Unmount(f.dir, unix.MNT_DETACH))
}

// forLong is how long the kernel may believe what it was told.
const forLong = uint64(3600)

func (f *FS) String() string { return "cutfs" }

// number gives a node to the kernel.
func (f *FS) number(n *node) uint64 {
	if n.id == 0 {
		f.lastID++
		n.id = f.lastID
	}
	f.known[n.id] = n
	n.lookups++
	return n.id
}

func (f *FS) entry(n *node, out *fuse.EntryOut) {
	out.NodeId = f.number(n)
	out.EntryValid, out.AttrValid = forLong, forLong
	n.attributes(&out.Attr)
}

func (n *node) attributes(a *fuse.Attr) {
	a.Ino, a.Mode, a.Nlink, a.Blksize = n.id, n.mode|fuse.S_IFREG, 1, pageSize
	switch {
	case n.folder:
		a.Mode, a.Nlink = n.mode|fuse.S_IFDIR, 2
	case n.target != "":
		a.Mode = n.mode | syscall.S_IFLNK
	}
	a.Size = uint64(n.size)
	for _, s := range n.slots {
		if s.held {
			a.Blocks += pageSize / 512
		}
	}
	a.SetTimes(&n.changed, &n.changed, &n.changed)
}

// Lookup and what follows implement fuse.RawFileSystem.
func (f *FS) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.known[in.NodeId].entries[name]
	if n == nil {
		return fuse.ENOENT
	}
	f.entry(n, out)
	return fuse.OK
}

// Forget ends the kernel's interest in a node.
func (f *FS) Forget(id, lookups uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.known[id]
	if n == nil || n == f.root {
		return
	}
	if n.lookups -= min(n.lookups, lookups); n.lookups == 0 {
		delete(f.known, id)
		f.release(n)
	}
}

// release gives back the room of a file that has no name and is not in use. A
// cut may bring its contents back.
func (f *FS) release(n *node) {
	if n.folder || n.links > 0 || n.lookups > 0 {
		return
	}
	f.used -= n.holding()
	for _, s := range n.slots {
		s.held = false
	}
}

func (f *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known[in.NodeId].attributes(&out.Attr)
	out.AttrValid = forLong
	return fuse.OK
}

func (f *FS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := f.node(in.NodeId)
	change := func() fuse.Status {
		if mode, ok := in.GetMode(); ok {
			n.mode = mode & 0o7777
		}
		if when, ok := in.GetMTime(); ok {
			n.changed = when
		}
		if size, ok := in.GetSize(); ok {
			held := n.holding()
			n.truncate(int64(size))
			f.used += n.holding() - held
		}
		n.attributes(&out.Attr)
		out.AttrValid = forLong
		return fuse.OK
	}
	return f.do(Op{Write, f.nameOf(n), true}, change)
}

func (f *FS) node(id uint64) *node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.known[id]
}

func (f *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	parent := f.node(in.NodeId)
	return f.do(Op{Open, name, true}, func() fuse.Status {
		n := newFolder(in.Mode & 0o7777)
		n.name = name
		f.rename(n, entryChange{parent, name, n})
		f.entry(n, out)
		return fuse.OK
	})
}

func (f *FS) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	parent := f.node(in.NodeId)
	return f.do(Op{Open, name, true}, func() fuse.Status {
		n := newLink(target)
		n.name, n.links = name, 1
		f.rename(n, entryChange{parent, name, n})
		f.entry(n, out)
		return fuse.OK
	})
}

func (f *FS) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []byte(f.known[in.NodeId].target), fuse.OK
}

func (f *FS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	parent := f.node(in.NodeId)
	return f.do(Op{Open, name, true}, func() fuse.Status {
		n := newFile(in.Mode & 0o7777)
		n.name, n.links = name, 1
		f.rename(n, entryChange{parent, name, n})
		f.entry(n, &out.EntryOut)
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
		return fuse.OK
	})
}

func (f *FS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	changes := in.Flags&(syscall.O_WRONLY|syscall.O_RDWR) != 0
	return f.do(Op{Open, f.nameOf(f.node(in.NodeId)), changes}, func() fuse.Status {
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
		return fuse.OK
	})
}

func (f *FS) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	parent := f.node(in.NodeId)
	return f.do(Op{Remove, name, true}, func() fuse.Status {
		n := parent.entries[name]
		if n == nil {
			return fuse.ENOENT
		}
		f.rename(n, entryChange{parent, name, nil})
		n.links--
		f.release(n)
		return fuse.OK
	})
}

func (f *FS) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	parent := f.node(in.NodeId)
	return f.do(Op{Remove, name, true}, func() fuse.Status {
		n := parent.entries[name]
		switch {
		case n == nil:
			return fuse.ENOENT
		case !n.folder:
			return fuse.ENOTDIR
		case len(n.entries) > 0:
			return fuse.Status(syscall.ENOTEMPTY)
		}
		f.rename(n, entryChange{parent, name, nil})
		return fuse.OK
	})
}

func (f *FS) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	if in.Flags != 0 {
		return fuse.EINVAL
	}
	from, to := f.node(in.NodeId), f.node(in.Newdir)
	return f.do(Op{Rename, oldName, true}, func() fuse.Status {
		n, replaced := from.entries[oldName], to.entries[newName]
		switch {
		case n == nil:
			return fuse.ENOENT
		case replaced == n:
			return fuse.OK
		case replaced != nil && replaced.folder && len(replaced.entries) > 0:
			return fuse.Status(syscall.ENOTEMPTY)
		}
		f.rename(n, entryChange{from, oldName, nil}, entryChange{to, newName, n})
		n.name = newName
		if replaced != nil {
			replaced.links--
			f.release(replaced)
		}
		return fuse.OK
	})
}

func (f *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fuse.ReadResultData(buf[:f.known[in.NodeId].read(buf, int64(in.Offset))]), fuse.OK
}

// Writev says that the library shall join the pieces and call Write.
func (f *FS) Writev(<-chan struct{}, *fuse.WriteIn, [][]byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

func (f *FS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	n := f.node(in.NodeId)
	run, op := f.do, Op{Write, f.nameOf(n), true}
	if in.WriteFlags&fuse.WRITE_CACHE != 0 {
		run = f.writeBack
	}
	status := run(op, func() fuse.Status {
		at := int64(in.Offset)
		missing := n.missing(at, int64(len(data)))
		if f.used+missing > f.capacity {
			return fuse.Status(syscall.ENOSPC)
		}
		f.used += missing
		f.lastWritten = place{n, n.write(data, at)}
		return fuse.OK
	})
	return uint32(len(data)), status
}

func (f *FS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	n := f.node(in.NodeId)
	at, length := int64(in.Offset), int64(in.Length)
	return f.do(Op{Write, f.nameOf(n), true}, func() fuse.Status {
		switch in.Mode {
		case unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE:
			held := n.holding()
			n.punch(at, length)
			f.used += n.holding() - held
		case 0, unix.FALLOC_FL_KEEP_SIZE:
			missing := n.missing(at, length)
			if f.used+missing > f.capacity {
				return fuse.Status(syscall.ENOSPC)
			}
			f.used += missing
			n.allocate(at, length, in.Mode != 0)
		default:
			return fuse.Status(syscall.EOPNOTSUPP)
		}
		return fuse.OK
	})
}

func (f *FS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	n := f.node(in.NodeId)
	return f.do(Op{Sync, f.nameOf(n), true}, func() fuse.Status {
		f.syncFile(n)
		return fuse.OK
	})
}

func (f *FS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	n := f.node(in.NodeId)
	return f.do(Op{Sync, f.nameOf(n), true}, func() fuse.Status {
		f.syncFolder(n)
		return fuse.OK
	})
}

// Flush comes with each close. There is nothing to do: the kernel has written
// back before.
func (f *FS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

func (f *FS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := f.node(in.NodeId)
	return f.do(Op{Open, f.nameOf(n), false}, func() fuse.Status {
		var list []fuse.DirEntry
		for _, name := range n.sortedNames() {
			mode := uint32(fuse.S_IFREG)
			switch e := n.entries[name]; {
			case e.folder:
				mode = fuse.S_IFDIR
			case e.target != "":
				mode = syscall.S_IFLNK
			}
			list = append(list, fuse.DirEntry{Name: name, Mode: mode, Off: uint64(len(list)) + 1})
		}
		f.lastListing++
		f.listings[f.lastListing] = list
		out.Fh = f.lastListing
		return fuse.OK
	})
}

func (f *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.listings[in.Fh]
	for _, e := range list[min(in.Offset, uint64(len(list))):] {
		if !out.AddDirEntry(e) {
			break
		}
	}
	return fuse.OK
}

func (f *FS) ReleaseDir(in *fuse.ReleaseIn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.listings, in.Fh)
}

func (f *FS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	free := uint64(f.capacity - f.used)
	out.Bsize, out.Frsize, out.NameLen = pageSize, pageSize, 255
	out.Blocks, out.Bfree, out.Bavail = uint64(f.capacity), free, free
	out.Files, out.Ffree = 1<<20, 1<<20
	return fuse.OK
}

// nameOf is the last name of a node.
func (f *FS) nameOf(n *node) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return n.name
}
