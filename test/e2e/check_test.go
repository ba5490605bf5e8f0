package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// patient is a gateway with something wrong, and a hub.
type patient struct {
	t      *testing.T
	hub    *hubsim.Hub
	dir    string
	host   string   // default: that of the hub
	toHub  []string // lines of [hub], default: the addresses of the hub
	data   string   // data_dir
	more   string   // more tables
	broker string   // address of the listener
	often  string   // key of how often the hub is told the state
	before string   // shell commands before every command, in a name space of its own
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	p := &patient{t: t, dir: folder(t), data: "data"}
	var err error
	p.hub, err = hubsim.Start(hubsim.Config{Dir: filepath.Join(p.dir, "hub"), Host: "127.0.0.1"})
	must(t, err)
	t.Cleanup(func() { p.hub.Close() })
	info := p.hub.Info()
	p.toHub = []string{
		fmt.Sprintf(`address = "127.0.0.1:%d"`, info.AMQPPort),
		fmt.Sprintf(`websocket_address = "127.0.0.1:%d"`, info.HTTPSPort),
		fmt.Sprintf(`https_address = "127.0.0.1:%d"`, info.HTTPSPort),
		fmt.Sprintf(`ca_file = %q`, info.CAFile),
	}
	connection, err := p.hub.AddDevice("pump-1", "")
	must(t, err)
	_, key, _ := strings.Cut(connection, "SharedAccessKey=")
	p.file("pump-1.key", key)
	must(t, site.MakeCertificates(p.path("ca.pem"), p.path("cert.pem"), p.path("key.pem")))
	p.broker, err = site.FreeAddress()
	must(t, err)
	return p
}

func (p *patient) path(name string) string { return filepath.Join(p.dir, name) }

func (p *patient) file(name, text string) {
	p.t.Helper()
	must(p.t, os.WriteFile(p.path(name), []byte(text), 0o600))
}

// configure writes the configuration.
func (p *patient) configure() {
	p.t.Helper()
	p.file("fieldgate.toml", fmt.Sprintf(`[gateway]
data_dir = %q
%s
[hub]
host = %q
%s
[uplink]
auth_backoff_min = "1s"
auth_backoff_max = "1s"
[[broker.listener]]
address = %q
cert_file = "cert.pem"
key_file = "key.pem"
[store]
allow_any_filesystem = true
[control]
socket = "control.sock"
[metrics]
address = ""
[[leaf]]
id = "pump-1"
key_file = "pump-1.key"
%s`, p.data, p.often, cmp.Or(p.host, p.hub.Info().Host), strings.Join(p.toHub, "\n"), p.broker, p.more))
}

// start starts the daemon, until the test ends.
func (p *patient) start(ctx context.Context) {
	p.t.Helper()
	log, err := os.Create(p.path("fieldgate.log"))
	must(p.t, err)
	defer log.Close()
	run := exec.Command(filepath.Join(bin, "fieldgate"), "run", "--config", p.path("fieldgate.toml"))
	run.Stderr = log
	must(p.t, run.Start())
	p.t.Cleanup(func() {
		_ = run.Process.Signal(syscall.SIGTERM)
		if err := run.Wait(); err != nil {
			p.t.Errorf("the gateway ended with %v", err)
		}
	})
	if code, out := p.fieldgate(ctx, "wait", "--for=running", "--socket", p.path("control.sock")); code != 0 {
		p.t.Fatalf("the daemon does not start: %s", out)
	}
}

// fieldgate runs a command and returns how it ended and what it wrote.
func (p *patient) fieldgate(ctx context.Context, args ...string) (code int, out string) {
	p.t.Helper()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "fieldgate"), args...)
	if p.before != "" {
		inside := append([]string{"--map-root-user", "--mount", "sh", "-ec", p.before + `; exec "$@"`, "sh", cmd.Path}, args...)
		cmd = exec.CommandContext(ctx, "unshare", inside...)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		code = failed.ExitCode()
	} else if err != nil {
		p.t.Fatal(err)
	}
	if stdout.Len() == 0 {
		p.t.Logf("%v: %s", args, stderr.String())
	}
	return code, stdout.String()
}

// finding is what "fieldgate check" says.
type finding struct{ ID, Result, What, Why, Next string }

// check runs "fieldgate check" and returns what is not as it should be.
func (p *patient) check(ctx context.Context, args ...string) (code int, found []finding) {
	p.t.Helper()
	args = append([]string{"check", "--config", p.path("fieldgate.toml"), "--output", "json"}, args...)
	code, out := p.fieldgate(ctx, args...)
	var all []finding
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		p.t.Fatalf("fieldgate check, exit code %d: %v in %s", code, err, out)
	}
	for _, f := range all {
		if f.Result == "error" || f.Result == "warning" {
			found = append(found, f)
		}
	}
	return code, found
}

