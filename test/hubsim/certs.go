package hubsim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// Files of the certificate authority in the hub's directory.
const (
	caFile    = "ca.pem"
	caKeyFile = "ca-key.pem"
)

// certificateLife is longer than any test bench stands.
const certificateLife = 10 * 365 * 24 * time.Hour

// authority signs the hub's certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// openAuthority reads the authority from dir, and makes it at the first start.
func openAuthority(dir string) (*authority, error) {
	a, err := readAuthority(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return makeAuthority(dir)
	}
	return a, err
}

func readAuthority(dir string) (*authority, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, caFile), filepath.Join(dir, caKeyFile))
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: not an ECDSA key", caKeyFile)
	}
	return &authority{pair.Leaf, key}, nil
}

func makeAuthority(dir string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "hubsim test CA"},
		NotBefore:             time.Now().Add(-24 * time.Hour),
		NotAfter:              time.Now().Add(certificateLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := writePEM(filepath.Join(dir, caKeyFile), "PRIVATE KEY", secret, 0o600); err != nil {
		return nil, err
	}
	if err := writePEM(filepath.Join(dir, caFile), "CERTIFICATE", der, 0o644); err != nil {
		return nil, err
	}
	return readAuthority(dir)
}

func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic("hubsim: no randomness: " + err.Error())
	}
	return n
}

// issue makes a server certificate for a name and an address: some clients see
// the hub under the one, some under the other.
// It is good from a day ago until notAfter.
func (a *authority) issue(host, bind string, notAfter time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: host},
		NotBefore:    time.Now().Add(-24 * time.Hour),
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"localhost"},
	}
	for _, name := range []string{host, bind} {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der, a.certificate.Raw}, PrivateKey: key}, nil
}

// certificates are what the hub shows its clients.
type certificates struct {
	caFile  string // absolute path, of the authority that clients trust
	good    tls.Certificate
	expired tls.Certificate
	expire  atomic.Bool // a fault: show the expired one
}

// openCertificates takes the certificate that the configuration names, or makes
// one with the authority of the hub's directory.
func openCertificates(cfg Config) (*certificates, error) {
	ca, err := openAuthority(cfg.Dir)
	if err != nil {
		return nil, err
	}
	c := &certificates{caFile: filepath.Join(cfg.Dir, caFile)}
	if cfg.CertFile == "" {
		c.good, err = ca.issue(cfg.Host, cfg.Bind, ca.certificate.NotAfter)
	} else {
		c.caFile = cfg.CAFile
		c.good, err = tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
	}
	if err == nil {
		err = ca.publish(cfg)
	}
	if err != nil {
		return nil, err
	}
	if c.expired, err = ca.issue(cfg.Host, cfg.Bind, time.Now().Add(-time.Hour)); err != nil {
		return nil, err
	}
	c.caFile, err = filepath.Abs(c.caFile)
	return c, err
}

// publish writes into ca.pem of the hub's directory what clients should trust:
// the hub's own authority, which is read from there again, and behind it the one
// that the configuration names.
func (a *authority) publish(cfg Config) error {
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
	if cfg.CAFile != "" {
		elsewhere, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return err
		}
		text = append(text, elsewhere...)
	}
	return os.WriteFile(filepath.Join(cfg.Dir, caFile), text, 0o644)
}

// serve picks the certificate for a handshake; it fits tls.Config.
func (c *certificates) serve(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c.expire.Load() {
		return &c.expired, nil
	}
	return &c.good, nil
}
