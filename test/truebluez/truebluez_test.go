// Package truebluez tries the BLE driver against a true bluetoothd and kernel, in a
// virtual machine with emulated controllers: what test/fakebluez only claims.
package truebluez

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"testing"
	"time"
)

// patience bounds the scenario, which takes half a minute on an idle machine.
const patience = 5 * time.Minute

// need skips on a developer's machine, and fails where everything has to be there.
func need(t *testing.T, missing string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("cannot be tested: %s", missing)
	}
	t.Skipf("skipped: %s", missing)
}

// A sensor is heard in a passive scan; a wrong passkey is refused, and the right one makes
// a bond; a value notifies, another is written by a command, both only with the bond; the
// leaf's controller loses its power, and the leaf is connected again without pairing.
func TestTrueBlueZ(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a virtual machine")
	}
	if runtime.GOARCH != "amd64" {
		need(t, "the virtual machine is an amd64 one")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		need(t, "qemu-system-x86_64 is not installed")
	}
	if _, err := os.Stat("vm/complete"); err != nil {
		need(t, "vm is missing: run test/truebluez/fetch.sh")
	}
	kernel, err := filepath.Glob("vm/kernel/boot/vmlinuz-*")
	if err != nil || len(kernel) != 1 {
		t.Fatalf("kernels %v, %v", kernel, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dir := t.TempDir()
	build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, "guest"), "./guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	disk := filepath.Join(dir, "initrd")
	if err := makeDisk(disk, filepath.Join(dir, "guest")); err != nil {
		t.Fatal(err)
	}
	// Without KVM: what is emulated of it in virtual machines is not worth a test.
	vm := exec.CommandContext(ctx, qemu, "-accel", "tcg", "-m", "512", "-kernel", kernel[0], "-initrd", disk,
		"-append", "console=ttyS0 quiet panic=-1", "-nic", "none", "-nographic", "-no-reboot")
	out, err := vm.CombinedOutput()
	if err != nil || !regexp.MustCompile(`(?m)^OK\r?$`).Match(out) {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out[bytes.LastIndex(out, []byte("adapter is there"))+1:])
}

// makeDisk writes the first file system of the machine: a cpio archive (kernel,
// Documentation/driver-api/early-userspace/buffer-format.rst), compressed.
func makeDisk(file, guest string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	out := gzip.NewWriter(f)
	a := &archive{out: out}
	for _, part := range []struct{ from, to string }{{"vm/root", ""}, {"vm/kernel/lib", "lib"}} {
		a.tree(part.from, part.to)
	}
	for _, dir := range []string{"proc", "sys", "dev", "tmp"} {
		a.add(dir, fs.ModeDir|0o755, nil)
	}
	a.file("init", "init.sh")
	a.file("guest", guest)
	a.add("TRAILER!!!", 0, nil)
	return errors.Join(a.err, out.Close(), f.Close())
}

// archive is a cpio archive in the making.
type archive struct {
	out    io.Writer
	number int
	err    error
}

// tree adds a folder with everything in it.
func (a *archive) tree(from, to string) {
	a.err = errors.Join(a.err, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		name = filepath.Join(to, name)
		info, err := d.Info()
		if err != nil || name == "." {
			return err
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			a.add(name, fs.ModeSymlink|0o777, []byte(target))
			return err
		case info.IsDir():
			a.add(name, fs.ModeDir|0o755, nil)
		default:
			a.file(name, path)
		}
		return nil
	}))
}

func (a *archive) file(name, from string) {
	content, err := os.ReadFile(from)
	a.err = errors.Join(a.err, err)
	a.add(name, 0o755, content)
}

func (a *archive) add(name string, mode fs.FileMode, content []byte) {
	if a.err != nil {
		return
	}
	kind := 0o100000
	switch {
	case mode.IsDir():
		kind = 0o040000
	case mode&fs.ModeSymlink != 0:
		kind = 0o120000
	}
	a.number++
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", a.number, kind|int(mode.Perm()), 0, 0, 1, 0,
		len(content), 0, 0, 0, 0, len(name)+1, 0)
	pad := func(n int) []byte { return make([]byte, (4-n%4)%4) }
	entry := append(append([]byte(head+name), 0), pad(len(head)+len(name)+1)...)
	entry = append(append(entry, content...), pad(len(content))...)
	_, a.err = a.out.Write(entry)
}
