package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bootCard is a boot partition in an image, and the machine in which it is.
type bootCard struct {
	t          *testing.T
	image, dir string // dir has the folders of bootOn; the card is mounted on dir/card
	mounted    bool
	pc         pc
}

// pc is what an operator's computer does with a card that is not in the machine. It
// writes a file as editors do: anew, and then frees what was there.
type pc interface {
	kind() string // of file system, for mount(8)
	format(c *bootCard)
	write(c *bootCard, name, text string)
	remove(c *bootCard, name string)
}

// fatPC has what the product has: FAT32 with clusters of a sector.
type fatPC struct{}

func (fatPC) kind() string { return "vfat" }

func (fatPC) format(c *bootCard) {
	if kinds, err := os.ReadFile("/proc/filesystems"); err != nil || !bytes.Contains(kinds, []byte("\tvfat\n")) {
		_ = exec.Command("modprobe", "vfat").Run()
		if kinds, err = os.ReadFile("/proc/filesystems"); err != nil || !bytes.Contains(kinds, []byte("\tvfat\n")) {
			c.t.Skip("the kernel of this machine has no FAT")
		}
	}
	c.run("truncate", "-s", "40M", c.image)
	c.run("mkfs.vfat", "-F", "32", c.image)
}

func (fatPC) write(c *bootCard, name, text string) {
	file := filepath.Join(c.t.TempDir(), "x")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.run("mcopy", "-o", "-i", c.image, file, "::"+name)
}

func (fatPC) remove(c *bootCard, name string) { c.run("mdel", "-i", c.image, "::"+name) }

// plainPC stands in where the kernel has no FAT: ext4 without a journal keeps what is
// freed in the same way.
type plainPC struct{}

func (plainPC) kind() string { return "ext4" }