// deaf returns an address at which nobody answers, as behind a firewall that drops
// packets: a socket whose line is full.
func deaf(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	must(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	must(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(t, syscall.Listen(fd, 0))
	at, err := syscall.Getsockname(fd)
	must(t, err)
	address := fmt.Sprintf("127.0.0.1:%d", at.(*syscall.SockaddrInet4).Port)
	c, err := net.Dial("tcp", address)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return address
}

// namespaces says whether commands can have a mount of their own.
func namespaces(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("unshare", "--map-root-user", "--mount", "true").CombinedOutput(); err != nil {
		need(t, fmt.Sprintf("unshare --map-root-user --mount: %v %s", err, out))
	}
}

// Each fault is there for real, and "fieldgate check" names it, it alone, and the
// command that mends it. The tenth, a wrong clock, is in package clock.
func TestCheckNamesTheFault(t *testing.T) {
	for _, c := range []struct {
		name   string
		inject func(*patient)
		daemon bool // it runs
		id     string
		result string
		code   int
		what   string
		next   string
	}{
		{
			"bad DNS", func(p *patient) { p.host, p.toHub = "plant.fieldgate.invalid", nil }, false,
			"dns", "error", 5, "plant.fieldgate.invalid cannot be looked up", "fieldgate config set hub.host|resolvectl",
		},
		{
			"5671 refused, 443 open", func(p *patient) {
				closed, err := site.FreeAddress()
				must(p.t, err)
				p.toHub[0] = fmt.Sprintf("address = %q", closed)
			}, true,
			"reach", "warning", 0, "is blocked, port", "fieldgate config set hub.transport amqp-ws",
		},
		{
			"5671 dropped, 443 open", func(p *patient) { p.toHub[0] = fmt.Sprintf("address = %q", deaf(p.t)) }, false,
			"reach", "warning", 0, "is blocked, port", "fieldgate config set hub.transport amqp-ws",
		},
		{
			"nothing open", func(p *patient) {
				p.toHub[0], p.toHub[1] = fmt.Sprintf("address = %q", deaf(p.t)), "transport = \"amqp\""
			}, false,
			"reach", "error", 5, "the hub cannot be reached", "fieldgate netcheck",
		},
		{
			"hub's certificate expired", func(p *patient) { p.hub.ExpireCertificate(true) }, false,
			"hub-certificate", "error", 5, "the hub's certificate has expired", "fieldgate netcheck",
		},
		{
			"own certificate expired", func(p *patient) {
				must(p.t, site.MakeExpiredCertificates(p.path("ca.pem"), p.path("cert.pem"), p.path("key.pem")))
			}, true,
			"certificate", "error", 1, "has expired", "fieldgate cert import",
		},
		{
			"full disk", func(p *patient) {
				p.data = p.path("disk/data")
				p.before = "mount -t tmpfs -o size=40m none " + p.path("disk") + "; mkdir " + p.data + "; head -c 20m /dev/zero >" + p.path("disk/photo")
			}, false,
			"disk", "error", 10, "the disk is full", "du -xhd2",
		},
		{
			"read-only store", func(p *patient) {
				p.data = p.path("disk/data")
				p.before = "mount -t tmpfs -o size=400m none " + p.path("disk") + "; mkdir " + p.data + "; mount -o remount,ro " + p.path("disk")
			}, false,
			"disk", "error", 10, "is read-only", "mount -o remount,rw ",
		},
		{
			"wrong key", func(p *patient) { p.file("pump-1.key", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=") }, false,
			"identity", "error", 6, "refuses pump-1: wrong key", "fieldgate config get leaf.pump-1.key_file",
		},
		{
			"disabled device", func(p *patient) { p.hub.SetEnabled("pump-1", false) }, true,
			"identity", "error", 6, "refuses pump-1: it is disabled", "az iot hub device-identity update -n 127.0.0.1 -d pump-1 --set status=enabled",
		},
		{
			"unknown device", func(p *patient) { must(p.t, p.hub.RemoveDevice("pump-1")) }, false,
			"identity", "error", 6, "refuses pump-1: it does not know it", "az iot hub device-identity create -n 127.0.0.1 -d pump-1",
		},
		{
			"missing serial port", func(p *patient) {
				p.more = "[[serial]]\nport = \"/dev/serial/by-id/usb-FTDI_A50285BI-if00\"\nformat = \"json\"\nleaf = \"pump-1\"\n"
			}, true,
			"serial", "error", 1, "/dev/serial/by-id/usb-FTDI_A50285BI-if00 is missing", "fieldgate config set serial[0].port",
		},
		{
			"throttled", func(p *patient) { p.hub.Throttle(true) }, false,
			"throttling", "error", 1, "throttling", "fieldgate config set path.backfill_messages_per_second",
		},
		{
			"mistake in the configuration", func(p *patient) { p.more = "[hubb]\nhost = 1\n" }, false,
			"config", "error", 3, "has 1 mistake", "fieldgate config validate",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := testContext(t, 2*patience)
			p := newPatient(t)
			must(t, os.Mkdir(p.path("disk"), 0o755))
			c.inject(p)
			p.configure()
			if p.before != "" {
				namespaces(t)
			}
			var args []string
			if c.daemon {
				p.start(ctx)
			} else {
				args = []string{"--ignore", "daemon"}
			}
			code, found := p.check(ctx, append(args, "--timeout", "3s")...)
			if code != c.code || len(found) != 1 {
				t.Fatalf("exit code %d, want %d; found %+v, want %s alone", code, c.code, found, c.id)
			}
			f, next := found[0], false
			for way := range strings.SplitSeq(c.next, "|") {
				next = next || strings.Contains(found[0].Next, way)
			}
			if f.ID != c.id || f.Result != c.result || !strings.Contains(f.What, c.what) || !next {
				t.Errorf("found %+v\nwant %s %s with %q and %q", f, c.result, c.id, c.what, c.next)
			}
		})
	}
}

// Over AMQP there is a connection whatever the key of the gateway's own device: that
// it is wrong is said all the same, also on the card, until it is right.
func TestWrongKeyOfTheGatewayItself(t *testing.T) {
	ctx := testContext(t, 2*patience)
	p := newPatient(t)
	connection, err := p.hub.AddDevice("gate", "")
	must(t, err)
	_, right, _ := strings.Cut(connection, "SharedAccessKey=")
	p.file("gate.key", "d3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3I=")
	p.toHub = append(p.toHub, `device_id = "gate"`, `key_file = "gate.key"`)
	p.often = "report_every = \"1s\""
	p.configure()
	p.start(ctx)
	// Until status does say so, or no more.
	refused := func(want bool) {
		t.Helper()
		const words = "the hub refuses the gateway's own device"
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			_, out := p.fieldgate(ctx, "status", "--socket", p.path("control.sock"))
			if strings.Contains(out, words) == want {
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("status says %s", out)
			}
		}
	}
	refused(true)
	must(t, os.Mkdir(p.path("card"), 0o755))
	report := []string{"first-boot", "report", "--from", p.path("card"), "--config", p.path("fieldgate.toml")}
	card := func() string {
		t.Helper()
		if code, out := p.fieldgate(ctx, append(report, "--socket", p.path("control.sock"))...); code != 0 {
			t.Fatalf("the report ends with %d: %s", code, out)
		}
		text, err := os.ReadFile(p.path("card/FIELDGATE-STATUS.txt"))
		must(t, err)
		return string(text)
	}
	if text := card(); !strings.Contains(text, "NEXT     the hub refuses the gateway: write the connection string of an enabled device") || !strings.Contains(text, "WRONG ") {
		t.Errorf("the card says\n%s", text)
	}
	// While the hub cannot be asked, its last word stands.
	p.hub.Cut()
	p.hub.Reset()
	refused(false)
	p.hub.Restore()
	refused(true)
	if log, err := os.ReadFile(p.path("fieldgate.log")); err != nil || strings.Contains(string(log), "own-device-taken") {
		t.Errorf("%v, the log says\n%s", err, log)
	}
	p.file("gate.key", right)
	if code, out := p.fieldgate(ctx, "config", "apply", p.path("fieldgate.toml"), "--socket", p.path("control.sock")); code != 0 {
		t.Fatalf("apply: %d: %s", code, out)
	}
	refused(false)
	if text := card(); !strings.Contains(text, "NEXT     nothing: all is well") {
		t.Errorf("with the right key the card says\n%s", text)
	}
	// Taken away at the hub later, it is noticed without a restart.
	p.hub.SetEnabled("gate", false)
	refused(true)
	p.hub.SetEnabled("gate", true)
	refused(false)
}

// Where nothing is wrong, nothing is found; and without a daemon just that.
func TestCheckFindsNothing(t *testing.T) {
	ctx := testContext(t, 2*patience)
	p := newPatient(t)
	p.configure()
	if code, found := p.check(ctx); code != 4 || len(found) != 1 || found[0].ID != "daemon" || !strings.Contains(found[0].Next, "systemctl start fieldgate") {
		t.Errorf("without a daemon: exit code %d, %+v", code, found)
	}
	p.start(ctx)
	if code, found := p.check(ctx); code != 0 || len(found) != 0 {
		t.Errorf("exit code %d, found %+v", code, found)
	}
}

func TestNetcheckTriesEveryWay(t *testing.T) {
	ctx := testContext(t, 2*patience)
	p := newPatient(t)
	silent := deaf(t)
	p.toHub[0] = fmt.Sprintf("address = %q", silent)
	p.configure()
	args := []string{"netcheck", "--config", p.path("fieldgate.toml"), "--timeout", "3s"}
	code, out := p.fieldgate(ctx, append(args, "--output", "jsonl")...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != 0 || len(lines) != 2 || !strings.Contains(lines[0], `"step":"connect"`) || !strings.Contains(lines[0], "firewall") ||
		!strings.Contains(lines[1], `"transport":"amqp-ws"`) || !strings.Contains(lines[1], `"expires_at":"20`) {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if code, out = p.fieldgate(ctx, args...); code != 0 || !strings.Contains(out, "*  amqp-ws") || !strings.Contains(out, "closed: ") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	p.toHub[1] = ""
	p.configure()
	if code, out = p.fieldgate(ctx, args...); code != 5 {
		t.Errorf("nothing is open: exit code %d:\n%s", code, out)
	}
}

// A round trip is one: it needs the hub, the key and the way; with the daemon or
// without.
func TestConnectMakesARoundTrip(t *testing.T) {
	ctx := testContext(t, 3*patience)
	p := newPatient(t)
	p.configure()
	connect := func(want int, words string, args ...string) {
		t.Helper()
		code, out := p.fieldgate(ctx, append([]string{"connect", "--config", p.path("fieldgate.toml"), "--timeout", "10s"}, args...)...)
		if code != want || !strings.Contains(out, words) {
			t.Errorf("connect %v: exit code %d, want %d, with %q:\n%s", args, code, want, words, out)
		}
	}
	connect(0, "read of pump-1", "--test")
	connect(7, "", "--wait", "1s") // no daemon
	p.hub.SetEnabled("pump-1", false)
	connect(6, "the hub speaks amqp", "--test")
	p.hub.SetEnabled("pump-1", true)
	p.start(ctx)
	connect(0, "read of pump-1")
	connect(0, `"stage": "twin"`, "--test", "--output", "json")
	p.hub.SetEnabled("pump-1", false)
	p.hub.Reset()
	connect(6, "connect ") // the daemon is connected, and the leaf is refused
	p.hub.SetEnabled("pump-1", true)
	socket := []string{"--socket", p.path("control.sock")}
	for _, state := range []string{"running", "connected", "drained"} {
		if code, _ := p.fieldgate(ctx, append([]string{"wait", "--for=" + state}, socket...)...); code != 0 {
			t.Errorf("wait --for=%s: exit code %d", state, code)
		}
	}
	must(t, p.hub.Close())
	connect(5, "", "--test")
	connect(0, "certificate", "--offline")
	if code, _ := p.fieldgate(ctx, append([]string{"wait", "--for=connected", "--timeout", "1s"}, socket...)...); code != 7 {
		t.Errorf("wait with no hub: exit code %d, want 7", code)
	}
}

// What became of a message that went through, and of one that waited.
func TestWhy(t *testing.T) {
	ctx := testContext(t, 3*patience)
	list := devices(1, site.MQTT5)
	s := running(ctx, t, site.Plan{Leaves: list})
	crew := launch(ctx, t, s, list, leafsim.Options{Window: 1})
	crew.Send(3)
	must(t, s.Await(ctx, "arrival", func() bool { return len(s.Events()) >= 3 }))
	why := func(id string) (out string) {
		t.Helper()
		show := exec.CommandContext(ctx, filepath.Join(bin, "fieldgate"), "why", id, "--socket", filepath.Join(s.Dir(), "gateway", "control.sock"))
		text, err := show.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, text)
		}
		return string(text)
	}
	must(t, s.Await(ctx, "the hub's word", func() bool { return strings.Contains(why(s.Events()[2].MessageID), "disposition  settled") }))
	for _, words := range []string{"leaf         leaf-001", "lane         telemetry", "attempts     1", "Z  received", "Z  sent over amqp", "Z  settled"} {
		if out := why(s.Events()[2].MessageID); !strings.Contains(out, words) {
			t.Errorf("%q is missing in\n%s", words, out)
		}
	}
	allArrived(ctx, t, s)
}
