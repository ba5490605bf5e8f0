package upload

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/test/hubsim"
)

// bench is a spool with a hub to send to.
type bench struct {
	*Spool
	t      *testing.T
	hub    *hubsim.Hub
	client *recorder
	dir    string
	cfg    Config
	stop   func()
}

// recorder counts requests, remembers where files went, and has faults.
type recorder struct {
	http.Client
	mu     sync.Mutex
	blocks int
	blob   string                           // the last one's address, with its signature
	fail   func(*http.Request) (status int) // below 0: the link is cut; answerLost: behind the request
}

const answerLost = -2

func (r *recorder) Do(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	fail := r.fail
	switch req.URL.Query().Get("comp") {
	case "block":
		r.blocks++
	case "blocklist":
		r.blob, _, _ = strings.Cut(req.URL.String(), "&comp=")
	}
	r.mu.Unlock()
	if fail != nil {
		switch status := fail(req); {
		case status == answerLost:
			if res, err := r.Client.Do(req); err == nil {
				res.Body.Close()
			}
			return nil, errors.New("the link is cut")
		case status < 0:
			return nil, errors.New("the link is cut")
		case status > 0:
			w := httptest.NewRecorder()
			w.WriteHeader(status)
			return w.Result(), nil
		}
	}
	return r.Client.Do(req)
}

func (r *recorder) set(fail func(*http.Request) int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = fail
}

func (r *recorder) sent() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.blocks
}

func newBench(t *testing.T, adjust ...func(*Config)) *bench {
	t.Helper()
	hub, err := hubsim.Start(hubsim.Config{Dir: t.TempDir(), Devices: map[string]string{"pump-1": "", "pump-2": ""}})
	must(t, err)
	t.Cleanup(func() { hub.Close() })
	ca, err := os.ReadFile(hub.Info().CAFile)
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	b := &bench{t: t, hub: hub, dir: t.TempDir(), cfg: DefaultConfig()}
	b.cfg.Rate = 1 << 30
	for _, a := range adjust {
		a(&b.cfg)
	}
	b.client = &recorder{Client: http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}}
	b.start()
	return b
}

func clock() gateway.Instant {
	return gateway.Instant{Wall: time.Now(), Quality: gateway.Synced}
}

func (b *bench) start() {
	b.Spool = mustOpen(b.t, b.dir, func(c *Config) { *c = b.cfg })
	info := b.hub.Info()
	keys := identity.NewKeyring(info.Host)
	for id, d := range info.Devices {
		_, text, _ := strings.Cut(d.ConnectionString, "SharedAccessKey=")
		key, err := identity.ParseKey(text)
		must(b.t, err)
		keys.Put(id, key)
	}
	hub := Hub{
		Host: info.Host, Address: net.JoinHostPort(info.Bind, strconv.Itoa(info.HTTPSPort)),
		Proofs: identity.NewProofs(keys, "", nil, nil), Client: b.client, Clock: clock,
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = b.Run(ctx, hub)
	}()
	b.stop = func() { cancel(); <-ended }
	b.t.Cleanup(func() { b.stop() })
}

// file spools a file of blocks.
func (b *bench) file(leaf, name string, blocks ...string) {
	b.t.Helper()
	id, err := b.Begin(leaf, name, time.Now())
	must(b.t, err)
	var order []string
	for i, text := range blocks {
		block := strconv.Itoa(i)
		must(b.t, b.Put(id, block, []byte(text)))
		order = append(order, block)
	}
	must(b.t, b.Arrange(id, order))
	must(b.t, b.Finish(id))
}

func (b *bench) await(what string, condition func() bool) {
	b.t.Helper()
	for limit := time.Now().Add(time.Minute); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(limit) {
			b.t.Fatalf("never: %s; state %+v", what, b.State())
		}
	}
}

func (b *bench) awaitSent(n int64) {
	b.t.Helper()
	b.await(strconv.FormatInt(n, 10)+" files are sent", func() bool { return b.State().Sent >= n })
}

