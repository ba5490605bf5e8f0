package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/cutfs"
)

// cardText is what an operator writes on a card.
const cardText = `[gateway]
data_dir = "../data"
[hub]
connection_string = "HostName=plant.azure-devices.net;DeviceId=gate-7;SharedAccessKey=c2VjcmV0IG9mIHRoZSBnYXRld2F5IGl0c2VsZg=="
[ssh]
authorized_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHJ6mFhFPlY3g6HkMxNJmZUXlXpqZzQmLKfMbCVmMPzY me"]
[wifi]
ssid = "site"
psk = "network password"
[[leaf]]
id = "pump-1"
key = "c2VjcmV0IG9mIHRoZSBwdW1w"
`

var cardSecrets = []string{"c2VjcmV0IG9mIHRoZSBnYXRld2F5IGl0c2VsZg==", "network password", "c2VjcmV0IG9mIHRoZSBwdW1w"}

// bootOn runs the first boot as its unit does, on a card and a data partition in dir.
func bootOn(dir string, more ...string) (code int, out string) {
	var w writer
	args := append([]string{
		"first-boot", "--from", filepath.Join(dir, "card"), "--config", filepath.Join(dir, "etc/fieldgate.toml"),
		"--ssh-keys", filepath.Join(dir, "etc/authorized_keys"), "--wifi", filepath.Join(dir, "etc/wifi.conf"), "--data", filepath.Join(dir, "data"),
	}, more...)
	code = execute(context.Background(), args, streams{strings.NewReader(""), &w, &w})
	return code, strings.Join(w.lines(), "")
}

// powered is a disk with a card and a partition on it, and what does the work there.
type powered struct {
	t    *testing.T
	fs   *cutfs.FS
	dir  string
	open bool
}

