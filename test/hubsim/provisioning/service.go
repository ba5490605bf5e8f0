// Package provisioning assigns devices that know no hub yet to one: the device
// registers with the key of an enrolment, polls until it is assigned, and is told
// the hub and its device id (wire contract, section 8). The hub it is assigned to
// is always the one that the service was made for; on assignment the identity is
// put into the hub's registry with the device's key.
//
// Its words are those of the real service. An enrolment is what the operator has
// entered: a group whose devices derive their keys from the group's, or one
// device by itself. A registration is what became of a device that has asked. A
// registrant is a device that has proved who it is, on one connection or
// request. An operation is one run of the assignment, which the device polls.
//
// Enrolments are made in Go, not over HTTPS. Trusted platform modules, groups with
// a certificate authority, initial twins and assignment by code of the operator's
// are left out.
//
// The routes of HTTPS, MQTT and AMQP each have a file. They share the listeners of
// the hub; Path, Owns and Beside tell a registrant from the hub's own clients.
package provisioning

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// DefaultRetryAfter is how long a device is asked to wait before it polls. The
// real service says three seconds; a bench has less time.
const DefaultRetryAfter = time.Second

// Config is what a service is made with.
type Config struct {
	IDScope    string        // names the service to devices; see NewIDScope
	Group      Group         // the one enrolment group
	Polls      int           // polls that are answered with assigning before the one that assigns; default 0
	RetryAfter time.Duration // between polls, whole seconds; default DefaultRetryAfter
}

// Group is an enrolment group with symmetric keys.
type Group struct {
	ID           string
	PrimaryKey   string // Base64 of 16 to 64 bytes
	SecondaryKey string // Base64; "" for none
	Disabled     bool
}

// Enrolment is the enrolment of one device. It counts before the group.
type Enrolment struct {
	RegistrationID string
	DeviceID       string // in the hub; default RegistrationID
	PrimaryKey     string // Base64; "" has one made up
	SecondaryKey   string // as PrimaryKey
	Thumbprint     string // of the certificate, hex of SHA-1 or SHA-256; "" for symmetric keys
	Disabled       bool
	Payload        json.RawMessage // returned to the device on assignment; nil for none
}

// Service is a provisioning service. It is safe for concurrent use.
type Service struct {
	hub      *hub.Hub
	cfg      Config
	requests *http.ServeMux

	mu            sync.Mutex // guards everything below
	group         Group
	enrolments    map[string]Enrolment     // by lookup key
	registrations map[string]*registration // by lookup key
	throttled     int                      // requests yet to be refused
	open          map[*mqtt.Conn]struct{}
	closed        bool
}

// New returns the service that assigns devices to h.
func New(h *hub.Hub, cfg Config) *Service {
	cfg.RetryAfter = cmp.Or(cfg.RetryAfter, DefaultRetryAfter)
	s := &Service{
		hub: h, cfg: cfg, group: cfg.Group,
		enrolments:    make(map[string]Enrolment),
		registrations: make(map[string]*registration),
		open:          make(map[*mqtt.Conn]struct{}),
	}
	s.requests = s.httpRequests()
	return s
}

// NewIDScope makes up an id scope in the form of the real ones.
func NewIDScope() string { return scopePrefix + strings.ToUpper(randomHex(4)) }

// scopePrefix is how every id scope begins.
const scopePrefix = "0ne"

// IDScope returns what devices must be told to find this service.
func (s *Service) IDScope() string { return s.cfg.IDScope }

// Group returns the enrolment group.
func (s *Service) Group() Group {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.group
}

// SetGroup replaces the enrolment group. Devices that are assigned stay so.
func (s *Service) SetGroup(g Group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.group = g
}

// Enrol adds the enrolment of one device, or replaces it, and returns it with
// what was left to the service. It fails with 400004 for an id that cannot be
// one, and for a payload that is not JSON.
func (s *Service) Enrol(e Enrolment) (Enrolment, error) {
	if err := checkID(e.RegistrationID); err != nil {
		return Enrolment{}, err
	}
	if e.Payload != nil && !json.Valid(e.Payload) {
		return Enrolment{}, refusal.New(400004, "the payload is not JSON")
	}
	e.DeviceID = cmp.Or(e.DeviceID, e.RegistrationID)
	if e.Thumbprint == "" {
		e.PrimaryKey = cmp.Or(e.PrimaryKey, registry.NewKey())
		e.SecondaryKey = cmp.Or(e.SecondaryKey, registry.NewKey())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.enrolments[lookup(e.RegistrationID)] = e
	return e, nil
}

// Withdraw removes the enrolment of one device and what was known of its
// registration; false when there is none. The device stays in the hub.
func (s *Service) Withdraw(registrationID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := lookup(registrationID)
	_, ok := s.enrolments[key]
	delete(s.enrolments, key)
	delete(s.registrations, key)
	return ok
}

// ThrottleNext has the next n requests refused with 429.
func (s *Service) ThrottleNext(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.throttled = n
}

// Close ends the MQTT connections of registrants, now and of those who come
// later. Those of AMQP and HTTPS end with the hub's.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	open := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	for _, c := range open {
		c.Close(errClosing)
	}
}

// DeriveKey returns the key of a device of a group: the Base64 of the
// HMAC-SHA256 with the group's key over the registration id (section 8.1).
func DeriveKey(groupKey, registrationID string) (string, error) {
	key, err := base64.StdEncoding.DecodeString(groupKey)
	if err != nil {
		return "", fmt.Errorf("the group's key is not Base64: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(registrationID))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
}

// maxID is how long a registration id may be.
const maxID = 128

// checkID checks a registration id. Section 8.1 has lower-case letters, digits
// and hyphens, and later versions of the service more; all of them are taken.
func checkID(id string) error {
	good := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-._:", c)
	}
	if id == "" || len(id) > maxID || strings.ContainsFunc(id, func(c rune) bool { return !good(c) }) {
		return refusal.New(400004, "not a registration id: "+id)
	}
	return nil
}

// lookup is what a registration id is found by: case does not matter in it.
func lookup(id string) string { return strings.ToLower(id) }

// randomHex returns n random bytes in hex.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
