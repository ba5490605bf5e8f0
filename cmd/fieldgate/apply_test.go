package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// Somebody who holds the lock of the folder is waited for, but not for ever, and is
// named.
func TestLockFolder(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		unlock, err := lockFolder(dir)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if _, err = lockFolder(dir); !errors.Is(err, unix.EWOULDBLOCK) || !strings.Contains(err.Error(), "process ") {
			t.Errorf("locked twice: %v", err)
		}
		if d := time.Since(begin); d < lockWait || d > 2*lockWait {
			t.Errorf("waited for %v", d)
		}
		time.AfterFunc(lockWait/2, unlock)
		again, err := lockFolder(dir)
		if err != nil {
			t.Fatal(err)
		}
		again()
	})
}

// unlocked is where a command writes to. It wants the folder not to be locked then: it
// may take for ever until somebody reads.
type unlocked struct {
	t   *testing.T
	dir string
	n   int // writes
}

func (u *unlocked) Write(p []byte) (int, error) {
	f, err := os.Open(u.dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		u.t.Errorf("written while the folder is locked: %s", p)
	}
	u.n++
	return len(p), nil
}

func TestNothingIsWrittenUnderTheLock(t *testing.T) {
	file := folder(t, exampleText(t))
	for _, args := range [][]string{
		{"config", "set", "hub.keep_alive", "40s"},
		{"cert", "create-csr"},
		{"cert", "create", "--replace", "--name", "gate-7.example"},
	} {
		w := &unlocked{t: t, dir: filepath.Dir(file)}
		code := execute(t.Context(), append(args, "--config", file), streams{strings.NewReader(""), w, w})
		if code != exitOK || w.n == 0 {
			t.Errorf("%v ended with %d after %d writes", args, code, w.n)
		}
	}
}
