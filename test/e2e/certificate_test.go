package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// authority makes certificates for leaves.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority writes its certificate into leaves.pem.
func newAuthority(t *testing.T, dir string) *authority {
	a := &authority{t: t, dir: dir}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "leaves"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = template, a.newKey()
	a.sign(template, a.key, "leaves.pem")
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	return key
}

func (a *authority) sign(template *x509.Certificate, key *ecdsa.PrivateKey, file string) {
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	must(a.t, err)
	a.write(file, "CERTIFICATE", der)
}

func (a *authority) write(file, kind string, der []byte) {
	must(a.t, os.WriteFile(filepath.Join(a.dir, file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

// leaf writes a certificate and its key and returns the files.
func (a *authority) leaf(id string) (cert, key string) {
	secret := a.newKey()
	a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: id}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, secret, id+".pem")
	der, err := x509.MarshalPKCS8PrivateKey(secret)
	must(a.t, err)
	a.write(id+".key", "PRIVATE KEY", der)
	return filepath.Join(a.dir, id+".pem"), filepath.Join(a.dir, id+".key")
}

// The vendor's SDK with a certificate of a local authority, and with that of
// another leaf.
func TestNodeSDKCertificate(t *testing.T) {
	t.Parallel()
	node, scripts := nodeScripts(t)
	ctx := testContext(t, 2*patience)
	dir := folder(t)
	ca := newAuthority(t, dir)
	s := running(ctx, t, site.Plan{
		Dir: dir, Leaves: []site.Device{{ID: "node-leaf", Kind: site.SDK}, {ID: "other", Kind: site.SDK}},
		Config: site.Config{Tail: fmt.Sprintf("[broker]\nclient_ca_file = %q\n", filepath.Join(dir, "leaves.pem"))},
	})
	// With a certificate the SDK passes over GatewayHostName: the gateway has to be
	// found under the name of the hub, which the gateway does not look at.
	connection := fmt.Sprintf("HostName=%s;DeviceId=node-leaf;x509=true", strings.Replace(s.Broker(), "127.0.0.1", "localhost", 1))
	send := func(id string) ([]byte, error) {
		cert, key := ca.leaf(id)
		return exec.CommandContext(ctx, node, filepath.Join(scripts, "gateway-leaf.js"), connection, s.CAFile(), "3", cert, key).CombinedOutput()
	}
	if out, err := send("other"); !failed(err) {
		t.Errorf("with another leaf's certificate: %v\n%s", err, out)
	}
	if out, err := send("node-leaf"); err != nil {
		t.Fatalf("the SDK's leaf: %v\n%s", err, out)
	}
	for _, e := range awaitEvents(ctx, t, s, 3) {
		if e.Device != "node-leaf" {
			t.Errorf("an event of %s", e.Device)
		}
	}
}
