package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// While the hub takes messages promptly, none of them touches the flash.
func TestRelayWritesNothing(t *testing.T) {
	ctx := testContext(t, 2*patience)
	list := devices(6, site.SDK, site.MQTT5, site.Serial)
	// What is prompt is not judged by the clock of a machine that runs other
	// tests: the hub may take half a minute.
	s := running(ctx, t, site.Plan{Leaves: list, Config: site.Config{Lane: "spill_after = \"30s\"\n"}})
	must(t, s.Await(ctx, "the link to the hub", func() bool { return metric(ctx, s, "fieldgate_uplink_up") == 1 }))
	before, written := footprint(t, filepath.Join(s.DataDir(), "store")), writeBytes(t, s.Gateway())
	const count, size = 200, 1000
	crew := launch(ctx, t, s, list, leafsim.Options{Count: count, AlarmEvery: 10, Size: size})
	must(t, s.Await(ctx, "all messages to be acknowledged", func() bool { return crew.Stats().Acked == count*uint64(len(list)) }))
	allArrived(ctx, t, s)
	if after := footprint(t, filepath.Join(s.DataDir(), "store")); after != before {
		t.Errorf("the store's files were\n%s\nand are\n%s", before, after)
	}
	if n := metric(ctx, s, "fieldgate_store_written_bytes_total"); n != 0 {
		t.Errorf("%v bytes were written", n)
	}
	// The kernel's own count has everything, the log file too.
	if n, payload := writeBytes(t, s.Gateway())-written, count*size*len(list); n > payload/4 {
		t.Errorf("the process wrote %d bytes to storage while %d bytes of messages passed", n, payload)
	}
}

// writeBytes is how much a process has caused to be written to storage, by the
// kernel's count (proc_pid_io(5)).
func writeBytes(t *testing.T, p *site.Process) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", p.PID()))
	must(t, err)
	_, after, _ := strings.Cut(string(text), "\nwrite_bytes: ")
	number, _, _ := strings.Cut(after, "\n")
	n, err := strconv.Atoi(number)
	must(t, err)
	return n
}

// footprint is name, size and time of every file below a folder.
func footprint(t *testing.T, dir string) string {
	t.Helper()
	var all string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		all += fmt.Sprintln(path, info.Size(), info.ModTime().UnixNano())
		return nil
	})
	must(t, err)
	return all
}

// The disk fills up while the hub is away: leaves are held back, nothing breaks,
// and all goes on by itself when there is room again.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		need(t, "a small file system cannot be mounted without root")
	}
	ctx := testContext(t, 3*patience)
	small := smallDisk(t, "160M")
	list := devices(4, site.SDK, site.MQTT5, site.MQTT3, site.Serial)
	s := newSite(ctx, t, site.Plan{Leaves: list, Config: site.Config{
		DataDir: filepath.Join(small, "data"),
		Store:   "min_free = \"32MiB\"\nsegment_size = \"1MiB\"\n",
	}})
	must(t, s.Cut(ctx))
	must(t, s.StartGateway(ctx))
	crew := launch(ctx, t, s, list, leafsim.Options{Size: 2000})
	must(t, s.Await(ctx, "leaves to be acknowledged", func() bool { return crew.Stats().Acked > 200 }))

	filler := filepath.Join(small, "filler")
	fill(t, filler)
	refused := func() float64 { return metric(ctx, s, "fieldgate_store_rejected_total") }
	must(t, s.Await(ctx, "the store to refuse for want of room", func() bool { return refused() > 0 }))
	// A refusal more is proof that leaves come back and are held off again.
	was := refused()
	must(t, s.Await(ctx, "leaves to be held off again", func() bool { return refused() > was }))

	must(t, os.Remove(filler))
	acked := crew.Stats().Acked
	must(t, s.Await(ctx, "leaves to go on when there is room", func() bool { return crew.Stats().Acked > acked+200 }))
	must(t, s.Restore(ctx))
	must(t, crew.Finish(ctx))
	allArrived(ctx, t, s)
	queue := filepath.Join(s.DataDir(), "store", "queue")
	must(t, s.Await(ctx, "the room of what was stored to be free", func() bool {
		segments, err := filepath.Glob(filepath.Join(queue, "*", "*"))
		return err == nil && len(segments) == 0
	}))
}

// smallDisk mounts an ext4 file system of that size, as the appliance has, with
// no blocks kept for root.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := folder(t)
	image := dir + ".ext4"
	t.Cleanup(func() { os.Remove(image) })
	for _, command := range [][]string{
		{"truncate", "-s", size, image},
		{"mkfs.ext4", "-q", "-F", "-m", "0", image},
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			need(t, fmt.Sprintf("%v: %v: %s", command, err, out))
		}
	}
	// Registered before the site, so it comes after its end.
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill writes to a file, at the speed of memory, until the file system has no
// room left.
func fill(t *testing.T, file string) {
	t.Helper()
	f, err := os.Create(file)
	must(t, err)
	block := make([]byte, 256<<10)
	for err == nil {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	must(t, f.Close())
}
