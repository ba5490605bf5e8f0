package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// config runs "fieldgate config" and returns its exit code and all it says.
func (o *operator) config(ctx context.Context, args ...string) (code int, said string) {
	o.t.Helper()
	args = append(append([]string{"config"}, args...), "--socket", filepath.Join(o.Dir(), "gateway/control.sock"))
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "fieldgate"), args...)
	cmd.Env = append(os.Environ(), `EDITOR=sed -i s/keep_alive.*2s.*/keep_alive="4s"/`)
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		o.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(text)
}

// wants runs "fieldgate config" and wants that exit code and words.
func (o *operator) wants(ctx context.Context, code int, words string, args ...string) {
	o.t.Helper()
	got, said := o.config(ctx, args...)
	if got != code || !strings.Contains(said, words) {
		o.t.Fatalf("fieldgate config %v ended with %d, want %d and %q:\n%s\nthe gateway:\n%s", args, got, code, words, said, o.Gateway().Said())
	}
}

// states are those of the revisions, the oldest first.
func (o *operator) states(ctx context.Context) (all []string) {
	o.t.Helper()
	code, text := o.config(ctx, "history", "--output", "json")
	var list []struct {
		State   string
		Running bool
	}
	if err := json.Unmarshal([]byte(text), &list); code != 0 || err != nil {
		o.t.Fatalf("history ended with %d: %v\n%s", code, err, text)
	}
	for _, r := range list {
		if r.Running {
			r.State += " runs"
		}
		all = append(all, r.State)
	}
	return all
}

func (o *operator) linked(ctx context.Context) {
	o.t.Helper()
	o.await(ctx, "the hub", func() bool {
		m, err := o.Metrics(ctx)
		return err == nil && m["fieldgate_uplink_up"] == 1
	})
}

// other writes a configuration beside the gateway's, with other lines.
func (o *operator) other(oldNew ...string) (file string) {
	o.t.Helper()
	for i := 0; i < len(oldNew); i += 2 {
		if !strings.Contains(o.plain, oldNew[i]) {
			o.t.Fatalf("the configuration has no %q", oldNew[i])
		}
	}
	file = filepath.Join(o.Dir(), "other.toml")
	must(o.t, os.WriteFile(file, []byte(strings.NewReplacer(oldNew...).Replace(o.plain)), 0o644))
	return file
}

// unchanged wants the files of the configuration as they were.
func (o *operator) unchanged(leaves []byte) {
	o.t.Helper()
	text, err := os.ReadFile(o.ConfigFile())
	must(o.t, err)
	inLeafD, err := os.ReadFile(o.leafFile())
	must(o.t, err)
	if string(text) != o.plain || !bytes.Equal(inLeafD, leaves) {
		o.t.Error("the files of the configuration are not as they were")
	}
}

func (o *operator) leafFile() string { return filepath.Join(o.Dir(), "gateway/leaf.d/bench.toml") }

// What an operator does over one SSH session: a good change stays, one that loses the
// hub or a leaf's place there is undone by the gateway alone, and no leaf notices.
func TestApply(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 4*patience)
	leaves := devices(4, site.MQTT3, site.SDK)
	o := newOperator(t, running(ctx, t, site.Plan{Leaves: leaves}))
	leaves, silent := leaves[:3], leaves[3].ID
	crew := launch(ctx, t, o.Site, leaves, leafsim.Options{Rate: 20})
	o.await(ctx, "all leaves", func() bool { return crew.Stats().Connected })
	o.linked(ctx)
	bench, err := os.ReadFile(o.leafFile())
	must(t, err)

	o.wants(ctx, 3, "unknown key", "apply", o.other(`keep_alive = "2s"`, `keep_alvie = "2s"`))
	o.wants(ctx, 0, "no difference", "apply", o.ConfigFile())
	o.wants(ctx, 0, "hub.keep_alive", "apply", o.other(`keep_alive = "2s"`, `keep_alive = "3s"`), "--dry-run")
	o.unchanged(bench)

	// A hub that is not there.
	dead, err := site.FreeAddress()
	must(t, err)
	at := fmt.Sprintf("address = %q\nhttps", o.hubAddress())
	o.wants(ctx, 5, "the connection to the hub was not back", "apply", o.other(at, fmt.Sprintf("address = %q\nhttps", dead)), "--confirm", "3s")
	o.unchanged(bench)
	o.linked(ctx)

	// A leaf's key that is not the hub's, in leaf.d.
	key := filepath.Join(o.Dir(), "gateway/wrong.key")
	must(t, os.WriteFile(key, []byte("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="), 0o600))
	lines := strings.SplitAfter(string(bench), "\n")
	lines[2] = fmt.Sprintf("key_file = %q\n", key)
	must(t, os.WriteFile(o.leafFile(), []byte(strings.Join(lines, "")), 0o644))
	o.wants(ctx, 5, "the hub did not take leaf leaf-001", "apply", "--confirm", "5s")
	o.unchanged(bench)

	// That of a leaf that has nothing to send, while others have.
	other := []byte(strings.Replace(string(bench), filepath.Join(o.Dir(), "gateway", silent+".key"), key, 1))
	must(t, os.WriteFile(o.leafFile(), other, 0o644))
	o.wants(ctx, 5, "the hub did not take leaf "+silent, "apply", "--confirm", "5s")
	o.unchanged(bench)
	must(t, o.Hub().RemoveDevice(ctx, silent))
	_, err = o.Hub().AddDevice(ctx, silent, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
	must(t, err)
	must(t, os.WriteFile(o.leafFile(), other, 0o644))
	o.wants(ctx, 0, "is kept", "apply", "--confirm", "30s")
	bench = other

	// What is good stays, and can be taken back.
	o.wants(ctx, 0, "is kept", "apply", o.other(`keep_alive = "2s"`, `keep_alive = "3s"`), "--confirm", "30s")
	if got := fmt.Sprint(o.states(ctx)); got != "[kept undone undone undone kept kept runs]" {
		t.Errorf("history %v", got)
	}
	o.wants(ctx, 0, `"3s"`, "rollback", "--confirm", "30s")
	o.unchanged(bench)
	o.wants(ctx, 0, "keep_alive = \"3s\"", "history", "6")
	o.wants(ctx, 8, "no revision 99", "rollback", "99")

	o.wants(ctx, 0, "is kept", "edit", "--config", o.ConfigFile(), "--confirm", "0s")
	o.wants(ctx, 0, `"4s"`, "rollback", "--confirm", "0s")
	o.unchanged(bench)

	must(t, crew.Finish(ctx))
	if s := crew.Stats(); s.Connects != uint64(len(leaves)) {
		t.Errorf("%d leaves connected %d times", len(leaves), s.Connects)
	}
	allArrived(ctx, t, o.Site)
}

