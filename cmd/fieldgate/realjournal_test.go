package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim"
)

// TestBeDaemon is the program itself, for TestJournal to start.
func TestBeDaemon(t *testing.T) {
	args := os.Getenv("FIELDGATE_TEST_ARGS")
	if args == "" {
		return
	}
	os.Args = append([]string{"fieldgate"}, strings.Split(args, "\n")...)
	os.Exit(mainCode())
}

// journalBench is a daemon whose journal is a socket of the test.
type journalBench struct {
	*testing.T
	ctx   context.Context
	dir   string
	port  string
	roots *x509.CertPool

	mu    sync.Mutex
	lines []map[string]string // guarded by mu
	raw   bytes.Buffer        // guarded by mu
}

// program is a command of the program.
func (b *journalBench) program(args ...string) *exec.Cmd {
	c := exec.CommandContext(b.ctx, os.Args[0], "-test.run=^TestBeDaemon$")
	c.Dir = b.dir
	c.Env = append(os.Environ(), "FIELDGATE_TEST_ARGS="+strings.Join(args, "\n"), "FIELDGATE_SOCKET="+filepath.Join(b.dir, "control.sock"))
	return c
}

func (b *journalBench) does(args ...string) string {
	b.Helper()
	out, err := b.program(args...).CombinedOutput()
	if err != nil {
		b.Fatalf("fieldgate %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// listen takes what comes to the journal's socket.
func (b *journalBench) listen(socket string) {
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		b.Fatal(err)
	}
	over := make(chan struct{})
	b.Cleanup(func() { c.Close(); <-over })
	go func() {
		defer close(over)
		buf := make([]byte, 1<<20)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			b.mu.Lock()
			b.raw.Write(buf[:n])
			b.lines = append(b.lines, readJournal(buf[:n]))
			b.mu.Unlock()
		}
	}()
}

// readJournal reads a datagram of the journal's native protocol.
func readJournal(b []byte) map[string]string {
	fields := make(map[string]string)
	for len(b) > 0 {
		line, rest, _ := bytes.Cut(b, []byte{'\n'})
		name, value, ok := bytes.Cut(line, []byte{'='})
		if !ok && len(rest) >= 8 {
			n := binary.LittleEndian.Uint64(rest)
			value, rest = rest[8:8+n], rest[8+n+1:]
		}
		fields[string(name)] = string(value)
		b = rest
	}
	return fields
}

// event waits for an event, and forgets those before it.
func (b *journalBench) event(name, leaf string, priority string) map[string]string {
	b.Helper()
	for limit := time.Now().Add(time.Minute); time.Now().Before(limit); time.Sleep(10 * time.Millisecond) {
		b.mu.Lock()
		for i, l := range b.lines {
			if l["FIELDGATE_EVENT"] == name && l["FIELDGATE_LEAF"] == leaf {
				b.lines = b.lines[i+1:]
				b.mu.Unlock()
				if l["MESSAGE_ID"] != messageID(name) || l["PRIORITY"] != priority || l["MESSAGE"] == "" || l["SYSLOG_IDENTIFIER"] != "fieldgate" || l["FIELDGATE_DEVICE"] != leaf {
					b.Errorf("%s is %v", name, l)
				}
				if strings.HasPrefix(name, "pairing-") && l["FIELDGATE_TRANSPORT"] != "mqtt" {
					b.Errorf("%s came over %q", name, l["FIELDGATE_TRANSPORT"])
				}
				return l
			}
		}
		b.mu.Unlock()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.Fatalf("there is no %s of %q in the journal: %v", name, leaf, b.lines)
	return nil
}

// guest connects as somebody who wants to pair; nil if the code is refused.
func (b *journalBench) guest(code string) net.Conn {
	b.Helper()
	c, err := tls.Dial("tcp", "127.0.0.1:"+b.port, &tls.Config{RootCAs: b.roots, ServerName: "gate-7.example"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	body := append(mqttText("MQTT"), 4, 0xc2, 0, 60)
	body = append(append(append(body, mqttText("guest")...), mqttText("pair")...), mqttText(code)...)
	b.write(c, 0x10, body)
	answer := make([]byte, 4)
	if _, err := io.ReadFull(c, answer); err != nil || answer[3] != 0 {
		return nil
	}
	return c
}

func (b *journalBench) write(c net.Conn, first byte, body []byte) {
	b.Helper()
	if _, err := c.Write(append(binary.AppendUvarint([]byte{first}, uint64(len(body))), body...)); err != nil {
		b.Fatal(err)
	}
}

func mqttText(s string) []byte { return append([]byte{byte(len(s) >> 8), byte(len(s))}, s...) }

// claims asks for a password as a new leaf. What it returns waits for the answer.
func (b *journalBench) claims(code, leaf string) (answer func() string) {
	b.Helper()
	c := b.guest(code)
	if c == nil {
		b.Fatalf("the code %s is refused", code)
	}
	b.write(c, 0x82, append(append([]byte{0, 1}, mqttText("$fieldgate/pair/response")...), 1))
	b.write(c, 0x30, append(mqttText("$fieldgate/pair/request"), fmt.Sprintf(`{"id":%q,"password":true}`, leaf)...))
	return func() string {
		in := bufio.NewReader(c)
		for {
			first, err := in.ReadByte()
			if err != nil {
				return ""
			}
			n, err := binary.ReadUvarint(in)
			body := make([]byte, n)
			if err == nil {
				_, err = io.ReadFull(in, body)
			}
			if err != nil {
				return ""
			}
			if first>>4 == 3 {
				return string(body)
			}
		}
	}
}

func (b *journalBench) opens(more ...string) (code string) {
	b.Helper()
	b.does(append([]string{"pair", "open", "--auth", "gateway", "--for", "10m"}, more...)...)
	b.event("pairing-opened", "", "6")
	var shown struct{ Code string }
	if err := json.Unmarshal([]byte(b.does("pair", "code", "--output", "json")), &shown); err != nil || shown.Code == "" {
		b.Fatalf("no code: %v", err)
	}
	return shown.Code
}

// newJournalBench starts a daemon in a mount namespace of its own, in which a socket of
// the test is the journal's. more is in its configuration, beside a leaf pump-1 and the
// gateway's own key.
func newJournalBench(t *testing.T, more string) *journalBench {
	dir, err := os.MkdirTemp("", "journal-") // a unix socket's path has at most 107 characters
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	t.Cleanup(cancel)
	b := &journalBench{T: t, ctx: ctx, dir: dir, port: port, roots: x509.NewCertPool()}
	cert, key := certificate(t)
	b.roots.AppendCertsFromPEM([]byte(cert))
	for name, text := range map[string]string{
		"cert.pem": cert, "key.pem": key, "gate.key": journalCanary + "\n",
		"fieldgate.toml": more + `
[gateway]
data_dir = "data"
[control]
socket = "control.sock"
[metrics]
address = ""
[[broker.listener]]
address = "127.0.0.1:` + port + `"
cert_file = "cert.pem"
key_file = "key.pem"
[[leaf]]
id = "pump-1"
auth = "gateway"
stand_in = true
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"journal", "leaf.d"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.listen(filepath.Join(dir, "journal", "socket"))

	stderr, shown, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stderr.Close() })
	info, err := shown.Stat()
	if err != nil {
		t.Fatal(err)
	}
	at := info.Sys().(*syscall.Stat_t)
	daemon := b.within("run", "--config", "fieldgate.toml")
	daemon.Env = append(daemon.Env, fmt.Sprintf("JOURNAL_STREAM=%d:%d", at.Dev, at.Ino))
	daemon.Stderr = shown
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	shown.Close()
	said := make(chan string)
	go func() {
		text, _ := io.ReadAll(stderr)
		said <- string(text)
	}()
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		if err := daemon.Wait(); err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
		if text := <-said; text != "" {
			t.Errorf("beside the journal the daemon says\n%s", text)
		}
	})
	return b
}

// journalCanary is the gateway's own key at the hub.
const journalCanary = "bm8gb25lIG1heSByZWFkIHRoaXMga2V5"

// within is a command of the program that finds the test's journal.
func (b *journalBench) within(args ...string) *exec.Cmd {
	b.Helper()
	c := b.program(args...)
	namespace := []string{"-m"}
	if os.Geteuid() != 0 {
		namespace = []string{"-rm"}
	}
	c.Args = append(append([]string{"unshare"}, namespace...), "sh", "-c",
		`mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind "$0" /run/systemd/journal && exec "$@"`,
		filepath.Join(b.dir, "journal"), os.Args[0], "-test.run=^TestBeDaemon$")
	var err error
	if c.Path, err = exec.LookPath("unshare"); err != nil {
		cannotBeHere(b.T, "unshare is not here")
	}
	if err := exec.CommandContext(b.ctx, c.Path, namespace[0], "true").Run(); err != nil {
		cannotBeHere(b.T, fmt.Sprintf("there are no mount namespaces here: %v", err))
	}
	return c
}

// What happens to the link, the store and the configuration is in the journal with its
// MESSAGE_ID, and so is a factory reset, which an operator asks for with or without a daemon.
func TestJournalOfTheGateway(t *testing.T) {
	hub, err := hubsim.Start(hubsim.Config{Dir: t.TempDir(), Host: "hub.test", Devices: map[string]string{"gate-7": journalCanary}})
	if err != nil {
		t.Fatal(err)
	}
	defer hub.Close()
	at := fmt.Sprintf("%s:%d", hub.Info().Bind, hub.Info().AMQPPort)
	b := newJournalBench(t, fmt.Sprintf(`[hub]
host = "hub.test"
transport = "amqp"
address = %q
ca_file = %q
device_id = "gate-7"
key_file = "gate.key"
[store]
allow_any_filesystem = true
segment_size = "1MiB"
[lane.telemetry]
custody = "disk"
max_bytes = "12MiB"
`, at, hub.Info().CAFile))
	b.event("link-up", "", "6")

	// A configuration that loses the hub is undone.
	b.does("config", "set", "hub.address", "127.0.0.1:1", "--config", "fieldgate.toml")
	if out, err := b.program("config", "apply", "--confirm", "2s").CombinedOutput(); err == nil {
		t.Errorf("a configuration without the hub is kept:\n%s", out)
	}
	b.event("configuration-applied", "", "6")
	if l := b.event("configuration-rolled-back", "", "3"); !strings.Contains(l["MESSAGE"], "revision=2") || !strings.Contains(l["MESSAGE"], "the connection to the hub was not back") {
		t.Errorf("the rollback is %v", l)
	}
	if l := b.event("link-up", "", "6"); l["FIELDGATE_TRANSPORT"] != "amqp" {
		t.Errorf("the link is %v", l)
	}

	// A lane that is full takes nothing more, and says when it does again.
	hub.Cut()
	fill := b.program("pub", "--leaf", "pump-1", "-t", "leaf/pump-1/telemetry", "-l")
	fill.Stdin = strings.NewReader(strings.Repeat(strings.Repeat("x", 200<<10)+"\n", 100))
	if out, err := fill.CombinedOutput(); err == nil {
		t.Errorf("the lane takes all:\n%s", out)
	}
	b.event("store-full", "", "4")
	hub.Restore()
	again := func() error {
		return b.program("pub", "--leaf", "pump-1", "-t", "leaf/pump-1/telemetry", "-m", "again").Run()
	}
	for limit := time.Now().Add(time.Minute); again() != nil && time.Now().Before(limit); {
	}
	b.event("store-well", "", "6")

	reset := b.within("factory-reset", "--yes", "--config", "fieldgate.toml", "--data", "data")
	if out, err := reset.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if l := b.event("factory-reset", "", "4"); !strings.Contains(l["MESSAGE"], "uid=") {
		t.Errorf("the reset is %v", l)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if strings.Contains(b.raw.String(), journalCanary) {
		t.Error("the journal has the gateway's key")
	}
}

// Every step of a pairing is in the journal, under systemd's own protocol and with its
// MESSAGE_ID, and no code, password or key is in any field.
func TestJournal(t *testing.T) {
	b := newJournalBench(t, `[hub]
host = "hub.example"
address = "127.0.0.1:1"
device_id = "gate-7"
key_file = "gate.key"
[store]
allow_any_filesystem = true
`)
	b.event("link-down", "", "4")

	code := b.opens()
	secrets := []string{journalCanary, code, strings.ReplaceAll(code, "-", "")}
	wrong := []byte(strings.ReplaceAll(code, "-", ""))
	wrong[0] = '0' + (wrong[0]-'0'+1)%10
	for check := byte('0'); check <= '9'; check++ { // one of them is no slip
		wrong[len(wrong)-1] = check
		if b.guest(string(wrong)) != nil {
			t.Error("a wrong code is taken")
		}
	}
	if l := b.event("pairing-wrong-code", "", "4"); !strings.Contains(l["MESSAGE"], "source=127.0.0.1") {
		t.Errorf("the wrong code is %v", l)
	}
	answer := b.claims(code, "sensor-3")
	if l := b.event("pairing-claimed", "sensor-3", "6"); !strings.HasPrefix(l["MESSAGE"], "sensor-3: ") {
		t.Errorf("the claim is %v", l)
	}
	b.does("device", "approve", "sensor-3")
	b.event("pairing-approved", "sensor-3", "6")
	_, after, _ := strings.Cut(answer(), `"password":"`)
	password, _, _ := strings.Cut(after, `"`)
	if password == "" {
		t.Fatal("sensor-3 has no password")
	}
	secrets = append(secrets, password)
	b.event("pairing-closed", "", "6")

	code = b.opens()
	secrets = append(secrets, code)
	b.claims(code, "pump-1")
	b.event("pairing-known-leaf", "pump-1", "3")

	code = b.opens()
	secrets = append(secrets, code)
	b.claims(code, "sensor-4")
	b.event("pairing-claimed", "sensor-4", "6")
	b.does("device", "reject", "sensor-4")
	b.event("pairing-rejected", "sensor-4", "4")

	b.does("device", "remove", "sensor-3")
	b.event("leaf-removed", "sensor-3", "4")
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range secrets {
		if strings.Contains(b.raw.String(), s) {
			t.Errorf("the journal has the secret %q", s)
		}
	}
}

// cannotBeHere skips on a developer's machine, and fails where everything has to be there.
func cannotBeHere(t *testing.T, missing string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(missing)
	}
	t.Skip(missing)
}