func (plainPC) format(c *bootCard) {
	c.run("truncate", "-s", "16M", c.image)
	c.run("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "1024", "-O", "^has_journal,^inline_data", c.image)
}

func (plainPC) write(c *bootCard, name, text string) {
	c.in("rw")
	defer c.out()
	place := filepath.Join(c.dir, "card", name)
	f, err := os.Create(place + ".part")
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Sync(), f.Close(), os.Rename(place+".part", place))
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (plainPC) remove(c *bootCard, name string) {
	c.in("rw")
	defer c.out()
	if err := os.Remove(filepath.Join(c.dir, "card", name)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *bootCard) run(args ...string) {
	c.t.Helper()
	needRun(c.t, args...)
}

// needRun runs a command that not every machine lets us run.
func needRun(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	t.Skipf("%v: %v: %s", args, err, out)
}

// in puts the card into the machine. It is mounted to be written to first: else the
// loop device could never be.
func (c *bootCard) in(mode string) {
	c.t.Helper()
	c.run("mount", "-o", "loop", c.image, filepath.Join(c.dir, "card"))
	c.mounted = true
	if mode == "ro" {
		c.run("mount", "-o", "remount,ro", filepath.Join(c.dir, "card"))
	}
}

func (c *bootCard) out() {
	c.t.Helper()
	if c.mounted {
		c.mounted = false
		c.run("umount", filepath.Join(c.dir, "card"))
	}
}

func newBootCard(t *testing.T, pc pc) *bootCard {
	t.Helper()
	c := &bootCard{t: t, image: filepath.Join(t.TempDir(), "image"), dir: t.TempDir(), pc: pc}
	for _, name := range []string{"card", "etc", "data"} {
		if err := os.Mkdir(filepath.Join(c.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	pc.format(c)
	t.Cleanup(c.out)
	return c
}

func (c *bootCard) boot(want int) {
	c.t.Helper()
	if code, out := bootOn(c.dir, "--wipe"); code != want {
		c.t.Fatalf("the start ends with %d, want %d: %s", code, want, out)
	}
}

// report is one run of the timer's unit, in a process that can be killed.
func (c *bootCard) report() *exec.Cmd {
	c.t.Helper()
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	return &exec.Cmd{Path: self, Args: []string{
		"fieldgate", "first-boot", "report", "--wipe", "--from", filepath.Join(c.dir, "card"), "--config", filepath.Join(c.dir, "etc/fieldgate.toml"),
		"--ssh-keys", filepath.Join(c.dir, "etc/authorized_keys"), "--socket", filepath.Join(c.dir, "none"),
	}}
}

func (c *bootCard) wipe() {
	c.t.Helper()
	if out, err := c.report().CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
}

// killed has a report killed when it has written so many bytes.
func (c *bootCard) killed(at int64) {
	c.t.Helper()
	r := c.report()
	if err := r.Start(); err != nil {
		c.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.Wait() }()
	for size := int64(-1); size < at; {
		select {
		case err := <-ended:
			c.t.Fatalf("it has ended before %d bytes: %v", at, err)
		case <-time.After(time.Millisecond):
		}
		if info, err := os.Stat(filepath.Join(c.dir, "card/fieldgate-wipe.tmp")); err == nil {
			size = info.Size()
		}
	}
	_ = r.Process.Kill() // it may have ended
	<-ended
}

// raw is all that somebody can read who has the card.
func (c *bootCard) raw() []byte {
	c.t.Helper()
	text, err := os.ReadFile(c.image)
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

// lies looks whether a text is anywhere on the card.
func (c *bootCard) lies(what string, want bool) {
	c.t.Helper()
	if at := bytes.Index(c.raw(), []byte(what)); at >= 0 != want {
		c.t.Errorf("%q is at byte %d of the card, want it there: %v", what, at, want)
	}
}

// says looks for a word after CARD in the status, "" for that there is no such line.
func (c *bootCard) says(want string) {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.dir, "card/FIELDGATE-STATUS.txt"))
	_, says, found := strings.Cut(string(text), "\r\nCARD ")
	if err != nil || found != (want != "") || !strings.Contains(says, want) {
		c.t.Errorf("the card says (%v):\n%s\nwant CARD with %q", err, text, want)
	}
}

// An editor leaves earlier versions of a file in clusters that belong to none. Once the
// right one was applied nothing of them can be read on the card, nor when the gateway
// was killed meanwhile; it is done once; and what an editor has left as files is named.
func TestEarlierVersionsAreOverwritten(t *testing.T) {
	for _, pc := range []pc{fatPC{}, plainPC{}} {
		t.Run(pc.kind(), func(t *testing.T) {
			c := newBootCard(t, pc)
			version := func(secret string) string { return strings.ReplaceAll(cardText, "network password", secret) }

			// A mistake: the operator is to mend it, until then it holds its secrets.
			pc.write(c, "fieldgate.toml", version("first try")+"x = 1\n"+strings.Repeat("# and much more\n", 200))
			c.in("ro")
			c.boot(exitConfig)
			c.says("")
			c.wipe()
			c.out()
			c.lies("first try", true)

			pc.write(c, "fieldgate.toml", version("second try"))
			pc.write(c, "fieldgate.toml", version("third one"))
			for _, secret := range append(cardSecrets[2:], "first try", "second try", "third one") {
				c.lies(secret, true) // or this test would show nothing
			}
			c.in("ro")
			c.boot(exitOK)
			c.says("leave the gateway on")
			for _, at := range []int64{0, 1 << 20, 5 << 20} {
				c.killed(at)
				c.boot(exitOK)
				if _, err := os.Stat(filepath.Join(c.dir, "card/fieldgate-wipe.tmp")); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("what a try has left is in the way: %v", err)
				}
				c.says("leave the gateway on")
			}
			c.killed(1 << 20) // and is in the way of the next run
			c.wipe()
			c.says("")
			c.out()
			for _, secret := range append(cardSecrets[2:], "first try", "second try", "third one", "SharedAccessKey=c2") {
				c.lies(secret, false)
			}

			// Once.
			before := sha256.Sum256(c.raw())
			c.in("ro")
			c.wipe()
			if r, err := os.ReadFile(filepath.Join(c.dir, "etc/.first-boot.residue")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("there is a note: %s, %v", r, err)
			}
			c.out()
			if pc.kind() == "vfat" && sha256.Sum256(c.raw()) != before { // ext4 counts its mounts
				t.Error("the card was written to, though nothing was due")
			}

			// Files of editors are the operator's.
			pc.write(c, "fieldgate.toml~", version("a backup"))
			c.in("ro")
			c.boot(exitOK)
			c.says("fieldgate.toml~: delete")
			c.wipe()
			c.out()
			c.lies("a backup", true)
			pc.remove(c, "fieldgate.toml~")
			c.lies("a backup", true)
			c.in("ro")
			c.boot(exitOK)
			c.says("leave the gateway on")
			c.wipe()
			if mounts, err := os.ReadFile("/proc/mounts"); err != nil || !strings.Contains(string(mounts), filepath.Join(c.dir, "card")+" "+pc.kind()+" ro,") {
				t.Errorf("the card is not mounted read-only (%v):\n%s", err, mounts)
			}
			c.out()
			c.lies("a backup", false)

			// A reset: what was deleted for it is overwritten, too.
			pc.write(c, "fieldgate.toml", version("the last"))
			pc.remove(c, "fieldgate.toml")
			pc.write(c, "RESET", "")
			c.lies("the last", true)
			c.in("ro")
			c.boot(exitOK)
			c.says("leave the gateway on")
			c.wipe()
			c.says("")
			c.out()
			c.lies("the last", false)
		})
	}
}

// A try that fails is said on the card, and is not repeated before the next start: a
// card that fails is not to be worn.
func TestFailedWipe(t *testing.T) {
	c := newBootCard(t, plainPC{})
	c.pc.write(c, "fieldgate.toml", cardText)
	c.in("rw")
	if err := os.MkdirAll(filepath.Join(c.dir, "card/fieldgate-wipe.tmp/in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	c.boot(exitOK)
	if out, err := c.report().CombinedOutput(); err == nil {
		t.Errorf("nobody is told: %s", out)
	}
	c.says("directory not empty; it is tried again at the next start")
	if err := os.RemoveAll(filepath.Join(c.dir, "card/fieldgate-wipe.tmp")); err != nil {
		t.Fatal(err)
	}
	c.wipe()
	c.says("directory not empty")

	// The next start has another name.
	note := filepath.Join(c.dir, "etc/.first-boot.residue")
	text, err := os.ReadFile(note)
	if err == nil {
		before, _, _ := strings.Cut(string(text), `"Start":`)
		err = os.WriteFile(note, []byte(before+`"Start":"of before"}`), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.wipe()
	c.says("")

	// A note that was torn: it may be due.
	if err := os.WriteFile(note, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.wipe()
	if _, err := os.Stat(note); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the note is there still: %v", err)
	}
}

// What is no boot partition is never filled: a folder of a disk, a stick, or a card
// that nobody said is the machine's own.
func TestOthersAreNotFilled(t *testing.T) {
	c := newBootCard(t, plainPC{})
	plain := func(name string) []string {
		return []string{"first-boot", "report", "--wipe", "--from", filepath.Join(c.dir, name), "--config", filepath.Join(c.dir, "etc/fieldgate.toml"), "--ssh-keys", filepath.Join(c.dir, "k"), "--socket", filepath.Join(c.dir, "none")}
	}
	stick := filepath.Join(c.dir, "stick")
	for _, folder := range []string{stick, filepath.Join(c.dir, "card")} {
		if err := errors.Join(os.MkdirAll(folder, 0o755), os.WriteFile(filepath.Join(folder, "fieldgate.toml"), []byte(cardText), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	note := filepath.Join(c.dir, "etc/.first-boot.residue")
	// Not said to be the machine's, and a stick beside a card.
	for _, more := range [][]string{nil, {"--wipe", "--from", stick}} {
		if code, out := bootOn(c.dir, more...); code != exitOK {
			t.Fatalf("%d: %s", code, out)
		}
		if text, err := os.ReadFile(note); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("with %v there is a note: %s, %v", more, text, err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(stick, "fieldgate.toml")); err != nil || strings.Contains(string(text), cardSecrets[0]) {
		t.Errorf("the stick was not applied: %v\n%s", err, text)
	}
	// A folder of a disk.
	if err := os.WriteFile(filepath.Join(c.dir, "card/fieldgate.toml"), []byte(strings.Replace(cardText, "plant", "other", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.boot(exitOK)
	var w writer
	if code := execute(t.Context(), plain("card"), streams{strings.NewReader(""), &w, &w}); code != exitFailed {
		t.Errorf("the report ends with %d: %s", code, w.lines())
	}
	c.says("is no partition of its own of at most 1 GiB")
	if names, err := filepath.Glob(filepath.Join(c.dir, "card/fieldgate-wipe*")); err != nil || len(names) > 0 {
		t.Errorf("it was begun: %v, %v", names, err)
	}
	if code := execute(t.Context(), plain("card"), streams{strings.NewReader(""), &w, &w}); code != exitOK {
		t.Errorf("the second report ends with %d: %s", code, fmt.Sprint(w.lines()))
	}
}
