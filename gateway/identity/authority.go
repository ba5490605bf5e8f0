package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"
)

// Authority is one of the gateway's own authorities: that for certificates of leaves, or
// that for what its listeners show. It is made when it is first needed. Safe for
// concurrent use.
type Authority struct {
	title string
	keep  func(text string) error
	lost  error // why it can do nothing, nil if it can

	mu     sync.Mutex
	key    *ecdsa.PrivateKey // guarded by mu; nil until it is made
	cert   *x509.Certificate // guarded by mu
	former *x509.Certificate // guarded by mu; before the last rotation, nil for none
}

// Certificates of leaves and of authorities say that they never expire (RFC 5280, section 4.1.2.5): when
// they are made the clock may be that of 1970, and what ends one is that the gateway
// does not know it any more.
var (
	certFrom = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	certTo   = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// OpenAuthority makes an authority of the text that keep was given in an earlier
// run, "" for none. Its name is the title and, behind it, what tells it from others of
// that title. keep must have the text, which holds its key, on flash when it returns.
func OpenAuthority(title, text string, keep func(text string) error) (*Authority, error) {
	a := &Authority{title: title, keep: keep}
	if text == "" {
		return a, nil
	}
	var certs []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch block.Type {
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, errors.New("the key of the authority cannot be read")
			}
			a.key, _ = key.(*ecdsa.PrivateKey)
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("the certificate of the authority cannot be read: %w", err)
			}
			certs = append(certs, c)
		}
	}
	if a.key == nil || len(certs) == 0 || !a.key.PublicKey.Equal(certs[0].PublicKey) {
		return nil, errors.New("the authority has no certificate for its key")
	}
	a.cert = certs[0]
	if len(certs) > 1 {
		a.former = certs[1]
	}
	return a, nil
}

// LostAuthority is one that cannot be read: whatever needs its key fails with that
// reason, and no other takes its place.
func LostAuthority(why error) *Authority { return &Authority{lost: why} }

// Sign makes a certificate with which the holder of the key of csr can log in as that
// leaf; of csr nothing else counts. It returns the chain in PEM form, and the SHA-256
// of the certificate.
func (a *Authority) Sign(leaf string, csr *x509.CertificateRequest) (chain string, thumbprint [sha256.Size]byte, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.signLocked(&x509.Certificate{
		Subject: pkix.Name{CommonName: leaf}, NotBefore: certFrom, NotAfter: certTo, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, csr.PublicKey)
}

// SignServer makes a certificate with which the holder of a key proves that it is the
// server of those names, which are host names or IP addresses; there must be at least
// one. It returns the chain in PEM form.
func (a *Authority) SignServer(key crypto.PublicKey, names []string, from, to time.Time) (chain string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: names[0]}, NotBefore: from, NotAfter: to, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	template.DNSNames, template.IPAddresses = SplitNames(names)
	chain, _, err = a.signLocked(template, key)
	return chain, err
}

// SplitNames tells host names from IP addresses.
func SplitNames(names []string) (hosts []string, addresses []net.IP) {
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			addresses = append(addresses, ip)
		} else {
			hosts = append(hosts, name)
		}
	}
	return hosts, addresses
}

// Signed says whether the authority has signed a certificate, with the key that it has
// now. Where there is no authority yet it has signed none.
func (a *Authority) Signed(c *x509.Certificate) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cert != nil && c.CheckSignatureFrom(a.cert) == nil
}

// signLocked signs what stands in the template, for whoever has the key.
func (a *Authority) signLocked(template *x509.Certificate, key crypto.PublicKey) (chain string, thumbprint [sha256.Size]byte, err error) {
	if err := a.makeLocked(); err != nil {
		return "", thumbprint, err
	}
	template.SerialNumber, template.KeyUsage, template.BasicConstraintsValid = serialNumber(), x509.KeyUsageDigitalSignature, true
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	if err != nil {
		return "", thumbprint, fmt.Errorf("cannot sign the certificate: %w", err)
	}
	return pemCertificate(der) + pemCertificate(a.cert.Raw), sha256.Sum256(der), nil
}

// Certificates returns the authority's own certificate in PEM form, and behind it the
// former one, for those who have not learned of the new one.
func (a *Authority) Certificates() (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.makeLocked(); err != nil {
		return "", err
	}
	text := pemCertificate(a.cert.Raw)
	if a.former != nil {
		text += pemCertificate(a.former.Raw)
	}
	return text, nil
}

// Rotate gives the authority a new key. What it has signed stays as good as it was;
// its former certificate is still shown, until the next rotation.
func (a *Authority) Rotate() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.renewLocked()
}

func (a *Authority) makeLocked() error {
	if a.key != nil {
		return nil
	}
	return a.renewLocked()
}

func (a *Authority) renewLocked() error {
	if a.lost != nil {
		return fmt.Errorf("the authority cannot be read: %w", a.lost)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	number := serialNumber()
	template := &x509.Certificate{
		SerialNumber: number, NotBefore: certFrom, NotAfter: certTo,
		// Of two with one name, clients that look for the issuer by name take the wrong one.
		Subject:  pkix.Name{CommonName: fmt.Sprintf("%s %x", a.title, number.Bytes()[:4])},
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})) + pemCertificate(der)
	if a.cert != nil {
		text += pemCertificate(a.cert.Raw)
	}
	if err := a.keep(text); err != nil {
		return fmt.Errorf("cannot keep the authority: %w", err)
	}
	a.key, a.cert, a.former = key, cert, a.cert
	return nil
}

func pemCertificate(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// serialNumber is 127 random bits, the first of them set.
func serialNumber() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}
