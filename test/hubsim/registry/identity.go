package registry

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// AuthType is how an identity proves itself, in the words of the registry
// (section 5.2).
type AuthType string

// The four ways.
const (
	AuthSAS        AuthType = "sas"
	AuthSelfSigned AuthType = "selfSigned"
	AuthAuthority  AuthType = "certificateAuthority"
	AuthNone       AuthType = "none"
)

// Auth is the secret or the certificate of an identity.
type Auth struct {
	Type                AuthType
	PrimaryKey          string // Base64; "" asks for a made-up one when the type is AuthSAS
	SecondaryKey        string
	PrimaryThumbprint   string // hex without separators, SHA-1 or SHA-256
	SecondaryThumbprint string
}

// Identity is a device or a module in the registry. What the hub hands out are
// copies.
type Identity struct {
	ID            ID
	Generation    string // new for each creation of the same id
	ETag          string // without quotes; changes with every change
	Disabled      bool   // devices only
	StatusReason  string
	StatusUpdated time.Time // of Disabled; zero when never changed
	Auth          Auth
	Edge          bool // capabilities.iotEdge
	Scope         string
	ParentScopes  []string
	ManagedBy     string // modules only
}

// Change is what happened to an identity.
type Change uint8

// The kinds of changes.
const (
	Created  Change = iota
	Updated         // keys, status or anything else
	Disabled        // an update that took the right to connect away; follows Updated
	Deleted
)

// OnChange has f called after each change, with the identity as it is now, or
// was last. Call it before the registry is used. f runs on the goroutine that
// made the change, without locks held.
func (r *Registry) OnChange(f func(Change, Identity)) { r.watchers = append(r.watchers, f) }

func (r *Registry) tell(c Change, i Identity) {
	for _, f := range r.watchers {
		f(c, i)
	}
}

// Get returns an identity.
func (r *Registry) Get(id ID) (Identity, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	i, ok := r.identities[id]
	if !ok {
		return Identity{}, false
	}
	return i.clone(), true
}

// clone returns a copy that shares nothing with the original.
func (i *Identity) clone() Identity {
	c := *i
	c.ParentScopes = slices.Clone(i.ParentScopes)
	return c
}

// Find returns an identity or the refusal that its absence means: 404001, or
// 404010 for a module.
func (r *Registry) Find(id ID) (Identity, error) {
	if i, ok := r.Get(id); ok {
		return i, nil
	}
	return Identity{}, missing(id)
}

func missing(id ID) *refusal.Error {
	if id.Module != "" {
		return refusal.New(404010, "no such module: "+id.String())
	}
	return refusal.New(404001, "no such device: "+id.Device)
}

// Create adds an identity. Empty keys and generation are made up. It fails with
// 400004 for an identity that cannot be, 404001 for a module without a device,
// 409001 or 409301 for one that exists, and 413002 when the hub is full.
func (r *Registry) Create(i Identity) (Identity, error) {
	i.complete(nil)
	if err := i.check(); err != nil {
		return Identity{}, err
	}
	kept := i.clone()
	r.mu.Lock()
	err := r.roomLocked(i.ID)
	if err == nil {
		r.identities[i.ID] = &kept
	}
	r.mu.Unlock()
	if err != nil {
		return Identity{}, err
	}
	r.tell(Created, i)
	return i, nil
}

// roomLocked says why there is no place for a new identity; nil when there is.
func (r *Registry) roomLocked(id ID) error {
	if _, ok := r.identities[id]; ok && id.Module != "" {
		return refusal.New(409301, id.String()+" exists")
	} else if ok {
		return refusal.New(409001, id.Device+" exists")
	}
	if _, ok := r.identities[ID{Device: id.Device}]; !ok && id.Module != "" {
		return missing(ID{Device: id.Device})
	}
	if len(r.identities) >= r.most {
		return refusal.New(413002, "the hub holds as many identities as it can")
	}
	return nil
}

