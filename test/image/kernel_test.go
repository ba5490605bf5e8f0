package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Linux drops a symbol whose dependencies are not there just as silently. The
// fragments are merged into the configuration that arm64 has by default, by the
// kernel's own tools, and every line must be in the result. The kernels of the
// Raspberry Pi boards begin with configurations of their own, which are not here.
func TestKernelKeepsEveryLine(t *testing.T) {
	if testing.Short() {
		t.Skip("configures a kernel")
	}
	source, err := filepath.Abs("kconfig/src")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("kconfig/complete"); err != nil {
		t.Skip("no kernel source: run test/image/fetch.sh")
	}
	for _, program := range []string{"make", "gcc", "flex", "bison"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	const mistyped = "CONFIG_SQUASHFS_ZSDT=y"
	fragments := []string{
		"../../board/common/linux.fragment", "../../board/common/linux-rpi.fragment",
		"../../board/common/linux-test.fragment", "../../board/qemu_aarch64/linux.fragment",
	}
	out := t.TempDir()
	kernelMake := func(target string) string {
		t.Helper()
		said, err := exec.Command("make", "-s", "-C", source, "O="+out, "ARCH=arm64", target).CombinedOutput()
		if err != nil {
			t.Fatalf("make %s: %v\n%s", target, err, said)
		}
		config, err := os.ReadFile(filepath.Join(out, ".config"))
		if err != nil {
			t.Fatal(err)
		}
		return string(config)
	}
	config := kernelMake("defconfig")
	want := []string{mistyped}
	for _, file := range fragments {
		text, err := os.ReadFile(file)
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
	if err := os.WriteFile(filepath.Join(out, ".config"), []byte(config+strings.Join(want, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lost := missing(want, strings.Split(kernelMake("olddefconfig"), "\n"))
	if len(lost) != 1 || lost[0] != mistyped {
		t.Errorf("lost %q, want only %s", lost, mistyped)
	}
}
