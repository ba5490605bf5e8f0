package image

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	board   string // whose card it is
	image   string // the folder that twin.sh has filled
	dir     string
	card    string
	hub     *hubsim.Hub
	key     identity.Key // of the leaf pump-1
	file    string       // fieldgate.toml, as the operator writes it
	secrets []string     // in it
	trusted *x509.CertPool
	host    string   // the address on this machine under which the other one has its ports
	mqtt    string   // where its port 8883 is
	ssh     string   // and its port 22
	memory  int      // in MiB
	cable   []string // to a second network card, see newLAN
	// The card is in a reader that keeps only what was flushed: see plugIn.
	forgetful bool
	console   *os.File
	typed     io.Reader // on the serial line, from power-on; nil: nothing

	mu    sync.Mutex
	qemu  *exec.Cmd // guarded by mu: another one after each start of the machine
	disk  *exec.Cmd // of a forgetful one; guarded by mu
	over  bool      // it is not started again; guarded by mu
	ended chan error
}

// imageFolder is where the image is that is tried.
func imageFolder(t *testing.T) string {
	t.Helper()
	image := os.Getenv("FIELDGATE_TWIN")
	if image == "" {
		t.Skip("no image: run make image-test")
	}
	return image
}

// newCard makes a card and a hub for it. Nothing of an operator's is on the card yet:
// see put.
func newCard(ctx context.Context, t *testing.T, image string) *twin {
	t.Helper()
	return newCardOf(ctx, t, "qemu_aarch64", image)
}

func newCardOf(ctx context.Context, t *testing.T, board, image string) *twin {
	t.Helper()
	w := &twin{t: t, board: board, image: image, dir: t.TempDir(), memory: 256}
	w.host = fmt.Sprintf("127.%d.%d.1", 1+mathrand.IntN(250), mathrand.IntN(250))
	w.mqtt, w.ssh = w.port(8883), w.port(22)
	w.card = filepath.Join(w.dir, "card.img")
	w.run(ctx, "cp", "--sparse=always", filepath.Join(image, board+".img"), w.card)
	must(t, os.Truncate(w.card, 1<<30))
	if board == "rpi3" {
		// The emulator's watchdog knows no time: set to fifteen seconds, it resets at once.
		tree := filepath.Join(w.dir, "board.dtb")
		w.run(ctx, "cp", filepath.Join(image, board, "bcm2837-rpi-3-b.dtb"), tree)
		w.run(ctx, "fdtput", "-t", "s", tree, "/soc/watchdog@7e100000", "status", "disabled")
	}

	var err error
	w.hub, err = hubsim.Start(hubsim.Config{Dir: filepath.Join(w.dir, "hub"), Host: "hub.example", Devices: map[string]string{"pump-1": "", "gate": ""}})
	must(t, err)
	t.Cleanup(func() { w.hub.Close() })
	info := w.hub.Info()
	w.key, err = identity.ParseKey(w.deviceKey("pump-1"))
	must(t, err)
	authority, err := os.ReadFile(info.CAFile)
	must(t, err)
	// What the gateway shows its leaves.
	certificate, private := w.certificate()
	block, _ := pem.Decode([]byte(private))
	w.secrets = append(w.secrets, strings.Split(private, "\n")[1], string(block.Bytes))
	w.trusted = x509.NewCertPool()
	w.trusted.AppendCertsFromPEM([]byte(certificate))
	w.run(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me", "-f", filepath.Join(w.dir, "id"))
	public, err := os.ReadFile(filepath.Join(w.dir, "id.pub"))
	must(t, err)
	// As an editor on Windows writes it.
	w.file = strings.ReplaceAll(fmt.Sprintf(`[hub]
connection_string = "HostName=%s;DeviceId=gate;SharedAccessKey=%s"
address = "10.0.2.2:%d"
ca = """
%s"""
[ssh]
authorized_keys = [%q]
[[broker.listener]]
address = ":8883"
cert = """
%s"""
key = """
%s"""
[[leaf]]
id = "pump-1"
key = %q
`, info.Host, w.deviceKey("gate"), info.AMQPPort, authority, strings.TrimSpace(string(public)), certificate, private, w.deviceKey("pump-1")), "\n", "\r\n")
	return w
}

// deviceKey is the key of a device of the hub, which must not be found on the card
// afterwards, neither as text nor as bytes.
func (w *twin) deviceKey(device string) string {
	w.t.Helper()
	_, text, _ := strings.Cut(w.hub.Info().Devices[device].ConnectionString, "SharedAccessKey=")
	raw, err := base64.StdEncoding.DecodeString(text)
	must(w.t, err)
	w.secrets = append(w.secrets, text, string(raw))
	return text
}

// certificate makes one for the name "gateway" and these addresses, which is its own
// authority.
func (w *twin) certificate(addresses ...net.IP) (public, private string) {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(w.t, err)
	plan := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, DNSNames: []string{"gateway"}, IPAddresses: addresses,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, plan, plan, &key.PublicKey, key)
	must(w.t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	must(w.t, err)
	public = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	private = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
	return public, private
}

// put writes a file on the boot partition, as an operator does into whose computer
// the card is put.
func (w *twin) put(ctx context.Context, name, text string) {
	w.t.Helper()
	file := filepath.Join(w.dir, name)
	must(w.t, os.WriteFile(file, []byte(text), 0o600))
	w.run(ctx, "mcopy", "-o", "-i", w.card+"@@1M", file, "::"+name)
}

// status is what FIELDGATE-STATUS.txt says, for whoever has only the card; "" while
// there is none.
func (w *twin) status(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "mtype", "-i", w.card+"@@1M", "::FIELDGATE-STATUS.txt").Output()
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(string(out), "\r", "")
}

