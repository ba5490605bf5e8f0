package powercut

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/cutfs"
	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// On a disk that lies about its syncs, the same harness with the same gateway
// shows losses: it would see them if the gateway synced too late.
func TestLyingDisk(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	leaves := devices(3, site.SDK)
	r := newRig(ctx, t, leaves, site.Config{Custody: "disk"}, cutfs.Options{Lying: true})
	must(t, r.Cut(ctx))
	must(t, r.StartGateway(ctx))
	crew := r.launch(ctx, leaves, leafsim.Options{Rate: 80})
	must(t, r.Await(ctx, "acknowledgements", func() bool { return crew.Stats().Acked > 100 }))
	must(t, r.darken(cutfs.Strict, nil))
	before := crew.Stats().Acked
	must(t, r.StartGateway(ctx))
	must(t, r.Await(ctx, "acknowledgements", func() bool { return crew.Stats().Acked > before+100 }))
	must(t, r.Restore(ctx))
	must(t, crew.Finish(ctx))
	must(t, r.Await(ctx, "the gateway to be empty", func() bool {
		return r.metric(ctx, "fieldgate_uplink_up") == 1 && r.metric(ctx, "fieldgate_store_messages") == 0
	}))
	report, err := r.Check(ctx)
	must(t, err)
	total := report.Total()
	t.Logf("%d acknowledged, %d lost", total.Acked, total.Lost)
	if total.Lost < 100 || report.Err() == nil {
		t.Errorf("%d lost of %d, and %v; want what was acknowledged before the cut to be lost", total.Lost, total.Acked, report.Err())
	}
}

const (
	logFile  = "POWERCUT_TEST_LOG"
	logEarly = "POWERCUT_TEST_EARLY"
)

// keepLog writes numbered records to a file and says on standard output what is
// safe: after it is synced, or early, before that. It ends when it is killed.
func keepLog(path string, early bool) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	for n := 1; err == nil; n++ {
		_, err = fmt.Fprintf(f, "record %d\n", n)
		if early {
			fmt.Println(n)
		}
		err = errors.Join(err, f.Sync())
		if !early && err == nil {
			fmt.Println(n)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// The plainest store there is loses records if it speaks before it has synced,
// and none if it speaks after.
func TestEagerProgram(t *testing.T) {
	const rounds = 20
	for _, early := range []bool{false, true} {
		lost := 0
		for range rounds {
			lost += logLosses(t, early)
		}
		t.Logf("early %v: %d records lost in %d cuts", early, lost, rounds)
		if early != (lost > 0) {
			t.Errorf("early %v: %d records lost in %d cuts", early, lost, rounds)
		}
	}
}

// logLosses cuts the power of the program and counts what it said was safe and is
// not there.
func logLosses(t *testing.T, early bool) int {
	t.Helper()
	dir := t.TempDir()
	fs, err := cutfs.Mount(dir, cutfs.Blank(), cutfs.Options{})
	if errors.Is(err, cutfs.ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	must(t, err)
	program := exec.Command(os.Args[0])
	program.Env = append(os.Environ(), logFile+"="+filepath.Join(dir, "log"))
	if early {
		program.Env = append(program.Env, logEarly+"=1")
	}
	out, err := program.StdoutPipe()
	must(t, err)
	must(t, program.Start())
	said := bufio.NewScanner(out)
	cut := fs.CutWhen(aim{is: func(op cutfs.Op) bool { return op.Kind == cutfs.Sync }}.nth(1+rand.IntN(50)), false)
	<-cut
	must(t, program.Process.Kill())
	fs.Thaw()
	last := 0
	for said.Scan() {
		last++
	}
	_ = program.Wait() // it was killed
	must(t, fs.Unmount())
	left := filepath.Join(t.TempDir(), "left")
	must(t, fs.Survivors(cutfs.Strict, nil).Save(left))
	text, err := os.ReadFile(filepath.Join(left, "log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return max(0, last-strings.Count(string(text), "\n"))
}
