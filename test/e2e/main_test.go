package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// bin is the folder with the programs under test, built once.
var bin string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	var err error
	if bin, err = os.MkdirTemp("", "fieldgate-e2e-bin-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(bin)
	// One test runs the programs as another user.
	if err := os.Chmod(bin, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := site.Build(context.Background(), bin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// patience bounds every wait for something that must happen. It is no
// expectation: a test that waits so long has failed.
const patience = time.Minute

func testContext(t *testing.T, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// need skips a test on a developer's machine for want of something, and fails it
// where everything has to be there.
func need(t *testing.T, missing string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("cannot be tested: %s", missing)
	}
	t.Skipf("skipped: %s", missing)
}

// folder makes a folder with a short name: a unix socket's path has at most
// 107 characters. It is kept when the test fails.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fieldgate-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("everything is kept in %s", dir)
			return
		}
		os.RemoveAll(dir)
	})
	return dir
}

// newSite makes a site whose gateway is not running yet. It ends with the test.
func newSite(ctx context.Context, t *testing.T, plan site.Plan) *site.Site {
	t.Helper()
	if plan.Bin == "" {
		plan.Bin = bin
	}
	if plan.Dir == "" {
		plan.Dir = folder(t)
	}
	s, err := site.New(ctx, plan)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// running makes a site and starts its gateway.
func running(ctx context.Context, t *testing.T, plan site.Plan) *site.Site {
	t.Helper()
	s := newSite(ctx, t, plan)
	must(t, s.StartGateway(ctx))
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// launch starts all leaves; they end with the test at the latest.
func launch(ctx context.Context, t *testing.T, s *site.Site, devices []site.Device, o leafsim.Options) *site.Crew {
	t.Helper()
	c, err := s.Launch(ctx, devices, o)
	must(t, err)
	t.Cleanup(c.Abandon)
	return c
}

// allArrived waits for everything acknowledged and judges it.
func allArrived(ctx context.Context, t *testing.T, s *site.Site) {
	t.Helper()
	if err := s.AwaitArrival(ctx); err != nil {
		t.Error(err)
	}
	report, err := s.Check(ctx)
	must(t, err)
	total := report.Total()
	t.Logf("%d acknowledged, %d arrived, %d lost, %d duplicated, %d resent by leaves, %d out of order, %d ragged",
		total.Acked, total.Arrived, total.Lost, total.Duplicated, total.Resent, total.OutOfOrder, total.Ragged)
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	if total.Acked == 0 {
		t.Error("nothing was acknowledged: the test proves nothing")
	}
	if !s.OneConnectionAtATime() {
		t.Error("messages came over more than one connection at a time")
	}
}

// metric reads one metric, summed over its labels; -1 while it cannot be read.
func metric(ctx context.Context, s *site.Site, name string) float64 {
	m, err := s.Metrics(ctx)
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
