package image

import (
	"context"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	cuts = flag.Int("cuts", 20, "how often the power is cut under load")
	at   = flag.String("at", "5,10,15,20,25,30,35,40,45,50,55,60,65,70,75,80,85,90,95", "at which percents of an update the power is cut")
)

// The power goes twenty times while a leaf publishes, each second time while the hub is
// away so that everything is on flash alone; the disk forgets what was not flushed. The
// machine starts each time, and nothing that was acknowledged is lost.
func TestPowerCut(t *testing.T) {
	nightly(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
	defer cancel()
	w := newCard(ctx, t, imageFolder(t))
	w.forgetful = true
	w.put(ctx, "fieldgate.toml", w.file)
	l := w.startLoad(ctx)
	for round := range *cuts {
		w.on(ctx)
		before, more := l.count(), 1+mathrand.IntN(100)
		w.await(ctx, "the leaf to be acknowledged", func() bool { return l.count() > before })
		if round == 0 {
			// What was on trial may be tried three times; the card's own has a proof from now on.
			w.awaitConfirmed(ctx)
		}
		if round%2 == 1 {
			w.hub.Cut()
			before = l.count()
		}
		w.await(ctx, "more to be acknowledged", func() bool { return l.count() >= before+more })
		w.off()
		w.hub.Restore()
		t.Logf("cut %d, after %d acknowledgements more, %d in all", round+1, l.count()-before, l.count())
	}
	w.on(ctx)
	w.awaitConfirmed(ctx)
	w.settled(ctx, l)
	w.expect(ctx, "systemctl list-units --failed --plain --no-legend", "")
	w.expect(ctx, "findmnt -no FSTYPE /data && findmnt -no OPTIONS /data | grep -oE '^rw'", "ext4\nrw")
}

// The power goes at every twentieth part of an update that is written. The machine goes
// on with what it had; at last the update is installed.
func TestUpdateIsCut(t *testing.T) {
	nightly(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
	defer cancel()
	image := imageFolder(t)
	b := &bench{t: t, image: image, dir: t.TempDir()}
	first := b.version(ctx)
	w := newCard(ctx, t, image)
	w.forgetful = true
	w.put(ctx, "fieldgate.toml", w.file)
	w.on(ctx)
	w.awaitSlots(ctx, "A yes yes good "+first+"\nB - - empty -")
	bundle := filepath.Join(image, "qemu_aarch64.raucb")
	w.send(ctx, bundle)
	w.shell(ctx, "sync")
	size, err := strconv.ParseInt(b.says(ctx, "RAUC_IMAGE_SIZE_0"), 10, 64)
	must(t, err)
	for text := range strings.SplitSeq(*at, ",") {
		percent, err := strconv.ParseInt(text, 10, 64)
		must(t, err)
		// It stands still where the power goes: otherwise a slow machine would get to the end
		// while it reports that it is time. For the same reason no program is started at the
		// end. What counts is how much was handed to Linux, which writes the last fifth in one go.
		command := fmt.Sprintf(`fieldgate update install /data/update.raucb >/dev/null 2>&1 &
until pid=$(pgrep -x rauc); do kill -0 $! || exit 1; done
until fd=$(ls -l /proc/$pid/fd 2>/dev/null | sed -n 's|.* \([0-9]*\) -> /dev/vda4$|\1|p') && [ "$fd" ]; do kill -0 $! || exit 1; done
until read -r _ at </proc/$pid/fdinfo/$fd && [ $at -ge %d ]; do kill -0 $! || exit 1; done
kill -STOP $pid
read -r _ at </proc/$pid/fdinfo/$fd && echo $at`, size*percent/100)
		at, err := w.shell(ctx, command)
		if err != nil {
			t.Fatalf("the update ends before %d %% of it are written: %v\n%s", percent, err, at)
		}
		w.off()
		w.on(ctx)
		w.awaitSlots(ctx, "A yes yes good "+first+"\nB - - empty -")
		t.Logf("cut at %d %%, byte %s of %d: %s", percent, at, size, w.slots(ctx))
	}
	w.install(ctx, bundle)
	w.awaitSlots(ctx, "A - - good "+first+"\nB yes yes good "+first)
	w.await(ctx, "the leaf to be acknowledged", func() bool { return w.publish("last") == nil })
}

// plugIn starts a disk that forgets what was not flushed when the power goes, and
// returns what the emulator finds it by.
func (w *twin) plugIn(ctx context.Context) (address string, err error) {
	socket := filepath.Join(w.dir, "disk")
	if w.disk == nil {
		os.Remove(socket)
		w.disk = exec.CommandContext(ctx, "nbdkit", "--foreground", "--unix", socket, "--filter=cache", "file", w.card, "cache=writeback")
		w.disk.Env = append(os.Environ(), "TMPDIR="+w.dir)
		w.disk.Stdout, w.disk.Stderr = w.console, w.console
		err = w.disk.Start()
	}
	for _, absent := os.Stat(socket); err == nil && absent != nil; _, absent = os.Stat(socket) {
		time.Sleep(10 * time.Millisecond)
		err = ctx.Err()
	}
	return "nbd:unix:" + socket, err
}

// unplug takes it away in the middle of whatever it does.
func (w *twin) unplug() {
	if w.disk != nil {
		w.disk.Process.Kill()
		w.disk.Wait()
		w.disk = nil
	}
}
