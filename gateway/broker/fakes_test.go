package broker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// notes is small memory that outlives a broker of a test.
type notes struct {
	mu     sync.Mutex
	values map[string][]byte
	writes int
	fail   error
	block  chan struct{} // not nil: SetNotes waits for it
}

func newNotes() *notes { return &notes{values: make(map[string][]byte)} }

func (n *notes) Note(kind, name string) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.values[kind+"/"+name], nil
}

func (n *notes) SetNotes(kind string, values map[string][]byte) error {
	n.mu.Lock()
	block := n.block
	n.mu.Unlock()
	if block != nil {
		<-block
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fail != nil {
		return n.fail
	}
	n.writes++
	for name, v := range values {
		if v == nil {
			delete(n.values, kind+"/"+name)
			continue
		}
		n.values[kind+"/"+name] = v
	}
	return nil
}

func (n *notes) EachNote(kind string, f func(string, []byte) error) error {
	n.mu.Lock()
	values := maps.Clone(n.values)
	n.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if name, ok := cutKind(key, kind); ok {
			if err := f(name, values[key]); err != nil {
				return err
			}
		}
	}
	return nil
}

func cutKind(key, kind string) (string, bool) {
	if len(key) > len(kind) && key[:len(kind)+1] == kind+"/" {
		return key[len(kind)+1:], true
	}
	return "", false
}

func (n *notes) count() (kept, writes int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.values), n.writes
}

// fakeDown stands where the way down is: it remembers who was said to be there.
type fakeDown struct {
	mu    sync.Mutex
	wants map[string]gateway.Interest
	said  map[string][]gateway.Interest
	ways  map[string]gateway.Reach
}

func newFakeDown() *fakeDown {
	return &fakeDown{wants: make(map[string]gateway.Interest), said: make(map[string][]gateway.Interest), ways: make(map[string]gateway.Reach)}
}

func (d *fakeDown) Attend(leaf string, way gateway.Reach, wants gateway.Interest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wants[leaf], d.ways[leaf] = wants, way
	d.said[leaf] = append(d.said[leaf], wants)
}

func (d *fakeDown) of(leaf string) gateway.Interest {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.wants[leaf]
}

func (d *fakeDown) all(leaf string) []gateway.Interest {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.said[leaf])
}

// fakeTwins stands where the twins are.
type fakeTwins struct {
	mu       sync.Mutex
	document map[string]string // by leaf
	age      time.Duration
	err      error
	block    chan struct{} // not nil: Twin waits for it
	reports  []fakeReport
	hold     bool // reports are answered only when told
}

type fakeReport struct {
	leaf, patch string
	done        func(int64, error)
}

func newFakeTwins() *fakeTwins { return &fakeTwins{document: make(map[string]string)} }

func (f *fakeTwins) Twin(ctx context.Context, leaf string) ([]byte, time.Duration, error) {
	f.mu.Lock()
	block := f.block
	f.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return []byte(f.document[leaf]), f.age, f.err
}

func (f *fakeTwins) Report(leaf string, patch []byte, done func(int64, error)) {
	f.mu.Lock()
	f.reports = append(f.reports, fakeReport{leaf, string(patch), done})
	n, hold, err := int64(len(f.reports)), f.hold, f.err
	f.mu.Unlock()
	if hold {
		return
	}
	if err != nil {
		n = 0
	}
	done(n, err)
}

func (f *fakeTwins) reported() []fakeReport {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.reports)
}

// box returns a session of pump-1 on the way down; nil if there is none.
func (b *bench) box(id string) *mailbox {
	d := b.b.desk("pump-1")
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, box := range d.boxes {
		if box.id == id {
			return box
		}
	}
	return nil
}
