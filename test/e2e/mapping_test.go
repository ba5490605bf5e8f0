package e2e

import (
	"bufio"
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// The rules for each kind of firmware, as in the README.
const tasmotaRules = `
[[map]]
topic = "tele/{leaf}/{channel}"
[[map]]
topic = "cmnd/{leaf}/{name}"
kind = "command"
[[map]]
topic = "cmnd/{leaf}/{name}"
kind = "call"
reply = "stat/{leaf}/RESULT"
[[map]]
topic = "cfg/{leaf}/{name}"
kind = "desired"
`

const zigbeeRules = `
[[map]]
topic = "zigbee2mqtt/{leaf}"
login = "z2m"
[[map]]
topic = "zigbee2mqtt/{leaf}/set"
kind = "command"
login = "z2m"
`

// firmware runs mosquitto's clients as firmware would.
type firmware struct {
	t     *testing.T
	ctx   context.Context
	s     *site.Site
	login string
}

func (f *firmware) command(program string, args ...string) *exec.Cmd {
	_, port, _ := strings.Cut(f.s.Broker(), ":")
	common := []string{"-h", "localhost", "-p", port, "--cafile", f.s.CAFile(), "-u", f.login, "-P", site.Password(f.login), "-q", "1"}
	return exec.CommandContext(f.ctx, program, append(common, args...)...)
}

func (f *firmware) publish(topic, body string, more ...string) {
	f.t.Helper()
	must(f.t, f.command("mosquitto_pub", append(more, "-t", topic, "-m", body)...).Run())
}

// hear subscribes until the test ends. What it returns waits for lines.
func (f *firmware) hear(filter string) (next func(n int) []string) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.ctx)
	cmd := f.command("mosquitto_sub", "-v", "-t", filter)
	out, err := cmd.StdoutPipe()
	must(f.t, err)
	must(f.t, cmd.Start())
	context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	f.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
	})
	lines := bufio.NewScanner(out)
	return func(n int) (all []string) {
		f.t.Helper()
		for range n {
			if !lines.Scan() {
				f.t.Fatalf("heard %q and then nothing more", all)
			}
			all = append(all, lines.Text())
		}
		return all
	}
}

// Mosquitto's clients as a Tasmota device and as a Zigbee2MQTT bridge, both ways,
// with two lines of rule for each.
func TestFirmwareThatCannotChange(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"mosquitto_pub", "mosquitto_sub"} {
		if _, err := exec.LookPath(program); err != nil {
			need(t, program+" is not installed (Debian package mosquitto-clients)")
		}
	}
	ctx := testContext(t, 2*patience)
	s := running(ctx, t, site.Plan{
		Leaves: []site.Device{{ID: "plug-1", Kind: site.MQTT3}, {ID: "z2m", Kind: site.MQTT3}, {ID: "lamp", Kind: site.SDK}, {ID: "meter", Kind: site.SDK}},
		Config: site.Config{Tail: tasmotaRules + zigbeeRules},
	})
	plug, z2m := &firmware{t, ctx, s, "plug-1"}, &firmware{t, ctx, s, "z2m"}

	t.Log("up: what has a rule arrives as its leaf's, and nothing else does")
	will := []string{"--will-topic", "stat/plug-1/LWT", "--will-payload", "Offline"}
	plug.publish("tasmota/discovery/plug-1/config", "{}", will...)
	plug.publish("tele/plug-1/SENSOR", `{"Power":12}`, will...)
	z2m.publish("zigbee2mqtt/bridge/info", "{}")
	z2m.publish("zigbee2mqtt/bridge", "{}")
	z2m.publish("zigbee2mqtt/lamp", `{"state":"ON"}`)
	z2m.publish("tele/meter/SENSOR", "forged")
	plug.publish("zigbee2mqtt/lamp", "forged")
	plug.publish("tele/lamp/SENSOR", "forged")
	plug.publish("tele/plug-1/LAST", "end")
	z2m.publish("zigbee2mqtt/lamp", "end")
	var got []string
	for _, e := range awaitEvents(ctx, t, s, 4) {
		got = append(got, e.Device+" "+e.Properties["fieldgate-channel"]+" "+string(e.Body))
	}
	equal(t, got, `plug-1 SENSOR {"Power":12}`, `lamp  {"state":"ON"}`, "plug-1 LAST end", "lamp  end")

	t.Log("down: commands come on the firmware's own topics")
	heard := plug.hear("cmnd/plug-1/#")
	must(t, s.Hub().Send(ctx, "plug-1", "first"))
	must(t, s.Hub().Send(ctx, "plug-1", "second"))
	equal(t, heard(2), "cmnd/plug-1/message first", "cmnd/plug-1/message second")
	heard = z2m.hear("zigbee2mqtt/#")
	must(t, s.Hub().Send(ctx, "meter", "not for a bridge that has never spoken for it"))
	must(t, s.Hub().Send(ctx, "lamp", `{"state":"OFF"}`))
	equal(t, heard(1), `zigbee2mqtt/lamp/set {"state":"OFF"}`)

	t.Log("a leaf without a rule that names it hears nothing of another")
	for _, filter := range []string{"zigbee2mqtt/#", "zigbee2mqtt/lamp/set", "cmnd/+/message", "cmnd/lamp/#"} {
		out, err := plug.command("mosquitto_sub", "-t", filter).CombinedOutput()
		if !strings.Contains(string(out), "denied") && err == nil {
			t.Errorf("plug-1 may listen on %s: %s", filter, out)
		}
	}
	must(t, s.Await(ctx, "the commands to be completed", func() bool {
		return queued(ctx, t, s, "plug-1") == 0 && queued(ctx, t, s, "lamp") == 0
	}))
	if n := queued(ctx, t, s, "meter"); n != 1 {
		t.Errorf("%d commands wait for meter, want 1", n)
	}
}

