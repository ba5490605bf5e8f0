package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// uploadBench is a gateway that a leaf takes for the hub: the hub's name in its
// connection string leads to the gateway. The hub is away from the start.
type uploadBench struct {
	enrolBench
	address string // where the gateway awaits leaves on port 443
	ca      string // that leaves trust
	key     identity.Key
}

// more adds to the configuration, and may write files beside it.
func newUploadBench(t *testing.T, more ...func(dir string) string) *uploadBench {
	t.Helper()
	b := &uploadBench{enrolBench: enrolBench{t: t, dir: folder(t)}, address: socketAddress(t)}
	var err error
	b.hub, err = hubsim.Start(hubsim.Config{Dir: filepath.Join(b.dir, "hub"), Host: "hub.example", Devices: map[string]string{"pump-1": ""}})
	must(t, err)
	t.Cleanup(func() { b.hub.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	b.broker = l.Addr().String()
	must(t, l.Close())
	info := b.hub.Info()
	_, key, _ := strings.Cut(info.Devices["pump-1"].ConnectionString, "SharedAccessKey=")
	b.key, err = identity.ParseKey(key)
	must(t, err)
	b.secret("pump-1.key", key)
	b.ca = filepath.Join(b.dir, "leaf-ca.pem")
	must(t, site.MakeCertificates(b.ca, filepath.Join(b.dir, "gw.crt"), filepath.Join(b.dir, "gw.key"), b.address))
	var tail strings.Builder
	for _, f := range more {
		tail.WriteString(f(b.dir))
	}
	b.secret("fieldgate.toml", fmt.Sprintf(`[gateway]
name = %q
data_dir = "data"
[hub]
host = %q
address = "127.0.0.1:%d"
https_address = "127.0.0.1:%d"
ca_file = %q
[upload]
rate = "512MiB"
[store]
allow_any_filesystem = true
[control]
socket = ""
[metrics]
address = ""
[[broker.listener]]
address = %q
plain = true
[[broker.listener]]
address = "%s:443"
cert_file = "gw.crt"
key_file = "gw.key"
websocket = true
[[leaf]]
id = "pump-1"
key_file = "pump-1.key"
%s`, b.address, info.Host, info.AMQPPort, info.HTTPSPort, info.CAFile, b.broker, b.address, tail.String()))
	b.hub.Cut()
	b.start()
	return b
}

// kill is kill -9, and a start behind it.
func (b *uploadBench) kill() {
	b.t.Helper()
	must(b.t, b.cmd.Process.Signal(syscall.SIGKILL))
	_ = b.cmd.Wait() // it says that it was killed
	b.cmd = nil
	b.start()
}

// spooled is how many bytes of files are on flash.
func (b *uploadBench) spooled() (n int64) {
	files, err := filepath.Glob(filepath.Join(b.dir, "data", "upload", "*", "data"))
	must(b.t, err)
	for _, f := range files {
		if info, err := os.Stat(f); err == nil { // it may have gone
			n += info.Size()
		}
	}
	return n
}

// arrived waits until the hub tells its back end of a file, and compares it.
func (b *uploadBench) arrived(ctx context.Context, name, want string) {
	b.t.Helper()
	var notice struct{ BlobName string }
	b.await(ctx, "the hub tells of "+name, func() bool {
		d, ok := b.hub.Domain().FileNotices.Receive()
		if ok {
			must(b.t, json.Unmarshal(d.Message.Body, &notice))
		}
		return ok
	})
	if notice.BlobName != "pump-1/"+name {
		b.t.Errorf("the hub tells of %q, want %q", notice.BlobName, "pump-1/"+name)
	}
	if got := b.stored(ctx, name); got != want {
		b.t.Errorf("%d bytes are stored, want %d", len(got), len(want))
	}
}

// stored reads a file with the signature that the hub gives out for its name.
func (b *uploadBench) stored(ctx context.Context, name string) string {
	b.t.Helper()
	info := b.hub.Info()
	ca, err := os.ReadFile(info.CAFile)
	must(b.t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	keys := identity.NewKeyring(info.Host)
	keys.Put("pump-1", b.key)
	token, err := keys.DeviceToken("pump-1", time.Now().Add(time.Hour))
	must(b.t, err)
	ask := func(method, address, body string) []byte {
		req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
		must(b.t, err)
		if method == http.MethodPost {
			req.Header.Set("Authorization", token)
		}
		res, err := client.Do(req)
		must(b.t, err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		must(b.t, err)
		return text
	}
	var at struct{ HostName, ContainerName, BlobName, SASToken string }
	must(b.t, json.Unmarshal(ask(http.MethodPost, "https://127.0.0.1:"+strconv.Itoa(info.HTTPSPort)+"/devices/pump-1/files?api-version=2021-04-12",
		fmt.Sprintf(`{"blobName":%q}`, name)), &at))
	return string(ask(http.MethodGet, "https://"+at.HostName+"/"+at.ContainerName+"/"+at.BlobName+at.SASToken, ""))
}

// The vendor's own SDK uploads a file while the hub is away; the gateway is killed
// in the middle, and again when it has the file. Then the hub is back.
func TestNodeSDKUpload(t *testing.T) {
	t.Parallel()
	node, scripts := nodeScripts(t)
	ctx := testContext(t, 2*patience)
	b := newUploadBench(t)
	const size = 30_000_000
	cmd := exec.CommandContext(ctx, node, filepath.Join(scripts, "hub-upload.js"),
		"HostName="+b.address+";DeviceId=pump-1;SharedAccessKey="+keyText(b.hub), b.ca, "from/sdk.bin", strconv.Itoa(size))
	cmd.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+b.ca)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	waitForPort(ctx, &b.enrolBench, b.address+":443")
	must(t, cmd.Start())
	b.await(ctx, "the first blocks to be spooled", func() bool { return b.spooled() > 0 })
	t.Logf("killed with %d of %d bytes on flash", b.spooled(), size)
	b.kill()
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "uploaded") {
		t.Fatalf("the SDK says %v: %s", err, out.String())
	}
	b.kill()
	if _, ok := b.hub.Domain().FileNotices.Receive(); ok {
		t.Error("the file arrived at a hub that is away")
	}
	b.hub.Restore()
	b.arrived(ctx, "from/sdk.bin", strings.Repeat("0123456789", size/10))
}

func keyText(hub *hubsim.Hub) string {
	_, key, _ := strings.Cut(hub.Info().Devices["pump-1"].ConnectionString, "SharedAccessKey=")
	return key
}

func waitForPort(ctx context.Context, b *enrolBench, address string) {
	b.t.Helper()
	b.await(ctx, "the gateway to listen", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// A leaf with nothing but MQTT sends a file in parts on plain topics; the gateway is
// killed in the middle, and the leaf goes on behind what was acknowledged.
func TestUploadInParts(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 2*patience)
	b := newUploadBench(t)
	const parts = 12
	var want strings.Builder
	client := b.connect(ctx)
	for n := 1; n <= parts; n++ {
		part := strings.Repeat(strconv.Itoa(n%10), 100_000)
		want.WriteString(part)
		b.say(ctx, client, "leaf/pump-1/file/log%2Ftoday.txt/"+strconv.Itoa(n), part)
		if n == parts/2 {
			b.kill()
			client = b.connect(ctx)
			b.say(ctx, client, "leaf/pump-1/file/log%2Ftoday.txt/"+strconv.Itoa(n), part) // as if its acknowledgement were lost
		}
	}
	b.say(ctx, client, "leaf/pump-1/file/given-up/1", "x")
	b.say(ctx, client, "leaf/pump-1/file/given-up/cancel", "")
	b.say(ctx, client, "leaf/pump-1/file/log%2Ftoday.txt/end", "")
	b.kill()
	client = b.connect(ctx)
	defer client.Disconnect(100)
	b.say(ctx, client, "leaf/pump-1/file/log%2Ftoday.txt/end", "")
	b.hub.Restore()
	b.arrived(ctx, "log/today.txt", want.String())
	b.await(ctx, "the flash to be free again", func() bool { return b.spooled() == 0 })
}

func (b *uploadBench) connect(ctx context.Context) mqtt.Client {
	b.t.Helper()
	keys := identity.NewKeyring(b.hub.Info().Host)
	keys.Put("pump-1", b.key)
	token, err := keys.DeviceToken("pump-1", time.Now().Add(time.Hour))
	must(b.t, err)
	o := mqtt.NewClientOptions().AddBroker("tcp://" + b.broker).SetClientID("pump-1").SetUsername("hub.example/pump-1/?api-version=2021-04-12").
		SetPassword(token).SetConnectRetry(true).SetConnectRetryInterval(50 * time.Millisecond).SetAutoReconnect(false)
	client := mqtt.NewClient(o)
	b.wait(ctx, client.Connect())
	return client
}

func (b *uploadBench) say(ctx context.Context, client mqtt.Client, topic, body string) {
	b.t.Helper()
	b.wait(ctx, client.Publish(topic, 1, false, body))
}

func (b *uploadBench) wait(ctx context.Context, token mqtt.Token) {
	b.t.Helper()
	select {
	case <-token.Done():
		must(b.t, token.Error())
	case <-ctx.Done():
		b.t.Fatal("the leaf waits in vain")
	}
}

// Where the only way out is a proxy, files go through it, as all else does; with a
// proxy that others have written.
func TestUploadThroughProxy(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("tinyproxy")
	if err != nil {
		need(t, "tinyproxy is not installed (Debian package tinyproxy)")
	}
	ctx := testContext(t, 2*patience)
	b := &uploadBench{enrolBench: enrolBench{t: t, dir: folder(t)}}
	b.hub, err = hubsim.Start(hubsim.Config{Dir: filepath.Join(b.dir, "hub"), Host: "hub.example", Devices: map[string]string{"pump-1": ""}})
	must(t, err)
	t.Cleanup(func() { b.hub.Close() })
	b.broker, err = site.FreeAddress()
	must(t, err)
	proxy, err := site.FreeAddress()
	must(t, err)
	host, port, err := net.SplitHostPort(proxy)
	must(t, err)
	log := filepath.Join(b.dir, "tinyproxy.log")
	b.secret("tinyproxy.conf", fmt.Sprintf("Port %s\nListen %s\nTimeout 600\nMaxClients 50\nBasicAuth gate open-sesame\nLogFile %q\nLogLevel Connect\n", port, host, log))
	server := exec.Command(program, "-d", "-c", filepath.Join(b.dir, "tinyproxy.conf"))
	must(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait() // it was killed
	})
	waitForPort(ctx, &b.enrolBench, proxy)
	info := b.hub.Info()
	b.key, err = identity.ParseKey(keyText(b.hub))
	must(t, err)
	b.secret("pump-1.key", keyText(b.hub))
	b.secret("proxy.password", "open-sesame")
	b.secret("fieldgate.toml", fmt.Sprintf(`[gateway]
data_dir = "data"
[hub]
host = "hub.example"
address = "127.0.0.1:%d"
https_address = "127.0.0.1:%d"
ca_file = %q
proxy = "http://gate@%s"
proxy_password_file = "proxy.password"
%s[[leaf]]
id = "pump-1"
key_file = "pump-1.key"
`, info.AMQPPort, info.HTTPSPort, info.CAFile, proxy, b.rest()))
	b.start()
	client := b.connect(ctx)
	defer client.Disconnect(100)
	b.say(ctx, client, "leaf/pump-1/file/log.txt/1", "what happened")
	b.say(ctx, client, "leaf/pump-1/file/log.txt/end", "")
	b.say(ctx, client, "leaf/pump-1/telemetry", "x")
	b.arrived(ctx, "log.txt", "what happened")
	b.await(ctx, "the message to arrive", func() bool { return len(b.enrolBench.arrived()) == 1 })
	text, err := os.ReadFile(log)
	must(t, err)
	for _, port := range []int{info.AMQPPort, info.HTTPSPort} {
		if !strings.Contains(string(text), fmt.Sprintf("CONNECT 127.0.0.1:%d", port)) {
			t.Errorf("nothing went to port %d through the proxy:\n%s", port, text)
		}
	}
}

// The vendor's SDK uploads with a certificate in the place of a token; with that of
// another leaf, or none, it may not.
func TestNodeSDKUploadWithCertificate(t *testing.T) {
	t.Parallel()
	node, scripts := nodeScripts(t)
	ctx := testContext(t, 2*patience)
	var ca *authority
	b := newUploadBench(t, func(dir string) string {
		ca = newAuthority(t, dir)
		return "[broker]\nclient_ca_file = \"leaves.pem\"\n"
	})
	waitForPort(ctx, &b.enrolBench, b.address+":443")
	upload := func(id string) (string, error) {
		cert, key := ca.leaf(id)
		cmd := exec.CommandContext(ctx, node, filepath.Join(scripts, "hub-upload.js"),
			"HostName="+b.address+";DeviceId=pump-1;x509=true", b.ca, "by/certificate.bin", "5000000", "", cert, key)
		cmd.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+b.ca)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := upload("pump-2"); err == nil || !strings.Contains(out, "401") {
		t.Errorf("with another leaf's certificate: %v\n%s", err, out)
	}
	if out, err := upload("pump-1"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b.hub.Restore()
	b.arrived(ctx, "by/certificate.bin", strings.Repeat("0123456789", 500000))
}
