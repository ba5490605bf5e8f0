package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// stranger is a user that no machine has.
const stranger = 54321

// lent is a folder with a configuration and the data folder, all of it a stranger's, as
// a daemon has them: whoever has taken that over can write there what they like.
func lent(t *testing.T) (file string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can work with the rights of others")
	}
	file = folder(t, exampleText(t))
	dir := filepath.Dir(file)
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	give(t, dir)
	for above := filepath.Dir(dir); above != filepath.Clean(os.TempDir()) && above != "/"; above = filepath.Dir(above) {
		if err := os.Chmod(above, 0o755); err != nil { // the stranger is to reach it
			t.Fatal(err)
		}
	}
	return file
}

// give makes all in a folder the stranger's.
func give(t *testing.T, dir string) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, stranger, stranger)
	}); err != nil {
		t.Fatal(err)
	}
}

// What root makes for the daemon is the daemon's, and can be read by it.
func TestCertOfRootIsTheDaemons(t *testing.T) {
	file := lent(t)
	dir := filepath.Dir(file)
	key := filepath.Join(t.TempDir(), "own.key") // where only root gets
	cert, text := dated(t, -day, 100*day, "gate-7.example")
	mustWrite(t, key, text)
	chain := mustWrite(t, filepath.Join(filepath.Dir(key), "own.crt"), cert)
	socket := filepath.Join(dir, "none.sock")
	for _, args := range [][]string{
		{"create", "--replace", "--name", "gate-7.example"},
		{"renew", "--new-key"},
		{"renew", "--all"},
		{"rollback"},
		{"import", chain, "--key", key, "--ca", chain},
	} {
		if code, _, errs := fieldgate(append([]string{"cert", "--config", file, "--socket", socket}, args...)...); code != exitOK {
			t.Fatalf("%v ends with %d: %s", args, code, errs)
		}
	}
	if err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var s unix.Stat_t
		if err := unix.Lstat(name, &s); err == nil && s.Uid != stranger {
			t.Errorf("%s is of user %d", name, s.Uid)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 || syscall.Getegid() != 0 {
		t.Error("the process has lost its rights")
	}
}

// Root writes nothing where the daemon may not, whatever the configuration names.
func TestRootIsNotLedElsewhere(t *testing.T) {
	for _, data := range []string{"", "root's"} {
		file := lent(t)
		victim := filepath.Join(t.TempDir(), "preload")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.ReplaceAll(text, []byte(`"cert.pem"`), []byte(`"`+victim+`"`))
		text = bytes.ReplaceAll(text, []byte(`"key.pem"`), []byte(`"`+victim+`.key"`))
		if data != "" {
			text = bytes.ReplaceAll(text, []byte(`data_dir = "data"`), []byte(`data_dir = "`+t.TempDir()+`"`))
			if !bytes.Contains(text, []byte(t.Name())) {
				t.Fatalf("no data folder in\n%s", text)
			}
		}
		mustWrite(t, file, text)
		code, _, errs := fieldgate("cert", "create", "--name", "gate-7.example", "--config", file, "--socket", filepath.Join(filepath.Dir(file), "none.sock"))
		if code != exitFailed || !strings.Contains(errs, "permission denied") {
			t.Errorf("with a data folder %q it ends with %d: %s", data, code, errs)
		}
		if list, err := os.ReadDir(filepath.Dir(victim)); err != nil || len(list) != 0 {
			t.Errorf("with a data folder %q there is %v, %v", data, list, err)
		}
	}
}

// Nor does it read what the daemon may not, although names become links between two
// looks at them.
func TestRootReadsNoFileOfOthers(t *testing.T) {
	file := lent(t)
	dir := filepath.Dir(file)
	victim := mustWrite(t, filepath.Join(t.TempDir(), "shadow"), []byte("root:secret"))
	key, link := filepath.Join(dir, "key.pem"), filepath.Join(dir, "link")
	cert, secret := dated(t, -day, 100*day, "gate-7.example")
	for range 40 {
		for _, name := range []string{key, link, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "cert.pem.d")} {
			if err := os.RemoveAll(name); err != nil {
				t.Fatal(err)
			}
		}
		mustWrite(t, key, secret)
		mustWrite(t, filepath.Join(dir, "cert.pem"), cert)
		if err := os.Symlink(victim, link); err != nil {
			t.Fatal(err)
		}
		give(t, dir)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					_ = unix.Renameat2(unix.AT_FDCWD, key, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
				}
			}
		}()
		_, _, _ = fieldgate("cert", "create", "--replace", "--name", "gate-7.example", "--config", file, "--socket", filepath.Join(dir, "none.sock"))
		close(stop)
		<-stopped
		if err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(name)
			if bytes.Contains(text, []byte("root:secret")) {
				t.Fatalf("%s holds what only root can read", name)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}
