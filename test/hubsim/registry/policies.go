package registry

import (
	"fmt"
	"maps"
	"slices"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// Rights is a set of what a policy may do.
type Rights uint8

// The four rights of a hub.
const (
	RegistryRead Rights = 1 << iota
	RegistryWrite
	ServiceConnect
	DeviceConnect
)

// Policy is a named pair of keys with rights.
type Policy struct {
	Name         string
	PrimaryKey   string // Base64
	SecondaryKey string // Base64
	Rights       Rights
}

// PolicyRights are the policies that every hub starts with (section 1.3).
var PolicyRights = map[string]Rights{
	"iothubowner":       RegistryRead | RegistryWrite | ServiceConnect | DeviceConnect,
	"service":           ServiceConnect,
	"device":            DeviceConnect,
	"registryRead":      RegistryRead,
	"registryReadWrite": RegistryRead | RegistryWrite,
}

// How many policies a hub may have, and how many of them with ServiceConnect
// (section 1.3).
const (
	maxPolicies        = 16
	maxServicePolicies = 10
)

// Which is one of the two keys that policies have, so that the one can be
// changed while the other is in use.
type Which uint8

// The two keys.
const (
	Primary Which = iota
	Secondary
)

// Policy returns the policy with the name; one without a name when there is
// none.
func (r *Registry) Policy(name string) Policy {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.policies[name]
}

// Policies returns all policies, sorted by name.
func (r *Registry) Policies() []Policy {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var list []Policy
	for _, name := range slices.Sorted(maps.Keys(r.policies)) {
		list = append(list, r.policies[name])
	}
	return list
}

// SetPolicy adds a policy or replaces the one of its name. Tokens that its old
// keys signed are good no more; connections that showed one stay. It fails with
// 400004 when there would be too many.
func (r *Registry) SetPolicy(p Policy) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := maps.Clone(r.policies)
	next[p.Name] = p
	return r.replacePoliciesLocked(next)
}

// SetPolicies makes list all the policies that there are, or fails as SetPolicy
// does and changes nothing. Of several with one name the last counts.
func (r *Registry) SetPolicies(list []Policy) error {
	next := make(map[string]Policy)
	for _, p := range list {
		next[p.Name] = p
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.replacePoliciesLocked(next)
}

func (r *Registry) replacePoliciesLocked(next map[string]Policy) error {
	service := 0
	for _, p := range next {
		if p.Rights&ServiceConnect != 0 {
			service++
		}
	}
	if len(next) > maxPolicies || service > maxServicePolicies {
		return refusal.New(400004, fmt.Sprintf("a hub has at most %d policies, %d of them with ServiceConnect",
			maxPolicies, maxServicePolicies))
	}
	r.policies = next
	return nil
}

// RemovePolicy removes a policy; false when there is none of the name. What was
// said of old tokens at SetPolicy holds for all of its tokens.
func (r *Registry) RemovePolicy(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.policies[name]
	delete(r.policies, name)
	return ok
}

// RegenerateKey gives a policy a new key in place of one of its two, and returns
// the policy as it is then; false when there is none of the name. Tokens that
// the other key signed stay good.
func (r *Registry) RegenerateKey(name string, which Which) (Policy, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.policies[name]
	if !ok {
		return Policy{}, false
	}
	if which == Secondary {
		p.SecondaryKey = NewKey()
	} else {
		p.PrimaryKey = NewKey()
	}
	r.policies[name] = p
	return p, true
}
