package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// terminal runs fieldgate's subcommands against the site's gateway.
type terminal struct {
	t   *testing.T
	ctx context.Context
	s   *site.Site
}

// run returns what a subcommand writes and its exit code. as is nil, or who runs it.
func (c *terminal) run(as *syscall.Credential, args ...string) (out, complaint string, code int) {
	c.t.Helper()
	return c.runAs(as, append(args, "--socket", filepath.Join(c.s.Dir(), "gateway", "control.sock"))...)
}

// runAs is run for any subcommand.
func (c *terminal) runAs(as *syscall.Credential, args ...string) (out, complaint string, code int) {
	c.t.Helper()
	cmd := exec.CommandContext(c.ctx, filepath.Join(bin, "fieldgate"), args...)
	if as != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	}
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return stdout.String(), stderr.String(), failed.ExitCode()
	}
	must(c.t, err)
	return stdout.String(), stderr.String(), 0
}

// gets runs a subcommand that must exit with code, and returns its output, or its
// complaint where that is not 0.
func (c *terminal) gets(code int, args ...string) string {
	c.t.Helper()
	out, complaint, got := c.run(nil, args...)
	if got != code {
		c.t.Fatalf("fieldgate %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, out, complaint)
	}
	if code == 0 {
		return out
	}
	return complaint
}

// A stock SDK's leaf is called, sent a command and read by the operator of the
// gateway, with the hub, without it, and after a cold start without it.
func TestLocalCallers(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 2*patience)
	s := running(ctx, t, site.Plan{Leaves: []site.Device{{ID: "node-leaf", Kind: site.SDK}, {ID: "pump-1", Kind: site.MQTT3}}})
	l := startStockLeaf(ctx, t, s, "mqtt", strings.Replace(s.Broker(), "127.0.0.1", "localhost", 1))
	c := &terminal{t, ctx, s}
	l.report(`{"state":"on"}`)
	l.desire("rate", 5)
	l.told("rate", 5) // within a second its copy is on flash, with what it has reported
	story := func(name string) {
		t.Log(name)
		reply := decoded[struct {
			Status  int
			Payload struct{ Echo struct{ From string } }
		}](t, c.gets(0, "device", "method", "node-leaf", "blink", "--body", `{"from":"`+name+`"}`))
		if reply.Status != 207 || reply.Payload.Echo.From != name {
			t.Errorf("%s: the method answers %+v", name, reply)
		}
		if out := c.gets(0, "device", "send", "node-leaf", "--body", name, "--property", "a=b c", "--message-id", "m-1"); out != "completed\n" {
			t.Errorf("%s: send says %q", name, out)
		}
		l.await("the command", func(e event) bool { return e.Command != nil && *e.Command == name && e.ID == "m-1" })
		twin := decoded[struct {
			Age  *float64 `json:"age_seconds"`
			Twin struct{ Desired, Reported map[string]any }
		}](t, c.gets(0, "device", "twin", "node-leaf", "--output", "json"))
		if twin.Twin.Desired["rate"] != 5.0 || twin.Twin.Reported["state"] != "on" || twin.Age == nil || (*twin.Age == 0) != (name == "online") {
			t.Errorf("%s: the twin is %+v", name, twin)
		}
	}
	story("online")
	must(t, s.Cut(ctx))
	must(t, s.Await(ctx, "the gateway to miss the hub", func() bool {
		return strings.Contains(c.gets(0, "status"), "not connected")
	}))
	story("cut")
	s.Gateway().Kill()
	must(t, s.StartGateway(ctx))
	must(t, s.Await(ctx, "the leaf to be back", func() bool {
		shown := c.gets(0, "device", "show", "node-leaf")
		return strings.Contains(shown, "commands, methods") && !strings.Contains(shown, "asleep")
	}))
	story("cold")
	must(t, s.Restore(ctx))

	for what, args := range map[string][]string{
		"method": {"device", "method", "pump-1", "blink"}, "command": {"device", "send", "pump-1", "--body", "x"},
		"nobody": {"device", "method", "pump-2", "blink"},
	} {
		if text := c.gets(8, args...); !strings.Contains(text, "does not listen") && !strings.Contains(text, `no leaf "pump-2"`) {
			t.Errorf("%s for a leaf that is not there: %s", what, text)
		}
	}
	if got := l.commands(); len(slices.Compact(got)) != 3 {
		t.Errorf("the leaf got %q", got)
	}
}

// decoded reads JSON.
func decoded[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return v
}

