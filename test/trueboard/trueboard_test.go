// Package trueboard tries the program on a board whose button is on a line of a true GPIO
// chip, in a virtual machine.
package trueboard

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/machine"
)

// patience bounds the scenario, which takes a minute on an idle machine.
const patience = 5 * time.Minute

// Each press of the button is noticed, once, and as a short one; one that lasts asks for a
// factory reset.
func TestButton(t *testing.T) {
	if os.Getenv("FIELDGATE_NIGHTLY") == "" {
		t.Skip("boots a virtual machine: make button")
	}
	qemu := machine.Program(t, "aarch64")
	if !machine.Fetched("vm") {
		machine.Need(t, "vm is missing or an old one: run test/trueboard/fetch.sh")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dir := t.TempDir()
	content := make(map[string]string)
	for name, pkg := range map[string]string{"init": "./guest", "fieldgate": "../../cmd/fieldgate"} {
		content[name] = filepath.Join(dir, name)
		machine.Build(t, "arm64", pkg, content[name])
	}
	disk := filepath.Join(dir, "initrd")
	if err := machine.WriteDisk(disk, content); err != nil {
		t.Fatal(err)
	}
	end, err := machine.Run(ctx, dir, qemu, "-machine", "virt", "-cpu", "cortex-a53", "-m", "512",
		"-kernel", "vm/vmlinuz", "-initrd", disk, "-append", "console=ttyAMA0 quiet panic=-1")
	t.Logf("%s", end.Printed)
	if err != nil || !end.Said("OK") {
		t.Errorf("no OK: %v", err)
	}
}
