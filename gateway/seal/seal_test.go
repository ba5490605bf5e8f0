package seal

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func mustMake(t *testing.T, p Place) *Machine {
	t.Helper()
	m, err := Make(p)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func write(t *testing.T, name, text string, mode fs.FileMode) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestSealedIsOpenedByThisMachineOnly(t *testing.T) {
	secret := []byte("swordfish\n")
	dir := t.TempDir()
	if _, err := Find(Place{Dir: dir}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before the first: %v", err)
	}
	m := mustMake(t, Place{Dir: dir})
	text := m.Seal(secret)
	if bytes.Contains(text, secret) || !Sealed(text) || bytes.Equal(text, m.Seal(secret)) {
		t.Errorf("sealed as %s", text)
	}
	if got, err := Open(text); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("opened %q, %v", got, err)
	}
	for i := range len(text) - 1 { // without the line feed
		broken := bytes.Clone(text)
		broken[i] ^= 1
		if got, err := Open(broken); err == nil && bytes.Contains(got, secret) {
			t.Errorf("opened with byte %d changed", i)
		}
	}
	known.Delete(m.id)
	if _, err := Open(text); !errors.Is(err, ErrNoKey) {
		t.Errorf("without the key: %v", err)
	}
	again := mustMake(t, Place{Dir: dir}) // the key stays
	if got, err := Open(text); err != nil || !bytes.Equal(got, secret) || again.id != m.id {
		t.Errorf("after a restart %q, %v", got, err)
	}
	if got, err := Open(secret); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("in the clear: %q, %v", got, err)
	}
	if strings.Contains(m.String(), "swordfish") {
		t.Error("a key prints itself")
	}
}

func TestKeyFileOfOthersIsRefused(t *testing.T) {
	dir := t.TempDir()
	mustMake(t, Place{Dir: dir})
	if info, err := os.Stat(filepath.Join(dir, fileName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	if err := os.Chmod(filepath.Join(dir, fileName), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Make(Place{Dir: dir}); err == nil || !strings.Contains(err.Error(), "chmod 0600") {
		t.Errorf("a key that all can read: %v", err)
	}
	write(t, filepath.Join(dir, fileName), "short", 0o600)
	_ = os.Chmod(filepath.Join(dir, fileName), 0o600)
	if _, err := Make(Place{Dir: dir}); err == nil {
		t.Error("a key of 5 bytes is none")
	}
}

// The credential comes first, and what the file has sealed before stays readable.
func TestCredentialComesFirst(t *testing.T) {
	dir, credentials := t.TempDir(), t.TempDir()
	old := mustMake(t, Place{Dir: dir}).Seal([]byte("of the file"))
	write(t, filepath.Join(credentials, CredentialName), strings.Repeat("k", keySize), 0o400)
	p := Place{Dir: dir, Credentials: credentials}
	m := mustMake(t, p)
	if !strings.Contains(m.From(), "credential") {
		t.Errorf("the key is from %s", m.From())
	}
	if got, err := Open(old); err != nil || string(got) != "of the file" {
		t.Errorf("what was sealed before: %q, %v", got, err)
	}
	p.Dir = t.TempDir()
	mustMake(t, p)
	if list, _ := os.ReadDir(p.Dir); len(list) != 0 {
		t.Errorf("with a credential a key was made all the same: %v", list)
	}
}

func TestSealFileInItsPlace(t *testing.T) {
	dir := t.TempDir()
	m := mustMake(t, Place{Dir: dir})
	name := write(t, filepath.Join(dir, "pump.key"), "swordfish", 0o644)
	link := filepath.Join(dir, "link.key")
	if err := os.Symlink("pump.key", link); err != nil {
		t.Fatal(err)
	}
	for round, want := range []bool{true, false} {
		if changed, err := m.SealFile(link); err != nil || changed != want {
			t.Errorf("round %d: %v, %v", round, changed, err)
		}
	}
	if text, err := os.ReadFile(name); err != nil || bytes.Contains(text, []byte("swordfish")) || !Sealed(text) {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if info, _ := os.Stat(name); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if got, err := ReadFile(link); err != nil || string(got) != "swordfish" {
		t.Errorf("read %q, %v", got, err)
	}
	if list, _ := filepath.Glob(filepath.Join(dir, ".sealing-*")); len(list) != 0 {
		t.Errorf("left behind: %v", list)
	}
	if _, err := m.SealFile(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// tpm starts a simulated TPM, which ends with the test, and returns its socket.
func tpm(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("swtpm")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("swtpm is not installed: test/setup.sh installs it")
		}
		t.Skip("skipped: swtpm is not installed (Debian package swtpm)")
	}
	dir, err := os.MkdirTemp("", "tpm") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	cmd := exec.Command(program, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket, "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		os.RemoveAll(dir)
	})
	for limit := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return socket
		}
		if time.Now().After(limit) {
			t.Fatal("the TPM never listens")
		}
	}
}

func TestTPMSealsTheKey(t *testing.T) {
	socket := tpm(t)
	p := Place{Dir: t.TempDir(), TPM: socket}
	m := mustMake(t, p)
	text := m.Seal([]byte("swordfish"))
	if list, _ := os.ReadDir(p.Dir); len(list) != 1 || list[0].Name() != tpmName {
		t.Fatalf("beside the TPM there is %v", list)
	}
	known.Delete(m.id)
	if again := mustMake(t, p); again.id != m.id {
		t.Error("the TPM opens another key")
	}
	if got, err := Open(text); err != nil || string(got) != "swordfish" {
		t.Errorf("opened %q, %v", got, err)
	}
	for what, q := range map[string]Place{"another machine": {Dir: p.Dir, TPM: tpm(t)}, "no TPM": {Dir: p.Dir}} {
		if _, err := Make(q); err == nil {
			t.Errorf("%s opens the key", what)
		}
	}
}

// What is not a TPM's must not be taken for it, and must not end the program.
func FuzzBlob(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 2, 0, 0, 0, 1, 3})
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(_ *testing.T, blob []byte) { _, _, _ = readBlob(blob) })
}

// FuzzOpen: whatever is in a file, it is opened, refused, or taken as it is.
func FuzzOpen(f *testing.F) {
	m, err := newMachine(bytes.Repeat([]byte{7}, keySize), "fuzz")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m.Seal([]byte("x")))
	f.Add([]byte(prefix))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := Open(text)
		if err == nil && !Sealed(text) && !bytes.Equal(got, text) {
			t.Errorf("%q became %q", text, got)
		}
	})
}
