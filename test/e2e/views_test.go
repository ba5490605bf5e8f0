package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// The five views of the gateway's state, and the sixth at the hub, say the same: the
// text of status, its JSON, top in a terminal, the metrics, what is retained on the
// local broker, and the gateway's own reported twin. A leaf can say nothing there.
func TestFiveViewsOfOneState(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"mosquitto_pub", "mosquitto_sub", "tmux"} {
		if _, err := exec.LookPath(program); err != nil {
			need(t, program+" is not installed: test/setup.sh installs it")
		}
	}
	ctx := testContext(t, 3*patience)
	s := newSite(ctx, t, site.Plan{Leaves: []site.Device{
		{ID: "gate-7", Kind: site.Gateway},
		{ID: "home", Kind: site.MQTT3, Auth: "gateway", More: "may_listen = [\"*\"]\n"},
		{ID: "pump-1", Kind: site.MQTT3},
		{ID: "pump-2", Kind: site.MQTT3},
	}, Config: site.Config{Hub: ownDevice}})
	c := &terminal{t, ctx, s}
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "fieldgate"), "config", "set", "gateway.report_every", "1s", "--config", s.ConfigFile()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, s.StartGateway(ctx))
	pump, refused := &firmware{t, ctx, s, "pump-1"}, &firmware{t, ctx, s, "pump-2"}
	home := heardBy(&firmware{t, ctx, s, "home"}, "fieldgate/#")
	for i := range 3 {
		pump.publish("leaf/pump-1/telemetry", fmt.Sprint(i))
	}
	awaitEvents(ctx, t, s, 3)
	must(t, s.Fault(ctx, "disable", "pump-2"))
	refused.publish("leaf/pump-2/telemetry", "waits")
	for _, retain := range []string{"fieldgate/status/bridge", "fieldgate/status/state"} { // a leaf that lies about the gateway
		_ = pump.command("mosquitto_pub", "-r", "-t", retain, "-m", "0").Run() // it is cut off
	}
	screen := &console{terminal: *c, socket: filepath.Join(s.Dir(), "tmux")}
	screen.open()

	facts := []struct {
		path   string // in the state
		value  any
		metric string
		text   string // of status
		top    string
	}{
		{"messages.sent.telemetry", 3.0, `fieldgate_messages_sent_total{kind="telemetry",result="accepted"}`, "", ""},
		{"uplink.connected", true, "fieldgate_uplink_up", `(?m)^uplink   connected`, `UPLINK  connected`},
		{"leaves.present", 1.0, `fieldgate_leaf_connected{transport="mqtt"}`, `(?m)^leaves   1 connected over MQTT`, `LEAVES  3, 1 connected`},
		{"leaves.refused", 1.0, "fieldgate_uplink_refused_leaves", `1 refused by the hub`, `1 refused by the hub`},
		{"leaves.taken", 1.0, "fieldgate_uplink_taken_leaves", `1 of 3 taken by the hub`, ""},
		{"leaves.unasked", 1.0, "fieldgate_uplink_unasked_leaves", `1 not asked yet`, ""},
		{"leaves.enrolling", 0.0, "fieldgate_uplink_enrolling_leaves", "", ""},
		{"store.lanes.telemetry.messages", 1.0, `fieldgate_store_messages{lane="telemetry"}`, `(?m)^telemetry 1 message on flash`, `STORE   1 message`},
		{"store.dead_letters", 0.0, "fieldgate_store_dead_letters", `(?m)^shelf    0 dead letters`, ""},
	}
	twinHas := []string{"messages.sent.telemetry", "leaves.present", "leaves.refused", "leaves.waiting", "leaves.taken", "leaves.unasked", "leaves.enrolling", "store.dead_letters", "uplink.transport", "uplink.since", "name", "started"}
	complaint := ""
	agree := func() bool {
		state := decoded[any](t, c.gets(0, "status", "--output", "json"))
		text, top := c.gets(0, "status"), screen.tmux("capture-pane", "-p", "-t", "top")
		metrics, err := s.Metrics(ctx)
		must(t, err)
		retained := decodedOr(home("fieldgate/status/state"))
		twin, err := s.Hub().Twin(ctx, "gate-7", "")
		must(t, err)
		reported := at(decodedOr(twin), "properties.reported.fieldgate.status")
		var wrong []string
		check := func(view, what string, got, want any) {
			if fmt.Sprint(got) != fmt.Sprint(want) {
				wrong = append(wrong, fmt.Sprintf("%s: %s is %v, want %v", view, what, got, want))
			}
		}
		for _, f := range facts {
			number := f.value
			if f.value == true {
				number = 1
			}
			check("status --output json", f.path, at(state, f.path), f.value)
			check("broker", f.path, at(retained, f.path), f.value)
			check("metrics", f.metric, metrics[f.metric], number)
			check("status", f.text, regexp.MustCompile(f.text).MatchString(text), true)
			check("top", f.top, strings.Contains(top, f.top), true)
		}
		for _, path := range twinHas {
			check("twin", path, at(reported, path), at(state, path))
		}
		check("broker", "bridge", home("fieldgate/status/bridge"), "1")
		check("broker", "health", at(decodedOr(home("fieldgate/status/health")), "status"), "up")
		complaint = strings.Join(wrong, "\n")
		return complaint == ""
	}
	if err := s.Await(ctx, "all views to agree", agree); err != nil {
		t.Fatalf("%v\n%s", err, complaint)
	}
	for leaf, word := range map[string]string{"pump-1": "ok", "pump-2": "refused", "home": "unasked"} {
		if got := decoded[struct{ Hub string }](t, c.gets(0, "device", "show", leaf, "--output", "json")).Hub; got != word {
			t.Errorf("the hub's word on %s is %q, want %q", leaf, got, word)
		}
	}
	must(t, s.Cut(ctx))
	must(t, s.Await(ctx, "the broker to say that the hub is away", func() bool { return home("fieldgate/status/bridge") == "0" }))
	must(t, s.Restore(ctx))
	if err := s.Await(ctx, "all views to agree again", agree); err != nil {
		t.Fatalf("%v\n%s", err, complaint)
	}
	code := decoded[struct{ Code string }](t, c.gets(0, "pair", "open", "--auth", "gateway", "--output", "json")).Code
	must(t, s.Await(ctx, "the broker to say that the pairing window is open", func() bool {
		return strings.Contains(home("fieldgate/status/pairing"), `"open":true`)
	}))
	if said := home("fieldgate/status/pairing"); strings.Contains(said, code) || strings.Contains(said, strings.ReplaceAll(code, "-", "")) {
		t.Errorf("the broker gives the code away: %s", said)
	}
	c.gets(0, "pair", "close")
	must(t, s.Await(ctx, "the broker to say that the pairing window is closed", func() bool {
		return strings.Contains(home("fieldgate/status/pairing"), `"open":false`)
	}))
	out, err = refused.command("mosquitto_sub", "-t", "fieldgate/#", "-W", "5").CombinedOutput()
	if !strings.Contains(string(out), "denied") {
		t.Errorf("a leaf that may not listen may listen to the gateway: %v, %s", err, out)
	}
}

// heardBy returns what was last heard on a topic, "" for nothing.
func heardBy(f *firmware, filter string) func(topic string) string {
	f.t.Helper()
	cmd := f.command("mosquitto_sub", "-v", "-t", filter)
	out, err := cmd.StdoutPipe()
	must(f.t, err)
	must(f.t, cmd.Start())
	var mu sync.Mutex
	last := make(map[string]string)
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewReader(out); ; {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			topic, payload, _ := strings.Cut(strings.TrimSpace(line), " ")
			mu.Lock()
			last[topic] = payload
			mu.Unlock()
		}
	})
	f.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		reading.Wait()
		_ = cmd.Wait() // it was killed
	})
	return func(topic string) string {
		mu.Lock()
		defer mu.Unlock()
		return last[topic]
	}
}

// decodedOr reads JSON, nil where it is none.
func decodedOr(text string) (v any) {
	_ = json.Unmarshal([]byte(text), &v)
	return v
}

// at is what stands at a path of names.
func at(v any, path string) any {
	for name := range strings.SplitSeq(path, ".") {
		object, _ := v.(map[string]any)
		v = object[name]
	}
	return v
}
