package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/seal"
)

// dated makes a certificate that has itself as its authority and is good from and until
// times relative to now.
func dated(t testing.TB, from, until time.Duration, names ...string) (cert, key []byte) {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "gate"}, DNSNames: names,
		NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(until),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, secret.Public(), secret)
	if err != nil {
		t.Fatal(err)
	}
	if key, err = keyText(secret); err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key
}

func mustWrite(t testing.TB, name string, text []byte) string {
	t.Helper()
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

const day = 24 * time.Hour

// Whether a certificate is due is the same to needs-renewal, check and show, and the
// metrics say the same end.
func TestRenewalIsAgreedOn(t *testing.T) {
	file := folder(t, exampleText(t))
	dir := filepath.Dir(file)
	for _, c := range []struct {
		from, until time.Duration
		code        int
		result      result
	}{
		{-day, 364 * day, exitFailed, resultOK},
		{-300 * day, 31 * day, exitFailed, resultOK},
		{-300 * day, 29 * day, exitOK, resultWarning},
		{-day, 2*day + time.Hour, exitFailed, resultOK}, // of one for three days a third
		{-2 * day, day - time.Hour, exitOK, resultWarning},
		{-300 * day, -time.Hour, exitOK, resultError},
		{day, 365 * day, exitOK, resultError}, // signed by a clock that was ahead
	} {
		cert, key := dated(t, c.from, c.until, "gate-7.example")
		mustWrite(t, filepath.Join(dir, "cert.pem"), cert)
		mustWrite(t, filepath.Join(dir, "key.pem"), key)
		if code, out, errs := fieldgate("cert", "needs-renewal", "--config", file); code != c.code || errs != "" {
			t.Errorf("until %v needs-renewal ends with %d, want %d: %s%s", c.until, code, c.code, out, errs)
		}
		if code, out, _ := fieldgate("cert", "show", "--output", "jsonl", "--config", file); code != exitOK ||
			!strings.Contains(out, fmt.Sprintf(`"needs_renewal":%v`, c.code == exitOK)) {
			t.Errorf("until %v show says %s", c.until, out)
		}
		x := examiner{file: file, offline: true, timeout: time.Second}
		for _, f := range x.examine(context.Background(), func(id string) bool { return id == "certificate" }) {
			if f.Result != c.result {
				t.Errorf("until %v check says %+v, want %s", c.until, f, c.result)
			}
		}
	}
	cert, key := dated(t, -day, 200*day, "gate-7.example")
	mustWrite(t, filepath.Join(dir, "cert.pem"), cert)
	mustWrite(t, filepath.Join(dir, "key.pem"), key)
	d := start(t, file)
	d.logged("ready", "", "") // before that listeners show no certificate
	metrics := scrape(t, fmt.Sprint(d.logged("listening", "for", "metrics")["address"]))
	_, chain, err := parseChain(cert)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("fieldgate_certificate_expiry_timestamp_seconds{name=\"listener0\"} %v\n", float64(chain[0].NotAfter.Unix())); !strings.Contains(metrics, want) {
		t.Errorf("the metrics do not say %s", want)
	}
	// A file that was changed, and nobody has told the daemon.
	other, otherKey := dated(t, -day, 300*day, "gate-7.example")
	mustWrite(t, filepath.Join(dir, "cert.pem"), other)
	mustWrite(t, filepath.Join(dir, "key.pem"), otherKey)
	socket := filepath.Join(dir, "control.sock")
	d.logged("listening", "for", "control")
	if _, out, _ := fieldgate("check", "--id", "daemon", "--id", "certificate", "--config", file, "--socket", socket); !strings.Contains(out, "shows another certificate than the one in its file") {
		t.Errorf("check says\n%s", out)
	}
	if code := d.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// Nobody who only lets time pass is given a certificate by a clock that may be wrong; a
// gateway without any time source is, in the end.
func TestClockThatSigns(t *testing.T) {
	for _, c := range []struct {
		quality gateway.TimeQuality
		up      time.Duration
		signs   bool
	}{
		{gateway.Synced, time.Minute, true},
		{gateway.Estimated, time.Minute, false},
		{gateway.Estimated, day, true},
		{gateway.Unsynced, 100 * day, false},
	} {
		if why := mistrust(gateway.Instant{Quality: c.quality, Uptime: c.up}); (why == "") != c.signs {
			t.Errorf("quality %v, up for %v: %q", c.quality, c.up, why)
		}
	}

	// A certificate from a clock that was ahead is due; whether it is renewed depends on the
	// clock of this machine.
	file := folder(t, exampleText(t))
	dir := filepath.Dir(file)
	socket := filepath.Join(dir, "none.sock")
	if code, _, errs := fieldgate("cert", "create", "--replace", "--name", "gate-7.example", "--config", file, "--socket", socket); code != exitOK {
		t.Fatalf("create ended with %d: %s", code, errs)
	}
	d := desk{file: file}
	if err := d.open(); err != nil {
		t.Fatal(err)
	}
	root, err := d.root()
	if err != nil {
		t.Fatal(err)
	}
	key, err := d.pairs[0].key()
	if err != nil {
		t.Fatal(err)
	}
	ahead, err := root.SignServer(key.Public(), []string{"gate-7.example"}, time.Now().Add(100*day), time.Now().Add(465*day))
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(dir, "cert.pem"), []byte(ahead))
	trusted := mistrust(d.clock) == ""
	code, out, errs := fieldgate("cert", "renew", "--all", "--if-needed", "--config", file, "--socket", socket)
	now, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if renewed := err == nil && string(now) != ahead; code != exitOK || renewed != trusted || strings.Contains(out, "nothing was done") == trusted {
		t.Errorf("with a clock that is trusted (%v), renew ends with %d: %s%s", trusted, code, out, errs)
	}
}

// A leaf that is connected stays so while the certificate is replaced; the next one sees
// the new one. One that the daemon cannot use does not stay.
func TestRenewalDropsNoLeaf(t *testing.T) {
	file := folder(t, exampleText(t))
	dir := filepath.Dir(file)
	d := start(t, file)
	address := fmt.Sprint(d.logged("ready", "", "")["addresses"].([]any)[0])
	d.logged("listening", "for", "control")
	trusted := x509.NewCertPool()
	text, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if err != nil || !trusted.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	leaf, err := tls.Dial("tcp", address, &tls.Config{RootCAs: trusted, ServerName: "gate-7.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer leaf.Close()
	_ = leaf.SetDeadline(time.Now().Add(2 * time.Minute))
	say := func(what string, packet, want []byte) {
		t.Helper()
		if _, err := leaf.Write(packet); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(leaf, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: the answer is % x, %v", what, got, err)
		}
	}
	// CONNECT of MQTT 3.1.1 as pump-1 with its password, section 3.1.
	login := "\x00\x04MQTT\x04\xc2\x00\x3c" + "\x00\x06pump-1" + "\x00\x06pump-1" + "\x00\x0bopen sesame"
	say("login", append([]byte{0x10, byte(len(login))}, login...), []byte{0x20, 2, 0, 0})

	socket := filepath.Join(dir, "control.sock")
	code, out, errs := fieldgate("cert", "create", "--replace", "--name", "gate-7.example", "--config", file, "--socket", socket)
	if code != exitOK {
		t.Fatalf("create ended with %d: %s%s", code, out, errs)
	}
	say("ping", []byte{0xc0, 0}, []byte{0xd0, 0})
	code, ca, errs := fieldgate("cert", "show", "--ca", "--config", file)
	if code != exitOK {
		t.Fatalf("show ended with %d: %s", code, errs)
	}
	trusted = x509.NewCertPool()
	trusted.AppendCertsFromPEM([]byte(ca))
	next, err := tls.Dial("tcp", address, &tls.Config{RootCAs: trusted, ServerName: "gate-7.example"})
	if err != nil {
		t.Fatalf("the next leaf does not see the new certificate: %v", err)
	}
	next.Close()
	for i := range 3 {
		if code, out, errs := fieldgate("cert", "renew", "--config", file, "--socket", socket); code != exitOK {
			t.Fatalf("renewal %d ended with %d: %s%s", i, code, out, errs)
		}
	}
	say("ping", []byte{0xc0, 0}, []byte{0xd0, 0})

	// Listeners of the file that are not applied yet do not matter: one that shares the
	// certificate, and one with its own.
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	text, err = os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "\n[[broker.listener]]\naddress = \"127.0.0.1:"+port+"\"\ncert_file = \"cert.pem\"\nkey_file = \"key.pem\"\n"...)
	text = append(text, "\n[[broker.listener]]\naddress = \"127.0.0.2:"+port+"\"\ncert_file = \"new.pem\"\nkey_file = \"new-key.pem\"\n"...)
	mustWrite(t, file, text)
	if code, out, errs := fieldgate("cert", "renew", "127.0.0.1:"+port, "--config", file, "--socket", socket); code != exitOK || errs != "" {
		t.Errorf("with a listener that is not applied, renew ends with %d: %s%s", code, out, errs)
	}
	if code, out, errs := fieldgate("cert", "create", "127.0.0.2:"+port, "--config", file, "--socket", socket); code != exitOK || !strings.Contains(errs, "no listener of the running gateway has it yet") {
		t.Errorf("for a listener that is not applied, create ends with %d: %s%s", code, out, errs)
	}
	if code := d.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// certDaemon answers whoever has it read certificates anew that a listener at that
// address shows the one in the file.
func certDaemon(t *testing.T, address, file string, asked func()) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked()
		_ = json.NewEncoder(w).Encode(map[string]any{"shown": map[string]string{address: file}})
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		<-ended
	})
	return socket
}

