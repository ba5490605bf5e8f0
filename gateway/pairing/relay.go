package pairing

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/identity"
)

const (
	// tokenNote is the kind of note that names the tokens of a leaf that the hub
	// has accepted.
	tokenNote = "token"
	// maxTokens is how many of one leaf are remembered.
	maxTokens = 4
	// guessPause is how long nobody can try another token for a leaf after a wrong
	// one: each costs a request to the hub.
	guessPause = time.Second
)

// Relay checks tokens of leaves whose key the gateway does not have: the hub is
// asked. One that it has accepted is good until it expires, also while the hub is
// away and after a restart. Tokens themselves are kept in memory only. Safe for
// concurrent use.
type Relay struct {
	table  *Table
	notes  gateway.Notes
	prove  Prove
	proofs *identity.Proofs

	mu       sync.Mutex
	accepted map[string][]acceptedToken // guarded by mu, by leaf, the last one last
	asking   map[string]bool            // guarded by mu; leaves of which the hub is being asked
	wrong    map[string]time.Time       // guarded by mu; when the hub refused a token of the leaf last
}

// Prove asks the hub whether it accepts a leaf's token. An error says that it
// could not be asked.
type Prove func(ctx context.Context, leaf, token string, expiry time.Time) (accepted bool, err error)

// acceptedToken is a token by its hash.
type acceptedToken struct {
	Name   string    `json:"sha256"`
	Expiry time.Time `json:"expiry"`
}

// NewRelay reads from notes which tokens the hub has accepted. Tokens that are good
// are given to proofs, which knows whose are relayed.
func NewRelay(table *Table, proofs *identity.Proofs, notes gateway.Notes, prove Prove) (*Relay, error) {
	r := &Relay{
		table: table, notes: notes, prove: prove, proofs: proofs,
		accepted: make(map[string][]acceptedToken), asking: make(map[string]bool), wrong: make(map[string]time.Time),
	}
	err := notes.EachNote(tokenNote, func(leaf string, text []byte) error {
		var list []acceptedToken
		if json.Unmarshal(text, &list) == nil { // else the hub is asked again
			r.accepted[leaf] = list[max(0, len(list)-maxTokens):]
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read which tokens the hub has accepted: %w", err)
	}
	return r, nil
}

// Relays says whether the leaf's tokens are for the hub to judge.
func (r *Relay) Relays(leaf string) bool { return r.proofs.Auth(leaf) == identity.AuthRelay }

// CheckToken is Table.CheckToken for such a leaf. The error is ErrBusy when the hub
// has to be asked and cannot be.
func (r *Relay) CheckToken(ctx context.Context, leaf, text string, now gateway.Instant) (expiry time.Time, err error) {
	parsed, err := identity.ParseToken(text)
	if err != nil {
		return time.Time{}, err
	}
	switch {
	case !parsed.Names(leaf, r.table.hosts...):
		return time.Time{}, ErrCredentials
	case !r.table.Known(leaf):
		return time.Time{}, ErrUnknown
	case now.Quality != gateway.Unsynced && !now.Wall.Before(parsed.Expiry):
		return time.Time{}, ErrExpired
	}
	name := identity.TokenName(text)
	t := acceptedToken{hex.EncodeToString(name[:]), parsed.Expiry}
	if !r.knows(leaf, t) {
		if err := r.ask(ctx, leaf, text, t, now); err != nil {
			return time.Time{}, err
		}
	}
	r.proofs.Relay(leaf, text, parsed.Expiry)
	return parsed.Expiry, nil
}

func (r *Relay) knows(leaf string, t acceptedToken) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.accepted[leaf], func(x acceptedToken) bool { return x.Name == t.Name })
}

// ask asks the hub, for one leaf one question at a time.
func (r *Relay) ask(ctx context.Context, leaf, text string, t acceptedToken, now gateway.Instant) error {
	if !r.begin(leaf) {
		return ErrBusy
	}
	good, err := r.prove(ctx, leaf, text, t.Expiry)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.asking, leaf)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case !good:
		r.wrong[leaf] = time.Now()
		return ErrCredentials
	}
	list := slices.DeleteFunc(slices.Clone(r.accepted[leaf]), func(x acceptedToken) bool { return !now.Wall.Before(x.Expiry) })
	list = append(list, t)
	r.accepted[leaf] = list[max(0, len(list)-maxTokens):]
	note, err := json.Marshal(r.accepted[leaf])
	if err != nil {
		return err
	}
	// One that cannot be noted is asked about again after a restart.
	_ = r.notes.SetNotes(tokenNote, map[string][]byte{leaf: note})
	return nil
}

func (r *Relay) begin(leaf string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asking[leaf] || time.Since(r.wrong[leaf]) < guessPause {
		return false
	}
	r.asking[leaf] = true
	return true
}
