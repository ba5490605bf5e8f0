package pairing

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Thumbprint is the SHA-1 or SHA-256 hash of a leaf's certificate, as the hub
// keeps them. The zero Thumbprint matches nothing.
type Thumbprint struct{ hash string } // of bytes; comparable

// ParseThumbprint reads hexadecimal digits, in any case, with or without colons
// between them.
func ParseThumbprint(text string) (Thumbprint, error) {
	hash, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(text), ":", ""))
	if err != nil || len(hash) != sha1.Size && len(hash) != sha256.Size {
		return Thumbprint{}, fmt.Errorf("%q is no thumbprint: write the SHA-1 (40 digits) or SHA-256 (64 digits) of the certificate in hexadecimal", text)
	}
	return Thumbprint{string(hash)}, nil
}

// IsZero says that there is none.
func (p Thumbprint) IsZero() bool { return p.hash == "" }

func (p Thumbprint) matches(c *x509.Certificate) bool {
	switch len(p.hash) {
	case sha1.Size: // not for its strength: it is what the hub's portal shows
		sum := sha1.Sum(c.Raw)
		return subtle.ConstantTimeCompare(sum[:], []byte(p.hash)) == 1
	case sha256.Size:
		sum := sha256.Sum256(c.Raw)
		return subtle.ConstantTimeCompare(sum[:], []byte(p.hash)) == 1
	}
	return false
}

// SetAuthority sets whose signatures on certificates are believed: the common name
// of such a certificate is a leaf's id. nil is nobody. Who is logged in stays so.
func (t *Table) SetAuthority(authority *x509.CertPool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.authority = authority
}

// WantsCertificates says whether any leaf may log in with a certificate.
func (t *Table) WantsCertificates() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.authority != nil || t.pinned > 0
}

// CheckCertificate returns nil if a leaf may connect with the certificates that
// it has shown, its own first, then intermediates. That it holds the key of the
// first is for the caller to know. A certificate whose thumbprint the table has
// is good as long as the table says so, whatever is written in it, as at the hub.
// Another one must be signed by the authority and name the leaf; it is good until
// expiry, which is not judged while now is not to be trusted.
func (t *Table) CheckCertificate(id string, shown []*x509.Certificate, now gateway.Instant) (expiry time.Time, err error) {
	t.mu.RLock()
	leaf, known := t.leaves[id]
	authority := t.authority
	t.mu.RUnlock()
	if len(shown) == 0 {
		return time.Time{}, ErrCredentials
	}
	first := shown[0]
	pinned := leaf.Thumbprints[0].matches(first) || leaf.Thumbprints[1].matches(first)
	if !pinned {
		if err := verify(authority, id, shown, now); err != nil {
			return time.Time{}, err
		}
		expiry = first.NotAfter
	}
	if !known || leaf.Disabled {
		return time.Time{}, ErrUnknown
	}
	if !expiry.IsZero() && now.Quality != gateway.Unsynced && !now.Wall.Before(expiry) {
		return time.Time{}, ErrExpired
	}
	return expiry, nil
}

// verify checks a certificate that is signed by the authority, nil for nobody.
func verify(authority *x509.CertPool, id string, shown []*x509.Certificate, now gateway.Instant) error {
	first := shown[0]
	if authority == nil || first.Subject.CommonName != id {
		return ErrCredentials
	}
	opts := x509.VerifyOptions{
		Roots: authority, Intermediates: x509.NewCertPool(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		// Its end is judged apart, so that a leaf whose certificate has expired can
		// be told so in the log.
		CurrentTime: now.Wall,
	}
	if now.Quality == gateway.Unsynced || now.Wall.After(first.NotAfter) {
		opts.CurrentTime = first.NotAfter
	}
	for _, c := range shown[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := first.Verify(opts); err != nil {
		return fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	return nil
}