// showing is a listener that shows a certificate, whichever it is at the moment.
func showing(t *testing.T, certificate func() (*tls.Certificate, error)) (address string) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate() }})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{1}) // which shakes hands
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return l.Addr().String()
}

// Where the new one is not seen, the old one comes back. Whoever leaves while the
// gateway takes it over does not make it come back.
func TestRenewalIsLookedAt(t *testing.T) {
	file := folder(t, exampleText(t))
	dir := filepath.Dir(file)
	cert := filepath.Join(dir, "cert.pem")
	if code, _, errs := fieldgate("cert", "create", "--replace", "--name", "gate-7.example", "--config", file, "--socket", filepath.Join(dir, "none.sock")); code != exitOK {
		t.Fatalf("create ended with %d: %s", code, errs)
	}
	before, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	other, otherKey := dated(t, -day, day, "gate-7.example")
	pair, err := tls.X509KeyPair(other, otherKey)
	if err != nil {
		t.Fatal(err)
	}
	stranger := showing(t, func() (*tls.Certificate, error) { return &pair, nil })
	socket := certDaemon(t, stranger, cert, func() {})
	if code, _, errs := fieldgate("cert", "renew", "--config", file, "--socket", socket); code != exitFailed || !strings.Contains(errs, "the old one is back in its place") {
		t.Errorf("where another program has the port, renew ends with %d: %s", code, errs)
	}
	if after, err := os.ReadFile(cert); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file holds another certificate, %v", err)
	}

	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	good := showing(t, func() (*tls.Certificate, error) {
		pair, err := seal.KeyPair(cert, filepath.Join(dir, "key.pem"))
		return &pair, err
	})
	socket = certDaemon(t, good, cert, leave)
	var errs writer
	if code := execute(ctx, []string{"cert", "renew", "--config", file, "--socket", socket}, streams{nil, io.Discard, &errs}); code != exitOK || ctx.Err() == nil {
		t.Errorf("interrupted when it was in its place, renew ends with %d: %s", code, errs.lines())
	}
	if after, err := os.ReadFile(cert); err != nil || bytes.Equal(before, after) {
		t.Errorf("the file holds the old certificate, %v", err)
	}
}

