package rows

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/faultproxy"
	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// bin is the folder with the programs under test, built once.
var bin string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	var err error
	if bin, err = os.MkdirTemp("", "fieldgate-rows-bin-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(bin)
	if err := site.Build(context.Background(), bin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// patience bounds every wait for something that must happen. It is no
// expectation: a test that waits so long has failed.
const patience = 2 * time.Minute

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// need skips a test on a developer's machine for want of something, and fails it
// where everything has to be there.
func need(t *testing.T, missing string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("cannot be tested: %s", missing)
	}
	t.Skipf("skipped: %s", missing)
}

// bench is a hub in this process, a bad link, and the real gateway behind it.
type bench struct {
	t        *testing.T
	ctx      context.Context
	dir      string
	hub      *hubsim.Hub
	links    []*faultproxy.Proxy // to the hub's AMQP and HTTPS ports
	broker   string              // address for MQTT over TLS
	socket   string              // loopback address on whose port 443 WebSockets and HTTP are awaited; may be ""
	metrics  string
	gateway  *site.Process
	starts   int
	lastKill time.Time
}

// plan is what a test may want to be different.
type plan struct {
	leaves []string // each has a key, and logs in with a token
	plain  []string // leaves that log in with their password, see password
	others []string // of the hub, unknown to the gateway
	socket bool     // a listener for WebSockets
	life   time.Duration
	uplink string // more lines for [uplink]
	wait   string // hub_wait; default 500ms
	calm   bool   // nothing breaks: a slow machine is no reason to give the connection up
	tail   string // more tables, at the end of the configuration
}

func newBench(t *testing.T, p plan) *bench {
	t.Helper()
	if p.life == 0 {
		p.life = patience
	}
	must(t, site.LookAtSources())
	ctx, cancel := context.WithTimeout(t.Context(), p.life)
	t.Cleanup(cancel)
	b := &bench{t: t, ctx: ctx}
	var err error
	b.dir, err = os.MkdirTemp("", "fieldgate-rows-")
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("everything is kept in %s", b.dir)
			return
		}
		os.RemoveAll(b.dir)
	})
	b.startHub(p)
	if p.socket {
		b.socket = socketAddress(t)
	}
	b.broker, err = site.FreeAddress()
	must(t, err)
	b.metrics, err = site.FreeAddress()
	must(t, err)
	must(t, site.MakeCertificates(b.file("leaf-ca.pem"), b.file("gw.crt"), b.file("gw.key"), b.socket))
	b.configure(p)
	t.Cleanup(func() {
		if b.gateway == nil {
			return
		}
		if err := b.gateway.Stop(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) write(name, text string) string {
	must(b.t, os.WriteFile(b.file(name), []byte(text), 0o600))
	return b.file(name)
}

const hubHost = "hub.example"

func (b *bench) startHub(p plan) {
	devices := make(map[string]string)
	for _, list := range [][]string{p.leaves, p.plain, p.others} {
		for _, id := range list {
			devices[id] = ""
		}
	}
	var err error
	b.hub, err = hubsim.Start(hubsim.Config{Dir: b.file("hub"), Host: hubHost, Devices: devices})
	must(b.t, err)
	b.t.Cleanup(func() { b.hub.Close() })
	b.domain().Feedback.SetDelay(0)
	info := b.hub.Info()
	for _, port := range []int{info.AMQPPort, info.HTTPSPort} {
		link, err := faultproxy.Start(faultproxy.Config{To: fmt.Sprintf("127.0.0.1:%d", port)})
		must(b.t, err)
		b.t.Cleanup(func() { link.Close() })
		b.links = append(b.links, link)
	}
}

func (b *bench) domain() *hub.Hub { return b.hub.Domain() }

func id(leaf string) registry.ID { return registry.ID{Device: leaf} }

// password is that of a leaf that has one.
func password(leaf string) string { return leaf + "-secret" }

// key is a leaf's key at the hub, in Base64.
func (b *bench) key(leaf string) string {
	_, key, _ := strings.Cut(b.hub.Info().Devices[leaf].ConnectionString, "SharedAccessKey=")
	return key
}

func (b *bench) configure(p plan) {
	info := b.hub.Info()
	keepAlive, timeout := "1s", "3s"
	if p.calm {
		keepAlive, timeout = "2m", "2m"
	}
	var text strings.Builder
	fmt.Fprintf(&text, `[gateway]
name = %q
data_dir = "data"
[hub]
host = %q
address = %q
https_address = %q
ca_file = %q
keep_alive = %q
timeout = %q
[uplink]
backoff_min = "100ms"
backoff_max = "500ms"
%s[twin]
hub_wait = %q
[upload]
rate = "512MiB"
[store]
allow_any_filesystem = true
[control]
socket = "control.sock"
[metrics]
address = %q
[[broker.listener]]
address = %q
cert_file = "gw.crt"
key_file = "gw.key"
`, b.name(), info.Host, b.links[0].Addr(), b.links[1].Addr(), info.CAFile, keepAlive, timeout, p.uplink, cmp.Or(p.wait, "500ms"), b.metrics, b.broker)
	if b.socket != "" {
		fmt.Fprintf(&text, "[[broker.listener]]\naddress = \"%s:443\"\ncert_file = \"gw.crt\"\nkey_file = \"gw.key\"\nwebsocket = true\n", b.socket)
	}
	for i, leaf := range append(append([]string{}, p.leaves...), p.plain...) {
		fmt.Fprintf(&text, "[[leaf]]\nid = %q\nkey_file = %q\n", leaf, b.write(fmt.Sprintf("leaf-%d.key", i), b.key(leaf)))
		if i >= len(p.leaves) {
			fmt.Fprintf(&text, "password_file = %q\n", b.write(fmt.Sprintf("leaf-%d.hash", i), hash(b.t, password(leaf))))
		}
	}
	b.write("fieldgate.toml", text.String()+p.tail)
}

// name is what leaves know the gateway by.
func (b *bench) name() string {
	if b.socket != "" {
		return b.socket
	}
	return "localhost"
}

func hash(t *testing.T, password string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "fieldgate"), "device", "hash-password")
	cmd.Stdin = strings.NewReader(password + "\n")
	text, err := cmd.Output()
	must(t, err)
	return string(text)
}

