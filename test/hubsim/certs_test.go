package hubsim

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
)

// ca.pem in the hub's directory is what clients trust, also when the certificate
// was made elsewhere, and the next start of the hub can read its own from there.
func TestCertificateMadeElsewhere(t *testing.T) {
	elsewhere, dir := t.TempDir(), t.TempDir()
	ca, err := openAuthority(elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.issue("127.0.0.1", "127.0.0.1", ca.certificate.NotAfter)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Dir: dir, Host: "127.0.0.1", CAFile: filepath.Join(elsewhere, caFile),
		CertFile: filepath.Join(elsewhere, "hub.pem"), KeyFile: filepath.Join(elsewhere, "hub-key.pem"),
	}
	for path, block := range map[string][]byte{cfg.CertFile: pair.Certificate[0], cfg.KeyFile: key} {
		kind := "CERTIFICATE"
		if path == cfg.KeyFile {
			kind = "PRIVATE KEY"
		}
		if err := writePEM(path, kind, block, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second start reads what the first wrote
		hub, err := Start(cfg)
		if err != nil {
			t.Fatal(err)
		}
		trusted := x509.NewCertPool()
		text, err := os.ReadFile(filepath.Join(dir, caFile))
		if err != nil || !trusted.AppendCertsFromPEM(text) {
			t.Errorf("ca.pem: %v", err)
		}
		conn, err := tls.Dial("tcp", hub.listeners.amqp.Addr().String(), &tls.Config{RootCAs: trusted})
		if err != nil {
			t.Errorf("a client that trusts ca.pem: %v", err)
		} else if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if err := hub.Close(); err != nil {
			t.Error(err)
		}
	}
}
