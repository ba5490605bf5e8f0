package bench_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/bench"
)

// TestMain makes this program the processes of the hub and of bombs too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		serve := map[string]func() error{"hub": bench.ServeHub, "bomb": bench.Throw}[os.Args[1]]
		if serve != nil {
			if serve() != nil {
				os.Exit(1)
			}
			return
		}
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

// Bombs are thrown, and what they do to others is measured: how much says nothing here.
func TestBombsAreThrown(t *testing.T) {
	if _, err := exec.LookPath("chrt"); err != nil {
		t.Skip("no chrt")
	}
	env := environment(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	plan := bench.Plan{Env: *env, Scale: 0.01, Only: regexp.MustCompile("^others$"), Bombs: regexp.MustCompile("nothing|kept|properties|wills|handshakes")}
	report, err := plan.Run(ctx, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^\| (.*) \| (\d+) \| [\d.]+ % / [\d.]+ % \| [\d.]+ MiB \| .* ms \| .* ms \| [+-].* \| [+-].* \|$`).FindAllStringSubmatch(report, -1)
	for _, line := range lines {
		if (line[2] == "0") != (line[1] == "nothing") {
			t.Errorf("%s: thrown %s times a second", line[1], line[2])
		}
	}
	if len(lines) != 10 { // with the hub near and far
		t.Errorf("%d lines:\n%s", len(lines), report)
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
