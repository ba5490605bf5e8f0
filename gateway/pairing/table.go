// Package pairing knows which leaves are admitted and how each proves who it
// is: with a password of its own, with a shared access signature made with its
// hub key, or with a certificate. How a leaf gets into the table (the pairing window, the
// operator's console) and over which wire it logs in are for others.
package pairing

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/identity"
)

// Leaf is one admitted leaf. Its hub key is in the keyring, under the same id.
type Leaf struct {
	ID       string       // as the hub knows it, case counts
	Disabled bool         // known, but must not connect
	Password PasswordHash // zero: the leaf has none and cannot log in with one
	// Thumbprints are those of the leaf's certificate, and of its next or former
	// one. Zero: the leaf cannot log in with a certificate of its own making.
	Thumbprints [2]Thumbprint
	// Key signs the leaf's tokens between leaf and gateway, beside its hub key, which
	// such a leaf need not have. Zero: there is only the hub key.
	Key identity.Key
}

// Why a leaf is not let in. Whoever answers the leaf says the same for all of
// them, except ErrBusy: a stranger must not learn which leaves exist.
var (
	ErrUnknown     = gateway.ErrUnknownLeaf
	ErrCredentials = errors.New("credentials do not match")
	ErrExpired     = errors.New("token has expired")
	// ErrBusy says that the check could not be made in time: try again later.
	ErrBusy = errors.New("too many logins at once")
)

const (
	// hashers is how many passwords are hashed at once: logins must not starve
	// the message path of a two-core board.
	hashers = 2
	// maxRejected bounds the memory of wrong passwords.
	maxRejected = 4096
)

// nobody stands in for the hash of a leaf that does not exist, so that asking
// for it takes as long as a wrong password does. It is the hash of 32 random
// bytes that nobody kept.
var nobody = PasswordHash{"$2a$10$ieCitE7vgwjpvR9oQ63NAOwsm65/rZ7GXUBrA99.iGUk0qkGNtbTi"}

// verdict identifies one combination of leaf, stored hash and password without
// giving the password away.
type verdict [sha256.Size]byte

// Table is the table of admitted leaves. Safe for concurrent use.
type Table struct {
	hosts   []string // names that a token may be made out to: hub, then gateway
	keys    *identity.Keyring
	hashing chan struct{} // one token per password hash being computed
	memory  [32]byte      // key of the verdicts, random per process

	mu        sync.RWMutex
	authority *x509.CertPool       // whose signatures on leaves' certificates are believed, nil: nobody's; guarded by mu
	leaves    map[string]Leaf      // guarded by mu
	accepted  map[string]verdict   // the last good password of each leaf, guarded by mu
	rejected  map[verdict]struct{} // wrong passwords of late, guarded by mu
	pinned    int                  // leaves with thumbprints, guarded by mu
}

// NewTable makes an empty table. Leaves name the hub in their tokens, some name
// the gateway (wire contract, sections 7.1 and 9.2): hubHost and gatewayNames
// are the names accepted, compared without case. keys holds the leaves' hub
// keys.
func NewTable(hubHost string, gatewayNames []string, keys *identity.Keyring) *Table {
	t := &Table{
		hosts:    append([]string{hubHost}, gatewayNames...),
		keys:     keys,
		hashing:  make(chan struct{}, hashers),
		leaves:   make(map[string]Leaf),
		accepted: make(map[string]verdict),
		rejected: make(map[verdict]struct{}),
	}
	rand.Read(t.memory[:]) // never fails
	return t
}

// Put adds a leaf or replaces what is known about it.
func (t *Table) Put(l Leaf) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pinned += l.pinned() - t.leaves[l.ID].pinned()
	t.leaves[l.ID] = l
}

// pinned is 1 for a leaf with thumbprints.
func (l Leaf) pinned() int {
	if l.Thumbprints == [2]Thumbprint{} {
		return 0
	}
	return 1
}

// Remove forgets a leaf. Its key stays in the keyring.
func (t *Table) Remove(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pinned -= t.leaves[id].pinned()
	delete(t.leaves, id)
	delete(t.accepted, id)
}

// Known says whether the leaf is in the table and enabled.
func (t *Table) Known(id string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l, ok := t.leaves[id]
	return ok && !l.Disabled
}

// CheckPassword returns nil if the password is that of the leaf and the leaf
// may connect. A combination seen before is answered from memory, so that
// hundreds of leaves can reconnect at once; a new one costs a slow hash, and an
// unknown leaf costs the same. ctx ends the wait for a free hasher: the error
// is then ErrBusy.
func (t *Table) CheckPassword(ctx context.Context, id, password string) error {
	t.mu.RLock()
	leaf, known := t.leaves[id]
	t.mu.RUnlock()
	hash := leaf.Password
	if hash.IsZero() {
		hash = nobody
	}
	if len(password) > maxPassword {
		return ErrCredentials
	}
	match, err := t.compare(ctx, id, hash, password)
	switch {
	case err != nil:
		return err
	case !match:
		return ErrCredentials
	case !known || leaf.Disabled:
		return ErrUnknown
	}
	return nil
}

// compare answers from memory, or computes the hash and remembers.
func (t *Table) compare(ctx context.Context, id string, hash PasswordHash, password string) (bool, error) {
	v := t.verdict(id, hash, password)
	if match, found := t.recall(id, v); found {
		return match, nil
	}
	select {
	case t.hashing <- struct{}{}:
		defer func() { <-t.hashing }()
	case <-ctx.Done():
		return false, ErrBusy
	}
	// The same leaf may have been checked while this one waited for its turn.
	if match, found := t.recall(id, v); found {
		return match, nil
	}
	match := hash.matches(password)
	t.remember(id, v, match)
	return match, nil
}

func (t *Table) verdict(id string, hash PasswordHash, password string) verdict {
	mac := hmac.New(sha256.New, t.memory[:])
	fmt.Fprintf(mac, "%d %d ", len(id), len(hash.text))
	mac.Write([]byte(id + hash.text + password))
	return verdict(mac.Sum(nil))
}

func (t *Table) recall(id string, v verdict) (match, found bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if good, ok := t.accepted[id]; ok && hmac.Equal(good[:], v[:]) {
		return true, true
	}
	_, bad := t.rejected[v]
	return false, bad
}

func (t *Table) remember(id string, v verdict, match bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if match {
		t.accepted[id] = v
		return
	}
	if len(t.rejected) >= maxRejected {
		clear(t.rejected)
	}
	t.rejected[v] = struct{}{}
}

// CheckToken returns when the token expires if it is a shared access signature
// for this leaf, made with one of its keys, and the leaf may connect. While now is not
// to be trusted the expiry is not judged: the caller does it later, with the
// expiry returned.
func (t *Table) CheckToken(id, token string, now gateway.Instant) (expiry time.Time, err error) {
	parsed, err := identity.ParseToken(token)
	if err != nil {
		return time.Time{}, err
	}
	// The signature comes first: without it a stranger learns nothing else.
	t.mu.RLock()
	leaf := t.leaves[id]
	t.mu.RUnlock()
	if !(parsed.SignedBy(leaf.Key) || parsed.SignedBy(t.keys.Key(id))) || !parsed.Names(id, t.hosts...) {
		return time.Time{}, ErrCredentials
	}
	if !t.Known(id) {
		return time.Time{}, ErrUnknown
	}
	if now.Quality != gateway.Unsynced && !now.Wall.Before(parsed.Expiry) {
		return time.Time{}, ErrExpired
	}
	return parsed.Expiry, nil
}
