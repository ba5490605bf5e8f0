// Package registry knows the hub's identities: its devices, its policies, their
// keys, and which token lets whom do what (wire contract, sections 1.1 to 1.3).
package registry

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// MaxIdentities is how many devices and modules a hub holds (section 6.2).
const MaxIdentities = 1_000_000

// NewKey returns a random key of 32 bytes in Base64.
func NewKey() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.StdEncoding.EncodeToString(b[:])
}

// Grant is what a good token allows.
type Grant struct {
	Identity string // what the token is about, the unit in which tokens are counted and renewed
	ID       ID     // the one identity it speaks for; zero when it is not about one
	All      bool   // it speaks for every device
	Whole    bool   // and for all else of the hub
	Rights   Rights // of the policy that signed it; 0 when an identity's own key did
	Expiry   time.Time
}

// Covers says whether the grant lets its bearer act as the identity. One that a
// policy signed for a device covers the device's modules too (section 1.2).
func (g Grant) Covers(id ID) bool {
	switch {
	case g.All:
		return g.Rights&DeviceConnect != 0
	case g.ID == id:
		return g.ID.Device != ""
	}
	return g.Rights != 0 && g.ID == ID{Device: id.Device} && g.ID.Device != ""
}

// CoversService says whether the grant is about what is at the path of a
// service's request. One for all devices covers what is below that word, as far
// as the rights go (section 1.2).
func (g Grant) CoversService(path string) bool {
	return g.Whole || (g.All && (path == "/devices" || strings.HasPrefix(path, "/devices/")))
}

func unauthorized(reason string) *refusal.Error { return refusal.New(401003, reason) }

// Registry is safe for concurrent use.
type Registry struct {
	hosts []string // the names that tokens may be about, in lower case

	watchers []func(Change, Identity)
	clock    func() time.Time

	mu          sync.RWMutex // guards everything below
	identities  map[ID]*Identity
	most        int // identities that fit
	policies    map[string]Policy
	authorities []*x509.Certificate
}

// New returns a registry for a hub that goes by any of hosts.
func New(hosts []string, policies []Policy) *Registry {
	r := &Registry{
		clock:      time.Now,
		identities: make(map[ID]*Identity),
		most:       MaxIdentities,
		policies:   make(map[string]Policy),
	}
	for _, h := range hosts {
		r.hosts = append(r.hosts, strings.ToLower(h))
	}
	for _, p := range policies {
		r.policies[p.Name] = p
	}
	return r
}

// Authenticate checks the text of a token at time now. The error is always a
// *refusal.Error.
func (r *Registry) Authenticate(text string, now time.Time) (Grant, error) {
	t, err := sas.Parse(text)
	if err != nil {
		return Grant{}, refusal.New(400004, err.Error())
	}
	if !now.Before(t.Expiry) {
		return Grant{}, unauthorized("the token has expired")
	}
	res, ok := r.resource(t.Resource)
	if !ok {
		return Grant{}, unauthorized("the token is for another hub")
	}
	if t.Policy != "" {
		return r.byPolicy(t, res)
	}
	return r.byIdentity(t, res)
}

// resource is what a token is about.
type resource struct {
	events bool     // written as the readers of events write it
	path   []string // behind the host
}

// resource takes the text apart; false when its host is not this hub.
func (r *Registry) resource(text string) (res resource, ok bool) {
	scheme, rest, found := strings.Cut(text, "://")
	if !found {
		rest = text
	}
	res.events = found && strings.EqualFold(scheme, "sb")
	host, path, _ := strings.Cut(rest, "/")
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	res.path = strings.FieldsFunc(path, func(c rune) bool { return c == '/' })
	return res, slices.Contains(r.hosts, strings.ToLower(host))
}

func (r *Registry) byPolicy(t sas.Token, res resource) (Grant, error) {
	p := r.Policy(t.Policy)
	if p.Name == "" {
		return Grant{}, unauthorized("no such policy")
	}
	// Readers of events sign with the text of the key, not with its bytes.
	if !signedBy(t, p.PrimaryKey, res.events) && !signedBy(t, p.SecondaryKey, res.events) {
		return Grant{}, unauthorized("the signature is wrong")
	}
	g := Grant{Identity: strings.ToLower(t.Resource), Rights: p.Rights, Expiry: t.Expiry}
	switch {
	case len(res.path) == 0 || (len(res.path) == 1 && strings.EqualFold(res.path[0], "devices")):
		g.All, g.Whole = true, len(res.path) == 0
	case strings.EqualFold(res.path[0], "devices"):
		i, err := r.named(res)
		if err != nil {
			return Grant{}, err
		}
		if p.Rights&DeviceConnect == 0 {
			return Grant{}, refusal.New(401002, "the policy may not connect devices")
		}
		g.ID, g.Identity = i.ID, i.ID.Path()
	}
	return g, nil
}

func (r *Registry) byIdentity(t sas.Token, res resource) (Grant, error) {
	i, err := r.named(res)
	if err != nil {
		return Grant{}, err
	}
	if i.Auth.Type != AuthSAS {
		return Grant{}, unauthorized("the identity does not prove itself by tokens")
	}
	if !signedBy(t, i.Auth.PrimaryKey, false) && !signedBy(t, i.Auth.SecondaryKey, false) {
		return Grant{}, unauthorized("the signature is wrong")
	}
	return Grant{Identity: i.ID.Path(), ID: i.ID, Expiry: t.Expiry}, nil
}

// signedBy checks the signature against a key in Base64, and against the text of
// the key too when asText is set.
func signedBy(t sas.Token, key string, asText bool) bool {
	b, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(b) == 0 {
		return false
	}
	return t.SignedBy(b) || (asText && t.SignedBy([]byte(key)))
}

// named returns the identity that a resource names. What follows the ids, such
// as an api-version, does not matter.
func (r *Registry) named(res resource) (Identity, error) {
	if len(res.path) < 2 || !strings.EqualFold(res.path[0], "devices") {
		return Identity{}, unauthorized("the token names no device")
	}
	id := ID{Device: res.path[1]}
	if len(res.path) > 3 && strings.EqualFold(res.path[2], "modules") {
		id.Module = res.path[3]
	}
	i, err := r.Find(id)
	if err != nil {
		i, err = r.Find(ID{unescape(id.Device), unescape(id.Module)})
	}
	if err != nil {
		return Identity{}, missing(id)
	}
	return i, r.MayConnect(i.ID)
}

// MayConnect refuses an identity whose device is disabled, the device itself
// among them.
func (r *Registry) MayConnect(id ID) error {
	if owner, ok := r.Get(ID{Device: id.Device}); !ok || owner.Disabled {
		return &refusal.Error{Code: 401003, Name: "DeviceDisabled", Message: "403012: the device is disabled"}
	}
	return nil
}

// unescape decodes percent escapes; text that has broken ones stays.
func unescape(text string) string {
	if decoded, err := url.PathUnescape(text); err == nil {
		return decoded
	}
	return text
}

// AuthMethod is how the bearer proved itself, as events carry it (section 5.9).
func (g Grant) AuthMethod() string {
	if g.Rights != 0 {
		return `{"scope":"hub","type":"sas","issuer":"iothub"}`
	}
	return `{"scope":"device","type":"sas","issuer":"iothub"}`
}
