package systemd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// need finds a program; without it the test is skipped on a developer's machine, and
// fails where everything has to be there.
func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	t.Skipf("skipped: %v", err)
	return ""
}

// needRoot is for tests that make files of other users.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs to be root")
	}
	t.Skip("skipped: needs to be root")
}

// run runs a program in the folder of the repository and returns what it said.
func run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	c := exec.CommandContext(t.Context(), name, args...)
	c.Dir = filepath.Join("..", "..")
	c.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_COLORS=0", "SYSTEMD_EMOJI=0")
	out, err := c.CombinedOutput()
	return string(out), err
}

func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := run(t, name, args...)
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}

func write(t *testing.T, name, text string, mode fs.FileMode) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), mode)); err != nil {
		t.Fatal(err)
	}
}

// installed is a folder into which everything was installed, with a program that does
// nothing and as much of a system around it as its judges ask for.
func installed(t *testing.T, prefix string) string {
	t.Helper()
	root := t.TempDir()
	program := filepath.Join(t.TempDir(), "fieldgate")
	write(t, program, "#!/bin/sh\n", 0o755)
	must(t, "systemd/install.sh", program, root, prefix, "appliance")
	for _, program := range []string{"mkdir", "mount", "umount", "systemctl", "sh"} {
		write(t, filepath.Join(root, "bin", program), "#!/bin/sh\n", 0o755)
	}
	for _, target := range []string{"sysinit", "basic", "shutdown", "multi-user", "timers", "local-fs", "network-pre", "ssh"} {
		write(t, filepath.Join(root, "usr/lib/systemd/system", target+".target"), "[Unit]\n", 0o644)
	}
	write(t, filepath.Join(root, "bin/kill"), "#!/bin/sh\n", 0o755)
	return root
}

// units are the names of all units of ours.
func units(t *testing.T) (names []string) {
	t.Helper()
	for _, pattern := range []string{"*.service", "*.timer", "appliance/*.service", "appliance/*.timer"} {
		found, err := filepath.Glob("../../systemd/" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			names = append(names, filepath.Base(f))
		}
	}
	if !slices.Contains(names, "fieldgate.service") || len(names) < 5 {
		t.Fatalf("only %q: this test looks at the wrong folder", names)
	}
	return names
}

// What systemd would not understand, or not find.
func TestUnitsAreUnderstood(t *testing.T) {
	need(t, "systemd-analyze")
	for _, prefix := range []string{"/usr", "/usr/local"} {
		root := installed(t, prefix)
		for _, unit := range units(t) {
			if out, err := run(t, "systemd-analyze", "verify", "--man=no", "--root="+root, unit); err != nil || strings.TrimSpace(out) != "" {
				t.Errorf("%s below %s: %v\n%s", unit, prefix, err, out)
			}
		}
	}
	// The judge sees a key that is misspelt, and a program that is not there.
	root := installed(t, "/usr")
	file := filepath.Join(root, "usr/lib/systemd/system/fieldgate.service")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, strings.Replace(string(text), "ProtectSystem=", "ProtectSistem=", 1), 0o644)
	if out, _ := run(t, "systemd-analyze", "verify", "--man=no", "--root="+root, "fieldgate.service"); !strings.Contains(out, "ProtectSistem") {
		t.Errorf("a misspelt key passes:\n%s", out)
	}
	if err := os.Remove(filepath.Join(root, "usr/bin/fieldgate")); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, "systemd-analyze", "verify", "--man=no", "--root="+root, "fieldgate.service"); err == nil {
		t.Error("a program that is not there passes")
	}
}

// exposed are units that cannot be closed in: what they are for is to change the
// machine. They listen to nobody, and end at once.
var exposed = map[string]bool{"fieldgate-first-boot.service": true, "fieldgate-stick.service": true, "fieldgate-report.service": true}

// exposure is how far a service is open, by Debian's judge: from 0 to 10. It is asked
// for at most 2.0.
func exposure(t *testing.T, file string) (float64, bool) {
	t.Helper()
	out, err := run(t, "systemd-analyze", "security", "--offline=true", "--threshold=20", file)
	found := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("%v\n%s", err, out)
	}
	n, _ := strconv.ParseFloat(found[1], 64)
	return n, err == nil
}

