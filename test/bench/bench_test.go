package bench_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/bench"
)

// TestMain makes this program the hub's process too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "hub" {
		if err := bench.ServeHub(); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A load that is too small to say anything about speed: everything must arrive,
// once, and cost something.
func TestEverythingArrives(t *testing.T) {
	env := environment(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for i, rig := range bench.Rigs {
		if _, err := exec.LookPath("/usr/sbin/mosquitto"); err != nil && i == len(bench.Rigs)-1 {
			t.Skip("no mosquitto")
		}
		load := bench.Load{Name: "smoke", Leaves: 5, Window: 10, Size: 100, Count: 3000}
		r, err := bench.Run(ctx, env, load, rig)
		if err != nil {
			t.Fatal(err)
		}
		if r.Lost != 0 || r.Duplicates != 0 {
			t.Errorf("%s: %d lost, %d came twice", r.Rig, r.Lost, r.Duplicates)
		}
		if r.Peak == 0 || r.AckP50 <= 0 || r.AckP99 < r.AckP50 || r.Delivered <= 0 {
			t.Errorf("%s: not measured: %+v", r.Rig, r)
		}
		if r.Rig == "fieldgate disk" && r.Written == 0 {
			t.Errorf("disk custody wrote nothing")
		}
	}
}

func TestHandWrittenPartIsKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "RESULTS.md")
	const own = "## What bounds it\n\nOur own words.\n"
	for _, report := range []string{"first\n", "second\n"} {
		if err := bench.WriteReport(file, report); err != nil {
			t.Fatal(err)
		}
		if report == "first\n" {
			if err := os.WriteFile(file, []byte(report+own), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	text, err := os.ReadFile(file)
	if err != nil || string(text) != "second\n"+own {
		t.Errorf("%q, %v", text, err)
	}
}

// environment builds the gateway.
func environment(t *testing.T) *bench.Env {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir, "github.com/fieldgate/fieldgate/cmd/fieldgate")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &bench.Env{Bin: dir, Self: self, Dir: dir}
}