// An authority that is broken does not keep leaves away that have paired; it says why it
// signs nothing, and no other one takes its place.
func TestBrokenAuthorityKeepsNobodyOut(t *testing.T) {
	for _, text := range []string{"garbage", "fieldgate-sealed:1:00112233445566778899:AAAA\n"} {
		file := folder(t, exampleText(t))
		dir := filepath.Dir(file)
		authority := filepath.Join(dir, "data", "keys", "authority.pem")
		if err := os.MkdirAll(filepath.Dir(authority), 0o700); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, authority, []byte(text))
		d := start(t, file)
		d.logged("no leaf can pair with a certificate: the authority of leaves cannot be read", "", "")
		d.logged("ready", "", "")
		d.logged("listening", "for", "control")
		for _, verb := range []string{"show", "rotate"} {
			if code, out, errs := fieldgate("cert", "ca", verb, "--socket", filepath.Join(dir, "control.sock")); code != exitFailed || !strings.Contains(errs, "the authority cannot be read: ") {
				t.Errorf("%s with %q ends with %d: %s%s", verb, text, code, out, errs)
			}
		}
		if code := d.end(); code != exitOK {
			t.Errorf("exit code %d", code)
		}
		if now, err := seal.ReadFile(authority); text == "garbage" && (err != nil || string(now) != text) {
			t.Errorf("its file holds %q, %v", now, err)
		}
	}
}

// What somebody imports is refused or read, and keys in it go nowhere.
func FuzzChain(f *testing.F) {
	cert, key := dated(f, -day, day, "gate")
	f.Add(cert)
	f.Add(append(append([]byte("text\n"), key...), cert...))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		clean, chain, err := parseChain(text)
		if err != nil {
			return
		}
		if bytes.Contains(clean, []byte("PRIVATE KEY")) {
			t.Errorf("%q became %q", text, clean)
		}
		if _, again, err := parseChain(clean); err != nil || len(again) != len(chain) {
			t.Errorf("%q became %q: %v", text, clean, err)
		}
	})
}
