package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/control"
)

// Every verb shows how it is used.
func TestEveryVerbHasAnExample(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if !strings.Contains(c.Example, "hubsim ") || c.Short == "" {
			t.Errorf("%s has no example or no description", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(command())
}

// bench is a hub that serves, and a terminal beside it.
type bench struct {
	t   *testing.T
	dir string
}

// startHub serves a hub with the verb and waits for "ready".
func startHub(t *testing.T) (b *bench, printed string) {
	t.Helper()
	b = &bench{t: t, dir: t.TempDir()}
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		c := command()
		c.SetOut(in)
		c.SetArgs([]string{
			"serve", "--dir", b.dir, "--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0", "--device", "pump-1",
		})
		err := c.ExecuteContext(ctx)
		_ = in.CloseWithError(err) // never fails
		ended <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "ready" {
			return b, printed
		}
		printed += lines.Text() + "\n"
	}
	t.Fatalf("serve ended without being ready: %v, having printed %q", lines.Err(), printed)
	return nil, ""
}

// run runs a verb against the hub and returns what it prints.
func (b *bench) run(args ...string) (string, error) {
	var out bytes.Buffer
	c := command()
	c.SetOut(&out)
	c.SetArgs(append([]string{args[0], "--dir=" + b.dir}, args[1:]...))
	if args[0] == "fault" || args[0] == "device" {
		c.SetArgs(append([]string{args[0], args[1], "--dir=" + b.dir, "--"}, args[2:]...))
	}
	err := c.ExecuteContext(b.t.Context())
	return out.String(), err
}

// What somebody does at a terminal, and what it says.
func TestVerbs(t *testing.T) {
	b, printed := startHub(t)
	for _, what := range []string{"MQTT 3.1.1", "AMQP 1.0", "WebSockets", "HTTPS", "events", "1 device,"} {
		if !strings.Contains(printed, what) {
			t.Errorf("serve does not say that it serves %s:\n%s", what, printed)
		}
	}
	for _, c := range []struct {
		args []string
		want string // in what is printed, or in the error
		bad  bool
	}{
		{args: []string{"device", "add", "pump-2"}, want: ";DeviceId=pump-2;SharedAccessKey="},
		{args: []string{"device", "list"}, want: "pump-2"},
		{args: []string{"device", "add", "not an id"}, want: "must not hold", bad: true},
		{args: []string{"send", "pump-1", "hello"}, want: "queued for pump-1"},
		{args: []string{"device", "list"}, want: "disconnected  1\npump-2"},
		{args: []string{"send", "ghost", "hello"}, want: "DeviceNotFound", bad: true},
		{args: []string{"twin", "pump-1", `{"properties":{"desired":{"interval":5}}}`}, want: `"interval": 5`},
		{args: []string{"twin", "pump-1"}, want: `"interval": 5`},
		{args: []string{"twin", "pump-1", `{"properties":`}, want: "ArgumentInvalid", bad: true},
		{args: []string{"call", "pump-1", "reboot", "{}"}, want: "DeviceNotOnline", bad: true},
		{args: []string{"call", "pump-1", "reboot", "{"}, want: "must be JSON", bad: true},
		{args: []string{"device", "remove", "pump-2"}, want: "removed pump-2"},
		{args: []string{"device", "remove", "pump-2"}, want: "DeviceNotFound", bad: true},
		{args: []string{"stats"}, want: "messages "},
		{args: []string{"stats", "--json"}, want: `"cpu_seconds":`},
		{args: []string{"arrivals"}},
		{args: []string{"fault", "slow-settle", "soon"}, want: "500ms", bad: true},
		{args: []string{"fault", "slow-settle", "-3s"}, want: "before it comes", bad: true},
		{args: []string{"fault", "reject", "pump-1", "amqp:internal-error", "-1"}, want: "how many", bad: true},
		{args: []string{"fault", "detach", "ghost", "amqp:link:stolen"}, want: "no device", bad: true},
		{args: []string{"fault", "refuse-token", "ghost", "on"}, want: "no device", bad: true},
		{args: []string{"fault", "detach", "pump-1"}, want: "write it as: hubsim fault detach DEVICE CONDITION", bad: true},
		{args: []string{"fault", "reset"}, want: "reset: 0 connections"},
		{args: []string{"fault", "explode"}, want: `there is no "hubsim fault explode"`, bad: true},
		{args: []string{"device", "polish"}, want: `there is no "hubsim device polish"`, bad: true},
		{args: []string{"fault", "throttle", "maybe"}, want: "on or off", bad: true},
		{args: []string{"fault", "disable", "ghost"}, want: "no device", bad: true},
	} {
		out, err := b.run(c.args...)
		if (err != nil) != c.bad {
			t.Errorf("%v: %v", c.args, err)
			continue
		}
		if err != nil {
			out = err.Error()
		}
		if !strings.Contains(out, c.want) {
			t.Errorf("%v says %q, want %q", c.args, out, c.want)
		}
	}
}

// The words of errors say what to do; nobody needs to know the socket.
func TestMistakes(t *testing.T) {
	b, _ := startHub(t)
	info, err := hubsim.ReadInfo(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	free := []string{"--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0"}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"stats", "--dir", empty}, "no hub serves in"},
		{[]string{"stats", "--dir", filepath.Join(empty, "nowhere")}, "hubsim serve"},
		{[]string{"fault", "clock-skew", "-10m", "--dir", b.dir}, "goes behind --"},
		{append([]string{"serve", "--dir", b.dir}, free...), "serves in"},
		{[]string{"serve", "--dir", empty, "--mqtt-port", strconv.Itoa(info.MQTTPort)}, "an address of its own"},
		{append([]string{"serve", "--dir", empty, "--bind", "192.0.2.1"}, free...), "address of this machine"},
	} {
		cmd := command()
		cmd.SetArgs(c.args)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.args, err, c.want)
		}
	}
	if _, err := b.run("stats"); err != nil { // a second hub took nothing from the first
		t.Error(err)
	}
	if now, err := hubsim.ReadInfo(b.dir); err != nil || now.MQTTPort != info.MQTTPort {
		t.Errorf("hub.json has changed: %v, %v", now, err)
	}
}

// The example of each switch works as it stands.
func TestEverySwitch(t *testing.T) {
	b, _ := startHub(t)
	for _, f := range control.Faults {
		args := append([]string{"fault", f.Name}, strings.Fields(f.Example)...)
		out, err := b.run(args...)
		if err != nil || !strings.HasPrefix(out, f.Name) {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
}