// Update replaces an identity that exists, when ifMatch is its ETag or "*",
// quoted or not; else 412001. Empty keys stay what they were, and without a type
// of authentication all of it does.
func (r *Registry) Update(i Identity, ifMatch string) (Identity, error) {
	r.mu.Lock()
	old, err := r.matchLocked(i.ID, ifMatch)
	if err != nil {
		r.mu.Unlock()
		return Identity{}, err
	}
	i.complete(old)
	if err := i.check(); err != nil {
		r.mu.Unlock()
		return Identity{}, err
	}
	kept := i.clone()
	fell := i.Disabled && !old.Disabled
	r.identities[i.ID] = &kept
	r.mu.Unlock()
	r.tell(Updated, i)
	if fell {
		r.tell(Disabled, i)
	}
	return i, nil
}

// matchLocked returns the identity when its ETag is what a request asks for.
func (r *Registry) matchLocked(id ID, ifMatch string) (*Identity, error) {
	i, ok := r.identities[id]
	if !ok {
		return nil, missing(id)
	}
	if want := strings.Trim(ifMatch, `"`); want != "*" && want != i.ETag {
		return nil, refusal.New(412001, "the ETag is not "+ifMatch)
	}
	return i, nil
}

// Put adds an identity or replaces it, whatever its ETag.
func (r *Registry) Put(i Identity) (Identity, error) {
	for {
		made, err := r.Create(i)
		if !refusal.Is(err, 409001) && !refusal.Is(err, 409301) {
			return made, err
		}
		made, err = r.Update(i, "*")
		if !refusal.Is(err, 404001) && !refusal.Is(err, 404010) {
			return made, err
		}
	}
}

// Delete removes an identity, and with a device its modules; ifMatch as for
// Update, "" meaning "*".
func (r *Registry) Delete(id ID, ifMatch string) error {
	if ifMatch == "" {
		ifMatch = "*"
	}
	r.mu.Lock()
	if _, err := r.matchLocked(id, ifMatch); err != nil {
		r.mu.Unlock()
		return err
	}
	var gone []Identity
	for other, i := range r.identities {
		if other == id || (id.Module == "" && other.Device == id.Device) {
			gone = append(gone, i.clone())
			delete(r.identities, other)
		}
	}
	r.mu.Unlock()
	for _, i := range gone {
		r.tell(Deleted, i)
	}
	return nil
}

// SetEnabled changes whether the device may connect, and nothing else of it;
// false when there is no such device.
func (r *Registry) SetEnabled(device string, enabled bool) bool {
	for {
		i, ok := r.Get(ID{Device: device})
		if !ok {
			return false
		}
		i.Disabled = !enabled
		_, err := r.Update(i, i.ETag)
		if !refusal.Is(err, 412001) { // else somebody changed it in between
			return err == nil
		}
	}
}

// List returns up to top devices sorted by id; all of them when top is 0.
func (r *Registry) List(top int) []Identity {
	return r.sorted(top, func(id ID) bool { return id.Module == "" })
}

// All returns every identity sorted by id, each device before its modules.
func (r *Registry) All() []Identity {
	return r.sorted(0, func(ID) bool { return true })
}

// Modules returns the modules of a device, sorted by id.
func (r *Registry) Modules(device string) []Identity {
	return r.sorted(0, func(id ID) bool { return id.Device == device && id.Module != "" })
}

func (r *Registry) sorted(top int, want func(ID) bool) []Identity {
	r.mu.RLock()
	defer r.mu.RUnlock()
	ids := slices.DeleteFunc(slices.Collect(maps.Keys(r.identities)), func(id ID) bool { return !want(id) })
	slices.SortFunc(ids, func(a, b ID) int { return strings.Compare(a.String(), b.String()) })
	if top > 0 && len(ids) > top {
		ids = ids[:top]
	}
	list := make([]Identity, len(ids))
	for n, id := range ids {
		list[n] = r.identities[id].clone()
	}
	return list
}
