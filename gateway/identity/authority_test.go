package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/gateway/identity"
)

func newSigningRequest(t *testing.T) *x509.CertificateRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, new(x509.CertificateRequest), key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// What it signs is a client's certificate for that leaf and nothing else, also after a
// restart and a rotation.
func TestAuthority(t *testing.T) {
	var kept string
	keep := func(text string) error { kept = text; return nil }
	open := func() *identity.Authority {
		a, err := identity.OpenAuthority("gate-7", kept, keep)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	certificates := func() string {
		text, err := open().Certificates()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	first := certificates()
	if again := certificates(); again != first || strings.Count(first, "BEGIN CERTIFICATE") != 1 {
		t.Errorf("after a restart it is another one: %s", again)
	}
	csr := newSigningRequest(t)
	chain, print, err := open().Sign("pump-1", csr)
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode([]byte(chain))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != "pump-1" || cert.IsCA || sha256.Sum256(cert.Raw) != print || string(rest) != first {
		t.Errorf("the certificate is %+v", cert)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(first))
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots}); err == nil {
		t.Error("it is good for a server as well")
	}
	if err := open().Rotate(); err != nil {
		t.Fatal(err)
	}
	if text := certificates(); !strings.HasSuffix(text, first) || strings.Count(text, "BEGIN CERTIFICATE") != 2 {
		t.Errorf("after a rotation it shows %s", text)
	}
	if strings.Contains(certificates(), "PRIVATE") {
		t.Error("it shows its key")
	}

	// A key that cannot be kept is not used.
	a, err := identity.OpenAuthority("gate-7", kept, func(string) error { return errors.New("flash is full") })
	if err != nil {
		t.Fatal(err)
	}
	before, _ := a.Certificates()
	if after, _ := a.Certificates(); a.Rotate() == nil || after != before {
		t.Error("it was rotated, and that is not on flash")
	}
	for _, text := range []string{"x", first, strings.Replace(kept, "MI", "MJ", 1), kept[:strings.Index(kept, "-----BEGIN CERTIFICATE")]} {
		if _, err := identity.OpenAuthority("gate-7", text, keep); err == nil {
			t.Errorf("%.40q is taken for an authority", text)
		}
	}
}
