package keypair

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
)

// TestMain is, in a process of its own, one that is killed in the middle of a change.
func TestMain(m *testing.M) {
	if dir := os.Getenv("KEYPAIR_DIR"); dir != "" {
		steps, _ := strconv.Atoi(os.Getenv("KEYPAIR_STEPS"))
		pass = func() {
			if steps--; steps < 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
		if err := change(placeIn(dir), os.Getenv("KEYPAIR_CHANGE")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func placeIn(dir string) Place {
	return Place{filepath.Join(dir, "gw.crt"), filepath.Join(dir, "gw.key")}
}

// change goes back, or swaps in a pair whose files both say what.
func change(p Place, what string) error {
	if what == "back" {
		return p.Back()
	}
	c, err := p.Stage(says(what), says(what))
	if err != nil {
		return err
	}
	return c.Swap(func(key []byte) []byte { return key })
}

// says is what a test writes in the place of a certificate or a key.
func says(what string) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(what)})
}

// look returns what the pair says, "" if there is none. Its halves must fit.
func look(t *testing.T, p Place) string {
	t.Helper()
	cert, err := os.ReadFile(p.Cert)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	key, failed := os.ReadFile(p.Key)
	if err != nil || failed != nil || string(cert) != string(key) {
		t.Fatalf("certificate %q, %v; key %q, %v", cert, err, key, failed)
	}
	block, _ := pem.Decode(cert)
	if block == nil {
		t.Fatalf("certificate %q", cert)
	}
	return string(block.Bytes)
}

func mustChange(t *testing.T, p Place, what string) {
	t.Helper()
	if err := change(p, what); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func put(t *testing.T, p Place, text string) {
	t.Helper()
	for _, file := range []string{p.Cert, p.Key} {
		if err := os.WriteFile(file, says(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSwapAndBack(t *testing.T) {
	for _, before := range []string{"", "by hand"} {
		dir := t.TempDir()
		p := placeIn(dir)
		if before != "" {
			put(t, p, before)
		}
		mustChange(t, p, "one")
		if got := look(t, p); got != "one" {
			t.Fatalf("holds %q", got)
		}
		if err := p.Back(); before == "" && !errors.Is(err, ErrNoFormer) || before != "" && (err != nil || look(t, p) != before) {
			t.Errorf("back from the first: %v, %q", err, look(t, p))
		}
		mustChange(t, p, "two")
		mustChange(t, p, "three")
		mustChange(t, p, "back")
		if got := look(t, p); got != "two" {
			t.Errorf("back to %q", got)
		}
		mustChange(t, p, "back")
		if got := look(t, p); got != "three" {
			t.Errorf("and forth to %q", got)
		}
		if list, err := filepath.Glob(filepath.Join(dir, "gw.crt.d", "[0-9]*")); err != nil || len(list) != 2 {
			t.Errorf("kept are %v", list)
		}
		for file, want := range map[string]fs.FileMode{p.Cert: 0o644, p.Key: 0o600} {
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v, %v", file, info.Mode(), err)
			}
		}
	}
}

// Links work from wherever somebody looks, and where the folder is moved to.
func TestPlacesApartAndMoved(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "secrets"), 0o700); err != nil {
		t.Fatal(err)
	}
	apart := Place{filepath.Join(dir, "gw.crt"), filepath.Join(dir, "secrets", "gw.key")}
	mustChange(t, apart, "one")
	mustChange(t, apart, "two")
	if got := look(t, apart); got != "two" {
		t.Errorf("holds %q", got)
	}
	from, to := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	if err := os.Mkdir(from, 0o700); err != nil {
		t.Fatal(err)
	}
	mustChange(t, placeIn(from), "one")
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
	mustChange(t, placeIn(to), "two")
	if got := look(t, placeIn(to)); got != "two" {
		t.Errorf("after a move it holds %q", got)
	}
}

// What another program renews is left to it.
func TestLinkOfOthersIsLeftAlone(t *testing.T) {
	p := placeIn(t.TempDir())
	put(t, Place{p.Cert + ".live", p.Key}, "live")
	if err := os.Symlink("gw.crt.live", p.Cert); err != nil {
		t.Fatal(err)
	}
	if err := change(p, "one"); !errors.Is(err, ErrElsewhere) {
		t.Errorf("got %v", err)
	}
	if got := look(t, p); got != "live" {
		t.Errorf("holds %q", got)
	}
}

// Killed between any two steps, there is the old pair or the new one, whole, and the
// next change works.
func TestKilledAtEveryStep(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, change string
		before       []string // how it came to be; "by hand" puts files
		may          []string // what may be there after a kill
	}{
		{"first", "new", nil, []string{"", "new"}},
		{"files put by hand", "new", []string{"by hand"}, []string{"by hand", "new"}},
		{"renewal", "new", []string{"by hand", "one", "two"}, []string{"two", "new"}},
		{"back", "back", []string{"one", "two"}, []string{"one", "two"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			steps := 0
			for ended := false; !ended; steps++ {
				p := placeIn(t.TempDir())
				for _, b := range c.before {
					if b == "by hand" {
						put(t, p, b)
						continue
					}
					mustChange(t, p, b)
				}
				cmd := exec.Command(self)
				cmd.Env = append(os.Environ(), "KEYPAIR_DIR="+filepath.Dir(p.Cert), "KEYPAIR_CHANGE="+c.change, "KEYPAIR_STEPS="+strconv.Itoa(steps))
				out, err := cmd.CombinedOutput()
				ended = err == nil
				if failed, ok := errors.AsType[*exec.ExitError](err); ok && failed.ExitCode() != -1 {
					t.Fatalf("step %d: %v\n%s", steps, err, out)
				}
				if got := look(t, p); got != c.may[0] && got != c.may[1] {
					t.Errorf("killed at step %d it holds %q", steps, got)
				}
				mustChange(t, p, "last")
				if got := look(t, p); got != "last" {
					t.Errorf("after step %d the next change gives %q", steps, got)
				}
			}
			if steps < 5 {
				t.Errorf("it has only %d steps", steps)
			}
		})
	}
}

// Whoever owns the folders cannot have root, who writes into them, follow a link.
func TestLinksInTheFoldersLeadNowhere(t *testing.T) {
	for _, c := range []struct {
		name string
		swap string // what becomes a link
		step int    // before which step; -1 is before all
	}{
		{"before all", "gw.crt.d", -1},
		{"when its folder was made", "gw.crt.d", 0},
		{"before the pair's folder is made", "gw.crt.d", 1},
		{"when the pair's folder was made", "gw.crt.d/1", 2},
		{"the folder above", "gw.crt.d", 2},
		{"before the key is written", "gw.crt.d/1", 3},
		{"the folder above, before the certificate is written", "gw.crt.d", 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer func() { pass = func() {} }()
			p, victim := placeIn(t.TempDir()), t.TempDir()
			if err := errors.Join(os.Mkdir(filepath.Join(victim, "1"), 0o700), os.Chmod(victim, 0o700)); err != nil {
				t.Fatal(err)
			}
			swap := func() {
				name := filepath.Join(filepath.Dir(p.Cert), c.swap)
				if err := errors.Join(os.RemoveAll(name), os.Symlink(victim, name)); err != nil {
					t.Fatal(err)
				}
			}
			step := 0
			pass = func() {
				if step == c.step {
					swap()
				}
				step++
			}
			if c.step < 0 {
				swap()
			}
			if err := change(p, "new"); err == nil {
				t.Error("it went through the link")
			}
			for _, dir := range []string{victim, filepath.Join(victim, "1")} {
				if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
					t.Errorf("%s is %v, %v", dir, info, err)
				}
			}
			if list, err := filepath.Glob(filepath.Join(victim, "*")); err != nil || len(list) != 1 {
				t.Errorf("behind the link there is %v, %v", list, err)
			}
			if list, err := filepath.Glob(filepath.Join(victim, "1", "*")); err != nil || len(list) != 0 {
				t.Errorf("behind the link there is %v, %v", list, err)
			}
		})
	}
}

