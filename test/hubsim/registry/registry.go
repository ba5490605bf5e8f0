// Package registry knows the hub's identities: its devices, its policies, their
// keys, and which token lets whom do what (wire contract, sections 1.1 to 1.3).
package registry

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/sas"
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

// Policy is a named key with rights.
type Policy struct {
	Name   string
	Key    string // Base64
	Rights Rights
}

// PolicyRights are the policies that every hub starts with (section 1.3).
var PolicyRights = map[string]Rights{
	"iothubowner":       RegistryRead | RegistryWrite | ServiceConnect | DeviceConnect,
	"service":           ServiceConnect,
	"device":            DeviceConnect,
	"registryRead":      RegistryRead,
	"registryReadWrite": RegistryRead | RegistryWrite,
}

// Device is one identity.
type Device struct {
	ID           string
	Generation   string
	PrimaryKey   string // Base64
	SecondaryKey string // Base64
	Disabled     bool
}

// NewKey returns a random key of 32 bytes in Base64.
func NewKey() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.StdEncoding.EncodeToString(b[:])
}

// Grant is what a good token allows.
type Grant struct {
	Identity string // what the token is about, the unit in which tokens are counted and renewed
	Device   string // the one device it speaks for; "" when it is not about one
	All      bool   // it speaks for every device
	Rights   Rights // of the policy that signed it
	Expiry   time.Time
}

// Covers says whether the grant lets its bearer act as the device.
func (g Grant) Covers(device string) bool {
	return (g.All && g.Rights&DeviceConnect != 0) || (g.Device != "" && g.Device == device)
}

// Refusal is why a token is not accepted.
type Refusal struct {
	Status int // as HTTP has them: 400, 401, 404
	Code   int // the hub's own number (section 6.3)
	Reason string
}

// Error gives the number and the reason.
func (r *Refusal) Error() string { return fmt.Sprintf("%d: %s", r.Code, r.Reason) }

func unauthorized(reason string) *Refusal { return &Refusal{401, 401003, reason} }

// Registry is safe for concurrent use.
type Registry struct {
	hosts []string // the names that tokens may be about, in lower case

	mu       sync.RWMutex // guards everything below
	devices  map[string]*Device
	policies map[string]Policy
}

// New returns a registry for a hub that goes by any of hosts.
func New(hosts []string, policies []Policy) *Registry {
	r := &Registry{devices: make(map[string]*Device), policies: make(map[string]Policy)}
	for _, h := range hosts {
		r.hosts = append(r.hosts, strings.ToLower(h))
	}
	for _, p := range policies {
		r.policies[p.Name] = p
	}
	return r
}

// Put adds a device or replaces it. Empty keys and generation are made up.
func (r *Registry) Put(d Device) Device {
	for _, key := range []*string{&d.PrimaryKey, &d.SecondaryKey} {
		if *key == "" {
			*key = NewKey()
		}
	}
	if d.Generation == "" {
		var b [9]byte
		_, _ = rand.Read(b[:]) // never fails
		d.Generation = hex.EncodeToString(b[:])
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.devices[d.ID] = &d
	return d
}

// Device returns a copy of the device with the id.
func (r *Registry) Device(id string) (Device, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	d, ok := r.devices[id]
	if !ok {
		return Device{}, false
	}
	return *d, true
}

// Devices returns copies of all devices, sorted by id.
func (r *Registry) Devices() []Device {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var list []Device
	for _, id := range slices.Sorted(maps.Keys(r.devices)) {
		list = append(list, *r.devices[id])
	}
	return list
}

// SetEnabled changes whether the device may connect; false when there is no
// such device.
func (r *Registry) SetEnabled(id string, enabled bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, ok := r.devices[id]
	if ok {
		d.Disabled = !enabled
	}
	return ok
}

// Policy returns the policy with the name.
func (r *Registry) Policy(name string) Policy {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.policies[name]
}

// Authenticate checks the text of a token at time now. The error is always a
// *Refusal.
func (r *Registry) Authenticate(text string, now time.Time) (Grant, error) {
	t, err := sas.Parse(text)
	if err != nil {
		return Grant{}, &Refusal{400, 400004, err.Error()}
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
	return r.byDevice(t, res)
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
	key, err := base64.StdEncoding.DecodeString(p.Key)
	if p.Name == "" || err != nil {
		return Grant{}, unauthorized("no such policy")
	}
	// Readers of events sign with the text of the key, not with its bytes.
	if !t.SignedBy(key) && (!res.events || !t.SignedBy([]byte(p.Key))) {
		return Grant{}, unauthorized("the signature is wrong")
	}
	g := Grant{Identity: strings.ToLower(t.Resource), Rights: p.Rights, Expiry: t.Expiry}
	switch {
	case len(res.path) == 0 || (len(res.path) == 1 && strings.EqualFold(res.path[0], "devices")):
		g.All = true
	case strings.EqualFold(res.path[0], "devices"):
		d, refusal := r.named(res)
		if refusal != nil {
			return Grant{}, refusal
		}
		if p.Rights&DeviceConnect == 0 {
			return Grant{}, &Refusal{401, 401002, "the policy may not connect devices"}
		}
		g.Device, g.Identity = d.ID, deviceIdentity(d.ID)
	}
	return g, nil
}

func (r *Registry) byDevice(t sas.Token, res resource) (Grant, error) {
	d, refusal := r.named(res)
	if refusal != nil {
		return Grant{}, refusal
	}
	for _, text := range []string{d.PrimaryKey, d.SecondaryKey} {
		if key, err := base64.StdEncoding.DecodeString(text); err == nil && t.SignedBy(key) {
			return Grant{Identity: deviceIdentity(d.ID), Device: d.ID, Expiry: t.Expiry}, nil
		}
	}
	return Grant{}, unauthorized("the signature is wrong")
}

func deviceIdentity(id string) string { return "devices/" + id }

// named returns the device that a resource names. What follows the id, such as
// an api-version, does not matter.
func (r *Registry) named(res resource) (Device, error) {
	if len(res.path) < 2 || !strings.EqualFold(res.path[0], "devices") {
		return Device{}, unauthorized("the token names no device")
	}
	if len(res.path) > 3 && strings.EqualFold(res.path[2], "modules") {
		return Device{}, &Refusal{404, 404010, "no such module"}
	}
	d, ok := r.Device(res.path[1])
	if !ok {
		if id, err := url.PathUnescape(res.path[1]); err == nil {
			d, ok = r.Device(id)
		}
	}
	switch {
	case !ok:
		return Device{}, &Refusal{404, 404001, "no such device"}
	case d.Disabled:
		return Device{}, &Refusal{401, 403012, "the device is disabled"}
	}
	return d, nil
}
