package twins

import (
	"slices"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// twin is one twin and who watches it.
type twin struct {
	id         registry.ID
	generation string // of the identity

	mu       sync.Mutex // guards everything below; never held while a watcher is called
	now      state
	watchers []*watcher // replaced by a new slice, never changed: notices hold it
	pending  []notice   // in the order of the changes
	telling  bool       // a goroutine is handing out what is pending
}

// notice is a change and those who watched desired when it was made.
type notice struct {
	change   Change
	watchers []*watcher
}

// watcher is one who wants to hear of desired.
type watcher struct {
	mu        sync.Mutex // held while f runs, so that cancelling can wait for it
	f         func(Change)
	cancelled bool
}

func newTwin(i registry.Identity, now time.Time) *twin {
	return &twin{id: i.ID, generation: i.Generation, now: newState(now)}
}

// state returns the twin as it is at the moment.
func (t *twin) state() state {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now
}

// change replaces the state by the one that f makes of it. When f returns a
// change it is noted for those who watch; call tell then.
func (t *twin) change(f func(state) (state, *Change, error)) (state, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next, c, err := f(t.now)
	if err != nil || c == nil {
		return t.now, err
	}
	t.now = next
	c.ID = t.id
	n := notice{change: *c}
	if c.Desired != nil {
		n.watchers = t.watchers
	}
	t.pending = append(t.pending, n)
	return next, nil
}

// tell hands out the pending changes, oldest first. Only one goroutine at a time
// does so, which keeps the order without a lock around the calls; another one
// leaves its change to the first.
func (t *twin) tell(everyone []func(Change)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.telling {
		return
	}
	t.telling = true
	for len(t.pending) > 0 {
		n := t.pending[0]
		t.pending = slices.Delete(t.pending, 0, 1)
		t.mu.Unlock()
		for _, f := range everyone {
			f(n.change)
		}
		for _, w := range n.watchers {
			w.call(n.change)
		}
		t.mu.Lock()
	}
	t.telling = false
}

// watch adds a watcher of desired.
func (t *twin) watch(f func(Change)) (cancel func()) {
	w := &watcher{f: f}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.watchers = append(slices.Clone(t.watchers), w)
	return func() {
		t.mu.Lock()
		t.watchers = slices.DeleteFunc(slices.Clone(t.watchers), func(other *watcher) bool { return other == w })
		t.mu.Unlock()
		w.cancel()
	}
}

func (w *watcher) call(c Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.cancelled {
		w.f(c)
	}
}

func (w *watcher) cancel() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cancelled = true
}
