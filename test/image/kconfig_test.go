package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/machine"
)

// Linux drops a symbol whose dependencies are not there just as silently. The
// fragments are merged into the configuration that arm64 has by default. The kernels of
// the Raspberry Pi boards begin with configurations of their own, which are not here.
func TestKernelKeepsEveryLine(t *testing.T) {
	s := newSource(t, "linux", "arm64")
	s.keeps(t, "defconfig", "CONFIG_SQUASHFS_ZSDT=y", "common/linux.fragment", "common/linux-rpi.fragment",
		"common/linux-test.fragment", "qemu_aarch64/linux.fragment")
}

// So does U-Boot, whose fragment is merged into the configuration that each board's
// defconfig names.
func TestUBootKeepsEveryLine(t *testing.T) {
	s := newSource(t, "u-boot", "arm")
	var all []string
	for _, file := range boards(t) {
		for _, line := range requested(t, file) {
			if name, ok := strings.CutPrefix(line, "BR2_TARGET_UBOOT_BOARD_DEFCONFIG="); ok {
				all = append(all, strings.Trim(name, `"`)+"_defconfig")
			}
		}
	}
	if len(all) != len(boards(t)) {
		t.Fatalf("%d boards, and configurations of U-Boot %q", len(boards(t)), all)
	}
	slices.Sort(all)
	for _, defconfig := range slices.Compact(all) {
		s.keeps(t, defconfig, "CONFIG_CMD_SETXEPR=y", "common/uboot.fragment")
	}
}

// source is what a program's source says of its symbols, as fetch.sh has fetched it.
type source struct{ folder, arch, out string }

func newSource(t *testing.T, name, arch string) source {
	t.Helper()
	if testing.Short() {
		t.Skip("configures " + name)
	}
	if !machine.Fetched("kconfig") {
		t.Skip("no source of " + name + ": run test/image/fetch.sh")
	}
	for _, program := range []string{"make", "gcc", "flex", "bison"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	folder, err := filepath.Abs(filepath.Join("kconfig", name))
	if err != nil {
		t.Fatal(err)
	}
	return source{folder, arch, t.TempDir()}
}

// keeps merges fragments of board/ into a configuration, by the program's own tools, and
// wants every line in the result. The mistyped one is added, and must be the only one
// that is lost: so the check is known to bite.
func (s source) keeps(t *testing.T, defconfig, mistyped string, fragments ...string) {
	t.Helper()
	config := s.make(t, defconfig)
	want := []string{mistyped}
	for _, file := range fragments {
		text, err := os.ReadFile(filepath.Join(root, "board", file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "CONFIG_") || strings.HasPrefix(line, "# CONFIG_") {
				want = append(want, strings.TrimSpace(line))
			}
		}
	}
	// What stands later counts.
	if err := os.WriteFile(filepath.Join(s.out, ".config"), []byte(config+strings.Join(want, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if lost := missing(want, strings.Split(s.make(t, "olddefconfig"), "\n")); !slices.Equal(lost, []string{mistyped}) {
		t.Errorf("%s: lost %q, want only %s", defconfig, lost, mistyped)
	}
}

// make returns the configuration that is there after a target.
func (s source) make(t *testing.T, target string) string {
	t.Helper()
	said, err := exec.Command("make", "-s", "-C", s.folder, "O="+s.out, "ARCH="+s.arch, target).CombinedOutput()
	if err != nil {
		t.Fatalf("make %s: %v\n%s", target, err, said)
	}
	config, err := os.ReadFile(filepath.Join(s.out, ".config"))
	if err != nil {
		t.Fatal(err)
	}
	return string(config)
}
