package main

import (
	"cmp"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/broker"
	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/pairing"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// roster is the leaves that are admitted now. What changes in it counts everywhere
// at once. Safe for concurrent use.
type roster struct {
	cfg    *config
	table  *pairing.Table
	keys   *identity.Keyring
	proofs *identity.Proofs
	notes  gateway.Notes
	broker *broker.Broker    // nil until there is one; set before the first change
	forget func(leaf string) // that the hub has taken it; set with broker

	mu     sync.Mutex
	leaves map[string]leaf // guarded by mu, by id
}

// admit lets a leaf in, or replaces what is known of it. A disabled one is known,
// and put out, also where nothing proves it to the hub.
func (r *roster) admit(l leaf) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.prove(l); err != nil && !l.Disabled {
		return err
	}
	if _, known := r.leaves[l.ID]; !known && r.forget != nil {
		r.forget(l.ID) // what a former leaf of this name has left may have gone since
	}
	r.leaves[l.ID] = l
	r.table.Put(l.Leaf) // last: from now on it may come
	if l.Disabled && r.broker != nil {
		r.broker.Expel(l.ID, false)
	}
	r.limitMemoryLocked()
	return nil
}

// prove sees to it that the leaf can be proven to the hub, admitted or not.
func (r *roster) prove(l leaf) error {
	r.proofs.Set(l.ID, cmp.Or(l.auth, identity.AuthKey))
	if l.auth != identity.AuthKey || !l.key.IsZero() {
		r.keys.Put(l.ID, l.key)
		return nil
	}
	return addEnrolled(r.cfg, r.keys, r.notes, r.proofs, l.ID)
}

// dismiss puts a leaf out and forgets it. What it has left in custody still goes to
// the hub: its proof stays.
func (r *roster) dismiss(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.leaves, id)
	r.table.Remove(id)
	r.broker.Expel(id, true)
	r.forget(id)
	r.limitMemoryLocked()
}

// leaf returns what is known of a leaf.
func (r *roster) leaf(id string) (l leaf, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, known = r.leaves[id]
	return l, known
}

// census counts the admitted leaves by the hub's last word on them. One that is disabled
// is not waited for.
func (r *roster) census(hub *uplink.State, now time.Time) map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := make(map[string]int)
	for id, l := range r.leaves {
		word := hubSays(hub, r.proofs.Waits(id, now), id)
		if l.Disabled && (word == control.HubUnasked || word == control.HubEnrols) {
			word = isDisabled
		}
		counts[word]++
	}
	return counts
}

// all returns the leaves in the order of their ids.
func (r *roster) all() []leaf {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := slices.Collect(maps.Values(r.leaves))
	slices.SortFunc(list, func(a, b leaf) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// limitMemory bounds the memory of a gateway that has no leaf yet.
func (r *roster) limitMemory() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limitMemoryLocked()
}

func (r *roster) limitMemoryLocked() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit(len(r.leaves)))
	}
}