// start starts the gateway and waits until leaves can connect.
func (b *bench) start() {
	b.t.Helper()
	var err error
	b.starts++
	b.gateway, err = site.Spawn(b.file("fieldgate.log"), nil, filepath.Join(bin, "fieldgate"), "run", "--config", b.file("fieldgate.toml"))
	must(b.t, err)
	b.await("the gateway to listen", func() bool {
		select {
		case <-b.gateway.Done():
			b.t.Fatalf("the gateway ended: %s", b.gateway.Said())
		default:
		}
		c, err := net.Dial("tcp", b.broker)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// kill is kill -9.
func (b *bench) kill() {
	b.gateway.Kill()
	b.lastKill = time.Now()
}

func (b *bench) await(what string, condition func() bool) {
	b.t.Helper()
	for !condition() {
		select {
		case <-b.ctx.Done():
			b.t.Fatalf("never: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// hole lets nothing through on the way to the hub and back, and tells nobody;
// what is on its way then goes on when it ends.
func (b *bench) hole(on bool) {
	for _, link := range b.links {
		for _, way := range []faultproxy.Direction{faultproxy.Up, faultproxy.Down} {
			must(b.t, link.Change(way, func(l *faultproxy.Link) { l.Hole = on }))
		}
	}
}

// metric reads one metric, summed over its labels; -1 while it cannot be read.
func (b *bench) metric(name string) float64 {
	m, err := site.ReadMetrics(b.ctx, b.metrics)
	if err != nil || !m.Has(name) {
		return -1
	}
	return m.Sum(name)
}

func (b *bench) connected() bool { return b.metric("fieldgate_uplink_up") == 1 }

// oneConnection checks that each connection of the gateway brought its messages
// after the one before had brought its last, and that there is one now.
func (b *bench) oneConnection() {
	b.t.Helper()
	var last uint64
	for a := range b.hub.Arrivals() {
		if a.Connection < last {
			b.t.Errorf("message %d of %s came over connection %d, after %d", a.Number, a.Device, a.Connection, last)
			return
		}
		last = a.Connection
	}
	b.await("one connection", func() bool { return b.hub.Stats().ConnectionsOpen == 1 })
}

// trust is for TLS connections to the gateway.
func (b *bench) trust() *tls.Config {
	b.t.Helper()
	c, err := site.Trust(b.file("leaf-ca.pem"))
	must(b.t, err)
	return c
}

// stored reads a file of a leaf as the hub's storage has it.
func (b *bench) stored(leaf, name string) string {
	b.t.Helper()
	uploads := b.domain().Uploads
	ticket, err := uploads.Start(leaf, name)
	must(b.t, err)
	defer func() { _, _ = uploads.Finish(b.ctx, leaf, ticket.CorrelationID, false) }()
	trust, err := site.Trust(b.hub.Info().CAFile)
	must(b.t, err)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trust, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(b.ctx, http.MethodGet, "https://"+ticket.HostName+"/"+ticket.ContainerName+"/"+ticket.BlobName+ticket.SASToken, nil)
	must(b.t, err)
	res, err := client.Do(req)
	must(b.t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	must(b.t, err)
	if res.StatusCode != http.StatusOK {
		b.t.Fatalf("%s of %s: %s", name, leaf, res.Status)
	}
	return string(text)
}

// socketNumber makes the addresses of this process differ.
var socketNumber atomic.Uint32

// socketAddress finds a loopback address whose port 443 nobody holds.
func socketAddress(t *testing.T) string {
	t.Helper()
	for range 50 {
		pid := os.Getpid()
		address := fmt.Sprintf("127.%d.%d.%d", 192+pid>>8&31, pid&255, 1+socketNumber.Add(1)%250)
		l, err := net.Listen("tcp", address+":443")
		if err == nil {
			l.Close()
			return address
		}
		if os.IsPermission(err) {
			need(t, "port 443 is for root")
		}
	}
	t.Fatal("no loopback address with a free port 443")
	return ""
}