// on starts the machine. Nothing is typed, unless it is to be seen that it is in vain.
func (w *twin) on(ctx context.Context) {
	w.t.Helper()
	var err error
	w.console, err = os.OpenFile(filepath.Join(w.dir, "console"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(w.t, err)
	w.over, w.ended = false, make(chan error, 1)
	must(w.t, w.start(ctx))
	go func() {
		for {
			err := w.qemu.Wait()
			w.mu.Lock()
			if err == nil && !w.over {
				err = w.start(ctx)
			} else {
				w.over = true
			}
			over := w.over || err != nil
			w.mu.Unlock()
			if over {
				w.ended <- err
				return
			}
		}
	}()
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("the machine says:\n%s", w.journal())
		}
		w.off()
		if w.t.Failed() {
			// Without the picture of a job that runs, drawn twice a second.
			text, _ := os.ReadFile(w.console.Name())
			lines := slices.DeleteFunc(strings.Split(string(text), "\n"), func(line string) bool { return strings.Contains(line, "/start running (") })
			w.t.Logf("console:\n%s", strings.Join(lines[max(0, len(lines)-200):], "\n"))
		}
	})
}

// start starts an emulator, which ends when the machine switches itself off or starts
// anew. A new one for each start: one that goes on has to find out with each byte of the
// kernel that is unpacked that what it has translated of the last one is no more, and
// needs minutes for that.
func (w *twin) start(ctx context.Context) error {
	drive := w.card
	if w.forgetful {
		var err error
		if drive, err = w.plugIn(ctx); err != nil {
			return err
		}
	}
	machine := w.virt
	if w.board == "rpi3" {
		machine = w.raspberryPi
	}
	// Each port that is looked at costs a descriptor or two.
	args := []string{
		"-c", `ulimit -n 4096; exec "$@"`, "sh", "qemu-system-aarch64", "-accel", "tcg,thread=multi", "-no-reboot",
		"-display", "none", "-monitor", "unix:" + w.monitor() + ",server=on,wait=off",
	}
	w.qemu = exec.CommandContext(ctx, "sh", append(args, machine(drive)...)...)
	w.qemu.Stdin, w.qemu.Stdout, w.qemu.Stderr = w.typed, w.console, w.console
	return w.qemu.Start()
}