// stored returns what the storage holds of the file that was sent last.
func (b *bench) stored() string {
	b.t.Helper()
	b.client.mu.Lock()
	address := b.client.blob
	b.client.mu.Unlock()
	res, err := b.client.Get(address)
	must(b.t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	must(b.t, err)
	return string(text)
}

func TestFilesReachTheStorage(t *testing.T) {
	b := newBench(t)
	b.file("pump-1", "a/b c#1.txt", "one ", "two ", "three")
	b.awaitSent(1)
	if got := b.stored(); got != "one two three" {
		t.Errorf("stored: %q", got)
	}
	b.await("the hub tells its back end", func() bool {
		d, ok := b.hub.Domain().FileNotices.Receive()
		return ok && strings.Contains(string(d.Message.Body), "pump-1/a/b c#1.txt")
	})
	if st := b.State(); st.Files != 0 || st.Bytes != 0 || st.SentBytes != 13 {
		t.Errorf("state %+v", st)
	}
}

// After every break it goes on behind the last block, also after a restart.
func TestItGoesOnBehindTheLastBlock(t *testing.T) {
	b := newBench(t)
	b.client.set(func(r *http.Request) int {
		if r.URL.Query().Get("comp") == "block" && b.client.blocks > 3 {
			return -1
		}
		return 0
	})
	b.file("pump-1", "f", "0", "1", "2", "3", "4", "5")
	b.await("the link is cut in the middle", func() bool { return b.client.sent() > 3 })
	b.stop()
	b.client.set(nil)
	before := b.client.sent()
	b.start()
	b.awaitSent(1)
	if got := b.stored(); got != "012345" {
		t.Errorf("stored: %q", got)
	}
	if n := b.client.sent() - before; n != 3 {
		t.Errorf("%d blocks were sent after the break, want the 3 that were missing", n)
	}
}

// A hub whose answer to the last word is lost is not told of a second upload of the
// same file, neither by the same gateway nor after a restart.
func TestTheHubHearsOfAFileOnce(t *testing.T) {
	for _, restart := range []bool{false, true} {
		b := newBench(t)
		b.client.set(func(r *http.Request) int {
			if strings.Contains(r.URL.Path, "/files/notifications") {
				return answerLost
			}
			return 0
		})
		b.file("pump-1", "f", "x")
		b.await("the answer is lost", func() bool { return strings.Contains(b.State().LastError, "the link is cut") })
		if restart {
			b.stop()
			b.client.set(nil)
			b.start()
		} else {
			b.client.set(nil)
		}
		b.awaitSent(1)
		notices := 0
		for {
			d, ok := b.hub.Domain().FileNotices.Receive()
			if !ok {
				break
			}
			must(t, b.hub.Domain().FileNotices.Complete(d.LockToken))
			notices++
		}
		if notices != 1 || b.client.sent() != 1 || b.stored() != "x" {
			t.Errorf("restart %v: the hub told of %d files, %d blocks were sent, stored is %q", restart, notices, b.client.sent(), b.stored())
		}
	}
}

// Breaks in the middle, more than the hub allows uploads at a time, leave none open
// there: the file goes when the link is good.
func TestBreaksLeaveNoUploadOpen(t *testing.T) {
	b := newBench(t)
	b.stop()
	b.file("pump-1", "f", "x")
	for range 12 {
		tried := make(chan struct{}, 100)
		b.client.set(func(r *http.Request) int {
			if r.URL.Query().Get("comp") == "block" {
				tried <- struct{}{}
				return -1
			}
			return 0
		})
		b.start()
		select {
		case <-tried:
		case <-time.After(time.Minute):
			t.Fatalf("it is not tried any more: %+v", b.State())
		}
		b.stop()
	}
	b.client.set(nil)
	b.start()
	b.awaitSent(1)
}

// A leaf that the hub does not take holds up no other; nothing of it is lost.
func TestARefusedLeafWaitsAlone(t *testing.T) {
	b := newBench(t)
	b.hub.SetEnabled("pump-1", false)
	b.file("pump-1", "f", "x")
	b.file("pump-2", "f", "y")
	b.awaitSent(1)
	if got := b.stored(); got != "y" {
		t.Errorf("stored: %q", got)
	}
	b.await("the state says why", func() bool { return strings.Contains(b.State().LastError, "401") })
	b.hub.SetEnabled("pump-1", true)
	b.awaitSent(2)
}

func TestAnswersOfTheHub(t *testing.T) {
	for status, forGood := range map[int]bool{400: true, 413: true, 429: false, 503: false, 403: false} {
		b := newBench(t)
		b.client.set(func(r *http.Request) int {
			if strings.HasSuffix(r.URL.Path, "/files") {
				return status
			}
			return 0
		})
		b.file("pump-1", "f", "x")
		b.await("it is refused", func() bool { return strings.Contains(b.State().LastError, strconv.Itoa(status)) })
		f := b.next()[0]
		b.await("that is counted, or not", func() bool { return (b.headOf(f).Refusals > 0) == forGood })
	}
}

// A file that is refused for good again and again is dropped, and the next goes on.
func TestPoison(t *testing.T) {
	b := newBench(t)
	b.stop()
	b.file("pump-1", "poison", "x")
	f := b.next()[0]
	w := &sender{Spool: b.Spool, hub: Hub{Clock: clock}, until: map[string]time.Time{}, failures: map[string]int{}}
	for range maxRefusals {
		w.failed(f, &refused{what: "no", status: 400})
	}
	if st := b.State(); st.Dropped != 1 || st.Files != 0 {
		t.Errorf("state %+v", st)
	}
}

func TestDailyBudget(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Daily, c.MaxFile = 64<<10, 64<<10 })
	for range 2 {
		b.file("pump-1", "f", strings.Repeat("x", 40<<10))
	}
	b.awaitSent(1)
	time.Sleep(10 * time.Millisecond)
	if st := b.State(); st.Sent != 1 || st.Waiting != 1 {
		t.Errorf("state %+v", st)
	}
}

