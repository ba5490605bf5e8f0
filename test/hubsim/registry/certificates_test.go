package registry

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry/x509test"
)

func chain(list ...*x509test.Certificate) (c []*x509.Certificate) {
	for _, one := range list {
		c = append(c, one.Certificate)
	}
	return c
}

func create(t *testing.T, r *Registry, i Identity) {
	t.Helper()
	if _, err := r.Create(i); err != nil {
		t.Fatal(err)
	}
}

// A certificate proves its identity when the thumbprint is known, whichever of
// the two hashes and of the two places it is in.
func TestThumbprints(t *testing.T) {
	r := New([]string{"hub.test"}, nil)
	first, second := x509test.New(t, x509test.Wish{}), x509test.New(t, x509test.Wish{})
	over := x509test.New(t, x509test.Wish{Validity: time.Minute})
	short, long, old := sha1.Sum(first.Raw), sha256.Sum256(second.Raw), sha1.Sum(over.Raw)
	create(t, r, Identity{ID: ID{Device: "d"}, Auth: Auth{
		Type:                AuthSelfSigned,
		PrimaryThumbprint:   strings.ToUpper(hex.EncodeToString(short[:])),
		SecondaryThumbprint: hex.EncodeToString(long[:]),
	}})
	create(t, r, Identity{ID: ID{Device: "old"}, Auth: Auth{Type: AuthSelfSigned, PrimaryThumbprint: hex.EncodeToString(old[:])}})
	create(t, r, Identity{ID: ID{Device: "keys"}})
	create(t, r, Identity{ID: ID{Device: "off"}, Disabled: true, Auth: Auth{Type: AuthSelfSigned, PrimaryThumbprint: hex.EncodeToString(short[:])}})

	for _, c := range []struct {
		what, device string
		chain        []*x509.Certificate
		code         int
	}{
		{"primary, SHA-1", "d", chain(first), 0},
		{"secondary, SHA-256", "d", chain(second), 0},
		{"another one", "d", chain(over), 401003},
		{"the right one behind another", "d", chain(over, first), 401003},
		{"none", "d", nil, 401003},
		{"not valid any more", "old", chain(over), 401003},
		{"an identity with keys", "keys", chain(first), 401003},
		{"a disabled device", "off", chain(first), 401003},
		{"nobody", "ghost", chain(first), 404001},
	} {
		method, err := r.AuthenticateCertificate(c.chain, ID{Device: c.device})
		if c.code == 0 {
			if err != nil || method != `{"scope":"device","type":"x509Certificate","issuer":"external"}` {
				t.Errorf("%s: got %q, %v", c.what, method, err)
			}
		} else if !refusal.Is(err, c.code) {
			t.Errorf("%s: got %v, want %d", c.what, err, c.code)
		}
	}
}

// A certificate of an authority proves the identity that it names.
func TestAuthorities(t *testing.T) {
	r := New([]string{"hub.test"}, nil)
	root := x509test.New(t, x509test.Wish{Name: "root", CA: true})
	factory := x509test.New(t, x509test.Wish{Name: "factory", CA: true, Signer: root})
	stranger := x509test.New(t, x509test.Wish{Name: "root", CA: true})
	if err := r.AddAuthority(root.Certificate); err != nil {
		t.Fatal(err)
	}
	create(t, r, Identity{ID: ID{Device: "d"}, Auth: Auth{Type: AuthAuthority}})
	create(t, r, Identity{ID: ID{"d", "m"}, Auth: Auth{Type: AuthAuthority}})
	direct := x509test.New(t, x509test.Wish{Name: "d", Signer: root})
	below := x509test.New(t, x509test.Wish{Name: "d/m", Signer: factory})
	forged := x509test.New(t, x509test.Wish{Name: "d", Signer: stranger})
	over := x509test.New(t, x509test.Wish{Name: "d", Signer: root, Validity: time.Minute})

	device, module := ID{Device: "d"}, ID{"d", "m"}
	for _, c := range []struct {
		what  string
		id    ID
		chain []*x509.Certificate
		good  bool
	}{
		{"signed by the root", device, chain(direct), true},
		{"with the root behind it", device, chain(direct, root), true},
		{"a module below a factory", module, chain(below, factory), true},
		{"without the one between", module, chain(below), false},
		{"for another identity", module, chain(direct), false},
		{"of a stranger of the same name", device, chain(forged, stranger), false},
		{"not valid any more", device, chain(over), false},
		{"an authority itself", device, chain(root), false},
	} {
		method, err := r.AuthenticateCertificate(c.chain, c.id)
		if c.good {
			if err != nil || method != `{"scope":"device","type":"x509CertificateAuthority","issuer":"external"}` {
				t.Errorf("%s: got %q, %v", c.what, method, err)
			}
		} else if !refusal.Is(err, 401003) {
			t.Errorf("%s: got %v, want 401003", c.what, err)
		}
	}

	// The hub's own clock counts.
	r.SetClock(func() time.Time { return time.Now().Add(-59*time.Minute - 30*time.Second) })
	if _, err := r.AuthenticateCertificate(chain(over), device); err != nil {
		t.Errorf("while it was valid: %v", err)
	}
	r.SetClock(func() time.Time { return time.Now().Add(24 * time.Hour) })
	if _, err := r.AuthenticateCertificate(chain(direct), device); !refusal.Is(err, 401003) {
		t.Errorf("tomorrow: got %v, want 401003", err)
	}
}

