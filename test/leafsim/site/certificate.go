package site

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"time"
)

// certificateLife is longer than any run and short enough to be harmless.
const certificateLife = 30 * 24 * time.Hour

// MakeCertificates makes a certificate authority that the leaves trust and a
// certificate of it for the gateway, valid for localhost, 127.0.0.1 and more
// addresses; an empty one is none.
func MakeCertificates(caFile, certFile, keyFile string, more ...string) error {
	return makeCertificates(time.Now().Add(certificateLife), caFile, certFile, keyFile, more...)
}

// MakeExpiredCertificates makes the same, and that of the gateway has expired.
func MakeExpiredCertificates(caFile, certFile, keyFile string) error {
	return makeCertificates(time.Now().Add(-time.Minute), caFile, certFile, keyFile)
}

func makeCertificates(until time.Time, caFile, certFile, keyFile string, more ...string) error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := template("Fieldgate bench leaf CA")
	ca.IsCA, ca.BasicConstraintsValid = true, true
	ca.KeyUsage = x509.KeyUsageCertSign
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert := template("localhost")
	cert.NotAfter = until
	cert.KeyUsage = x509.KeyUsageDigitalSignature
	cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	cert.DNSNames, cert.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	for _, address := range more {
		if ip := net.ParseIP(address); ip != nil {
			cert.IPAddresses = append(cert.IPAddresses, ip)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		writePEM(caFile, 0o644, "CERTIFICATE", caDER),
		writePEM(certFile, 0o644, "CERTIFICATE", der),
		writePEM(keyFile, 0o600, "PRIVATE KEY", keyDER),
	)
}

func template(name string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		panic("site: no random numbers: " + err.Error())
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(certificateLife),
	}
}

func writePEM(file string, mode os.FileMode, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

// Trust makes a TLS configuration that trusts the authority in a file and
// nobody else.
func Trust(caFile string) (*tls.Config, error) {
	text, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New(caFile + " holds no certificate")
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}
