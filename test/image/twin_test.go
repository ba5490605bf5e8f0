package image

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/test/hubsim"
)

// patience bounds a boot and all that is waited for after it. An idle machine needs
// a minute, one that does much else a quarter of an hour.
const patience = 40 * time.Minute

// twin is the card in a virtual machine, and the hub that it is to reach.
type twin struct {
	t       *testing.T
	dir     string
	card    string
	hub     *hubsim.Hub
	key     identity.Key // of the leaf pump-1
	keyText string
	trusted *x509.CertPool
	mqtt    string // where the machine's port 8883 is on this one
	ssh     string // and its port 22
	qemu    *exec.Cmd
}

// newTwin makes a card of a gigabyte from the image, puts on it what an operator
// would, and starts the machine. Nothing is ever typed.
func newTwin(ctx context.Context, t *testing.T, image string) *twin {
	t.Helper()
	w := &twin{t: t, dir: t.TempDir()}
	w.card = filepath.Join(w.dir, "card.img")
	w.run(ctx, "cp", "--sparse=always", filepath.Join(image, "qemu_aarch64.img"), w.card)
	must(t, os.Truncate(w.card, 1<<30))

	var err error
	w.hub, err = hubsim.Start(hubsim.Config{Dir: filepath.Join(w.dir, "hub"), Host: "hub.example", Devices: map[string]string{"pump-1": ""}})
	must(t, err)
	t.Cleanup(func() { w.hub.Close() })
	info := w.hub.Info()
	for field := range strings.SplitSeq(info.Devices["pump-1"].ConnectionString, ";") {
		if text, ok := strings.CutPrefix(field, "SharedAccessKey="); ok {
			w.keyText = text
		}
	}
	w.key, err = identity.ParseKey(w.keyText)
	must(t, err)

	folder := filepath.Join(w.dir, "fieldgate")
	must(t, os.Mkdir(folder, 0o755))
	w.certificate(folder)
	put := func(name, text string) { must(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600)) }
	authority, err := os.ReadFile(info.CAFile)
	must(t, err)
	put("hub-ca.pem", string(authority))
	put("pump-1.key", w.keyText)
	// As an editor on Windows writes it.
	put("fieldgate.toml", strings.ReplaceAll(fmt.Sprintf(`[gateway]
data_dir = "/var/lib/fieldgate"
[hub]
host = %q
address = "10.0.2.2:%d"
ca_file = "hub-ca.pem"
[[broker.listener]]
address = ":8883"
cert_file = "gateway.crt"
key_file = "gateway.key"
[[leaf]]
id = "pump-1"
key_file = "pump-1.key"
`, info.Host, info.AMQPPort), "\n", "\r\n"))
	w.run(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(w.dir, "id"))
	public, err := os.ReadFile(filepath.Join(w.dir, "id.pub"))
	must(t, err)
	put("authorized_keys", string(public))
	files, err := filepath.Glob(filepath.Join(folder, "*"))
	must(t, err)
	w.run(ctx, "mcopy", append(append([]string{"-i", w.card + "@@1M"}, files...), "::fieldgate/")...)

	w.mqtt, w.ssh = freePort(t), freePort(t)
	console, err := os.Create(filepath.Join(w.dir, "console"))
	must(t, err)
	w.qemu = exec.CommandContext(ctx, "qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", "256", "-accel", "tcg,thread=multi",
		"-bios", filepath.Join(image, "u-boot.bin"), "-drive", "if=none,id=card,format=raw,cache=none,file="+w.card, "-device", "virtio-blk-pci,drive=card",
		"-netdev", "user,id=net,hostfwd=tcp:"+w.mqtt+"-:8883,hostfwd=tcp:"+w.ssh+"-:22", "-device", "virtio-net-pci,netdev=net",
		"-device", "virtio-rng-pci", "-display", "none", "-monitor", "none", "-serial", "stdio")
	w.qemu.Stdout, w.qemu.Stderr = console, console
	must(t, w.qemu.Start())
	t.Cleanup(func() {
		w.qemu.Process.Kill()
		w.qemu.Wait()
		console.Close()
		if t.Failed() {
			// Without the picture of a job that runs, drawn twice a second.
			text, _ := os.ReadFile(console.Name())
			lines := slices.DeleteFunc(strings.Split(string(text), "\n"), func(line string) bool { return strings.Contains(line, "/start running (") })
			t.Logf("console:\n%s", strings.Join(lines[max(0, len(lines)-200):], "\n"))
		}
	})
	return w
}

