package main

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestARM64 builds the program as it goes onto the board and starts it under
// qemu-user.
func TestARM64(t *testing.T) {
	if testing.Short() {
		t.Skip("cross-compiles everything")
	}
	qemu, err := exec.LookPath("qemu-aarch64")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("qemu-aarch64 is missing: install qemu-user")
		}
		t.Skip("qemu-aarch64 is missing: install qemu-user")
	}
	binary := filepath.Join(t.TempDir(), "fieldgate-arm64")
	build := exec.Command("go", "build", "-trimpath", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	checkStatic(t, binary)

	run := func(args ...string) (stdout, stderr string, err error) {
		var out, errs bytes.Buffer
		c := exec.Command(qemu, append([]string{binary}, args...)...)
		c.Stdout, c.Stderr = &out, &errs
		err = c.Run()
		return out.String(), errs.String(), err
	}
	out, errs, err := run("version")
	if err != nil || !strings.HasSuffix(out, " linux/arm64\n") {
		t.Errorf("version: %v\n%s%s", err, out, errs)
	}
	out, errs, err = run("config", "validate", folder(t, exampleText(t)))
	if err != nil || !strings.Contains(out, "is valid: 3 leaves, 3 serial ports, 2 modules") {
		t.Errorf("config validate: %v\n%s%s", err, out, errs)
	}
}

// checkStatic says whether the binary runs without a library or a loader.
func checkStatic(t *testing.T, binary string) {
	t.Helper()
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Machine != elf.EM_AARCH64 {
		t.Errorf("binary is for %v", f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("binary is not static: it has a segment %v", p.Type)
		}
	}
}
