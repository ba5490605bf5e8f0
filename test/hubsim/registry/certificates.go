package registry

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// maxAuthorities is how many certificate authorities a hub trusts (section 1.5).
const maxAuthorities = 25

// How an identity proved itself by certificate, as events carry it (section
// 5.9).
const (
	methodSelfSigned = `{"scope":"device","type":"x509Certificate","issuer":"external"}`
	methodAuthority  = `{"scope":"device","type":"x509CertificateAuthority","issuer":"external"}`
)

// SetClock makes certificates count as valid by this clock instead of the
// machine's. Call it before the registry is used.
func (r *Registry) SetClock(now func() time.Time) { r.clock = now }

// AddAuthority lets identities of type AuthAuthority prove themselves by chains
// that end in ca, which may be a root or below one. Adding it again changes
// nothing. It fails with 400004 when ca is no authority, or one too many.
func (r *Registry) AddAuthority(ca *x509.Certificate) error {
	if !ca.IsCA {
		return refusal.New(400004, "the certificate is not one of an authority")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.ContainsFunc(r.authorities, ca.Equal) {
		return nil
	}
	if len(r.authorities) == maxAuthorities {
		return refusal.New(400004, fmt.Sprintf("a hub has at most %d certificate authorities", maxAuthorities))
	}
	r.authorities = append(r.authorities, ca)
	return nil
}

// RemoveAuthority ends the trust in ca; false when there was none. Connections
// that it let in stay.
func (r *Registry) RemoveAuthority(ca *x509.Certificate) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := slices.IndexFunc(r.authorities, ca.Equal)
	if n < 0 {
		return false
	}
	r.authorities = slices.Delete(r.authorities, n, n+1)
	return true
}

// AuthenticateCertificate checks that a TLS client with this verified-by-nobody
// chain, leaf first, is the identity (section 1.5), and returns how it proved
// itself, as events carry it. The error is always a *refusal.Error.
func (r *Registry) AuthenticateCertificate(chain []*x509.Certificate, id ID) (method string, err error) {
	i, err := r.Find(id)
	if err != nil {
		return "", err
	}
	if err := r.MayConnect(i.ID); err != nil {
		return "", err
	}
	if len(chain) == 0 {
		return "", unauthorized("there is no certificate")
	}
	switch i.Auth.Type {
	case AuthSelfSigned:
		method, err = methodSelfSigned, i.Auth.checkThumbprint(chain[0], r.clock())
	case AuthAuthority:
		method, err = methodAuthority, r.checkChain(chain, i.ID)
	default:
		err = unauthorized("the identity does not prove itself by certificate")
	}
	if err != nil {
		return "", err
	}
	return method, nil
}

// checkThumbprint compares the certificate with the two that the identity may
// show. Nobody stands behind it, so only its own dates can end its life.
func (a Auth) checkThumbprint(leaf *x509.Certificate, now time.Time) error {
	short, long := sha1.Sum(leaf.Raw), sha256.Sum256(leaf.Raw)
	shown := []string{hex.EncodeToString(short[:]), hex.EncodeToString(long[:])}
	known := func(thumbprint string) bool { return slices.Contains(shown, strings.ToLower(thumbprint)) }
	if !known(a.PrimaryThumbprint) && !known(a.SecondaryThumbprint) {
		return unauthorized("the certificate is another one")
	}
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return unauthorized("the certificate is not valid now")
	}
	return nil
}

// checkChain looks for a way from the certificate to an authority of the hub.
// Nobody asks whether it was revoked.
func (r *Registry) checkChain(chain []*x509.Certificate, id ID) error {
	if name := chain[0].Subject.CommonName; name != id.String() {
		return unauthorized(fmt.Sprintf("the certificate is for %q", name))
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	r.mu.RLock()
	for _, ca := range r.authorities {
		roots.AddCert(ca)
	}
	r.mu.RUnlock()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: r.clock(),
		// Devices' certificates carry all sorts of purposes, and none.
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return unauthorized("the certificate cannot be trusted: " + err.Error())
	}
	return nil
}