// certificate makes the one that the gateway shows its leaves.
func (w *twin) certificate(folder string) {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(w.t, err)
	plan := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, DNSNames: []string{"gateway"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, plan, plan, &key.PublicKey, key)
	must(w.t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(w.t, err)
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	must(w.t, os.WriteFile(filepath.Join(folder, "gateway.crt"), public, 0o600))
	must(w.t, os.WriteFile(filepath.Join(folder, "gateway.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	w.trusted = x509.NewCertPool()
	w.trusted.AppendCertsFromPEM(public)
}

func (w *twin) run(ctx context.Context, program string, args ...string) {
	w.t.Helper()
	if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// await asks every second.
func (w *twin) await(ctx context.Context, what string, done func() bool) {
	w.t.Helper()
	for !done() {
		select {
		case <-ctx.Done():
			w.t.Fatalf("waited in vain for %s", what)
		case <-time.After(time.Second):
		}
	}
}

// publish logs in as the leaf with a token of its own and publishes once.
func (w *twin) publish(body string) error {
	keys := identity.NewKeyring(w.hub.Info().Host)
	keys.Put("pump-1", w.key)
	token, err := keys.DeviceToken("pump-1", time.Now().Add(time.Hour))
	if err != nil {
		return err
	}
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tls://" + w.mqtt).SetClientID("pump-1").SetProtocolVersion(4).
		SetUsername(w.hub.Info().Host + "/pump-1/?api-version=2021-04-12").SetPassword(token).SetAutoReconnect(false).
		SetTLSConfig(&tls.Config{RootCAs: w.trusted, ServerName: "gateway"}))
	defer client.Disconnect(100)
	for _, step := range []func() mqtt.Token{
		client.Connect,
		func() mqtt.Token { return client.Publish("devices/pump-1/messages/events/", 1, false, body) },
	} {
		switch token := step(); {
		case !token.WaitTimeout(time.Minute):
			return context.DeadlineExceeded
		case token.Error() != nil:
			return token.Error()
		}
	}
	return nil
}

// shell runs a command on the machine, as its operator.
func (w *twin) shell(ctx context.Context, command string) (string, error) {
	host, port, _ := net.SplitHostPort(w.ssh)
	out, err := exec.CommandContext(ctx, "ssh", "-q", "-i", filepath.Join(w.dir, "id"), "-p", port, "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "ConnectTimeout=60", "root@"+host, command).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// expect compares what a command says there.
func (w *twin) expect(ctx context.Context, command, want string) {
	w.t.Helper()
	if got, err := w.shell(ctx, command); err != nil || got != want {
		w.t.Errorf("%s: %q, %v, want %q", command, got, err, want)
	}
}

// One boot of a blank card with the operator's files on it: a leaf's message arrives
// at the hub, and the system is as it should be.
func TestBoot(t *testing.T) {
	image := os.Getenv("FIELDGATE_TWIN")
	if image == "" {
		t.Skip("no image: run make image-test")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	started := time.Now()
	w := newTwin(ctx, t, image)
	w.await(ctx, "the leaf to be acknowledged", func() bool { return w.publish(`{"temperature": 21.5}`) == nil })
	w.await(ctx, "the message at the hub", func() bool {
		return slices.ContainsFunc(slices.Collect(w.hub.Arrivals()), func(a hubsim.Arrival) bool {
			return a.Device == "pump-1" && string(a.Body) == `{"temperature": 21.5}`
		})
	})
	t.Logf("first message at the hub %v after power-on", time.Since(started).Round(time.Second))

	w.await(ctx, "the start to be confirmed", func() bool {
		state, _ := w.shell(ctx, "systemctl is-active fieldgate-good.service")
		return state == "active"
	})
	w.await(ctx, "the system to be up", func() bool {
		state, _ := w.shell(ctx, "systemctl is-system-running")
		return state == "running" || state == "degraded"
	})
	w.expect(ctx, "systemctl list-units --failed --plain --no-legend", "")
	w.expect(ctx, "findmnt -no FSTYPE / && touch /usr/x 2>/dev/null || echo read-only", "squashfs\nread-only")
	w.expect(ctx, "findmnt -no FSTYPE /data && findmnt -no OPTIONS /data | grep -o noatime", "ext4\nnoatime")
	w.expect(ctx, "test $(findmnt -bno SIZE /data) -gt 600000000 && echo grown", "grown")
	w.expect(ctx, "swapon --noheadings; grep -v '^[^:]*:[*]:' /etc/shadow || echo locked", "locked")
	w.expect(ctx, "ls -A /boot/fieldgate", "")
	w.expect(ctx, "fw_printenv -n BOOT_A_LEFT", "3")
	w.expect(ctx, "stat -c %u:%a /var/lib/fieldgate", "900:700")
	w.expect(ctx, "ss -Htln | tr -s ' ' | cut -d' ' -f4 | grep -vE '^(127\\.|\\[::1\\])' | grep -oE '[0-9]+$' | sort -un | tr '\\n' ' '", "22 8883")
	memory, err := w.shell(ctx, "grep -E 'MemTotal|MemAvailable' /proc/meminfo | tr -s ' \\n' ' '; systemctl show -p MemoryCurrent -p CPUUsageNSec fieldgate | tr '\\n' ' '")
	t.Logf("%s, %v", memory, err)

	w.shell(ctx, "systemctl poweroff")
	if err := w.qemu.Wait(); err != nil {
		t.Errorf("the machine does not switch itself off: %v", err)
	}
	w.secretGone()
}

// secretGone reads the boot partition as somebody would who has pulled the card.
func (w *twin) secretGone() {
	w.t.Helper()
	card, err := os.Open(w.card)
	must(w.t, err)
	defer card.Close()
	boot := make([]byte, 64<<20)
	_, err = card.ReadAt(boot, 1<<20)
	must(w.t, err)
	if strings.Contains(string(boot), w.keyText) {
		w.t.Error("the leaf's key is still on the boot partition")
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
