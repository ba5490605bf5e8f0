package systemd

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// machine is a folder that dpkg takes for a Debian on which nothing runs.
type machine struct {
	t    *testing.T
	root string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	needRoot(t)
	for _, program := range []string{"dpkg-deb", "dpkg", "deb-systemd-helper", "systemd-sysusers", "systemd-tmpfiles", "journalctl"} {
		need(t, program)
	}
	m := &machine{t, t.TempDir()}
	var there strings.Builder
	for _, p := range []string{"systemd 252.1-1", "init-system-helpers 1.65", "ca-certificates 20230311"} {
		name, version, _ := strings.Cut(p, " ")
		there.WriteString("Package: " + name + "\nStatus: install ok installed\nArchitecture: all\nMaintainer: x\nDescription: x\nVersion: " + version + "\n\n")
	}
	m.write("var/lib/dpkg/status", there.String())
	m.write("etc/group", "root:x:0:\ndialout:x:20:\n")
	m.write("etc/passwd", "root:x:0:0::/root:/bin/sh\n")
	for _, dir := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates"} {
		if err := os.MkdirAll(filepath.Join(m.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m *machine) write(name, text string) {
	m.t.Helper()
	write(m.t, filepath.Join(m.root, name), text, 0o644)
}

func (m *machine) has(name string) bool {
	_, err := os.Lstat(filepath.Join(m.root, name))
	return err == nil
}

// dpkg runs dpkg on the machine; maintainer scripts run here, and are told the folder,
// as when a system is made for another machine.
func (m *machine) dpkg(args ...string) string {
	m.t.Helper()
	return must(m.t, "dpkg", append([]string{"--root=" + m.root, "--force-script-chrootless", "--log=/dev/null"}, args...)...)
}

// status is what dpkg says of the package: "install ok installed".
func (m *machine) status() string {
	m.t.Helper()
	return must(m.t, "dpkg-query", "--admindir="+filepath.Join(m.root, "var/lib/dpkg"), "-W", "-f", "${Status}", "fieldgate")
}

// enabled says whether the units start with the machine: both or neither.
func (m *machine) enabled() bool {
	m.t.Helper()
	service := m.has("etc/systemd/system/multi-user.target.wants/fieldgate.service")
	if timer := m.has("etc/systemd/system/timers.target.wants/fieldgate-renew.timer"); timer != service {
		m.t.Errorf("the service starts with the machine: %v, the timer: %v", service, timer)
	}
	return service
}

// debian makes a package with a program that does nothing.
func debian(t *testing.T, arch, version string) string {
	t.Helper()
	program, file := filepath.Join(t.TempDir(), "fieldgate"), filepath.Join(t.TempDir(), "fieldgate.deb")
	write(t, program, "#!/bin/sh\n# "+version+"\n", 0o755)
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	must(t, "systemd/deb.sh", program, arch, version, file)
	return file
}

// Installed, upgraded, removed, installed again, purged: each leaves behind what
// Debian's users expect.
func TestPackage(t *testing.T) {
	m := newMachine(t)
	arch := strings.TrimSpace(must(t, "dpkg", "--print-architecture"))
	before := m.files()
	m.dpkg("-i", debian(t, arch, "1.0"))
	if got := m.status(); got != "install ok installed" {
		t.Fatalf("after the installation dpkg says %q", got)
	}
	for name, want := range map[string]string{
		"usr/bin/fieldgate":         "-rwxr-xr-x 0:0",
		"etc/fieldgate":             "drwxr-x--- 900:900",
		"etc/fieldgate/credentials": "drwx------ 0:0",
		"var/lib/fieldgate":         "drwx------ 900:900",
	} {
		if got := modeAndOwner(t, filepath.Join(m.root, name)); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if !m.enabled() {
		t.Error("the unit does not start with the machine")
	}
	for _, page := range []string{"man1/fieldgate.1.gz", "man1/fieldgate-config-set.1.gz", "man5/fieldgate-config.5.gz", "man7/fieldgate-pairing.7.gz"} {
		if text := must(t, "zcat", filepath.Join(m.root, "usr/share/man", page)); !strings.HasPrefix(text, ".TH FIELDGATE") {
			t.Errorf("%s begins with %.40q", page, text)
		}
	}
	// dpkg has systemd read the catalog where there is one: the trigger is its own.
	must(t, "journalctl", "--root="+m.root, "--update-catalog")
	if out := must(t, "journalctl", "--root="+m.root, "--list-catalog"); strings.Count(out, "Fieldgate") < 20 {
		t.Errorf("the journal explains\n%s", out)
	}
	if err := os.RemoveAll(filepath.Join(m.root, "var/lib/systemd/catalog")); err != nil { // it is systemd's
		t.Fatal(err)
	}
	if out := must(t, "dpkg", "--root="+m.root, "--verify", "fieldgate"); out != "" {
		t.Errorf("files are not those of the package:\n%s", out)
	}

	// What the administrator does survives an upgrade and a removal.
	mine := []string{"etc/fieldgate/fieldgate.toml", "etc/fieldgate/secrets/hub.key", "var/lib/fieldgate/store/CURRENT"}
	for _, name := range mine {
		m.write(name, "mine")
	}
	must(t, "systemctl", "--root="+m.root, "disable", "fieldgate.service", "fieldgate-renew.timer")
	m.dpkg("-i", debian(t, arch, "1.1"))
	if m.enabled() {
		t.Error("the upgrade has enabled what was disabled")
	}
	m.dpkg("-r", "fieldgate")
	if got := m.status(); got != "deinstall ok config-files" {
		t.Errorf("after the removal dpkg says %q", got)
	}
	if m.has("usr/bin/fieldgate") || m.has("usr/lib/systemd/system/fieldgate.service") || m.has("usr/lib/systemd/system/fieldgate-renew.timer") {
		t.Error("the removal has left the program or its unit")
	}
	for _, name := range mine {
		if !m.has(name) {
			t.Errorf("the removal has taken %s with it", name)
		}
	}

	m.dpkg("-i", debian(t, arch, "1.1"))
	m.dpkg("-P", "fieldgate")
	after := m.files()
	users := regexp.MustCompile(`^/etc/(g?shadow-?|passwd-|group-|\.pwd\.lock)$`) // they stay
	for name := range after {
		if !before[name] && !strings.HasPrefix(name, "/var/lib/dpkg/") && !users.MatchString(name) {
			t.Errorf("the purge has left %s", name)
		}
	}
}

// files are all files of the machine.
func (m *machine) files() map[string]bool {
	m.t.Helper()
	out, err := exec.CommandContext(m.t.Context(), "find", m.root, "!", "-type", "d", "-printf", "/%P\n").Output()
	if err != nil {
		m.t.Fatal(err)
	}
	all := make(map[string]bool)
	for name := range strings.Lines(string(out)) {
		all[strings.TrimSpace(name)] = true
	}
	return all
}

// Both architectures have a package, and the same input makes the same one.
func TestPackageIsReproducible(t *testing.T) {
	need(t, "dpkg-deb")
	for _, arch := range []string{"arm64", "amd64"} {
		first, second := debian(t, arch, "1.0"), debian(t, arch, "1.0")
		if got := strings.TrimSpace(must(t, "dpkg-deb", "-f", first, "Architecture")); got != arch {
			t.Errorf("the package is for %q, want %q", got, arch)
		}
		a, err := os.ReadFile(first)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(second)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("two packages for %s differ", arch)
		}
	}
}
