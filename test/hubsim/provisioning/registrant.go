package provisioning

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// Proof is what a device shows to be believed: a token, or a certificate.
type Proof struct {
	Token        string
	Certificates []*x509.Certificate // of TLS, leaf first
}

// Registrant is a device that has proved who it is. It is safe for concurrent
// use.
type Registrant struct {
	service  *Service
	id       string // as the device wrote it
	deviceID string // that it shall have in the hub
	auth     registry.Auth
	group    string // of the enrolment group; "" when enrolled by itself
	disabled bool
	payload  []byte    // for the device, JSON
	expiry   time.Time // of the token; zero when it proved itself by certificate
}

// ID returns the registration id.
func (r *Registrant) ID() string { return r.id }

// Identify checks that a device is the one with the registration id. The error
// is always a *refusal.Error: 401002 for a proof that is none, 404201 for the
// scope of another service.
func (s *Service) Identify(scope, id string, proof Proof) (*Registrant, error) {
	if !strings.EqualFold(scope, s.cfg.IDScope) {
		return nil, notFound("no such id scope: " + scope)
	}
	if err := checkID(id); err != nil {
		return nil, err
	}
	r, err := s.enrolled(id)
	if err != nil {
		return nil, err
	}
	if r.auth.Type == registry.AuthSelfSigned {
		return r, r.checkCertificate(proof.Certificates)
	}
	return r, r.checkToken(proof.Token)
}

// enrolled finds the enrolment of a device: its own, else that of the group.
func (s *Service) enrolled(id string) (*Registrant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.enrolments[lookup(id)]; ok {
		r := &Registrant{
			service: s, id: id, deviceID: e.DeviceID, disabled: e.Disabled, payload: e.Payload,
			auth: registry.Auth{Type: registry.AuthSAS, PrimaryKey: e.PrimaryKey, SecondaryKey: e.SecondaryKey},
		}
		if e.Thumbprint != "" {
			r.auth = registry.Auth{Type: registry.AuthSelfSigned, PrimaryThumbprint: e.Thumbprint}
		}
		return r, nil
	}
	r := &Registrant{service: s, id: id, deviceID: id, group: s.group.ID, disabled: s.group.Disabled}
	r.auth.Type = registry.AuthSAS
	for _, derived := range []struct {
		from string
		to   *string
	}{{s.group.PrimaryKey, &r.auth.PrimaryKey}, {s.group.SecondaryKey, &r.auth.SecondaryKey}} {
		if derived.from == "" {
			continue
		}
		key, err := DeriveKey(derived.from, id)
		if err != nil {
			return nil, err
		}
		*derived.to = key
	}
	return r, nil
}

// checkToken checks a token for {scope}/registrations/{id} (section 1.2). The
// name of the policy in it, which is always "registration", says nothing.
func (r *Registrant) checkToken(text string) error {
	t, err := sas.Parse(text)
	if err != nil {
		return unauthorized(err.Error())
	}
	if !r.isAbout(t.Resource) {
		return unauthorized("the token is for another registration")
	}
	if !signedBy(t, r.auth.PrimaryKey) && !signedBy(t, r.auth.SecondaryKey) {
		return unauthorized("the signature is wrong")
	}
	r.expiry = t.Expiry
	return r.checkExpiry()
}

func (r *Registrant) isAbout(resource string) bool {
	scope, id, ok := parseAddress(resource)
	return ok && strings.EqualFold(scope, r.service.cfg.IDScope) && lookup(id) == lookup(r.id)
}

// checkExpiry is asked again at each request of a connection.
func (r *Registrant) checkExpiry() error {
	if r.expiry.IsZero() || r.service.hub.Faults.Now().Before(r.expiry) {
		return nil
	}
	return unauthorized("the token has expired")
}

func signedBy(t sas.Token, key string) bool {
	b, err := base64.StdEncoding.DecodeString(key)
	return err == nil && t.SignedBy(b)
}

// checkCertificate compares what the device showed in TLS with its enrolment.
func (r *Registrant) checkCertificate(chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return unauthorized("there is no certificate")
	}
	short, long := sha1.Sum(chain[0].Raw), sha256.Sum256(chain[0].Raw)
	want := strings.ToLower(r.auth.PrimaryThumbprint)
	if hex.EncodeToString(short[:]) != want && hex.EncodeToString(long[:]) != want {
		return unauthorized("the certificate is another one")
	}
	return nil
}

func unauthorized(reason string) *refusal.Error { return refusal.New(401002, reason) }

// notFound is the service's own 404, whose number its users have met; it has
// more of them, which tell cases apart that are one here.
func notFound(reason string) *refusal.Error {
	return &refusal.Error{Code: 404201, Name: "NotFound", Message: reason}
}