// virt is the emulator's machine of that name, as the twin knows it.
func (w *twin) virt(drive string) []string {
	return append([]string{
		"-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", strconv.Itoa(w.memory), "-bios", filepath.Join(w.image, w.board, "u-boot.bin"),
		"-drive", "if=none,id=card,format=raw,cache=none,file=" + drive, "-device", "virtio-blk-pci,drive=card",
		"-netdev", w.network(), "-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci", "-serial", "stdio",
	}, w.cable...)
}

// network is the emulator's, in which the machine is reached at its open ports.
func (w *twin) network() string {
	network := []string{"user", "id=net"}
	for _, port := range open {
		network = append(network, "hostfwd="+w.forward(port))
	}
	return strings.Join(network, ",")
}

// raspberryPi is the emulator's Raspberry Pi 3, which has no firmware of its own: U-Boot
// is given to it, and the board's device tree. Instead of the board's Ethernet, which
// hangs on USB, an adapter is plugged in.
func (w *twin) raspberryPi(drive string) []string {
	return []string{
		"-M", "raspi3b", "-kernel", filepath.Join(w.image, w.board, "u-boot.bin"), "-dtb", filepath.Join(w.dir, "board.dtb"),
		"-drive", "if=sd,format=raw,file=" + drive, "-serial", "null", "-serial", "stdio",
		"-netdev", w.network(), "-device", "usb-net,netdev=net",
	}
}

// journal is what a machine that is on has to say of a failure, for its journal is gone
// with its power.
func (w *twin) journal() string {
	w.mu.Lock()
	over := w.over
	w.mu.Unlock()
	if over {
		return "nothing: it is off"
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	out, err := "", error(nil)
	for again := true; again; again = err != nil && ctx.Err() == nil {
		out, err = w.shell(ctx, `systemctl list-units --failed --plain --no-legend; free -m; systemctl --no-pager status fieldgate
journalctl --no-pager -b -p warning | tail -n 100; journalctl --no-pager -b -u init.scope -u fieldgate -u fieldgate-good | tail -n 200`)
	}
	return fmt.Sprint(out, "\n", err)
}

// off pulls the plug, unless the machine is off.
func (w *twin) off() {
	w.mu.Lock()
	if !w.over {
		w.over = true
		w.unplug()
		w.qemu.Process.Kill()
	}
	w.mu.Unlock()
	w.awaitOff()
	w.console.Close()
}

// switchOff has the machine switch itself off.
func (w *twin) switchOff(ctx context.Context) error {
	w.mu.Lock()
	w.over = true
	w.mu.Unlock()
	w.shell(ctx, "systemctl poweroff")
	return w.awaitOff()
}

// awaitOff waits until the machine is off, and returns how it ended.
func (w *twin) awaitOff() error {
	err := <-w.ended
	w.ended <- err // for whoever asks next
	return err
}

// spent is what the emulator has had of processors since the last start.
func (w *twin) spent() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return processTime(w.qemu.Process.Pid)
}

// monitor is the socket on which the emulator takes commands.
func (w *twin) monitor() string { return filepath.Join(w.dir, "monitor") }

// forward is what the emulator is to be told so that a port of the machine is reached.
func (w *twin) forward(port int) string {
	return fmt.Sprintf("tcp:%s-:%d", w.port(port), port)
}

// port is where a port of the machine is on this one.
func (w *twin) port(number int) string { return net.JoinHostPort(w.host, strconv.Itoa(20000+number)) }