// hubAddress is where the gateway finds the hub.
func (o *operator) hubAddress() string {
	_, rest, _ := strings.Cut(o.plain, "\naddress = \"")
	address, _, _ := strings.Cut(rest, "\"")
	return address
}

// Keys that need a restart are applied when the operator says so: the gateway starts
// again, and if it cannot, or the hub is not back, it does with what it had.
func TestApplyWithRestart(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 4*patience)
	leaves := devices(2, site.MQTT3, site.SDK)
	o := newOperator(t, running(ctx, t, site.Plan{Leaves: leaves}))
	crew := launch(ctx, t, o.Site, leaves, leafsim.Options{Rate: 20})
	o.linked(ctx)
	pid := o.Gateway().PID()
	bench, err := os.ReadFile(o.leafFile())
	must(t, err)

	file := o.other("[store]\n", "[store]\ncommit_window = \"12ms\"\n")
	o.wants(ctx, 9, "it needs a restart for store.commit_window", "apply", file)
	o.unchanged(bench)

	// The hub listens there already.
	taken := "[[broker.listener]]\naddress = \"" + o.hubAddress() + "\"\nplain = true\n\n[lane.alarm]"
	o.wants(ctx, 5, "could not go on with it", "apply", o.other("[lane.alarm]", taken), "--restart")
	o.unchanged(bench)
	o.linked(ctx)

	o.wants(ctx, 5, "not back", "apply", o.other(`host = "`+site.HubHost+`"`, `host = "elsewhere.hub.test"`), "--restart", "--confirm", "5s")
	o.linked(ctx)
	o.unchanged(bench)

	o.wants(ctx, 0, "is kept", "apply", o.other("[store]\n", "[store]\ncommit_window = \"12ms\"\n"), "--restart")
	if o.Gateway().PID() != pid {
		t.Error("another process")
	}
	must(t, crew.Finish(ctx))
	allArrived(ctx, t, o.Site)
}

// The gateway goes back although somebody keeps the folder locked, and ends when it is
// told to. A leaf that was put out while the trial was on stays out, also where the
// trial ends with the process.
func TestRollBackInTheWay(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 4*patience)
	leaves := devices(2, site.MQTT3)
	o := newOperator(t, running(ctx, t, site.Plan{Leaves: leaves}))
	operate := &terminal{t, ctx, o.Site}
	out := func(leaf string) {
		t.Helper()
		if said := operate.gets(0, "device", "show", leaf, "--output", "json"); !strings.Contains(said, `"disabled"`) {
			t.Errorf("%s is let in again: %s", leaf, said)
		}
	}
	dead, err := site.FreeAddress()
	must(t, err)
	at := fmt.Sprintf("address = %q\nhttps", o.hubAddress())
	lost := o.other(at, fmt.Sprintf("address = %q\nhttps", dead))
	try := func(confirm string) (ended chan struct{}) {
		o.linked(ctx)
		before := o.said("configuration is applied")
		ended = make(chan struct{})
		go func() {
			defer close(ended)
			o.config(ctx, "apply", lost, "--confirm", confirm)
		}()
		o.await(ctx, "the trial", func() bool { return o.said("configuration is applied") > before })
		return ended
	}

	ended := try("10m")
	operate.gets(0, "device", "disable", "leaf-001")
	o.Gateway().Kill()
	<-ended
	must(t, o.StartGateway(ctx))
	operate.gets(0, "wait", "--for=running") // leaves may connect before operators can
	out("leaf-001")

	ended = try("3s")
	operate.gets(0, "device", "disable", "leaf-002")
	folder, err := os.Open(filepath.Dir(o.ConfigFile()))
	must(t, err)
	defer folder.Close()
	must(t, syscall.Flock(int(folder.Fd()), syscall.LOCK_EX))
	o.await(ctx, "the end of the trial", func() bool { return o.said("configuration is rolled back", "was not back") > 0 })
	<-ended
	out("leaf-001")
	out("leaf-002")
	if text, err := os.ReadFile(o.ConfigFile()); err != nil || string(text) != o.plain {
		t.Errorf("the configuration is not as it was: %v", err)
	}
	must(t, o.Gateway().Stop())
}

