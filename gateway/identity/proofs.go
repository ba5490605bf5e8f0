package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Auth says how a leaf is proven to the hub.
type Auth string

// The ways of proof.
const (
	AuthKey     Auth = "key"     // with the leaf's own key, which the gateway keeps
	AuthRelay   Auth = "relay"   // with the token that the leaf itself has brought
	AuthGateway Auth = "gateway" // not at all: its messages go under the gateway's identity
)

// Enroller gets a leaf its place at the hub. Safe for concurrent use.
type Enroller interface {
	// Enrol makes the leaf known to the hub and returns its key. It may be called
	// again for a leaf that has been enrolled before.
	Enrol(ctx context.Context, leaf string) (Key, error)
}

// ErrNoToken says that a leaf whose own token is relayed has not brought one that
// is still good.
var ErrNoToken = errors.New("the leaf has not brought a token that is still good")

// Proofs proves leaves to the hub, each in its way. Safe for concurrent use.
type Proofs struct {
	keys    *Keyring
	gateway string // the gateway's own device id, "" if it has none
	note    func(leaf string) error

	mu       sync.Mutex
	enrol    Enroller             // nil: keys come by hand only; guarded by mu
	auth     map[string]Auth      // guarded by mu; leaves not in it have keys
	relayed  map[string]relayed   // guarded by mu
	enrolled map[string]bool      // guarded by mu; false: is to be, before its next token
	busy     map[string]*enroling // guarded by mu
}

// relayed is a leaf's own token.
type relayed struct {
	text   string
	expiry time.Time
}

// enroling is one enrolment under way.
type enroling struct {
	done chan struct{}
	err  error // read it after done is closed
}

// NewProofs makes the proofs. gatewayID is the gateway's own device id at the
// hub, whose key is in the ring, or "". e enrols leaves, nil if none are to be;
// note remembers for later runs that it did, and an error of it is of no
// consequence but that they are enrolled once more.
func NewProofs(keys *Keyring, gatewayID string, e Enroller, note func(leaf string) error) *Proofs {
	return &Proofs{
		keys: keys, gateway: gatewayID, enrol: e, note: note,
		auth: make(map[string]Auth), relayed: make(map[string]relayed),
		enrolled: make(map[string]bool), busy: make(map[string]*enroling),
	}
}

// Set says how a leaf is proven.
func (p *Proofs) Set(leaf string, a Auth) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.auth[leaf] = a
}

// SetEnroller puts another Enroller in the place of the one that there is, nil for
// none. What is under way ends with the old one.
func (p *Proofs) SetEnroller(e Enroller) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.enrol = e
}

// Enrol says that the hub learns of the leaf by enrolment; done that it has.
func (p *Proofs) Enrol(leaf string, done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.enrolled[leaf] = done
}

// Auth returns how a leaf is proven.
func (p *Proofs) Auth(leaf string) Auth {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, known := p.auth[leaf]; known {
		return a
	}
	return AuthKey
}

// Wait is what has to come before a leaf can be proven.
type Wait int

// What a leaf may wait for.
const (
	WaitNothing   Wait = iota
	WaitEnrolment      // it is to be enrolled with the hub
	WaitToken          // it is to bring a token that has not expired
)

// Waits says what has to come before the leaf can be proven at now.
func (p *Proofs) Waits(leaf string, now time.Time) Wait {
	p.mu.Lock()
	defer p.mu.Unlock()
	done, wanted := p.enrolled[leaf]
	switch auth := p.auth[leaf]; {
	case auth == AuthRelay && !now.Before(p.relayed[leaf].expiry):
		return WaitToken
	case auth != AuthRelay && auth != AuthGateway && wanted && !done && p.enrol != nil:
		return WaitEnrolment
	}
	return WaitNothing
}

// Identity returns the device id under which the hub knows the leaf's messages.
func (p *Proofs) Identity(leaf string) string {
	if p.Auth(leaf) == AuthGateway {
		return p.gateway
	}
	return leaf
}

// Token returns a token with which the hub accepts the leaf, and when it expires:
// at until, to the second below, or when the leaf's own token does. It may have
// the leaf enrolled first, which takes time. The error wraps ErrNoKey or
// ErrNoToken, or is the Enroller's.
func (p *Proofs) Token(ctx context.Context, leaf string, now, until time.Time) (text string, expiry time.Time, err error) {
	switch p.Auth(leaf) {
	case AuthRelay:
		return p.relayedToken(leaf, now)
	case AuthGateway:
		if p.gateway == "" {
			return "", time.Time{}, fmt.Errorf("the gateway has no identity of its own: %w", ErrNoKey)
		}
		leaf = p.gateway
	default:
		if err := p.ensureEnrolled(ctx, leaf); err != nil {
			return "", time.Time{}, err
		}
	}
	expiry = until.Truncate(time.Second) // as a token says it
	text, err = p.keys.DeviceToken(leaf, expiry)
	return text, expiry, err
}

// Refused says that the hub does not take the leaf's token: if it was enrolled, it
// is again before the next one.
func (p *Proofs) Refused(leaf string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.enrolled[leaf] {
		p.enrolled[leaf] = false
	}
}

// Relay keeps a token that a leaf has brought and the hub has accepted.
func (p *Proofs) Relay(leaf, text string, expiry time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old, known := p.relayed[leaf]; !known || !expiry.Before(old.expiry) {
		p.relayed[leaf] = relayed{text, expiry}
	}
}

func (p *Proofs) relayedToken(leaf string, now time.Time) (string, time.Time, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, known := p.relayed[leaf]
	if !known || !now.Before(r.expiry) {
		return "", time.Time{}, fmt.Errorf("leaf %q: %w", leaf, ErrNoToken)
	}
	return r.text, r.expiry, nil
}

// ensureEnrolled has a leaf enrolled that is to be, once for all who wait.
func (p *Proofs) ensureEnrolled(ctx context.Context, leaf string) error {
	p.mu.Lock()
	if done, wanted := p.enrolled[leaf]; done || !wanted || p.enrol == nil {
		p.mu.Unlock()
		return nil
	}
	e := p.busy[leaf]
	if e == nil {
		e = &enroling{done: make(chan struct{})}
		p.busy[leaf] = e
		go p.run(context.WithoutCancel(ctx), p.enrol, leaf, e) // others may wait longer than we; it ends by itself
	}
	p.mu.Unlock()
	select {
	case <-e.done:
		return e.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// enrolTimeout bounds one enrolment.
const enrolTimeout = time.Minute

func (p *Proofs) run(ctx context.Context, by Enroller, leaf string, e *enroling) {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	var k Key
	if k, e.err = by.Enrol(ctx, leaf); e.err == nil {
		p.keys.Put(leaf, k)
		_ = p.note(leaf)
	}
	p.mu.Lock()
	delete(p.busy, leaf)
	p.enrolled[leaf] = e.err == nil
	p.mu.Unlock()
	close(e.done)
}

// TokenName names a token without giving it away, to be remembered as accepted.
func TokenName(text string) [sha256.Size]byte { return sha256.Sum256([]byte(text)) }