func power(t *testing.T, image *cutfs.Image) *powered {
	t.Helper()
	dir := t.TempDir()
	f, err := cutfs.Mount(dir, image, cutfs.Options{Names: cutfs.ByFolder})
	if errors.Is(err, cutfs.ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	p := &powered{t, f, dir, true}
	t.Cleanup(p.off)
	return p
}

func (p *powered) off() {
	if p.open {
		p.open = false
		if err := p.fs.Unmount(); err != nil {
			p.t.Error(err)
		}
	}
}

// freshCard is a disk with a card that nobody has used yet, all of it synced.
func freshCard(t *testing.T, more map[string]string) *cutfs.Image {
	t.Helper()
	p := power(t, cutfs.Blank())
	defer p.off()
	files := map[string]string{"card/fieldgate.toml": cardText, "card/rpi-preseed.toml": "[wlan]\nssid = \"site\"\npassword = \"network password\"\n", "etc/leaf.d/.keep": "", "data/store/1": "message"}
	maps.Copy(files, more)
	for name, text := range files {
		whole := filepath.Join(p.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(whole), 0o755), os.WriteFile(whole, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(p.dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	return p.fs.Survivors(cutfs.Strict, nil)
}

// cutAt boots and cuts the power at the nth change. It returns what is left, or false
// if there are fewer.
func cutAt(t *testing.T, image *cutfs.Image, n int, mode cutfs.Mode, random *rand.Rand) (*cutfs.Image, bool) {
	t.Helper()
	p := power(t, image)
	defer p.off()
	seen := 0
	cut := p.fs.CutWhen(func(op cutfs.Op) bool {
		if op.Kind != cutfs.Open || op.Changes {
			seen++
		}
		return seen == n
	}, random.IntN(2) == 0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		bootOn(p.dir)
	}()
	select {
	case <-done:
		select {
		case <-cut: // by its last change
		default:
			return nil, false
		}
	case <-cut:
	}
	// The dying program's calls fail; nothing that it does from now on counts.
	p.fs.Thaw()
	<-done
	return p.fs.Survivors(mode, random), true
}

// Wherever the power goes, the next start brings all of it into its place, and no
// secret stays on the card. In between, the gateway has all of it or nothing.
func TestFirstBootAndPowerCuts(t *testing.T) {
	if testing.Short() {
		t.Skip("many starts")
	}
	fresh := freshCard(t, nil)
	cuts := 0
	for n := 1; ; n++ {
		random := rand.New(rand.NewPCG(uint64(n), 1))
		left, cut := cutAt(t, fresh, n, cutfs.Modes[n%len(cutfs.Modes)], random)
		if !cut {
			break
		}
		cuts++
		if n%3 == 0 { // and once more, on the way to put it right
			if again, cut := cutAt(t, left, 1+random.IntN(n), cutfs.Torn, random); cut {
				left = again
			}
		}
		checkHalfway(t, n, left)
		checkBooted(t, n, left)
	}
	if cuts < 20 {
		t.Errorf("only %d moments: this test looks at too little", cuts)
	}
	t.Logf("power cut at %d moments", cuts)
}

// checkHalfway looks at what is there before anything is put right.
func checkHalfway(t *testing.T, n int, image *cutfs.Image) {
	t.Helper()
	p := power(t, image)
	defer p.off()
	file := filepath.Join(p.dir, "etc/fieldgate.toml")
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		text, err := os.ReadFile(filepath.Join(p.dir, "card/fieldgate.toml"))
		if err != nil || string(text) != cardText {
			t.Errorf("change %d: neither configured, nor is the card as it was (%v):\n%s", n, err, text)
		}
		return
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if _, name, found := strings.Cut(strings.TrimSpace(line), `key_file = "`); found {
			name = strings.TrimSuffix(name, `"`)
			if secret, err := os.ReadFile(filepath.Join(p.dir, "etc", name)); err != nil || len(secret) == 0 {
				t.Errorf("change %d: the configuration counts, and of %s there is %q, %v", n, name, secret, err)
			}
		}
	}
}

// checkBooted starts once more and looks whether all is as if nothing had happened.
func checkBooted(t *testing.T, n int, image *cutfs.Image) {
	t.Helper()
	p := power(t, image)
	defer p.off()
	if code, out := bootOn(p.dir); code != exitOK {
		t.Fatalf("change %d: the next start ends with %d: %s", n, code, out)
	}
	for name, want := range map[string]string{
		"etc/fieldgate.toml": `device_id = "gate-7"`, "etc/authorized_keys": "ssh-ed25519 ", "etc/wifi.conf": "ssid=73697465",
		"card/fieldgate.toml": "SharedAccessKey=****", "card/FIELDGATE-STATUS.txt": "STATE    configured",
	} {
		if text, err := os.ReadFile(filepath.Join(p.dir, name)); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("change %d: %s is (%v):\n%s", n, name, err, text)
		}
	}
	folders, err := os.ReadDir(filepath.Join(p.dir, "etc/secrets"))
	if err != nil || len(folders) != 1 {
		t.Errorf("change %d: secrets of %d tries are kept (%v)", n, len(folders), err)
	}
	checkNoSecret(t, n, p.dir) // sealed, they do not look like themselves
	if _, err := loadConfig(filepath.Join(p.dir, "etc/fieldgate.toml")); err != nil {
		t.Errorf("change %d: the configuration does not open its secrets: %v", n, err)
	}
	if text, err := os.ReadFile(filepath.Join(p.dir, "data/store/1")); err != nil || string(text) != "message" {
		t.Errorf("change %d: the store is touched", n)
	}
}

func checkNoSecret(t *testing.T, n int, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		for _, secret := range cardSecrets {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("change %d: %s has %q in it", n, path, secret)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// The power may go while what earlier versions have left behind the file's end is
// overwritten: the file then has empty lines there, and is the one that was applied.
// Anything else behind it is another file.
func TestEmptyLinesBehindTheFile(t *testing.T) {
	for more, applied := range map[string]bool{strings.Repeat("\n", 1000): false, "\n\n# more\n": true} {
		p := power(t, freshCard(t, nil))
		if code, out := bootOn(p.dir); code != exitOK {
			t.Fatalf("the first start ends with %d: %s", code, out)
		}
		const own = "# changed since\n"
		config, card := filepath.Join(p.dir, "etc/fieldgate.toml"), filepath.Join(p.dir, "card/fieldgate.toml")
		for name, text := range map[string]string{config: own, card: more} {
			f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteString(text)
			if err = errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
		}
		if code, out := bootOn(p.dir); code != exitOK {
			t.Errorf("the next start ends with %d: %s", code, out)
		}
		text, err := os.ReadFile(config)
		if again := !strings.Contains(string(text), own); err != nil || again != applied {
			t.Errorf("with %.20q behind it it was applied again: %v, want %v (%v)", more, again, applied, err)
		}
		checkNoSecret(t, 0, p.dir)
		p.off()
	}
}

// Wherever the power goes in a reset, the next start completes it: nothing that was
// there before comes back.
func TestResetAndPowerCuts(t *testing.T) {
	if testing.Short() {
		t.Skip("many starts")
	}
	used := freshCard(t, map[string]string{
		"card/RESET": "", "card/fieldgate.toml": "[hub]\nhost = \"new\"\n", "etc/fieldgate.toml": "[hub]\nhost = \"old\"\n",
		"etc/secrets/old/hub.key": cardSecrets[0], "etc/authorized_keys": "old", "etc/leaf.d/old.toml": cardSecrets[2],
	})
	for n := 1; ; n++ {
		left, cut := cutAt(t, used, n, cutfs.Modes[n%len(cutfs.Modes)], rand.New(rand.NewPCG(uint64(n), 2)))
		if !cut {
			if n < 8 {
				t.Errorf("only %d moments", n-1)
			}
			break
		}
		p := power(t, left)
		if code, out := bootOn(p.dir); code != exitOK {
			t.Errorf("change %d: the next start ends with %d: %s", n, code, out)
		}
		if text, err := os.ReadFile(filepath.Join(p.dir, "etc/fieldgate.toml")); err != nil || !strings.Contains(string(text), "new") {
			t.Errorf("change %d: the configuration is (%v) %s", n, err, text)
		}
		for _, gone := range []string{"card/RESET", "data/store/1", "etc/authorized_keys", "etc/leaf.d/old.toml", "etc/secrets/old/hub.key"} {
			if _, err := os.Stat(filepath.Join(p.dir, gone)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("change %d: %s is there (%v)", n, gone, err)
			}
		}
		p.off()
	}
}

// A disk that is full, or fails: it is said, what was there counts, and it is done once
// the disk is well.
func TestFirstBootOnAFailingDisk(t *testing.T) {
	fresh := freshCard(t, nil)
	for _, kind := range cutfs.Kinds {
		for n := 1; n < 40; n++ {
			p := power(t, fresh)
			hit := p.fs.Break(cutfs.Fault{Kind: kind, Nth: n, Errno: 28 /* ENOSPC */})
			code, out := bootOn(p.dir)
			p.fs.Mend()
			select {
			case <-hit:
			default:
				n = 40
			}
			if code != exitOK && !strings.Contains(out, "why: ") {
				t.Errorf("%v %d: %s", kind, n, out)
			}
			left := p.fs.Survivors(cutfs.Strict, nil)
			p.off()
			checkBooted(t, n, left)
		}
	}
}

// What the hub answers leads to what the operator can do.
func TestUplinkAdvice(t *testing.T) {
	for text, want := range map[string]string{
		"token not accepted: status 401 40100":            "the hub refuses the gateway",
		"amqp:unauthorized-access":                        "the hub refuses the gateway",
		"lookup plant.example on 127.0.0.1: no such host": "the name of the hub is wrong",
		"x509: certificate is valid for a, not b":         "what answers is not the hub",
		"connect: network is unreachable":                 "it tries again by itself",
		"x509: certificate has expired or is not yet valid: current time 2026-04-13T19:44:10Z is before 2026-11-27T22:36:39Z": "the clock here, or",
	} {
		if got := uplinkAdvice(text); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s", text, got)
		}
	}
}

// The report says how the daemon is, and is written again only when that changes.
func TestReportOnTheCard(t *testing.T) {
	a := appliance{from: []string{t.TempDir()}}
	a.gateway.Config, a.gateway.SSHKeys = folder(t, exampleText(t)), filepath.Join(t.TempDir(), "none")
	for _, c := range []struct {
		u    uplinkState
		want string
	}{
		{uplinkState{Hub: "h", Connected: true}, "STATE    connected to h\r\nNEXT     nothing: all is well\r\n"},
		{uplinkState{Hub: "h", Connected: true, OwnRefused: "status 401"}, "STATE    connected to h\r\nWRONG    status 401\r\nNEXT     the hub refuses"},
		{uplinkState{Hub: "h", LastError: "status 401", Attempts: 3}, "STATE    not connected to h\r\nWRONG    status 401\r\nNEXT     the hub refuses"},
	} {
		if err := a.writeStatus(&state{Uplink: c.u}, true); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(a.from[0], "FIELDGATE-STATUS.txt"))
		if err != nil || !strings.HasPrefix(string(text), c.want) {
			t.Errorf("%v: %q", err, text)
		}
		before := mtime(t, a.from[0])
		c.u.Attempts++
		if err := a.writeStatus(&state{Uplink: c.u}, true); err != nil {
			t.Fatal(err)
		}
		if mtime(t, a.from[0]) != before {
			t.Error("written again, though nothing has changed")
		}
	}
}

func mtime(t *testing.T, dir string) string {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, "FIELDGATE-STATUS.txt"))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(info.ModTime().UnixNano())
}
