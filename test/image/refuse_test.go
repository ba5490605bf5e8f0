package image

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/board/slots"
	"github.com/fieldgate/fieldgate/test/fakebluez"
)

// bench makes updates for a card, good ones and bad ones.
type bench struct {
	t     *testing.T
	image string // folder of the card's image
	dir   string
}

// program runs a program of this machine.
func (b *bench) program(ctx context.Context, env []string, name string, args ...string) {
	b.t.Helper()
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append(os.Environ(), env...)
	if out, err := c.CombinedOutput(); err != nil {
		b.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// version is the one of the card.
func (b *bench) version(ctx context.Context) string {
	b.t.Helper()
	return b.says(ctx, "RAUC_MF_VERSION")
}

// says is what the card's update says of itself under a name.
func (b *bench) says(ctx context.Context, name string) string {
	b.t.Helper()
	out, err := exec.CommandContext(ctx, "rauc", "info", "--no-verify", "--output-format=shell",
		filepath.Join(b.image, "qemu_aarch64.raucb")).Output()
	_, rest, ok := strings.Cut("\n"+string(out), "\n"+name+"=")
	value, _, _ := strings.Cut(rest, "\n")
	if err != nil || !ok {
		b.t.Fatalf("%s of the image's update: %v\n%s", name, err, out)
	}
	return strings.Trim(value, "'")
}

// small makes an update whose payload is no system, for what must not get that far.
func (b *bench) small(ctx context.Context, name, board, version, keys string) string {
	b.t.Helper()
	content := filepath.Join(b.dir, name)
	noise := make([]byte, 256<<10) // it cannot be packed: a bit in its middle is one of what is in the update
	rand.Read(noise)
	must(b.t, os.Mkdir(content, 0o755))
	must(b.t, os.WriteFile(filepath.Join(content, "slot.img"), noise, 0o600))
	must(b.t, os.WriteFile(filepath.Join(content, "manifest.raucm"), fmt.Appendf(nil,
		"[update]\ncompatible=fieldgate-%s\nversion=%s\n[bundle]\nformat=verity\n[image.rootfs]\nfilename=slot.img\n", board, version), 0o600))
	file := content + ".raucb"
	b.program(ctx, nil, "rauc", "--cert="+filepath.Join(keys, "sign.pem"), "--key="+filepath.Join(keys, "sign.key"), "bundle", content, file)
	return file
}

// changed copies an update and changes the copy.
func (b *bench) changed(file, name string, change func([]byte) []byte) string {
	b.t.Helper()
	text, err := os.ReadFile(file)
	must(b.t, err)
	other := filepath.Join(b.dir, name+".raucb")
	must(b.t, os.WriteFile(other, change(text), 0o600))
	return other
}

// signed is how long of a bundle is what stands before its signature: the last 8 bytes
// are the signature's length.
func signed(bundle []byte) int {
	return len(bundle) - 8 - int(binary.BigEndian.Uint64(bundle[len(bundle)-8:]))
}

// refusals are the updates that nothing may take where that version runs, by name, with
// what is said of them.
func (b *bench) refusals(ctx context.Context, running string) map[string]refusal {
	keys, foreign := filepath.Join(b.image, "keys"), filepath.Join(b.dir, "foreign")
	b.program(ctx, nil, "../../board/common/keys.sh", foreign)
	good := b.small(ctx, "good", "qemu_aarch64", "1000.0.0", keys)
	flip := func(at func([]byte) int) func([]byte) []byte {
		return func(text []byte) []byte {
			text[at(text)] ^= 1
			return text
		}
	}
	return map[string]refusal{
		"unsigned":               {b.changed(good, "unsigned", func(text []byte) []byte { return text[:signed(text)] }), ""},
		"of another signer":      {b.small(ctx, "stranger", "qemu_aarch64", "1000.0.0", foreign), "signature verification failed"},
		"for another board":      {b.small(ctx, "board", "rpi4", "1000.0.0", keys), "ompatible"},
		"older":                  {b.small(ctx, "older", "qemu_aarch64", "0.0.0", keys), "0.0.0 is older than " + running + ", which runs"},
		"cut off":                {b.changed(good, "cut", func(text []byte) []byte { return text[:len(text)*6/10] }), ""},
		"a bit in the signature": {b.changed(good, "signature", flip(func(text []byte) int { return (signed(text) + len(text)) / 2 })), ""},
		"a bit in the payload":   {b.changed(good, "payload", flip(func(text []byte) int { return signed(text) / 3 })), ""},
	}
}

// refusal is an update that must be refused, and what must be said then.
type refusal struct{ file, says string }

// The image's own RAUC, with the image's configuration and keyring, refuses what must be
// refused, and says what is in what it takes. It runs in user emulation: nothing is
// booted, and nothing that would have to be mounted is tried (see TestUpdate).
func TestRefused(t *testing.T) {
	image := os.Getenv("FIELDGATE_TWIN")
	if image == "" {
		t.Skip("no image: run make image-test")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dir, err := os.MkdirTemp("", "rauc") // short: there is a socket in it
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	bus, err := fakebluez.StartBus(dir)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { bus.Stop() })
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.Address)
	b := &bench{t: t, image: image, dir: dir}
	version := b.version(ctx)
	b.rauc(ctx, version)

	m, err := slots.Open(ctx, filepath.Join(dir, "kept"))
	must(t, err)
	defer m.Close()
	var running slots.Slot
	for running, err = m.Running(ctx); errors.Is(err, slots.ErrAbsent) && ctx.Err() == nil; running, err = m.Running(ctx) {
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil || running.Name != "A" || running.Version != version {
		t.Fatalf("what runs is %+v, %v: want %s in A, as the card has noted", running, err, version)
	}
	const newer = "1000.0.0-0.20261128.gabc+dirty"
	if v, err := m.Version(ctx, b.small(ctx, "newer", "qemu_aarch64", newer, filepath.Join(image, "keys"))); err != nil || v != newer {
		t.Errorf("a good one has the version %q, %v", v, err)
	}
	for name, r := range b.refusals(ctx, version) {
		if name == "for another board" || name == "a bit in the payload" {
			continue // found when it is mounted
		}
		err := m.Install(ctx, r.file, false, func(int, string) {})
		if !errors.Is(err, slots.ErrRefused) && !errors.Is(err, slots.ErrOlder) || !strings.Contains(err.Error(), r.says) {
			t.Errorf("an update %s: %v, want %q", name, err, r.says)
		}
		t.Logf("%s: %v", name, err)
	}
}

// rauc starts the service. The boot loader's variables are in files.
func (b *bench) rauc(ctx context.Context, version string) {
	b.t.Helper()
	for name, text := range map[string]string{
		"fw_printenv": `#!/bin/sh
for name; do case $name in -*) ;; *) test -e "$UBOOT/$name" && echo "$name=$(cat "$UBOOT/$name")" ;; esac; done
`,
		"fw_setenv": "#!/bin/sh\necho \"$2\" >\"$UBOOT/$1\"\n", "BOOT_ORDER": "A B\n", "BOOT_A_LEFT": "3\n", "BOOT_B_LEFT": "3\n",
	} {
		must(b.t, os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o755))
	}
	must(b.t, os.Mkdir(filepath.Join(b.dir, "data"), 0o755))
	places := strings.NewReplacer("@BOARD@", "qemu_aarch64", "@VERSION@", version,
		"/etc/rauc/keyring.pem", filepath.Join(b.image, "keys", "ca.pem"), "/var/lib/rauc", filepath.Join(b.dir, "data"))
	for from, to := range map[string]string{"system.conf": "system.conf", "central.raucs": "data/central.raucs"} {
		text, err := os.ReadFile(filepath.Join("../../board/common/rauc", from))
		must(b.t, err)
		must(b.t, os.WriteFile(filepath.Join(b.dir, to), []byte(places.Replace(string(text))), 0o600))
	}
	debian := filepath.Join(b.image, "debian", "root-virt")
	c := exec.CommandContext(ctx, "qemu-aarch64", "-L", debian, filepath.Join(debian, "usr/bin/rauc"),
		"--conf="+filepath.Join(b.dir, "system.conf"), "service", "--override-boot-slot=A")
	c.Env = append(os.Environ(), "PATH="+b.dir+":"+os.Getenv("PATH"), "UBOOT="+b.dir)
	said := new(bytes.Buffer)
	c.Stdout, c.Stderr = said, said
	must(b.t, c.Start())
	b.t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
		if b.t.Failed() {
			b.t.Logf("RAUC says:\n%s", said)
		}
	})
}