// A program of the site listens to leaves: mosquitto_sub as Node-RED or Home
// Assistant would, to an MQTT leaf and one on a serial line, with the hub and without.
func TestLocalListener(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"mosquitto_pub", "mosquitto_sub"} {
		if _, err := exec.LookPath(program); err != nil {
			need(t, program+" is not installed (Debian package mosquitto-clients)")
		}
	}
	ctx := testContext(t, 2*patience)
	s := running(ctx, t, site.Plan{Leaves: []site.Device{
		{ID: "home", Kind: site.MQTT3, Auth: "gateway", More: `may_listen = ["pump-1", "meter"]` + "\n"},
		{ID: "gate-7", Kind: site.Gateway},
		{ID: "pump-1", Kind: site.MQTT5},
		{ID: "meter", Kind: site.Serial},
		{ID: "secret", Kind: site.MQTT3},
	}, Config: site.Config{Hub: ownDevice}})
	home, pump, secret := &firmware{t, ctx, s, "home"}, &firmware{t, ctx, s, "pump-1"}, &firmware{t, ctx, s, "secret"}
	for _, filter := range []string{"leaf/secret/#", "#", "leaf/pump-1/command/#"} {
		if out, err := home.command("mosquitto_sub", "-t", filter).CombinedOutput(); err == nil && !strings.Contains(string(out), "denied") {
			t.Errorf("home may listen on %s: %s", filter, out)
		}
	}
	lines := home.hear("leaf/+/#")
	heard := func() string {
		for {
			if line := lines(1)[0]; !strings.Contains(line, "/probe ") {
				return line
			}
		}
	}
	listens := make(chan struct{})
	go func() {
		defer close(listens)
		lines(1)
	}()
	for listening := false; !listening; {
		pump.publish("leaf/pump-1/telemetry/probe", "is anybody there")
		select {
		case <-listens:
			listening = true
		default:
		}
	}
	line, tty, err := pty.Open()
	must(t, err)
	defer line.Close()
	defer tty.Close()
	must(t, os.Symlink(tty.Name(), filepath.Join(s.Dir(), "leaf", "tty-meter")))
	c := &terminal{t, ctx, s}
	must(t, s.Await(ctx, "the serial port to be open", func() bool { return strings.Contains(c.gets(0, "status"), "tty-meter up") }))
	_, err = line.WriteString("{\"power\":12}\n")
	must(t, err)
	if got := heard(); got != `leaf/meter/telemetry {"power":12}` {
		t.Errorf("of the serial line is heard %q", got)
	}
	for _, cut := range []bool{false, true} {
		if cut {
			must(t, s.Cut(ctx))
		}
		secret.publish("leaf/secret/telemetry", "not for others")
		pump.publish("leaf/pump-1/alarm/level", "high")
		if got := heard(); got != "leaf/pump-1/alarm/level high" {
			t.Errorf("heard %q", got)
		}
	}
}

// A leaf that the hub refuses backs off alone, and its status says why; who may only
// look may not send.
func TestRefusedLeafSaysWhy(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("mosquitto_pub"); err != nil {
		need(t, "mosquitto_pub is not installed (Debian package mosquitto-clients)")
	}
	ctx := testContext(t, 2*patience)
	s := running(ctx, t, site.Plan{Leaves: []site.Device{{ID: "pump-1", Kind: site.MQTT3}, {ID: "pump-2", Kind: site.MQTT3}}})
	must(t, s.Fault(ctx, "refuse-token", "pump-1", "on"))
	c := &terminal{t, ctx, s}
	bad, good := &firmware{t, ctx, s, "pump-1"}, &firmware{t, ctx, s, "pump-2"}
	bad.publish("leaf/pump-1/telemetry", "kept")
	good.publish("leaf/pump-2/telemetry", "sent")
	awaitEvents(ctx, t, s, 1)
	must(t, s.Await(ctx, "the refusal to be told", func() bool {
		return strings.Contains(c.gets(0, "device", "show", "pump-1"), "refused, asked again in")
	}))
	list := c.gets(0, "device", "list")
	for _, want := range []string{"LEAF", "pump-1", "401", "pump-2"} {
		if !strings.Contains(list, want) {
			t.Errorf("device list has no %q:\n%s", want, list)
		}
	}
	devices := decoded[[]struct {
		ID, State, Refused string
		LastSeen           time.Time `json:"last_seen"`
		RetryAt            time.Time `json:"retry_at"`
	}](t, c.gets(0, "device", "list", "--output", "json"))
	if len(devices) != 2 || devices[0].RetryAt.Before(time.Now()) || devices[1].Refused != "" || time.Since(devices[1].LastSeen) > patience {
		t.Errorf("devices: %+v", devices)
	}
	if status := c.gets(0, "status"); !strings.Contains(status, "pump-1: refused") || !strings.Contains(status, "memory ") {
		t.Errorf("status says\n%s", status)
	}
	if _, complaint, code := c.run(&syscall.Credential{Uid: 65534, Gid: 65534}, "device", "method", "pump-1", "x"); code != 9 && !strings.Contains(complaint, "permission") {
		t.Errorf("a stranger calls a method: exit code %d\n%s", code, complaint)
	}
}
