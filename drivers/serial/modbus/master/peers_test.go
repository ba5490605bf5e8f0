package master

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/fieldgate/fieldgate/drivers/serial/modbus"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/test/leafsim/meter"
)

// program finds one that a test needs.
func program(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	lacks(t, pkg)
	return ""
}

func lacks(t *testing.T, pkg string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("this needs the package %s: run test/setup.sh", pkg)
	}
	t.Skipf("this needs the package %s: run test/setup.sh", pkg)
}

// background runs a program until the test ends.
func background(t *testing.T, name string, args ...string) {
	t.Helper()
	c := exec.Command(name, args...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sync.OnceFunc(func() { _ = c.Process.Kill(); _ = c.Wait() }))
}

// pymodbus is somebody else's slave: what we ask it understands, and what it
// answers we do.
func TestPymodbusSlave(t *testing.T) {
	socat := program(t, "socat", "socat")
	const python = "/usr/bin/python3" // the system's own, which has Debian's packages
	if exec.Command(python, "-c", "import pymodbus, serial_asyncio").Run() != nil {
		lacks(t, "python3-pymodbus and python3-serial-asyncio")
	}
	dir := t.TempDir()
	ours, theirs := filepath.Join(dir, "gateway"), filepath.Join(dir, "slave")
	background(t, socat, "pty,raw,echo=0,link="+ours, "pty,raw,echo=0,link="+theirs)
	until(t, "the line", func() bool { _, err := os.Lstat(theirs); return err == nil })
	background(t, python, filepath.Join("testdata", "slave.py"), theirs)

	input := func(name, table string) RegisterConfig {
		r := reg(name, 3)
		r.Table, r.Writable = table, false
		return r
	}
	coil := reg("coil", 5)
	coil.Table = "coil"
	long := reg("long", 107)
	long.Type, long.Order = modbus.Uint64, modbus.ABCD
	long.Address = 106
	number := reg("number", 112)
	number.Type, number.Order = modbus.Float32, modbus.CDAB
	missing := reg("missing", 900)
	r := &rig{wants: make(map[string]gateway.Interest), seen: make(map[string]int)}
	slave := slaveConfig(17, "meter", long, reg("plain", 108), number, input("input", "input"), input("discrete", "discrete"), coil, missing)
	slave.Timeout = gateway.Duration(2e9) // a Python may be slow
	r.run(t, config(ours, slave))
	until(t, "a message", func() bool { return len(r.bodies("meter")) > 0 })
	if got, want := r.bodies("meter")[0], `{"long":191595644339008,"plain":22098,"number":0,"input":237,"discrete":true,"coil":false}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, c := range []struct{ method, body, want string }{
		{"write", `{"number":-12.25,"coil":true,"plain":7}`, `200 {"number":-12.25,"coil":true,"plain":7}`},
		{"read", `["number","coil","plain"]`, `200 {"coil":true,"plain":7,"number":-12.25}`},
		{"write", `{"missing":1}`, `404 {"error":"missing: modbus exception 2: illegal data address","exception":2,"register":"missing"}`},
	} {
		if got := r.call("meter", c.method, c.body); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.method, c.body, got, c.want)
		}
	}
}

// mbpoll is somebody else's master: the slaves on our bench are such for it, too.
func TestMbpollMaster(t *testing.T) {
	mbpoll := program(t, "mbpoll", "mbpoll")
	slave := &meter.Slave{Holding: []uint16{0, 4711, 0}, Input: []uint16{1, 2, 3}, Coils: make([]bool, 4), Discretes: []bool{false, true}}
	bus, err := meter.Start(filepath.Join(t.TempDir(), "bus"), map[byte]*meter.Slave{17: slave})
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-t", "4", "-0", "-r", "1", "-c", "2", "-1", bus.Link}, "[1]: \t4711"},
		{[]string{"-t", "3", "-0", "-r", "0", "-c", "3", "-1", bus.Link}, "[2]: \t3"},
		{[]string{"-t", "1", "-0", "-r", "0", "-c", "2", "-1", bus.Link}, "[1]: \t1"},
		{[]string{"-t", "4", "-0", "-r", "0", bus.Link, "815", "816"}, "Written 2 references"},
		{[]string{"-t", "0", "-0", "-r", "2", bus.Link, "1"}, "Written 1 references"},
		{[]string{"-t", "4", "-0", "-r", "99", "-c", "1", "-1", bus.Link}, "Illegal data address"},
	} {
		args := append([]string{"-m", "rtu", "-a", "17", "-b", "115200", "-P", "none", "-o", "5"}, c.args...)
		out, _ := exec.Command(mbpoll, args...).CombinedOutput() // its exit code says nothing more
		if !strings.Contains(string(out), c.want) {
			t.Errorf("mbpoll %v: no %q in\n%s", c.args, c.want, out)
		}
	}
	bus.Do(17, func(s *meter.Slave) {
		if s.Holding[0] != 815 || s.Holding[1] != 816 || !s.Coils[2] {
			t.Errorf("it has written %v and %v", s.Holding, s.Coils)
		}
	})
}
