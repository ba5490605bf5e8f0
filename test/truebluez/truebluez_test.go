// Package truebluez tries the whole program beside a true bluetoothd and kernel, in a
// virtual machine with emulated controllers: what test/fakebluez only claims.
package truebluez

import (
	"bytes"
	"context"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/machine"
)

// patience bounds the scenario, which takes a minute and a half on an idle machine.
const patience = 8 * time.Minute

// The real program, a hub and a true bluetoothd. A sensor is heard in a passive scan, and
// its reading is at the hub under its own identity; the operator pairs a valve, with a
// wrong passkey and the right one; it notifies, and a message of the hub moves it; it
// goes away and comes back, and it is connected again without pairing, and gets what
// the hub sent meanwhile. A USB serial adapter is pulled out and comes back under another
// name of the kernel's. In the end the program is killed, and the watchdog resets the
// machine.
func TestTrueBlueZ(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a virtual machine")
	}
	if runtime.GOARCH != "amd64" {
		machine.Need(t, "the virtual machine is an amd64 one")
	}
	qemu := machine.Program(t, "x86_64")
	if !machine.Fetched("vm") {
		machine.Need(t, "vm is missing or an old one: run test/truebluez/fetch.sh")
	}
	kernel, err := filepath.Glob("vm/kernel/boot/vmlinuz-*")
	if err != nil || len(kernel) != 1 {
		t.Fatalf("kernels %v, %v", kernel, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dir := t.TempDir()
	content := map[string]string{"": "vm/root", "lib": "vm/kernel/lib", "init": "init.sh"}
	for name, pkg := range map[string]string{"guest": "./guest", "fieldgate": "../../cmd/fieldgate", "hubsim": "../cmd/hubsim"} {
		content[name] = filepath.Join(dir, name)
		machine.Build(t, "amd64", pkg, content[name])
	}
	disk := filepath.Join(dir, "initrd")
	if err := machine.WriteDisk(disk, content); err != nil {
		t.Fatal(err)
	}
	end, err := machine.Run(ctx, dir, qemu, "-accel", "tcg", "-m", "1024", "-kernel", kernel[0], "-initrd", disk,
		"-append", "console=ttyS0 quiet panic=-1", "-device", "qemu-xhci,id=xhci", "-device", "i6300esb")
	switch {
	case err != nil || !end.Said("OK"):
		t.Errorf("%v\n%s", err, end.Printed)
	case !slices.Contains(end.Events, "WATCHDOG"):
		t.Errorf("the gateway was killed, and the watchdog has not reset the machine: %v", end.Events)
	}
	t.Logf("%s", end.Printed[bytes.LastIndex(end.Printed, []byte("the hub answer"))+1:])
}
