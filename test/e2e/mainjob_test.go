package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// The demonstration as a user runs it, shorter and with fewer leaves. It needs
// no root, so it gets none.
func TestMainJob(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 4*patience)
	demo := exec.CommandContext(ctx, filepath.Join(bin, "leafsim"), "demo", "--bin", bin, "--leaves", "6", "--seconds", "10")
	demo.Cancel = func() error { return demo.Process.Signal(os.Interrupt) } // so that it ends its children
	temp := folder(t)
	demo.Env = append(os.Environ(), "TMPDIR="+temp)
	if os.Geteuid() == 0 {
		must(t, os.Chown(temp, nobody, nobody))
		demo.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := demo.CombinedOutput()
	verdict := regexp.MustCompile(`(?m)^OK: [1-9]\d* messages acknowledged, 0 lost, 0 out of order;`)
	if err != nil || !verdict.Match(out) {
		t.Errorf("%v\n%s", err, out)
	}
	if left, err := os.ReadDir(temp); err == nil && !t.Failed() && len(left) != 0 {
		t.Errorf("the demonstration went well and left %v behind", left)
	}
}

// nobody is the user and the group without rights.
const nobody = 65534

// 200 leaves at once: one connection to the hub, each leaf under its own
// identity on it.
func TestTwoHundredLeaves(t *testing.T) {
	const leaves, each = 200, 20
	ctx := testContext(t, 3*patience)
	// Most log in with a token: a password costs the gateway a tenth of a
	// second each, by design.
	list := devices(leaves, site.SDK, site.SDK, site.SDK, site.SDK, site.MQTT5, site.SDK, site.SDK, site.SDK, site.SDK, site.MQTT3)
	s := running(ctx, t, site.Plan{Leaves: list})
	crew := launch(ctx, t, s, list, leafsim.Options{Count: each, Rate: 10})
	must(t, s.Await(ctx, "all leaves to send everything", func() bool { return crew.Stats().Acked == leaves*each }))
	must(t, s.AwaitArrival(ctx))

	hub, err := s.HubStats(ctx)
	must(t, err)
	if hub.ConnectionsOpen != 1 || hub.ConnectionsEver != 1 || hub.Identities != leaves {
		t.Errorf("the hub sees %d connections, saw %d ever, with %d identities; want 1, 1 and %d",
			hub.ConnectionsOpen, hub.ConnectionsEver, hub.Identities, leaves)
	}
	allArrived(ctx, t, s)
	report, err := s.Check(ctx)
	must(t, err)
	for _, l := range report.Leaves {
		if l.Arrived != each || l.Duplicated != 0 {
			t.Errorf("%s: %d arrived, %d duplicated; want %d and none: nothing failed here", l.ID, l.Arrived, l.Duplicated, each)
		}
	}
	if len(report.Leaves) != leaves {
		t.Errorf("messages arrived under %d identities, want %d", len(report.Leaves), leaves)
	}
}
