package image

import (
	"bufio"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var updateLock = flag.Bool("update", false, "write buildroot/symbols.lock anew, checked on the tree that BUILDROOT names")

const (
	root     = "../.."
	lockFile = root + "/buildroot/symbols.lock"
	fragment = root + "/buildroot/configs/common.fragment"
)

// requested returns the lines of a configuration that ask for something, either
// BR2_X=value or "# BR2_X is not set".
func requested(t *testing.T, files ...string) []string {
	t.Helper()
	var lines []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSuffix(line, "\n")
			if strings.HasPrefix(line, "BR2_") || strings.HasPrefix(line, "# BR2_") {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// What neither asks for something nor is a comment would be passed over by everybody,
// like a symbol whose first letters are mistyped.
func TestEveryLineAsks(t *testing.T) {
	for pattern, asks := range map[string]*regexp.Regexp{
		root + "/buildroot/configs/*":     regexp.MustCompile(`^(BR2_\w+=.+|# BR2_\w+ is not set|# [^B].*|# B[^R].*|)$`),
		root + "/board/common/*.fragment": regexp.MustCompile(`^(CONFIG_\w+=.+|# CONFIG_\w+ is not set|# [^C].*|# C[^O].*|)$`),
		root + "/board/*/linux.fragment":  regexp.MustCompile(`^(CONFIG_\w+=.+|# CONFIG_\w+ is not set|# [^C].*|# C[^O].*|)$`),
	} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: nothing, %v", pattern, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for number, line := range strings.Split(string(text), "\n") {
				if !asks.MatchString(line) {
					t.Errorf("%s:%d: neither asks for a symbol, nor is a comment: %q", file, number+1, line)
				}
			}
		}
	}
}

// missing returns what of want is not in have.
func missing(want, have []string) []string {
	var lost []string
	for _, line := range want {
		if !slices.Contains(have, line) {
			lost = append(lost, line)
		}
	}
	return lost
}

// boards returns the defconfig of each board by its name.
func boards(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(root + "/buildroot/configs/fieldgate_*_defconfig")
	if err != nil || len(files) == 0 {
		t.Fatalf("no defconfigs: %v", err)
	}
	all := make(map[string]string)
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "fieldgate_"), "_defconfig")
		all[name] = file
	}
	return all
}

// lock returns the lines of symbols.lock, each with the release it was checked on.
func lock(t *testing.T) map[string]string {
	t.Helper()
	file, err := os.Open(lockFile)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	checked := make(map[string]string)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if lines.Text() == "" || strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		release, line, ok := strings.Cut(lines.Text(), "\t")
		if !ok {
			t.Fatalf("%s: %q has no release", lockFile, lines.Text())
		}
		checked[line] = release
	}
	return checked
}

// Buildroot drops a symbol that it does not know, or whose dependencies are not
// there, without a word. Whatever is asked for was therefore seen once in a
// .config, and symbols.lock says on which release.
func TestEveryLineIsLocked(t *testing.T) {
	if *updateLock {
		t.Skip("the file is being written")
	}
	checked := slices.Collect(maps.Keys(lock(t)))
	var all []string
	for name, file := range boards(t) {
		all = append(all, requested(t, file)...)
		for _, line := range missing(requested(t, fragment, file), checked) {
			t.Errorf("%s: never seen in a .config: %s (make image-lock BUILDROOT=TREE)", name, line)
		}
	}
	all = append(all, requested(t, fragment)...)
	for _, line := range missing(checked, all) {
		t.Errorf("symbols.lock has a line that nobody asks for: %s", line)
	}
}

// With gpu_mem=16 the firmware of a Raspberry Pi looks for the files of its cut-down
// variant, and does not start without them (Raspberry Pi Documentation, config.txt,
// "start_file, fixup_file").
func TestFirmwareIsThere(t *testing.T) {
	with := 0
	for name, file := range boards(t) {
		config, err := os.ReadFile(filepath.Join(root, "board", name, "config.txt"))
		if !strings.Contains(string(config), "\ngpu_mem=16\n") {
			continue // has no firmware (err), or one in its EEPROM
		}
		must(t, err)
		with++
		var variants []string
		for _, line := range requested(t, file) {
			if strings.Contains(line, "_FIRMWARE_VARIANT_") {
				variants = append(variants, line)
			}
		}
		if len(variants) != 1 || !strings.HasSuffix(variants[0], "_CD=y") {
			t.Errorf("%s has %v, want the cut-down one", name, variants)
		}
	}
	if with != 3 {
		t.Errorf("%d boards were looked at, want the Raspberry Pi 3, 4 and Zero 2 W", with)
	}
}

// With a tree at hand the configuration of each board is made by Buildroot
// itself. A line with a mistyped symbol is added to each, and must be the only
// one that is lost: so the check is known to bite.
func TestBuildrootKeepsEveryLine(t *testing.T) {
	tree := os.Getenv("BUILDROOT")
	if tree == "" {
		t.Skip("BUILDROOT names no tree")
	}
	version, err := exec.Command("make", "-s", "-C", tree, "O="+t.TempDir(), "print-version").Output()
	if err != nil {
		t.Fatal(err)
	}
	const mistyped = "BR2_PACKAGE_RAUCK=y"
	seen := make(map[string]bool)
	for name, file := range boards(t) {
		want := requested(t, fragment, file)
		got := configure(t, tree, name, append(slices.Clone(want), mistyped))
		lost := missing(append(want, mistyped), got)
		if !slices.Equal(lost, []string{mistyped}) {
			t.Errorf("%s: lost %q, want only %s", name, lost, mistyped)
		}
		for _, line := range want {
			seen[line] = slices.Contains(got, line)
		}
	}
	if *updateLock && !t.Failed() {
		writeLock(t, strings.TrimSpace(string(version)), slices.Sorted(maps.Keys(seen)))
	}
}

// configure lets Buildroot make a .config of lines and returns its lines.
func configure(t *testing.T, tree, board string, lines []string) []string {
	t.Helper()
	dir := t.TempDir()
	external, err := filepath.Abs(root + "/buildroot")
	if err != nil {
		t.Fatal(err)
	}
	asked := filepath.Join(dir, "defconfig")
	if err := os.WriteFile(asked, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("make", "-s", "-C", tree, "O="+dir, "BR2_EXTERNAL="+external, "BR2_DEFCONFIG="+asked, "defconfig").CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", board, err, out)
	}
	config, err := os.ReadFile(filepath.Join(dir, ".config"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(config), "\n")
}

func writeLock(t *testing.T, release string, lines []string) {
	t.Helper()
	var out strings.Builder
	out.WriteString("# What the configurations ask of Buildroot, and the release on which each line was\n" +
		"# seen in the resulting .config. Written by: make image-lock BUILDROOT=TREE\n")
	for _, line := range lines {
		fmt.Fprintf(&out, "%s\t%s\n", release, line)
	}
	if err := os.WriteFile(lockFile, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