// Files that are swapped for links or pipes after they were looked at are not read.
func TestAdoptedFilesAreFiles(t *testing.T) {
	for _, kind := range []string{"link", "pipe"} {
		t.Run(kind, func(t *testing.T) {
			defer func() { pass = func() {} }()
			victim := filepath.Join(t.TempDir(), "victim")
			if err := os.WriteFile(victim, []byte("of somebody else"), 0o600); err != nil {
				t.Fatal(err)
			}
			swapped := 0
			for step, ended := 0, false; !ended; step++ {
				p := placeIn(t.TempDir())
				put(t, p, "by hand")
				c, err := p.Stage(says("new"), says("new"))
				if err != nil {
					t.Fatal(err)
				}
				left := step
				pass = func() {
					if left--; left != -1 {
						return
					}
					swapped++
					err := os.Remove(p.Key)
					if kind == "link" {
						err = errors.Join(err, os.Symlink(victim, p.Key))
					} else {
						err = errors.Join(err, syscall.Mkfifo(p.Key, 0o600))
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				_ = c.Swap(func(key []byte) []byte { return key })
				pass = func() {}
				ended = left >= 0
				keys, err := filepath.Glob(filepath.Join(filepath.Dir(p.Cert), "gw.crt.d", "*", "key.pem"))
				if err != nil {
					t.Fatal(err)
				}
				for _, key := range keys {
					if text, err := os.ReadFile(key); err != nil || !bytes.Equal(text, says("by hand")) && !bytes.Equal(text, says("new")) {
						t.Errorf("swapped at step %d, %s holds %q, %v", step, key, text, err)
					}
				}
			}
			if swapped < 5 {
				t.Errorf("it was swapped at %d steps only", swapped)
			}
		})
	}
}

// Everybody can read the file of a certificate: a key that stands in it is not copied
// there. Keys of former pairs are known.
func TestKeysOfAdoptedFiles(t *testing.T) {
	p := placeIn(t.TempDir())
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")})
	both := slices.Concat([]byte("from the shop\n"), key, says("leaf"), says("authority"))
	if err := errors.Join(os.WriteFile(p.Cert, both, 0o600), os.WriteFile(p.Key, key, 0o600)); err != nil {
		t.Fatal(err)
	}
	c, err := p.Stage(says("new"), says("new"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Swap(func([]byte) []byte { return []byte("sealed") }); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.RequestFile(), key, 0o600); err != nil {
		t.Fatal(err)
	}
	certFile, keyFile, err := p.Former()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(certFile); err != nil || !bytes.Equal(got, slices.Concat(says("leaf"), says("authority"))) {
		t.Errorf("the certificate became %q, %v", got, err)
	}
	if got, err := os.ReadFile(keyFile); err != nil || string(got) != "sealed" {
		t.Errorf("the key became %q, %v", got, err)
	}
	if got, want := p.Keys(), []string{p.RequestFile(), keyFile}; !slices.Equal(got, want) {
		t.Errorf("keys out of their place are %q, want %q", got, want)
	}
}

// Files of somebody else stay, whatever they are called.
func TestOtherFilesStay(t *testing.T) {
	p := placeIn(t.TempDir())
	other := Place{p.Cert + ".new", p.Key + ".new"}
	put(t, other, "bought")
	mustChange(t, p, "one")
	mustChange(t, p, "two")
	if got := look(t, other); got != "bought" {
		t.Errorf("they hold %q", got)
	}
}
