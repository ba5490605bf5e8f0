package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// pairBench is a site with a stock client, mosquitto's, that wants to pair.
type pairBench struct {
	*terminal
	dir  string
	port string
}

func newPairBench(ctx context.Context, t *testing.T) *pairBench {
	t.Helper()
	for _, program := range []string{"mosquitto_rr", "mosquitto_pub", "openssl"} {
		if _, err := exec.LookPath(program); err != nil {
			need(t, program+" is not installed (Debian packages mosquitto-clients and openssl)")
		}
	}
	s := newSite(ctx, t, site.Plan{Leaves: []site.Device{{ID: "pump-1", Kind: site.MQTT3}}})
	enrolling(t, s)
	must(t, s.StartGateway(ctx))
	_, port, _ := strings.Cut(s.Broker(), ":")
	return &pairBench{&terminal{t, ctx, s}, t.TempDir(), port}
}

// request is what a leaf sends that wants a certificate for a key of its own, which
// is in the file id.key.
func (b *pairBench) request(id string) string {
	b.t.Helper()
	out, err := exec.CommandContext(b.ctx, "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
		"-subj", "/CN="+id, "-keyout", filepath.Join(b.dir, id+".key")).Output()
	must(b.t, err)
	text, err := json.Marshal(map[string]string{"id": id, "csr": string(out)})
	must(b.t, err)
	return string(text)
}

// pair makes a request with a code and returns what comes back. A client that is
// refused says so at once; one whose request waits for the operator waits.
func (b *pairBench) pair(code, request string) (answer string, err error) {
	out, err := exec.CommandContext(b.ctx, "mosquitto_rr", "-h", "localhost", "-p", b.port, "--cafile", b.s.CAFile(), "-u", "pair", "-P", code,
		"-q", "1", "-t", "$fieldgate/pair/request", "-e", "$fieldgate/pair/response", "-m", request, "-W", "60").Output()
	return string(out), err
}

// open opens a window and returns its code.
func (b *pairBench) open(more ...string) string {
	b.t.Helper()
	return decoded[struct{ Code string }](b.t, b.gets(0, append([]string{"pair", "open", "--output", "json"}, more...)...)).Code
}

// publish publishes as a leaf with credentials of its own.
func (b *pairBench) publish(id, body string, credentials ...string) error {
	return exec.CommandContext(b.ctx, "mosquitto_pub", append([]string{
		"-h", "localhost", "-p", b.port, "--cafile", b.s.CAFile(), "-u", id, "-i", id, "-q", "1", "-t", "leaf/" + id + "/telemetry", "-m", body,
	}, credentials...)...).Run()
}

// A stock client pairs while the hub is away, with a certificate; the operator sees its
// key and approves. It publishes with that, also after kill -9, and what it has
// published arrives under its own name once the gateway has enrolled it. Removed,
// its certificate is good for nothing.
func TestPairWithCertificate(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 3*patience)
	b := newPairBench(ctx, t)
	must(t, b.s.Cut(ctx))
	code := b.open()
	type result struct {
		answer string
		err    error
	}
	paired := make(chan result, 1)
	request := b.request("pump-7")
	go func() {
		answer, err := b.pair(code, request)
		paired <- result{answer, err}
	}()
	must(t, b.s.Await(ctx, "the claim", func() bool { return strings.Contains(b.gets(0, "pair", "status"), "leaf    pump-7, claimed") }))
	if text := b.gets(8, "device", "approve", "pump-8"); !strings.Contains(text, "no such leaf has asked") {
		t.Errorf("approving somebody else: %s", text)
	}
	b.gets(0, "device", "approve", "pump-7")
	r := <-paired
	must(t, r.err)
	got := decoded[struct{ ID, Certificate, Password string }](t, r.answer)
	if got.ID != "pump-7" || strings.Count(got.Certificate, "BEGIN CERTIFICATE") != 2 || got.Password != "" {
		t.Fatalf("the answer is %s", r.answer)
	}
	cert := filepath.Join(b.dir, "pump-7.crt")
	must(t, os.WriteFile(cert, []byte(got.Certificate), 0o600))
	own := []string{"--cert", cert, "--key", filepath.Join(b.dir, "pump-7.key")}
	must(t, b.publish("pump-7", "1", own...))
	b.s.Gateway().Kill()
	must(t, b.s.StartGateway(ctx))
	must(t, b.publish("pump-7", "2", own...))
	if b.publish("pump-1", "3", own...) == nil {
		t.Error("with its certificate it can be another leaf")
	}
	must(t, b.s.Restore(ctx))
	for i, e := range awaitEvents(ctx, t, b.s, 2) {
		if e.Device != "pump-7" || string(e.Body) != string(rune('1'+i)) {
			t.Errorf("event %d is %s of %s", i, e.Body, e.Device)
		}
	}
	if _, err := b.pair(code, request); err == nil {
		t.Error("the code is good for a second time")
	}
	b.gets(0, "device", "remove", "pump-7")
	if b.publish("pump-7", "4", own...) == nil {
		t.Error("it is removed, and its certificate is still good")
	}
	b.gets(0, "device", "add", "pump-7", "--password")
	if b.publish("pump-7", "5", own...) == nil {
		t.Error("the certificate of a removed leaf is good for the next one of its name")
	}
}

// A simple leaf gets a password; whoever asks for the name of a leaf that is there
// ends the window and is an alarm; so do five wrong codes.
func TestPairWithPassword(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 3*patience)
	b := newPairBench(ctx, t)
	answer, err := b.pair(b.open("--auto"), `{"id":"sensor-3","password":true}`)
	must(t, err)
	got := decoded[struct{ ID, Password string }](t, answer)
	must(t, b.publish("sensor-3", "1", "-P", got.Password))
	if e := awaitEvents(ctx, t, b.s, 1)[0]; e.Device != "sensor-3" {
		t.Errorf("it arrives as %s's", e.Device)
	}

	answer, err = b.pair(b.open("--auto"), b.request("pump-1"))
	if err != nil || !strings.Contains(answer, "the name cannot be had") {
		t.Errorf("as a leaf that is there: %s, %v", answer, err)
	}
	if !strings.Contains(b.gets(0, "status"), "there already") && !logSays(t, b.s, "pairing-known-leaf") {
		t.Error("nobody is told that somebody wanted to be pump-1")
	}
	must(t, b.publish("pump-1", "2", "-P", site.Password("pump-1")))

	code := b.open()
	wrong := "0000-0001-8"
	if wrong == code {
		wrong = "0000-0002-6"
	}
	for range 5 {
		if _, err := b.pair(wrong, `{"id":"x","password":true}`); err == nil {
			t.Error("a wrong code is taken")
		}
	}
	if _, err := b.pair(code, `{"id":"x","password":true}`); err == nil {
		t.Error("the right code is taken after five wrong ones")
	}
	if text := b.gets(9, "pair", "open"); !strings.Contains(text, "wrong codes were tried") {
		t.Errorf("opened again at once: %s", text)
	}
}
