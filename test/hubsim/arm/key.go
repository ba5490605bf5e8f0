package arm

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// rights are those of a policy, as the provider writes them (section 5.11).
type rights string

// rightName is what one right is called.
type rightName struct {
	right registry.Rights
	name  string
}

// rightNames in the order in which they are written.
var rightNames = []rightName{
	{registry.RegistryRead, "RegistryRead"},
	{registry.RegistryWrite, "RegistryWrite"},
	{registry.ServiceConnect, "ServiceConnect"},
	{registry.DeviceConnect, "DeviceConnect"},
}

func formatRights(set registry.Rights) rights {
	var names []string
	for _, n := range rightNames {
		if set&n.right != 0 {
			names = append(names, n.name)
		}
	}
	return rights(strings.Join(names, ", "))
}

// parse reads the rights in any order; there must be one at least.
func (text rights) parse() (set registry.Rights, err error) {
	for word := range strings.SplitSeq(string(text), ",") {
		word = strings.TrimSpace(word)
		i := slices.IndexFunc(rightNames, func(n rightName) bool { return strings.EqualFold(n.name, word) })
		if i < 0 {
			return 0, fmt.Errorf("%q is not a right", word)
		}
		set |= rightNames[i].right
	}
	return set, nil
}

// keyRequests adds the requests about keys.
func (p *Provider) keyRequests() {
	p.mux.HandleFunc("POST "+hubPath+"/listkeys", p.answer(p.listKeys))
	p.mux.HandleFunc("POST "+hubPath+"/iothubkeys/{key}/listkeys", p.answer(p.getKey))
}

func (p *Provider) listKeys(r *request) (int, any, error) {
	res, err := p.find(r)
	if err != nil {
		return 0, nil, err
	}
	return 200, newList(res.policies()), nil
}

func (p *Provider) getKey(r *request) (int, any, error) {
	res, err := p.find(r)
	if err != nil {
		return 0, nil, err
	}
	for _, known := range res.policies() {
		if strings.EqualFold(known.Name, r.PathValue("key")) {
			return 200, known, nil
		}
	}
	return 0, nil, failed(404, "NotFound", "there is no policy %q", r.PathValue("key"))
}

// policies returns the policies of a hub with their keys.
func (res *resource) policies() []policy {
	var known []policy
	for _, p := range res.registry.Policies() {
		known = append(known, policy{p.Name, p.PrimaryKey, p.SecondaryKey, formatRights(p.Rights)})
	}
	return known
}

// newPolicies are the policies that every hub starts with, with new keys.
func newPolicies() []registry.Policy {
	var made []registry.Policy
	for name, set := range registry.PolicyRights {
		made = append(made, registry.Policy{
			Name: name, PrimaryKey: registry.NewKey(), SecondaryKey: registry.NewKey(), Rights: set,
		})
	}
	return made
}

// setPolicies makes wanted the policies of a hub; nil leaves them as they are.
// Either all of it is done or, when something is wrong, nothing.
func (p *Provider) setPolicies(res *resource, wanted []policy) error {
	if wanted == nil {
		return nil
	}
	var next []registry.Policy
	for _, want := range wanted {
		made, err := want.complete(res.registry.Policy(want.Name))
		if err != nil {
			return failed(400, "InvalidRequestContent", "authorizationPolicies: %s: %v", want.Name, err)
		}
		if slices.ContainsFunc(next, func(other registry.Policy) bool { return other.Name == made.Name }) {
			return failed(400, "InvalidRequestContent", "authorizationPolicies: %s is there twice", want.Name)
		}
		next = append(next, made)
	}
	// The registry has the last word, on how many there may be; ask it before
	// anything is changed.
	if err := tryPolicies(next); err != nil {
		return err
	}
	for _, old := range res.registry.Policies() {
		if !slices.ContainsFunc(next, func(made registry.Policy) bool { return made.Name == old.Name }) {
			res.registry.RemovePolicy(old.Name)
		}
	}
	for _, made := range next {
		if err := res.registry.SetPolicy(made); err != nil {
			return err
		}
	}
	if res.hub != nil && p.cfg.Changed != nil {
		p.cfg.Changed()
	}
	return nil
}

// tryPolicies puts policies into a registry that nobody uses.
func tryPolicies(list []registry.Policy) error {
	trial := registry.New(nil, nil)
	for _, p := range list {
		if err := trial.SetPolicy(p); err != nil {
			return err
		}
	}
	return nil
}

// complete returns the policy as the registry has it. Keys that are not given
// are those of before, or made up.
func (want policy) complete(before registry.Policy) (registry.Policy, error) {
	if want.Name == "" || len(want.Name) > 64 {
		return registry.Policy{}, fmt.Errorf("keyName must have 1 to 64 characters")
	}
	set, err := want.Rights.parse()
	if err != nil {
		return registry.Policy{}, err
	}
	made := registry.Policy{Name: want.Name, Rights: set}
	for _, key := range []struct {
		to          *string
		given, kept string
	}{{&made.PrimaryKey, want.PrimaryKey, before.PrimaryKey}, {&made.SecondaryKey, want.SecondaryKey, before.SecondaryKey}} {
		if *key.to, err = chooseKey(key.given, key.kept); err != nil {
			return registry.Policy{}, err
		}
	}
	return made, nil
}

func chooseKey(given, kept string) (string, error) {
	switch {
	case given == "" && kept == "":
		return registry.NewKey(), nil
	case given == "":
		return kept, nil
	}
	b, err := base64.StdEncoding.DecodeString(given)
	if err != nil || len(b) < 16 || len(b) > 64 {
		return "", fmt.Errorf("a key must be 16 to 64 bytes in Base64")
	}
	return given, nil
}