// The secret of the storage stands in no error.
func TestErrorsKeepTheSecret(t *testing.T) {
	b := newBench(t)
	w := &sender{Spool: b.Spool, hub: Hub{Client: &http.Client{}, Clock: clock}}
	_, err := w.ask(t.Context(), "x", http.MethodPut, "https://127.0.0.1:1/c/b?sig=secret", nil, http.Header{})
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

// door serves the spool's door like the hub, at an address of its own with a
// certificate that the hub's authority has signed.
func (b *bench) door() *httptest.Server {
	login := func(r *http.Request, device string) error {
		if r.Header.Get("Authorization") != "token of "+device {
			return errors.New("no")
		}
		return nil
	}
	srv := httptest.NewTLSServer(b.Door(login, clock))
	b.t.Cleanup(srv.Close)
	return srv
}

// say makes a request to the door and returns the answer.
func say(t *testing.T, srv *httptest.Server, method, path, auth, body string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequest(method, srv.URL+path, strings.NewReader(body))
	must(t, err)
	req.Header.Set("Authorization", auth)
	res, err := srv.Client().Do(req)
	must(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(t, err)
	return res.StatusCode, string(b)
}

func TestDoor(t *testing.T) {
	b := newBench(t)
	srv := b.door()
	start := func(name string) place {
		t.Helper()
		status, text := say(t, srv, http.MethodPost, "/devices/pump-1/files?api-version=2021-04-12", "token of pump-1", `{"blobName":"`+name+`"}`)
		var p place
		if status != 200 || json.Unmarshal([]byte(text), &p) != nil {
			t.Fatalf("start: %d %s", status, text)
		}
		return p
	}
	p := start("d/x y.txt")
	blob := "/" + p.ContainerName + "/" + escapePath(p.BlobName) + p.SASToken
	for _, c := range []struct {
		method, path, auth, body string
		want                     int
	}{
		{"POST", "/devices/pump-1/files", "token of pump-2", `{"blobName":"x"}`, 401},
		{"POST", "/devices/pump-1/files", "token of pump-1", `{"blobName":"../x"}`, 400},
		{"POST", "/devices/pump-1/files", "token of pump-1", `{`, 400},
		{"PUT", blob + "x&comp=block&blockid=MQ==", "", "no", 403},
		{"PUT", strings.Replace(blob, "pump-1", "pump-2", 1) + "&comp=block&blockid=MQ==", "", "no", 403},
		{"PUT", blob + "&comp=block&blockid=MQ==", "", "hello ", 201},
		{"PUT", blob + "&comp=block&blockid=Mg==", "", "world", 201},
		{"PUT", blob + "&comp=blocklist", "", "<BlockList><Latest>MQ==</Latest><Latest>Mw==</Latest></BlockList>", 400},
		{"PUT", blob + "&comp=blocklist", "", "<Block", 400},
		{"POST", "/devices/pump-1/files/notifications/" + p.CorrelationID, "token of pump-1", `{"isSuccess":true}`, 400},
		{"PUT", blob + "&comp=blocklist", "", "<BlockList><Latest>MQ==</Latest><Uncommitted>Mg==</Uncommitted></BlockList>", 201},
		{"POST", "/devices/pump-2/files/notifications/" + p.CorrelationID, "token of pump-2", `{"isSuccess":true}`, 400},
		{"POST", "/devices/pump-1/files/notifications/" + p.CorrelationID, "token of pump-1", `{"isSuccess":true,"statusCode":201}`, 204},
		{"POST", "/devices/pump-1/files/notifications", "token of pump-1", `{"correlationId":"` + p.CorrelationID + `","isSuccess":true}`, 204},
		{"GET", "/devices/pump-1/messages/devicebound", "token of pump-1", "", 404},
	} {
		if status, text := say(t, srv, c.method, c.path, c.auth, c.body); status != c.want {
			t.Errorf("%s %s %s: got %d %s, want %d", c.method, c.path, c.body, status, text, c.want)
		}
	}
	b.awaitSent(1)
	if got := b.stored(); got != "hello world" {
		t.Errorf("stored: %q", got)
	}
	// The answer was lost, and the file has gone meanwhile.
	if status, _ := say(t, srv, "POST", "/devices/pump-1/files/notifications/"+p.CorrelationID, "token of pump-1", `{"isSuccess":true}`); status != 204 {
		t.Errorf("said again: %d", status)
	}

	// One that is given up, and one in a single piece.
	p = start("given up")
	if status, _ := say(t, srv, "POST", "/devices/pump-1/files/notifications/"+p.CorrelationID, "token of pump-1", `{"isSuccess":false}`); status != 204 {
		t.Errorf("given up: %d", status)
	}
	p = start("whole")
	big := strings.Repeat("0123456789", 500_000)
	say(t, srv, "PUT", "/"+p.ContainerName+"/"+p.BlobName+p.SASToken, "", big)
	say(t, srv, "POST", "/devices/pump-1/files/notifications/"+p.CorrelationID, "token of pump-1", `{"isSuccess":true}`)
	b.awaitSent(2)
	if got := b.stored(); got != big {
		t.Errorf("stored %d bytes, want %d", len(got), len(big))
	}
}

// The vendor's own SDK cannot tell the door from the hub.
func TestStockUploadThroughTheDoor(t *testing.T) {
	node, err := exec.LookPath("node")
	scripts, absErr := filepath.Abs("../../test/node")
	must(t, absErr)
	if err == nil {
		_, err = os.Stat(filepath.Join(scripts, "node_modules", "azure-iot-device-http"))
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("needs node and test/node/node_modules")
	}
	b := newBench(t)
	login := func(r *http.Request, device string) error {
		token, err := identity.ParseToken(r.Header.Get("Authorization"))
		if err != nil || !token.Names(device, "127.0.0.77") {
			return errors.New("no")
		}
		return nil
	}
	srv := httptest.NewUnstartedServer(b.Door(login, clock))
	srv.Listener.Close()
	const address = "127.0.0.77"
	if srv.Listener, err = net.Listen("tcp", address+":443"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("the SDK insists on port 443: needs root")
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{certificateFor(t, address, caFile)}}
	srv.StartTLS()
	defer srv.Close()
	run := exec.CommandContext(t.Context(), node, filepath.Join(scripts, "hub-upload.js"),
		"HostName="+address+";DeviceId=pump-1;SharedAccessKey=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", caFile, "from/sdk.bin", "5000000")
	run.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+caFile)
	if out, err := run.CombinedOutput(); err != nil || !strings.Contains(string(out), "uploaded") {
		t.Fatalf("the SDK says %v: %s", err, out)
	}
	b.awaitSent(1)
	if got := b.stored(); got != strings.Repeat("0123456789", 500_000) {
		t.Errorf("stored %d bytes", len(got))
	}
}

// certificateFor makes a certificate for an IP address that is its own authority.
func certificateFor(t *testing.T, address, caFile string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP(address)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	must(t, err)
	must(t, os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
