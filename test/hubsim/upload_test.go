package hubsim_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/blob"
)

// The account that Azurite starts with, from its documentation.
const (
	azuriteAccount = "devstoreaccount1"
	azuriteKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// blobSteps is what the vendor's storage SDK meets at any blob server.
var blobSteps = map[string]any{
	"container":       true,
	"container again": "ContainerAlreadyExists",
	"properties": map[string]any{
		"length": 5.0, "type": "text/plain", "language": "en", "metadata": map[string]any{"color": "red"},
		"blobType": "BlockBlob", "etag": "string", "modified": true,
	},
	"get":            "hello",
	"range":          "ell",
	"no overwriting": "BlobAlreadyExists",
	"wrong etag":     "ConditionNotMet",
	"not committed":  "BlobNotFound",
	"blocks":         "<3><1>",
	"more blocks":    "<4><1>",
	"lost block":     "InvalidBlockList",
	"missing":        "BlobNotFound",
	"SAS":            "<4><1>",
	"read-only SAS":  "AuthorizationPermissionMismatch",
	"spoilt SAS":     403.0,
}

// useBlobs runs the vendor's storage SDK against a blob server.
func useBlobs(t *testing.T, endpoint, caFile string) {
	t.Helper()
	got := make(map[string]any)
	env := []string{"NODE_EXTRA_CA_CERTS=" + caFile}
	for _, line := range node(t, env, "hub-blob.js", endpoint, azuriteAccount, azuriteKey, blob.Container) {
		got[line["step"].(string)] = line["outcome"]
	}
	if !reflect.DeepEqual(got, blobSteps) {
		t.Errorf("the storage SDK met %v, want %v", got, blobSteps)
	}
}

// The vendor's storage SDK cannot tell the built-in blob server from the
// vendor's own, which TestStockUploadToAzurite shows it.
func TestStockStorageBlob(t *testing.T) {
	server, err := blob.New(blob.Config{Account: azuriteAccount, Key: azuriteKey})
	if err != nil {
		t.Fatal(err)
	}
	https := httptest.NewTLSServer(server)
	defer https.Close()
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	writePEM(t, caFile, "CERTIFICATE", https.Certificate().Raw)
	useBlobs(t, https.URL, caFile)
}

// listening is how Azurite says where it is.
var listening = regexp.MustCompile(`successfully listens on (https://\S+)`)

// azurite starts the vendor's storage emulator and returns its endpoint. It keeps
// nothing on disk.
func azurite(t *testing.T, pair certificatePair) string {
	t.Helper()
	program, err := filepath.Abs(filepath.Join("..", "node", "node_modules", ".bin", "azurite-blob"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("Azurite is not installed: run make setup")
	}
	cmd := exec.CommandContext(t.Context(), program, "--blobPort", "0", "--inMemoryPersistence", "--loose",
		"--silent", "--disableTelemetry", "--cert", pair.certFile, "--key", pair.keyFile)
	cmd.Dir = t.TempDir()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	slow := time.AfterFunc(bound, func() { _ = cmd.Process.Kill() })
	defer slow.Stop()
	var said []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if found := listening.FindStringSubmatch(lines.Text()); found != nil {
			return found[1] + "/" + azuriteAccount
		}
		said = append(said, lines.Text())
	}
	t.Fatalf("Azurite does not listen: %q", said)
	return ""
}

// upload has the vendor's device SDK upload a file of some bytes, and returns
// the notification that the vendor's service SDK has received.
func upload(t *testing.T, h *hubsim.Hub, name string, size int) map[string]any {
	t.Helper()
	info := h.Info()
	steps := node(t, []string{"NODE_EXTRA_CA_CERTS=" + info.CAFile}, "hub-upload.js",
		info.Devices["pump-1"].ConnectionString, info.CAFile, name, strconv.Itoa(size), info.OwnerConnectionString)
	if len(steps) != 2 || steps[0]["uploaded"] != name {
		t.Fatalf("the upload went %v", steps)
	}
	return steps[1]["notice"].(map[string]any)
}

// checkContent fetches a blob of pump-1 from where the notification says it is,
// and compares it with what the device has uploaded.
func checkContent(t *testing.T, h *hubsim.Hub, notice map[string]any, name string, size int) {
	t.Helper()
	ticket, err := h.Domain().Uploads.Start("pump-1", name) // for its signature, which also lets read
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, notice["blobUri"].(string)+ticket.SASToken, nil)
	if err != nil {
		t.Fatal(err)
	}
	trust := clientTLS(t, h.Info())
	trust.ServerName = "" // the blob server need not be the hub
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trust, DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	want := []byte(strings.Repeat("0123456789", size/10+1)[:size])
	if answer.StatusCode != http.StatusOK || !bytes.Equal(got, want) {
		t.Errorf("%s: got %s, %d bytes, want %d", name, answer.Status, len(got), len(want))
	}
	if notice["blobSizeInBytes"] != float64(size) {
		t.Errorf("the notification says %v bytes, want %d", notice["blobSizeInBytes"], size)
	}
}

// checkUploads has the vendor's device SDK upload two files, one in one piece
// and one in blocks, and checks what has become of them.
func checkUploads(t *testing.T, h *hubsim.Hub) {
	t.Helper()
	for name, size := range map[string]int{"small.txt": 5, "logs/big one.bin": 9_000_000} {
		notice := upload(t, h, name, size)
		if notice["deviceId"] != "pump-1" || notice["blobName"] != "pump-1/"+name {
			t.Errorf("%s: the notification is %v", name, notice)
		}
		for _, field := range []string{"lastUpdatedTime", "enqueuedTimeUtc"} {
			if at, err := time.Parse(time.RFC3339, notice[field].(string)); err != nil || time.Since(at) > bound {
				t.Errorf("%s: %s is %v", name, field, notice[field])
			}
		}
		checkContent(t, h, notice, name, size)
	}
}

// The vendor's device SDK uploads to the built-in blob server, and the vendor's
// service SDK hears of it.
func TestStockUpload(t *testing.T) {
	checkUploads(t, benchHub(t, hubsim.Config{Devices: map[string]string{"pump-1": ""}}))
}

// The same with the vendor's blob emulator: the hub's signatures are those of
// the storage service.
func TestStockUploadToAzurite(t *testing.T) {
	dir := t.TempDir()
	pair := makeCertificate(t, dir)
	endpoint := azurite(t, pair)
	useBlobs(t, endpoint, pair.caFile) // makes the container
	checkUploads(t, benchHub(t, hubsim.Config{
		Dir: dir, Devices: map[string]string{"pump-1": ""},
		BlobEndpoint: endpoint, BlobAccount: azuriteAccount, BlobKey: azuriteKey,
	}))
}

// certificatePair are PEM files.
type certificatePair struct{ caFile, certFile, keyFile string }

// makeCertificate makes a server certificate for 127.0.0.1, by an authority that
// a hub in the same directory will use too.
func makeCertificate(t *testing.T, dir string) certificatePair {
	t.Helper()
	pair := certificatePair{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "blob.pem"), filepath.Join(dir, "blob-key.pem")}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	authority := writePair(t, pair.caFile, filepath.Join(dir, "ca-key.pem"), template, template, nil)
	writePair(t, pair.certFile, pair.keyFile, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "blobs"},
		NotBefore: template.NotBefore, NotAfter: template.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, template, authority)
	return pair
}

// writePair makes a key and its certificate, which signer signs, or the key
// itself when that is nil. It returns the key.
func writePair(t *testing.T, certFile, keyFile string, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, certFile, "CERTIFICATE", certificate)
	writePEM(t, keyFile, "PRIVATE KEY", secret)
	return key
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
