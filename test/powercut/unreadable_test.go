package powercut

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/fieldgate/fieldgate/test/cutfs"
	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// The card can no longer read files that a database needs to open, and never will:
// the gateway starts, the lane goes on, and messages, whose bytes can be read, arrive.
func TestUnreadableFiles(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	leaves := devices(3, site.SDK)
	r := newRig(ctx, t, leaves, site.Config{Custody: "disk"}, cutfs.Options{Names: cutfs.ByFile})
	must(t, r.Cut(ctx))
	must(t, r.StartGateway(ctx))
	crew := r.launch(ctx, leaves, leafsim.Options{Rate: 200, AlarmEvery: 10, Size: 3500})
	more := func() {
		t.Helper()
		before := crew.Stats().Acked
		must(t, r.Await(ctx, "acknowledgements", func() bool { return crew.Stats().Acked > before+900 }))
	}
	again := func(files ...string) { // what the kernel still knows goes with the power
		t.Helper()
		must(t, r.darken(cutfs.Strict, nil))
		for _, file := range files {
			must(t, r.fs.Spoil(file, 0))
		}
		must(t, r.StartGateway(ctx))
		must(t, r.Restore(ctx))
		must(t, r.Await(ctx, "the gateway to be empty", func() bool {
			return r.metric(ctx, "fieldgate_uplink_up") == 1 && r.metric(ctx, "fieldgate_store_messages") < 50
		}))
	}

	more()
	segments := r.segments()
	for _, folder := range segments[:2] { // the gateway need not sync that they are sealed
		index := filepath.Join(folder, "index")
		must(t, r.Await(ctx, "a segment to be sealed", func() bool {
			_, err := os.Stat(index)
			return err == nil
		}))
		f, err := os.Open(index)
		must(t, err)
		must(t, errors.Join(f.Sync(), f.Close()))
	}
	must(t, r.Gateway().Stop())
	again(r.inIt(segments[0], "KEYREGISTRY"), r.inIt(segments[1], "*.sst"))

	must(t, r.Cut(ctx))
	more()
	segments = r.segments()
	files := []string{r.inIt(filepath.Join(r.disk, "data/store/meta"), "KEYREGISTRY")}
	for _, folder := range segments[len(segments)-2:] { // the last may be empty
		files = append(files, r.inIt(folder, "KEYREGISTRY"))
	}
	again(files...)

	must(t, crew.Finish(ctx))
	must(t, r.AwaitArrival(ctx))
	report, err := r.Check(ctx)
	must(t, err)
	total := report.Total()
	t.Logf("%d acknowledged, %d lost, %d sent twice", total.Acked, total.Lost, total.Duplicated)
	if err := report.Err(); err != nil {
		t.Error(err)
	}
}

// segments are the folders of the telemetry that is stored, in order.
func (r *rig) segments() []string {
	r.t.Helper()
	list, err := filepath.Glob(filepath.Join(r.disk, "data/store/queue/telemetry/*"))
	must(r.t, err)
	if len(list) < 2 {
		r.t.Fatalf("segments %q, want some", list)
	}
	return list
}

// inIt is the path on the disk of the one file of that name in a folder.
func (r *rig) inIt(folder, name string) string {
	r.t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, name))
	must(r.t, err)
	if len(files) != 1 {
		r.t.Fatalf("%s in %s: %q", name, folder, files)
	}
	path, err := filepath.Rel(r.disk, files[0])
	must(r.t, err)
	return path
}
