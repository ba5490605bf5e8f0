package powercut

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/cutfs"
	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// bin is the folder with the programs under test, built once.
var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	// The rounds mostly wait, for syncs, for leaves to come back.
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	if file := os.Getenv(logFile); file != "" { // this is the program of TestEagerProgram
		keepLog(file, os.Getenv(logEarly) != "")
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	var err error
	if bin, err = os.MkdirTemp("", "fieldgate-powercut-bin-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(bin)
	for program, folder := range map[string]string{"fieldgate": "cmd/fieldgate", "hubsim": "test/cmd/hubsim"} {
		build := exec.Command("go", "build", "-o", filepath.Join(bin, program), "github.com/fieldgate/fieldgate/"+folder)
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "cannot build %s: %v\n%s", program, err, out)
			return 1
		}
	}
	return m.Run()
}

// patience bounds every wait for something that must happen. It is no
// expectation: a test that waits so long has failed. Other packages are tested at
// the same time.
const patience = 2 * time.Minute

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rig is an installation whose gateway has its data on a disk that can fail.
type rig struct {
	*site.Site
	t     *testing.T
	dir   string // of everything; kept when the test fails
	disk  string // where the file system is mounted
	fs    *cutfs.FS
	names cutfs.Names

	// What has arrived at the hub stays there: a round reads what is new.
	arrived map[message]bool
	read    int // of the arrivals, those in arrived
}

// newRig builds an installation on a blank disk. The gateway is not running yet.
func newRig(ctx context.Context, t *testing.T, leaves []site.Device, c site.Config, o cutfs.Options) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "fieldgate-powercut-")
	must(t, err)
	r := &rig{t: t, dir: dir, disk: filepath.Join(dir, "disk"), names: o.Names, arrived: make(map[message]bool)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("everything is kept in %s", dir)
			return
		}
		os.RemoveAll(dir)
	})
	must(t, os.Mkdir(r.disk, 0o755))
	r.fs, err = cutfs.Mount(r.disk, cutfs.Blank(), o)
	if errors.Is(err, cutfs.ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() { r.unmount() })
	c.DataDir = filepath.Join(r.disk, "data")
	c.Store += "segment_size = \"1MiB\"\n"
	r.Site, err = site.New(ctx, site.Plan{Dir: filepath.Join(dir, "site"), Bin: bin, Leaves: leaves, Config: c})
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() { // perhaps in the middle of a cut
			r.fs.Thaw()
			if g := r.Gateway(); g != nil {
				g.Kill()
			}
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) unmount() {
	if r.fs == nil {
		return
	}
	if err := r.fs.Unmount(); err != nil {
		r.t.Error(err)
	}
	r.fs = nil
}

// darken cuts the power, if it is not cut yet, and turns it on again with what is
// left. The gateway is not started.
func (r *rig) darken(mode cutfs.Mode, random *rand.Rand) error {
	r.fs.Cut()
	// It dies as soon as its calls return, if it has not ended before.
	if err := syscall.Kill(r.Gateway().PID(), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	r.fs.Thaw()
	<-r.Gateway().Done()
	dark := r.fs
	r.unmount() // the kernel has written back everything that it had
	var err error
	r.fs, err = cutfs.Mount(r.disk, dark.Survivors(mode, random), cutfs.Options{Names: r.names})
	return err
}

// save keeps what is on the disk, for whoever looks for a fault.
func (r *rig) save(name string) {
	if err := r.fs.Survivors(cutfs.Strict, nil).Save(filepath.Join(r.dir, name)); err != nil {
		r.t.Error(err)
	}
}

// launch starts all leaves; they end with the test at the latest.
func (r *rig) launch(ctx context.Context, leaves []site.Device, o leafsim.Options) *site.Crew {
	r.t.Helper()
	crew, err := r.Launch(ctx, leaves, o)
	must(r.t, err)
	r.t.Cleanup(crew.Abandon)
	return crew
}

// metric reads one metric, summed over its labels; -1 while it cannot be read.
func (r *rig) metric(ctx context.Context, name string) float64 {
	m, err := r.Metrics(ctx)
	if err != nil || !m.Has(name) {
		return -1
	}
	return m.Sum(name)
}

// devices makes leaves of each kind in turn.
func devices(n int, kinds ...site.Kind) (list []site.Device) {
	for i := range n {
		list = append(list, site.Device{ID: fmt.Sprintf("leaf-%03d", i+1), Kind: kinds[i%len(kinds)]})
	}
	return list
}