// While a configuration is on trial a leaf can be added and removed, unless the gateway
// could not go back then: it does, killed or not.
func TestLeavesComeAndGoInATrial(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 4*patience)
	o := newOperator(t, running(ctx, t, site.Plan{Leaves: devices(1, site.MQTT3)}))
	operate := &terminal{t, ctx, o.Site}
	o.linked(ctx)
	extra := filepath.Join(filepath.Dir(o.leafFile()), "extra.toml")
	must(t, os.WriteFile(extra, []byte("[[leaf]]\nid = \"guest\"\nauth = \"relay\"\n\n[[map]]\nleaf = \"tenant\"\ntopic = \"x/{channel}\"\n"), 0o644))
	operate.gets(0, "device", "add", "tenant", "--auth", "relay")
	o.wants(ctx, 0, "is kept", "apply", "--confirm", "0s")

	dead, err := site.FreeAddress()
	must(t, err)
	at := fmt.Sprintf("address = %q\nhttps", o.hubAddress())
	try := func(confirm string) (ended chan struct{}) {
		o.linked(ctx)
		lost := o.other(at, fmt.Sprintf("address = %q\nhttps", dead))
		must(t, os.Rename(lost, o.ConfigFile()))
		must(t, os.Remove(extra))
		before := o.said("configuration is applied")
		ended = make(chan struct{})
		go func() {
			defer close(ended)
			o.config(ctx, "apply", "--confirm", confirm)
		}()
		o.await(ctx, "the trial", func() bool { return o.said("configuration is applied") > before })
		return ended
	}
	in := func() {
		t.Helper()
		if said := operate.gets(9, "device", "add", "guest", "--auth", "relay"); !strings.Contains(said, "is on trial") {
			t.Errorf("says %s", said)
		}
		if said := operate.gets(9, "device", "remove", "tenant"); !strings.Contains(said, "is on trial") {
			t.Errorf("says %s", said)
		}
		operate.gets(0, "device", "add", "other", "--auth", "relay")
	}
	out := func() {
		t.Helper()
		for _, leaf := range []string{"guest", "tenant", "other"} {
			operate.gets(0, "device", "show", leaf)
		}
		operate.gets(0, "device", "remove", "other")
		o.linked(ctx)
	}
	ended := try("10m")
	in()
	o.Gateway().Kill()
	<-ended
	must(t, o.StartGateway(ctx))
	out()

	ended = try("3s")
	in()
	<-ended
	o.await(ctx, "the end of the trial", func() bool { return o.said("configuration is rolled back", "was not back") > 0 })
	out()
}

// Killed at any moment of an apply, or while a confirmation is awaited, the gateway
// comes back with a configuration that works.
func TestApplyIsKilled(t *testing.T) {
	rounds := 12
	if os.Getenv("FIELDGATE_NIGHTLY") != "" {
		rounds = 200
	}
	ctx := testContext(t, time.Duration(rounds)*patience/2)
	leaves := devices(2, site.MQTT3, site.SDK)
	o := newOperator(t, running(ctx, t, site.Plan{Leaves: leaves}))
	crew := launch(ctx, t, o.Site, leaves, leafsim.Options{Rate: 20})
	bench, err := os.ReadFile(o.leafFile())
	must(t, err)
	dead, err := site.FreeAddress()
	must(t, err)
	at := fmt.Sprintf("address = %q\nhttps", o.hubAddress())
	lost := o.other(at, fmt.Sprintf("address = %q\nhttps", dead))
	for i := range rounds {
		o.linked(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			o.config(ctx, "apply", lost, "--confirm", "10m")
		}()
		if i < 2 { // in the middle of the trial
			o.await(ctx, "the trial", func() bool { return o.said("configuration is applied") > i })
		} else {
			time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond) // any moment
		}
		o.Gateway().Kill()
		<-ended
		must(t, o.StartGateway(ctx))
		o.unchanged(bench)
	}
	o.linked(ctx)
	if n := o.said("rolled back"); n < 2 {
		t.Errorf("rolled back %d times after %d kills", n, rounds)
	}
	must(t, crew.Finish(ctx))
	allArrived(ctx, t, o.Site)
}