func TestExposure(t *testing.T) {
	need(t, "systemd-analyze")
	for _, unit := range units(t) {
		if !strings.HasSuffix(unit, ".service") || exposed[unit] {
			continue
		}
		n, ok := exposure(t, "systemd/"+unit)
		t.Logf("%s: %.1f", unit, n)
		if !ok || n > 2.0 {
			t.Errorf("%s: exposure %.1f, want at most 2.0", unit, n)
		}
	}
	// It is a bound: with one door open, it is beyond.
	text, err := os.ReadFile("../../systemd/fieldgate.service")
	if err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(t.TempDir(), "fieldgate.service")
	write(t, open, strings.Replace(string(text), "ProtectSystem=strict\n", "", 1), 0o644)
	if n, ok := exposure(t, open); ok || n <= 2.0 {
		t.Errorf("without ProtectSystem the exposure is %.1f", n)
	}
}

// The data outlives the system around it: the user's number must not change, and
// what the daemon may reach is in its groups.
func TestUserAndFolders(t *testing.T) {
	needRoot(t)
	need(t, "systemd-sysusers")
	need(t, "systemd-tmpfiles")
	root := installed(t, "/usr")
	// As on Debian, where the group of serial ports has a number already.
	write(t, filepath.Join(root, "etc/group"), "root:x:0:\ndialout:x:20:\n", 0o644)
	write(t, filepath.Join(root, "etc/passwd"), "root:x:0:0::/root:/bin/sh\n", 0o644)
	for range 2 { // the second time changes nothing
		must(t, "systemd-sysusers", "--root="+root)
		must(t, "systemd-tmpfiles", "--root="+root, "--create", "fieldgate.conf")
	}
	has := func(file, line string) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(strings.Split(string(text), "\n"), line) {
			t.Errorf("%s has no line %q:\n%s", file, line, text)
		}
	}
	has("etc/passwd", "fieldgate:x:900:900:Fieldgate:/var/lib/fieldgate:/usr/sbin/nologin")
	has("etc/group", "fieldgate:x:900:")
	has("etc/group", "fieldgate-admin:x:901:")
	has("etc/group", "dialout:x:20:fieldgate")
	if text, err := os.ReadFile(filepath.Join(root, "etc/group")); err != nil || !regexp.MustCompile(`(?m)^tss:x:\d+:fieldgate$`).Match(text) {
		t.Errorf("the daemon's user may not use the TPM: %v\n%s", err, text)
	}
	has("etc/shadow", lockedLine(t, root))
	for name, want := range map[string]string{
		"etc/fieldgate":             "drwxr-x--- 900:900",
		"etc/fieldgate/leaf.d":      "drwxr-x--- 900:900",
		"etc/fieldgate/secrets":     "drwx------ 900:900",
		"etc/fieldgate/credentials": "drwx------ 0:0",
		"var/lib/fieldgate":         "drwx------ 900:900",
	} {
		if got := modeAndOwner(t, filepath.Join(root, name)); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// lockedLine is the line of the user in the shadow file, if no password opens it.
func lockedLine(t *testing.T, root string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "etc/shadow"))
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^fieldgate:!\*?:.*$`).Find(text)
	if line == nil {
		t.Fatalf("the user is not locked:\n%s", text)
	}
	return string(line)
}

func modeAndOwner(t *testing.T, name string) string {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%s %d:%d", info.Mode(), owner.Uid, owner.Gid)
}

// A login goes on, whatever the program says.
func TestGreeting(t *testing.T) {
	root := installed(t, "/usr")
	if out, err := run(t, filepath.Join(root, "etc/update-motd.d/20-fieldgate")); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The machine starts again after the daemon has ended for a factory reset, and after no
// other end of it.
func TestResetStartsTheMachineAgain(t *testing.T) {
	root := installed(t, "/usr")
	text, err := os.ReadFile(filepath.Join(root, "usr/lib/systemd/system/fieldgate.service.d/reset.conf"))
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(text), "ExecStopPost=+/bin/sh -c '")
	script, _, found := strings.Cut(line, "'\n")
	if !found {
		t.Fatalf("no script in\n%s", text)
	}
	script = strings.ReplaceAll(script, "$$", "$") // as systemd reads it
	stub := t.TempDir()
	write(t, filepath.Join(stub, "systemctl"), "#!/bin/sh\necho \"$@\"\n", 0o755)
	for status, want := range map[string]string{"79": "--no-block reboot\n", "0": "", "1": "", "78": "", "KILL": ""} {
		c := exec.Command("/bin/sh", "-c", script)
		c.Env = []string{"PATH=" + stub, "EXIT_STATUS=" + status}
		if out, err := c.CombinedOutput(); string(out) != want || err != nil {
			t.Errorf("after %s: %q, %v", status, out, err)
		}
	}
}
