package broker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// signer makes certificates.
type signer struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newSigner(t *testing.T, name string) *signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour * 48),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{t, cert, key}
}

func (s *signer) file() string {
	file := filepath.Join(s.t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert.Raw}), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// leaf makes a certificate; a signer that is nil makes it sign itself.
func (s *signer) leaf(t *testing.T, name string, life time.Duration, usage x509.ExtKeyUsage) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	parent, by := template, key
	if s != nil {
		parent, by = s.cert, s.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func thumbprint(t *testing.T, text string) pairing.Thumbprint {
	p, err := pairing.ParseThumbprint(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// connectWith connects with a client certificate, or none, and returns the code.
func (b *bench) connectWith(h hello, certs ...tls.Certificate) (*wire, byte) {
	b.Helper()
	c, err := tls.Dial("tcp", b.tls, &tls.Config{RootCAs: b.roots, Certificates: certs})
	if err != nil {
		b.Fatal(err)
	}
	w := b.wire(c)
	code, _ := w.connect(h)
	return w, code
}

func TestCertificates(t *testing.T) {
	ca, stranger := newSigner(t, "leaves"), newSigner(t, "leaves")
	b := newBench(t, func(c *Config) { c.ClientCAFile = ca.file() })
	client := x509.ExtKeyUsageClientAuth
	own, next := (*signer)(nil).leaf(t, "any name", -time.Minute, client), (*signer)(nil).leaf(t, "pump-1", time.Hour, client)
	sha, sha2 := sha1.Sum(own.Certificate[0]), sha256.Sum256(next.Certificate[0])
	b.table.Put(pairing.Leaf{ID: "pinned", Thumbprints: [2]pairing.Thumbprint{
		thumbprint(t, hex.EncodeToString(sha[:])), thumbprint(t, hex.EncodeToString(sha2[:])),
	}})
	b.table.Put(pairing.Leaf{ID: "off", Disabled: true})
	signed := ca.leaf(t, "pump-1", time.Hour, client)
	for _, tc := range []struct {
		name, leaf string
		cert       []tls.Certificate
		want       byte
	}{
		{"by the authority", "pump-1", []tls.Certificate{signed}, 0},
		{"by the authority, for another leaf", "pump-2", []tls.Certificate{signed}, 5},
		{"by another authority of the same name", "pump-1", []tls.Certificate{stranger.leaf(t, "pump-1", time.Hour, client)}, 5},
		{"by itself", "pump-1", []tls.Certificate{next}, 5},
		{"expired", "pump-1", []tls.Certificate{ca.leaf(t, "pump-1", -time.Minute, client)}, 5},
		{"for servers", "pump-1", []tls.Certificate{ca.leaf(t, "pump-1", time.Hour, x509.ExtKeyUsageServerAuth)}, 5},
		{"a leaf that is disabled", "off", []tls.Certificate{ca.leaf(t, "off", time.Hour, client)}, 5},
		{"a leaf that is unknown", "ghost", []tls.Certificate{ca.leaf(t, "ghost", time.Hour, client)}, 5},
		{"by thumbprint", "pinned", []tls.Certificate{own}, 0},
		{"by the other thumbprint", "pinned", []tls.Certificate{next}, 0},
		{"another thumbprint", "pinned", []tls.Certificate{signed}, 5},
		{"somebody else's thumbprint", "pump-2", []tls.Certificate{own}, 5},
		{"no certificate", "pump-1", nil, 5},
	} {
		if _, code := b.connectWith(hello{clientID: tc.leaf, user: hubUser(tc.leaf)}, tc.cert...); code != tc.want {
			t.Errorf("%s: code %d, want %d", tc.name, code, tc.want)
		}
	}
	// A password or token is judged although there is a certificate.
	if _, code := b.connectWith(hello{clientID: "pump-1", user: "pump-1", password: "wrong"}, signed); code != 5 {
		t.Errorf("a wrong password beside a certificate: code %d", code)
	}
	if _, code := b.connectWith(hello{clientID: "pump-2", user: hubUser("pump-2"), password: b.token("pump-2")}, signed); code != 0 {
		t.Errorf("a token beside another leaf's certificate: code %d", code)
	}
	w, code := b.connectWith(hello{clientID: "x", user: "pump-1"}, signed)
	if code != 0 {
		t.Errorf("plain dialect: code %d", code)
	}
	w.publish(1, topic1, "x")
	w.puback(1)

	// Its end ends the connection, by a clock that can be trusted.
	b.setClock(gateway.Instant{Wall: time.Now().Add(2 * time.Hour), Quality: gateway.Synced})
	w.expectClosed()
	b.setClock(gateway.Instant{Wall: time.Unix(0, 0), Quality: gateway.Unsynced})
	if _, code := b.connectWith(hello{clientID: "pump-1", user: hubUser("pump-1")}, signed); code != 0 {
		t.Errorf("with a clock at 1970: code %d", code)
	}
}

// Nobody is asked for a certificate where none is of use.
func TestCertificatesAreNotAskedForInVain(t *testing.T) {
	b := newBench(t, nil)
	asked := false
	config := &tls.Config{RootCAs: b.roots, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked = true
		return &tls.Certificate{}, nil
	}}
	for _, want := range []bool{false, true} {
		c, err := tls.Dial("tcp", b.tls, config)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if asked != want {
			t.Errorf("asked %v, want %v", asked, want)
		}
		b.table.Put(pairing.Leaf{ID: "pinned", Thumbprints: [2]pairing.Thumbprint{thumbprint(t, hex.EncodeToString(make([]byte, 20)))}})
	}
}