func (w *twin) run(ctx context.Context, program string, args ...string) {
	w.t.Helper()
	if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// await asks every second. A machine that has ended is not waited for.
func (w *twin) await(ctx context.Context, what string, done func() bool) {
	w.t.Helper()
	for !done() {
		select {
		case err := <-w.ended:
			w.ended <- err
			w.t.Fatalf("the machine has ended (%v), and %s was waited for", err, what)
		case <-ctx.Done():
			w.t.Fatalf("waited in vain for %s; the card says:\n%s", what, w.status(context.WithoutCancel(ctx)))
		case <-time.After(time.Second):
		}
	}
}

// awaitConfirmed waits until this start has proven good.
func (w *twin) awaitConfirmed(ctx context.Context) {
	w.t.Helper()
	w.await(ctx, "the start to be confirmed", func() bool {
		state, _ := w.shell(ctx, "systemctl is-active fieldgate-good.service")
		return state == "active"
	})
}

// publish logs in as the leaf and publishes once.
func (w *twin) publish(body string) error {
	client, err := w.connect()
	if err != nil {
		return err
	}
	defer client.Disconnect(100)
	return wait(client.Publish("devices/pump-1/messages/events/", 1, false, body))
}

// connect logs in as the leaf, with a token of its own.
func (w *twin) connect() (mqtt.Client, error) {
	keys := identity.NewKeyring(w.hub.Info().Host)
	keys.Put("pump-1", w.key)
	token, err := keys.DeviceToken("pump-1", time.Now().Add(time.Hour))
	if err != nil {
		return nil, err
	}
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tls://" + w.mqtt).SetClientID("pump-1").SetProtocolVersion(4).
		SetUsername(w.hub.Info().Host + "/pump-1/?api-version=2021-04-12").SetPassword(token).SetAutoReconnect(false).
		SetTLSConfig(&tls.Config{RootCAs: w.trusted, ServerName: "gateway"}))
	if err := wait(client.Connect()); err != nil {
		client.Disconnect(0)
		return nil, err
	}
	return client, nil
}

// wait waits until something is acknowledged.
func wait(token mqtt.Token) error {
	if !token.WaitTimeout(time.Minute) {
		return context.DeadlineExceeded
	}
	return token.Error()
}

// arrived says whether the hub has that message of the leaf.
func (w *twin) arrived(body string) bool {
	return slices.ContainsFunc(slices.Collect(w.hub.Arrivals()), func(a hubsim.Arrival) bool {
		return a.Device == "pump-1" && string(a.Body) == body
	})
}

// shell runs a command on the machine, as its operator.
func (w *twin) shell(ctx context.Context, command string) (string, error) {
	out, err := w.client(ctx, command).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// login logs in as an operator at a terminal, who types something.
func (w *twin) login(ctx context.Context, typed string) (string, error) {
	c := w.client(ctx, "-tt")
	c.Stdin = strings.NewReader(typed)
	out, err := c.CombinedOutput()
	return string(out), err
}

func (w *twin) client(ctx context.Context, last string) *exec.Cmd {
	host, port, _ := net.SplitHostPort(w.ssh)
	args := []string{
		"-q", "-i", filepath.Join(w.dir, "id"), "-p", port, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "BatchMode=yes", "-o", "ConnectTimeout=60", "-l", "root",
	}
	if last == "-tt" {
		return exec.CommandContext(ctx, "ssh", append(args, last, host)...)
	}
	return exec.CommandContext(ctx, "ssh", append(args, host, last)...)
}

// expect compares what a command says there.
func (w *twin) expect(ctx context.Context, command, want string) {
	w.t.Helper()
	if got, err := w.shell(ctx, command); err != nil || got != want {
		w.t.Errorf("%s: %q, %v, want %q", command, got, err, want)
	}
}

// noSecret reads the whole card as somebody would who has pulled it.
func (w *twin) noSecret() {
	w.t.Helper()
	card, err := os.Open(w.card)
	must(w.t, err)
	defer card.Close()
	const most = 512 // no secret is longer
	in := bufio.NewReaderSize(card, 1<<20)
	window := make([]byte, 0, 2<<20)
	for at := 0; ; {
		n, err := in.Read(window[len(window) : len(window)+1<<20])
		window = window[:len(window)+n]
		for i, secret := range w.secrets {
			if strings.Contains(string(window), secret) {
				w.t.Errorf("secret %d lies in the clear before byte %d of the card", i, at+n)
			}
		}
		if errors.Is(err, io.EOF) {
			return
		}
		must(w.t, err)
		at += n
		window = window[:copy(window, window[max(0, len(window)-most):])]
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
