package hubsim_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/registry/x509test"
)

// certificateFiles writes a certificate and its key where a client reads them.
func certificateFiles(t *testing.T, c *x509test.Certificate) (certificate, key string) {
	t.Helper()
	dir := t.TempDir()
	certificate, key = filepath.Join(dir, "certificate.pem"), filepath.Join(dir, "key.pem")
	text, secret := c.PEM(t)
	for file, content := range map[string][]byte{certificate: text, key: secret} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key
}

// The vendor's device SDK sends from devices that prove themselves by thumbprint
// and by authority, over every protocol, and is refused with another
// certificate.
func TestStockDeviceCertificates(t *testing.T) {
	h := benchHub(t, hubsim.Config{})
	info := h.Info()
	own := x509test.New(t, x509test.Wish{Name: "own"})
	root := x509test.New(t, x509test.Wish{Name: "factory", CA: true})
	signed := x509test.New(t, x509test.Wish{Name: "signed", Signer: root})
	sum := sha256.Sum256(own.Raw)
	r := h.Domain().Registry
	if err := r.AddAuthority(root.Certificate); err != nil {
		t.Fatal(err)
	}
	for device, auth := range map[string]registry.Auth{
		"own":    {Type: registry.AuthSelfSigned, PrimaryThumbprint: hex.EncodeToString(sum[:])},
		"signed": {Type: registry.AuthAuthority},
	} {
		if _, err := r.Create(registry.Identity{ID: registry.ID{Device: device}, Auth: auth}); err != nil {
			t.Fatal(err)
		}
	}
	ownFile, ownKey := certificateFiles(t, own)
	signedFile, signedKey := certificateFiles(t, signed)
	const want = "[map[deviceId:own outcome:accepted] map[deviceId:signed outcome:accepted] " +
		"map[deviceId:own outcome:UnauthorizedError] map[deviceId:signed outcome:UnauthorizedError]]"
	for _, transport := range []string{"mqtt", "mqttws", "amqp", "amqpws", "http"} {
		t.Run(transport, func(t *testing.T) {
			last := h.Domain().Events.Stats().Total
			got := node(t, nil, "hub-certificate.js", info.Host, info.CAFile, transport,
				"own", ownFile, ownKey, "signed", signedFile, signedKey,
				"own", signedFile, signedKey, "signed", ownFile, ownKey)
			if fmt.Sprint(got) != want {
				t.Errorf("got  %v\nwant %s", got, want)
			}
			methods := make(map[string]string)
			for e := range h.Domain().Events.Since(last) {
				methods[e.Device] += e.Auth
			}
			if !maps.Equal(methods, map[string]string{
				"own":    `{"scope":"device","type":"x509Certificate","issuer":"external"}`,
				"signed": `{"scope":"device","type":"x509CertificateAuthority","issuer":"external"}`,
			}) {
				t.Errorf("events came by %v", methods)
			}
		})
	}
}
