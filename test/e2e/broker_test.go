package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// upstreamBench is a gateway whose upstream is mosquitto.
type upstreamBench struct {
	enrolBench
	address   string // of mosquitto
	mosquitto *exec.Cmd
	got       chan string // topics and payloads that a subscriber has
}

func newUpstreamBench(t *testing.T, more string) *upstreamBench {
	t.Helper()
	for _, program := range []string{"mosquitto", "mosquitto_passwd"} {
		if _, err := exec.LookPath(program); err != nil {
			need(t, program+" is not installed (Debian package mosquitto)")
		}
	}
	b := &upstreamBench{enrolBench: enrolBench{t: t, dir: folder(t)}, got: make(chan string, 1000)}
	var err error
	b.address, err = site.FreeAddress()
	must(t, err)
	b.broker, err = site.FreeAddress()
	must(t, err)
	host, port, err := net.SplitHostPort(b.address)
	must(t, err)
	must(t, site.MakeCertificates(filepath.Join(b.dir, "ca.pem"), filepath.Join(b.dir, "up.crt"), filepath.Join(b.dir, "up.key"), host))
	must(t, exec.Command("mosquitto_passwd", "-b", "-c", filepath.Join(b.dir, "users"), "gate-7", "open sesame").Run())
	for _, name := range []string{"users", "up.crt", "up.key"} { // mosquitto gives up being root
		must(t, os.Chmod(filepath.Join(b.dir, name), 0o644))
	}
	must(t, os.Chmod(b.dir, 0o755))
	b.secret("up.password", "open sesame\n")
	b.secret("mosquitto.conf", fmt.Sprintf("listener %s %s\ncertfile %s/up.crt\nkeyfile %s/up.key\npassword_file %s/users\nallow_anonymous false\npersistence false\nmax_queued_messages 0\n",
		port, host, b.dir, b.dir, b.dir))
	hash := exec.Command(filepath.Join(bin, "fieldgate"), "device", "hash-password")
	hash.Stdin = strings.NewReader("secret of the leaf\n")
	text, err := hash.Output()
	must(t, err)
	b.secret("pump-1.hash", string(text))
	b.secret("fieldgate.toml", fmt.Sprintf(`[gateway]
data_dir = "data"
[hub]
profile = "mqtt"
host = %q
address = %q
ca_file = "ca.pem"
keep_alive = "1s"
device_id = "gate-7"
username = "gate-7"
password_file = "up.password"
%s
[uplink]
backoff_max = "1s"
%s[[leaf]]
id = "pump-1"
password_file = "pump-1.hash"
`, host, b.address, more, b.rest()))
	return b
}

// open starts mosquitto and a subscriber to everything.
func (b *upstreamBench) open(ctx context.Context) {
	b.t.Helper()
	b.mosquitto = exec.Command("mosquitto", "-c", filepath.Join(b.dir, "mosquitto.conf"))
	must(b.t, b.mosquitto.Start())
	b.t.Cleanup(b.cut)
	waitForPort(ctx, &b.enrolBench, b.address)
	ca, err := os.ReadFile(filepath.Join(b.dir, "ca.pem"))
	must(b.t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	o := mqtt.NewClientOptions().AddBroker("ssl://" + b.address).SetClientID("back-end").SetUsername("gate-7").SetPassword("open sesame").
		SetTLSConfig(&tls.Config{RootCAs: roots}).SetAutoReconnect(false).SetOrderMatters(true)
	client := mqtt.NewClient(o)
	wait := func(token mqtt.Token) {
		b.t.Helper()
		select {
		case <-token.Done():
			must(b.t, token.Error())
		case <-ctx.Done():
			b.t.Fatal("the subscriber waits in vain")
		}
	}
	wait(client.Connect())
	wait(client.Subscribe("#", 1, func(_ mqtt.Client, m mqtt.Message) { b.got <- m.Topic() + " " + string(m.Payload()) }))
}

// cut is kill -9 of mosquitto.
func (b *upstreamBench) cut() {
	if b.mosquitto != nil {
		_ = b.mosquitto.Process.Kill()
		_ = b.mosquitto.Wait() // it was killed
		b.mosquitto = nil
	}
}

func (b *upstreamBench) heard(ctx context.Context) string {
	b.t.Helper()
	select {
	case line := <-b.got:
		return line
	case <-ctx.Done():
		b.t.Fatal("nothing more arrives at mosquitto")
		return ""
	}
}

// Any MQTT broker can be upstream: mosquitto, that is killed with messages on their
// way, beside a gateway that is killed with messages on flash. All arrive, in order,
// and what comes twice is a tail.
func TestMosquittoUpstream(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 2*patience)
	b := newUpstreamBench(t, `topic = "plant 7/{lane}/{leaf}/{channel}"`)
	b.open(ctx)
	b.start()
	sent, last := 0, -1
	send := func(n int) {
		for range n {
			b.publish(ctx, strconv.Itoa(sent))
			sent++
		}
	}
	arrive := func() {
		t.Helper()
		for last < sent-1 {
			line := b.heard(ctx)
			text, ok := strings.CutPrefix(line, "plant 7/telemetry/pump-1 ")
			n, err := strconv.Atoi(text)
			if !ok || err != nil || n > last+1 {
				t.Fatalf("%q arrived after %d", line, last)
			}
			last = n
		}
	}
	send(5)
	arrive()
	b.cut()
	send(10)
	must(t, b.cmd.Process.Kill())
	_ = b.cmd.Wait() // it was killed
	b.cmd = nil
	b.open(ctx)
	b.start()
	arrive()
	send(5)
	arrive()
}

// With payload = "json" the back end can tell what came twice and that nothing is
// missing. A broker that refuses the gateway costs no message.
func TestMosquittoUpstreamEnvelope(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 2*patience)
	b := newUpstreamBench(t, `payload = "json"`)
	b.secret("up.password", "wrong\n")
	b.open(ctx)
	b.start()
	b.publish(ctx, `{"t":21}`)
	b.await(ctx, "the refusal to be told", func() bool {
		text, err := os.ReadFile(filepath.Join(b.dir, "fieldgate.log"))
		return err == nil && strings.Contains(string(text), "CONNACK")
	})
	b.stop()
	b.secret("up.password", "open sesame\n")
	b.start()
	topic, text, _ := strings.Cut(b.heard(ctx), " ")
	e := decoded[struct {
		ID, Leaf string
		Seq      int
		Captured time.Time
		Body     struct{ T int }
	}](t, text)
	if topic != "site/pump-1/telemetry" || e.ID == "" || e.Leaf != "pump-1" || e.Seq != 1 || e.Body.T != 21 || time.Since(e.Captured) > time.Hour {
		t.Errorf("on %s arrived %s", topic, text)
	}
}