func equal(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Mosquitto's clients as a Tasmota device that is called, by the hub and by the
// operator, with the hub and without, and that is told what is desired of it.
func TestFirmwareIsCalled(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"mosquitto_pub", "mosquitto_sub"} {
		if _, err := exec.LookPath(program); err != nil {
			need(t, program+" is not installed (Debian package mosquitto-clients)")
		}
	}
	ctx := testContext(t, 2*patience)
	s := running(ctx, t, site.Plan{
		Leaves: []site.Device{{ID: "plug-1", Kind: site.MQTT3}},
		Config: site.Config{Tail: tasmotaRules},
	})
	plug, c := &firmware{t, ctx, s, "plug-1"}, &terminal{t, ctx, s}
	heard := plug.hear("cmnd/plug-1/#")
	listens := func(what string) {
		must(t, s.Await(ctx, "the plug to listen for "+what, func() bool {
			return strings.Contains(c.gets(0, "device", "show", "plug-1"), what)
		}))
	}
	listens("commands, methods")
	call := func(who string, ask func() string) {
		answer := make(chan string, 1)
		go func() { answer <- ask() }()
		equal(t, heard(1), "cmnd/plug-1/POWER ON")
		plug.publish("stat/plug-1/RESULT", `{"POWER":"ON"}`)
		if got := <-answer; !strings.Contains(strings.ReplaceAll(got, " ", ""), `"POWER":"ON"`) {
			t.Errorf("%s hears %s", who, got)
		}
	}
	operator := func() string {
		out, complaint, _ := c.run(nil, "device", "method", "plug-1", "POWER", "--body", `"ON"`)
		return out + complaint
	}
	hub := func() string {
		var out string
		must(t, s.Await(ctx, "the hub to find the plug", func() (done bool) {
			var err error
			out, err = s.Hub().Call(ctx, "plug-1", "POWER", `"ON"`)
			return err == nil
		}))
		return out
	}
	call("the hub", hub)
	call("the operator", operator)
	must(t, s.Cut(ctx))
	call("the operator without the hub", operator)
	must(t, s.Restore(ctx))

	desire := func(patch string) {
		_, err := s.Hub().Twin(ctx, "plug-1", `{"properties":{"desired":`+patch+`}}`)
		must(t, err)
	}
	desire(`{"Mode":"eco","Level":3}`)
	cfg := plug.hear("cfg/plug-1/+")
	got := cfg(2)
	slices.Sort(got)
	equal(t, got, "cfg/plug-1/Level 3", "cfg/plug-1/Mode eco")
	desire(`{"Mode":"full"}`)
	equal(t, cfg(1), "cfg/plug-1/Mode full")
}