func TestAuthorityLimit(t *testing.T) {
	r := New([]string{"hub.test"}, nil)
	first := x509test.New(t, x509test.Wish{CA: true})
	for range 24 {
		if err := r.AddAuthority(x509test.New(t, x509test.Wish{CA: true}).Certificate); err != nil {
			t.Fatal(err)
		}
	}
	for what, err := range map[string]error{
		"the 25th":       r.AddAuthority(first.Certificate),
		"the 25th again": r.AddAuthority(first.Certificate),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := r.AddAuthority(x509test.New(t, x509test.Wish{CA: true}).Certificate); !refusal.Is(err, 400004) {
		t.Errorf("the 26th: got %v, want 400004", err)
	}
	if !r.RemoveAuthority(first.Certificate) || r.RemoveAuthority(first.Certificate) {
		t.Error("an authority goes once")
	}
	create(t, r, Identity{ID: ID{Device: "d"}, Auth: Auth{Type: AuthAuthority}})
	orphan := x509test.New(t, x509test.Wish{Name: "d", Signer: first})
	if _, err := r.AuthenticateCertificate(chain(orphan), ID{Device: "d"}); !refusal.Is(err, 401003) {
		t.Errorf("signed by the one that went: got %v", err)
	}
	if err := r.AddAuthority(x509test.New(t, x509test.Wish{}).Certificate); !refusal.Is(err, 400004) {
		t.Errorf("not an authority: got %v, want 400004", err)
	}
}

// Certificates and keys do not mix: what does not belong to the type goes, and
// no token is good for an identity with certificates.
func TestCertificateIdentityHasNoKeys(t *testing.T) {
	r := bench(t)
	thumbprint := strings.Repeat("ab", sha1.Size)
	made, err := r.Create(Identity{ID: ID{Device: "d"}, Auth: Auth{Type: AuthSelfSigned, PrimaryKey: pumpKey, PrimaryThumbprint: thumbprint}})
	if err != nil || made.Auth != (Auth{Type: AuthSelfSigned, PrimaryThumbprint: thumbprint}) {
		t.Errorf("got %+v, %v", made.Auth, err)
	}
	if _, err := r.Authenticate(signed(t, "hub.test/devices/d", "", pumpKey), time.Unix(1_999_999_999, 0)); !refusal.Is(err, 401003) {
		t.Errorf("token: got %v, want 401003", err)
	}
	if _, err := r.Authenticate(signed(t, "hub.test/devices/d", "device", policyKey), time.Unix(1_999_999_999, 0)); err != nil {
		t.Errorf("token of a policy: %v", err)
	}
	made, err = r.Update(Identity{ID: ID{Device: "d"}, Auth: Auth{Type: AuthSAS, PrimaryKey: pumpKey, PrimaryThumbprint: thumbprint}}, "*")
	if err != nil || made.Auth.PrimaryThumbprint != "" || made.Auth.PrimaryKey != pumpKey || made.Auth.SecondaryKey == "" {
		t.Errorf("back to keys: got %+v, %v", made.Auth, err)
	}
}
