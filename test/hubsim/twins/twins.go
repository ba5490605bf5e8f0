// Package twins keeps the twins of the hub: tags, desired and reported
// properties with their versions and metadata, and who wants to hear of changes
// (wire contract, sections 2.4, 3.7 and 5.4).
//
// A twin is a state that does not change; each accepted change makes the next
// state, which shares what stayed the same. Whoever reads takes the state of the
// moment and needs no lock while looking at it.
package twins

import (
	"encoding/json"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// Change is an accepted change, as watchers hear of it. It does not change.
type Change struct {
	ID       registry.ID
	Replaced bool            // the service wrote the whole of tags and desired, not a patch
	Desired  json.RawMessage // what the device gets: the patch or the full section with $version; nil when desired did not change
	Version  int64           // of desired
	Event    json.RawMessage // body of the twin-change event (section 5.10)
}

// Status is what a twin tells about its identity's connection.
type Status struct {
	Connected    bool
	LastActivity string // ISO 8601
	Queued       int    // cloudToDeviceMessageCount
}

// Store is all twins. It is safe for concurrent use.
type Store struct {
	registry *registry.Registry
	status   func(registry.ID) Status
	watchers []func(Change) // of every twin

	mu    sync.RWMutex // guards twins
	twins map[registry.ID]*twin
}

// New returns a store of the twins of the identities in r; it follows their
// creation and deletion by r.OnChange. The service's view of a twin also holds
// what status says of an identity.
func New(r *registry.Registry, status func(registry.ID) Status) *Store {
	s := &Store{registry: r, status: status, twins: make(map[registry.ID]*twin)}
	r.OnChange(func(_ registry.Change, i registry.Identity) { s.follow(i.ID) })
	for _, device := range r.List(0) {
		s.follow(device.ID)
		for _, module := range r.Modules(device.ID.Device) {
			s.follow(module.ID)
		}
	}
	return s
}

// follow makes the twin of an identity, or drops it, as the registry has it. It
// looks there instead of believing the order in which changes are told: two
// goroutines may tell of a creation and a deletion at once. A new generation is
// a new identity, whose twin starts afresh.
func (s *Store) follow(id registry.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, exists := s.registry.Get(id)
	t := s.twins[id]
	switch {
	case !exists:
		delete(s.twins, id)
	case t == nil || t.generation != i.Generation:
		s.twins[id] = newTwin(i, time.Now())
	}
}

// find returns the twin, or the refusal that its absence means.
func (s *Store) find(id registry.ID) (*twin, registry.Identity, error) {
	i, err := s.registry.Find(id)
	if err != nil {
		return nil, i, err
	}
	t := s.lookup(id)
	if t == nil || t.generation != i.Generation { // created a moment ago, and nobody has told yet
		s.follow(id)
		t = s.lookup(id)
	}
	if t == nil { // deleted in between
		return nil, i, refusal.New(404001, "the twin of "+id.String()+" is gone")
	}
	return t, i, nil
}

func (s *Store) lookup(id registry.ID) *twin {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.twins[id]
}

// ForDevice returns {"desired":{…},"reported":{…}} with versions, without tags
// and metadata. It fails with 404001, or 404010 for a module.
func (s *Store) ForDevice(id registry.ID) (json.RawMessage, error) {
	t, _, err := s.find(id)
	if err != nil {
		return nil, err
	}
	now := t.state()
	return encode(map[string]any{
		"desired":  now.desired.values(),
		"reported": now.reported.values(),
	}), nil
}

// PatchReported merges a patch from the device, and returns the new version of
// reported. want is the version the device believes in; 0 for any. It fails with
// 404001 or 404010 when there is no such identity, 412001 when want is another
// version, 400004 for a patch that breaks a rule, 403100 for one that makes the
// section too large. An empty patch changes nothing.
func (s *Store) PatchReported(id registry.ID, patch []byte, want int64) (version int64, err error) {
	t, _, err := s.find(id)
	if err != nil {
		return 0, err
	}
	members, err := decodeReported(patch)
	if err != nil {
		return 0, err
	}
	next, err := t.change(func(now state) (state, *Change, error) {
		if want != 0 && want != now.reported.version {
			return now, nil, refusal.New(412001, "reported has another version")
		}
		return now.report(members, time.Now())
	})
	if err != nil {
		return 0, err
	}
	t.tell(s.watchers)
	return next.reported.version, nil
}

// Get returns the service's view, with metadata. It fails with 404001 or 404010.
func (s *Store) Get(id registry.ID) (json.RawMessage, error) {
	document, err := s.Document(id)
	if err != nil {
		return nil, err
	}
	return encode(document), nil
}

// Document returns the service's view as encoding/json decodes it, numbers as
// json.Number or integers. Objects belong to the caller; arrays are shared and
// do not change. It fails like Get.
func (s *Store) Document(id registry.ID) (map[string]any, error) {
	t, i, err := s.find(id)
	if err != nil {
		return nil, err
	}
	return view(i, s.status(id), t.state()), nil
}

// Documents gives what Document returns of all devices, or of all modules, with
// the texts of their ids as keys: those greater than after, in order. Who is
// created meanwhile may be missing.
func (s *Store) Documents(modules bool, after string) iter.Seq2[string, map[string]any] {
	return func(yield func(string, map[string]any) bool) {
		for _, key := range s.keys(modules, after) {
			document, err := s.Document(registry.ParseID(key))
			if err != nil {
				continue // deleted meanwhile
			}
			if !yield(key, document) {
				return
			}
		}
	}
}

// keys returns the texts of ids greater than after, sorted.
func (s *Store) keys(modules bool, after string) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var keys []string
	for id := range s.twins {
		if key := id.String(); (id.Module != "") == modules && key > after {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Update merges (replace false) or replaces tags and desired from the service's
// JSON, and returns the service's view. ifMatch is an ETag, quoted or not; ""
// and "*" mean any. It fails with 404001 or 404010 when there is no such
// identity, 412001 when the ETag is another one, 400004 for a body that breaks a
// rule, 403100 for one that makes a section too large.
func (s *Store) Update(id registry.ID, body []byte, replace bool, ifMatch string) (json.RawMessage, error) {
	t, i, err := s.find(id)
	if err != nil {
		return nil, err
	}
	w, err := decodeWrite(body, replace)
	if err != nil {
		return nil, err
	}
	status := s.status(id)
	next, err := t.change(func(now state) (state, *Change, error) {
		if !now.matches(ifMatch) {
			return now, nil, refusal.New(412001, "the ETag is not "+ifMatch)
		}
		next, c, err := now.write(w, time.Now())
		if c != nil && c.Replaced {
			c.Event = encode(view(i, status, next))
		}
		return next, c, err
	})
	if err != nil {
		return nil, err
	}
	t.tell(s.watchers)
	return encode(view(i, status, next)), nil
}

// Watch has f called with every change of the identity's desired properties
// from now on, in the order of versions, until cancel is called. f must not
// wait; it may call the store. No lock of the store is held meanwhile.
//
// cancel waits for a call of f in progress: after it has returned f is not
// called any more. So f must not call it, nor need a lock that is held during
// it. When there is no such identity nothing is watched.
func (s *Store) Watch(id registry.ID, f func(Change)) (cancel func()) {
	t, _, err := s.find(id)
	if err != nil {
		return func() {}
	}
	return t.watch(f)
}

// OnChange has f called with every change of every twin, reported ones too, in
// order for each twin. Call it before the store is used; f must not wait. It may
// call the store.
func (s *Store) OnChange(f func(Change)) { s.watchers = append(s.watchers, f) }
