package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// sub runs fieldgate sub until the test ends. What it returns waits for a line that is
// not a probe.
func (c *terminal) sub(args ...string) (next func() string) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.ctx)
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "fieldgate"),
		append([]string{"sub", "--socket", filepath.Join(c.s.Dir(), "gateway", "control.sock")}, args...)...)
	out, err := cmd.StdoutPipe()
	must(c.t, err)
	must(c.t, cmd.Start())
	c.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
	})
	lines := bufio.NewScanner(out)
	return func() string {
		for lines.Scan() {
			if !strings.Contains(lines.Text(), "probe") {
				return lines.Text()
			}
		}
		c.t.Fatal("nothing more is heard")
		return ""
	}
}

// mosquitto's clients are leaves and a program of the site; the operator at the gateway
// hears the one, is heard by the other, and needs no password.
func TestOperatorPublishesAndListens(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"mosquitto_pub", "mosquitto_sub"} {
		if _, err := exec.LookPath(program); err != nil {
			need(t, program+" is not installed (Debian package mosquitto-clients)")
		}
	}
	ctx := testContext(t, 2*patience)
	s := running(ctx, t, site.Plan{Leaves: []site.Device{
		{ID: "home", Kind: site.MQTT3, Auth: "gateway", More: `may_listen = ["*"]` + "\n"},
		{ID: "gate-7", Kind: site.Gateway},
		{ID: "pump-1", Kind: site.MQTT3},
		{ID: "test-1", Kind: site.MQTT3, More: "stand_in = true\n"},
	}, Config: site.Config{Hub: ownDevice}})
	c := &terminal{t, ctx, s}
	home, pump := &firmware{t, ctx, s, "home"}, &firmware{t, ctx, s, "pump-1"}

	// mosquitto_pub publishes, fieldgate sub hears.
	heard := c.sub("leaf/+/telemetry/#", "-v")
	must(t, s.Await(ctx, "the operator to listen", func() bool { return strings.Contains(c.gets(0, "logs"), "operator listens") }))
	pump.publish("leaf/pump-1/telemetry/temp", "21.5")
	if got := heard(); got != "leaf/pump-1/telemetry/temp 21.5" {
		t.Errorf("heard %q", got)
	}

	// fieldgate pub publishes, mosquitto_sub hears: another's messages, and a command.
	program := home.hear("leaf/test-1/#")
	listens := make(chan struct{})
	go func() {
		defer close(listens)
		program(1)
	}()
	for n, waiting := 0, true; waiting; n++ {
		c.gets(0, "pub", "--leaf", "test-1", "leaf/test-1/alarm", "-m", "probe")
		select {
		case <-listens:
			waiting = false
		default:
		}
	}
	c.gets(0, "pub", "--leaf", "test-1", "-t", "leaf/test-1/telemetry/n", "-m", "1", "--property", "site=north")
	for {
		if line := program(1)[0]; line == "leaf/test-1/telemetry/n 1" {
			break
		} else if !strings.HasSuffix(line, "probe") {
			t.Fatalf("the program of the site hears %q", line)
		}
	}
	if got := heard(); got != "leaf/test-1/telemetry/n 1" {
		t.Errorf("heard %q", got)
	}
	commands := pump.hear("leaf/pump-1/command/+")
	must(t, s.Await(ctx, "pump-1 to take a command", func() bool {
		_, _, code := c.run(nil, "pub", "leaf/pump-1/command/set", "-m", "on")
		return code == 0
	}))
	if got := commands(1)[0]; got != "leaf/pump-1/command/set on" {
		t.Errorf("pump-1 hears %q", got)
	}

	// The hub has it as the leaf's, and knows that it is not the leaf's word; without the
	// hub it is on flash when the command ends.
	must(t, s.Cut(ctx))
	c.gets(0, "pub", "--leaf", "test-1", "-t", "leaf/test-1/telemetry/n", "-m", "2")
	s.Gateway().Kill()
	must(t, s.StartGateway(ctx))
	must(t, s.Restore(ctx))
	must(t, s.Await(ctx, "the hub to have both", func() bool {
		n := 0
		for _, e := range s.Events() {
			if e.Device == "test-1" && (string(e.Body) == "1" || string(e.Body) == "2") {
				if e.Properties["fieldgate-trust"] != "operator" || string(e.Body) == "1" && e.Properties["site"] != "north" {
					t.Fatalf("the hub has %s with %v", e.Body, e.Properties)
				}
				n++
			}
		}
		return n >= 2
	}))

	// Who may only look hears what the gateway says of itself, and no leaf. A stranger
	// hears nothing at all.
	var said struct{ Topic, Text string }
	line := c.gets(0, "sub", "fieldgate/status/health", "-C", "1", "--output", "jsonl")
	if err := json.Unmarshal([]byte(line), &said); err != nil || !strings.Contains(said.Text, `"status":"up"`) {
		t.Errorf("of itself the gateway says %s", line)
	}
	stranger := &syscall.Credential{Uid: 65534, Gid: 65534}
	for _, args := range [][]string{{"sub", "leaf/#"}, {"sub", "fieldgate/#"}, {"pub", "--leaf", "test-1", "leaf/test-1/telemetry", "-m", "x"}} {
		if _, complaint, code := c.run(stranger, args...); code != 9 && !strings.Contains(complaint, "permission") {
			t.Errorf("a stranger does %v: exit code %d\n%s", args, code, complaint)
		}
	}
}
