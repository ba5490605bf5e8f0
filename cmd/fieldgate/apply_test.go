package main

import (
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/revision"
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

// What is kept as a good revision is what was read, also where somebody has changed a file
// since: nobody has seen that to be good.
func TestAGoodRevisionIsWhatWasRead(t *testing.T) {
	file := folder(t, exampleText(t))
	a, _, _, closing := openApplier(file)
	defer closing()
	read, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := loadRunning(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, file, append(read, "[hub\n"...))
	a.noteLocked(cfg, "start")
	if good, known := a.book.Good(); !known || good.Files[filepath.Base(file)] != string(read) {
		t.Errorf("%v, kept is\n%s", known, good.Files[filepath.Base(file)])
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

// What the operator has written and not applied is no reason to let leaves come, go or
// change their names with which the gateway cannot go back: it does, and starts again.
func TestWayBackWithUnappliedChanges(t *testing.T) {
	visitor, hears := "\n[[leaf]]\nid = \"visitor\"\nauth = \"relay\"\n", "may_listen = [\"guest\"]\n"
	file := folder(t, exampleText(t)+visitor)
	d := start(t, file)
	d.logged("ready", "", "")
	run := d.operator(file)
	refused := func(args ...string) {
		t.Helper()
		if out := run(exitForbidden, append([]string{"device"}, args...)...); !strings.Contains(out, "fieldgate config apply") {
			t.Errorf("%v says %s", args, out)
		}
	}
	run(exitOK, "device", "add", "guest", "--auth", "relay")
	rewrite(t, file, visitor, visitor+hears)
	run(exitOK, "config", "apply", "--confirm", "0s")

	rewrite(t, file, visitor+hears, "")
	refused("remove", "guest")
	refused("rename", "guest", "tenant")
	run(exitForbidden, "device", "add", "visitor", "--auth", "relay")
	refused("remove", "visitor")
	run(exitOK, "device", "add", "other", "--auth", "relay") // is in nobody's way

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	rewrite(t, file, "[twin]", "[[broker.listener]]\naddress = \""+l.Addr().String()+"\"\nplain = true\n\n[twin]")
	run(exitUnreachable, "config", "apply", "--restart")
	d.logged("configuration", "", "") // says why, so it runs again
	for _, leaf := range []string{"guest", "visitor", "other"} {
		run(exitOK, "device", "show", leaf)
	}
	if code := d.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if _, err := loadConfig(file); err != nil {
		t.Errorf("it would not start again: %v", err)
	}
}

// There is no moment at which a process that ends lets a leaf in again that is put out:
// it may begin with the files of the last good revision.
func TestDisabledInAllRevisionsFirst(t *testing.T) {
	file := folder(t, exampleText(t))
	a, _, _, closing := openApplier(file)
	defer closing()
	files, err := filesOf(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.book.Add(files, "test", revision.Good, time.Now()); err != nil {
		t.Fatal(err)
	}
	out := func() bool {
		good, _ := a.book.Good()
		return strings.Contains(good.Files[filepath.Base(file)], "disabled = true")
	}
	for _, value := range []string{"true", ""} {
		err := a.alter("node-7", "disabled", value, func() error {
			if !out() {
				t.Errorf("disabled = %q is written to the file, and the last good revision lets it in", value)
			}
			return nil
		})
		if err != nil || out() != (value == "true") {
			t.Errorf("disabled = %q: %v, and it is out: %v", value, err, out())
		}
	}
}

// A leaf whose key cannot be read is put out all the same.
func TestDisableWithoutAKey(t *testing.T) {
	file := folder(t, exampleText(t)+"\n[[leaf]]\nid = \"visitor\"\n\n[enrol]\nby = \"registry\"\npolicy = \"p\"\npolicy_key_file = \"pump-1.key\"\n")
	d := start(t, file)
	d.logged("ready", "", "")
	run := d.operator(file)
	dir := filepath.Dir(file)
	key := keptKey(&config{tables: tables{Gateway: gatewayConfig{DataDir: filepath.Join(dir, "data")}}}, "visitor")
	if err := os.MkdirAll(key, 0o700); err != nil { // a folder is no file that can be read
		t.Fatal(err)
	}
	run(exitOK, "device", "disable", "visitor")
	if out := run(exitOK, "device", "show", "visitor", "--output", "json"); !strings.Contains(out, `"disabled"`) {
		t.Errorf("it is in:\n%s", out)
	}
	run(exitFailed, "device", "enable", "visitor")
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	run(exitOK, "device", "enable", "visitor")
	if code := d.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// A trial that was lost and whose files could not be taken back is over: it is said so,
// it is tried again at the next start, and another one can be tried meanwhile.
func TestLostTrial(t *testing.T) {
	file := folder(t, exampleText(t))
	dir := filepath.Dir(file)
	extra := filepath.Join(dir, "leaf.d", "extra.toml")
	mustMake := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	mustMake(os.MkdirAll(filepath.Dir(extra), 0o755))
	mustWrite(t, extra, []byte("[[leaf]]\nid = \"visitor\"\n"))
	open := func() (*applier, func()) {
		a, texts, said, closing := openApplier(file)
		t.Logf("%d texts, %v", len(texts), said)
		return a, closing
	}
	a, closing := open()
	was, err := filesOf(file)
	mustMake(err)
	_, err = a.book.Add(was, "test", revision.Good, time.Now())
	mustMake(err)
	next := maps.Clone(was)
	delete(next, "leaf.d/extra.toml")
	_, err = a.book.Add(next, "test", revision.OnTrial, time.Now())
	mustMake(err)
	// What was removed cannot be written again.
	mustMake(os.RemoveAll(filepath.Dir(extra)))
	mustWrite(t, filepath.Dir(extra), []byte("in the way"))
	if _, err := a.undo("because"); err == nil {
		t.Fatal("it was undone")
	}
	list := a.Revisions()
	if len(list) != 2 || list[1].State != "undone" || list[1].Running || !list[0].Running || !strings.Contains(list[1].Why, "because; its files are still in place") {
		t.Errorf("the revisions are %+v", list)
	}
	if err := a.busyLocked(); err != nil {
		t.Errorf("it is still on trial: %v", err)
	}
	closing()

	mustMake(os.Remove(filepath.Dir(extra)))
	a, closing = open()
	if list := a.Revisions(); list[1].State != "undone" || !list[0].Running {
		t.Errorf("after the next start the revisions are %+v", list)
	}
	if now, err := filesOf(file); err != nil || !maps.Equal(now, was) {
		t.Errorf("the files are not as they were: %v", err)
	}
	closing()
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
