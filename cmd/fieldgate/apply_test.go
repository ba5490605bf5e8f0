package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// operator returns what an operator of the daemon types: it wants an exit code and
// returns what is said.
func (d *daemon) operator(file string) func(want int, args ...string) string {
	return func(want int, args ...string) string {
		d.t.Helper()
		code, out, errs := fieldgate(append(args, "--socket", filepath.Join(filepath.Dir(file), "control.sock"))...)
		if code != want {
			d.t.Fatalf("%v ended with %d, want %d\n%s%s\n%s", args, code, want, out, errs, strings.Join(d.log.lines(), ""))
		}
		return out + errs
	}
}

// What "fieldgate device" has done to leaves is undone by no rollback: who was put out
// does not come in again, and nobody has the name from before.
func TestRollBackLetsNobodyIn(t *testing.T) {
	file := folder(t, exampleText(t)+"\n[[leaf]]\nid = \"visitor\"\nauth = \"relay\"\n")
	d := start(t, file)
	d.logged("ready", "", "")
	run := d.operator(file)
	other := filepath.Join(filepath.Dir(file), "other.toml")
	apply := func(want int, oldNew ...string) {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(other, text, 0o600); err != nil {
			t.Fatal(err)
		}
		rewrite(t, other, oldNew...)
		run(want, "config", "apply", other, "--restart")
	}
	outside := func() {
		t.Helper()
		if out := run(exitOK, "device", "show", "node-7", "--output", "json"); !strings.Contains(out, `"disabled"`) {
			t.Errorf("node-7 is let in again:\n%s", out)
		}
		run(exitOK, "device", "show", "guest")
		run(exitNotFound, "device", "show", "visitor")
	}
	apply(exitOK, "level = \"info\"", "level = \"debug\"") // revision 2

	// A configuration that waits to be applied is not taken for one that ran.
	rewrite(t, file, "window = 64", "window = 65")
	run(exitOK, "device", "disable", "node-7")
	if out := run(exitForbidden, "device", "rename", "visitor", "guest"); !strings.Contains(out, "fieldgate config apply") {
		t.Errorf("says %s", out)
	}
	if out := run(exitOK, "config", "history", "2"); !strings.Contains(out, "window = 64") || !strings.Contains(out, "disabled = true") {
		t.Errorf("revision 2 is\n%s", out)
	}
	rewrite(t, file, "window = 65", "window = 64")
	run(exitOK, "device", "rename", "visitor", "guest")

	// The gateway goes back by itself.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	apply(exitUnreachable, "[twin]", "[[broker.listener]]\naddress = \""+l.Addr().String()+"\"\nplain = true\n\n[twin]")
	d.logged("configuration", "", "") // says why, so it runs again
	outside()

	// And is told to.
	run(exitOK, "config", "rollback", "1")
	outside()
	if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), "disabled = true") || strings.Contains(string(text), "visitor") {
		t.Errorf("%v: the file is\n%s", err, text)
	}
	run(exitOK, "device", "enable", "node-7")
	run(exitOK, "config", "rollback", "2")
	if out := run(exitOK, "device", "show", "node-7", "--output", "json"); strings.Contains(out, `"disabled"`) {
		t.Errorf("node-7 is out again:\n%s", out)
	}
	if code := d.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// A trial is not over before the connection has stood for a while, whatever came over
// it meanwhile, and before each leaf is proven whose proof is another one.
func TestTrialTakesItsTime(t *testing.T) {
	begin := time.Now()
	proven := uplink.State{Connected: true, Since: begin, LastAccepted: begin.Add(time.Second), Connects: map[string]int64{uplink.ConnectOK: 2}}
	refused := proven
	refused.Refused = map[string]string{"a": "401"}
	for _, c := range []struct {
		name     string
		state    uplink.State
		unproven map[string]string
		after    time.Duration
		missing  string
	}{
		{"at once", proven, nil, 2 * time.Second, "the connection to the hub was not back for long enough"},
		{"later", proven, nil, settleTime, ""},
		{"a leaf is not proven", proven, map[string]string{"b": "status 401"}, time.Hour, "the hub did not take leaf b any more (status 401)"},
		{"a leaf is refused", refused, nil, time.Hour, "the hub did not take leaf a any more (401)"},
	} {
		x := &trial{limit: time.Minute, link: true, fresh: true, unproven: c.unproven, before: uplink.State{Connects: map[string]int64{uplink.ConnectOK: 1}}}
		if got := x.missing(&c.state, begin.Add(c.after)); got != c.missing {
			t.Errorf("%s: %q, want %q", c.name, got, c.missing)
		}
	}
}

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
