// Package x509test makes certificates for tests of identities that prove
// themselves by certificate.
package x509test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// Certificate is a certificate with its key. It does not change.
type Certificate struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

// Wish is what a certificate is to be. The zero value is one for a client that
// signs itself and is valid now.
type Wish struct {
	Name     string       // the subject's common name
	Signer   *Certificate // nil: itself
	CA       bool
	Validity time.Duration // from an hour ago; default two hours, so one hour is over now
}

// New makes a certificate.
func New(t testing.TB, w Wish) *Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		t.Fatal(err)
	}
	if w.Validity == 0 {
		w.Validity = 2 * time.Hour
	}
	start := time.Now().Add(-time.Hour)
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: w.Name},
		NotBefore:    start, NotAfter: start.Add(w.Validity),
		BasicConstraintsValid: true,
		IsCA:                  w.CA,
		KeyUsage:              x509.KeyUsageDigitalSignature,
	}
	if w.CA {
		template.KeyUsage = x509.KeyUsageCertSign
	}
	parent, signer := template, key
	if w.Signer != nil {
		parent, signer = w.Signer.Certificate, w.Signer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Certificate{c, key}
}

// PEM returns the certificate and its key in the forms that clients read.
func (c *Certificate) PEM(t testing.TB) (certificate, key []byte) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
