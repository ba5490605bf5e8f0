package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// enrolling is a site whose gateway enrols leaves through the provisioning service.
// The gateway is not started.
func enrolling(t *testing.T, s *site.Site) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.HubDir(), "hub.json"))
	must(t, err)
	var info hubsim.Info
	must(t, json.Unmarshal(text, &info))
	must(t, os.WriteFile(filepath.Join(s.Dir(), "gateway", "group.key"), []byte(info.DPS.GroupKey), 0o600))
	f, err := os.OpenFile(s.ConfigFile(), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = fmt.Fprintf(f, "\n[enrol]\nby = \"dps\"\nhost = \"127.0.0.1:%d\"\nid_scope = %q\ngroup_key_file = \"group.key\"\n", info.HTTPSPort, info.DPS.IDScope)
	must(t, err)
	must(t, f.Close())
}

// A leaf is added while the hub is away, and prints what a stock SDK needs: the SDK's
// messages wait on flash, also over kill -9, and arrive under the leaf's own name
// when the gateway has enrolled it.
func TestAddedLeafWithStockSDK(t *testing.T) {
	t.Parallel()
	node, scripts := nodeScripts(t)
	ctx := testContext(t, 2*patience)
	s := newSite(ctx, t, site.Plan{})
	enrolling(t, s)
	must(t, s.StartGateway(ctx))
	must(t, s.Cut(ctx))
	c := &terminal{t, ctx, s}
	line := strings.TrimSpace(c.gets(0, "device", "add", "node-leaf", "--print-connection-string"))
	if !regexp.MustCompile(`^HostName=.+;DeviceId=node-leaf;SharedAccessKey=.+=;GatewayHostName=localhost$`).MatchString(line) {
		t.Fatalf("the connection string is %q", line)
	}
	_, port, _ := strings.Cut(s.Broker(), ":")
	const count = 3
	leaf := exec.CommandContext(ctx, node, filepath.Join(scripts, "gateway-leaf.js"), line+":"+port, s.CAFile(), strconv.Itoa(count))
	if out, err := leaf.CombinedOutput(); err != nil {
		t.Fatalf("the SDK's leaf: %v\n%s", err, out)
	}
	c.gets(0, "device", "remove", "node-leaf") // what it has handed over stays
	s.Gateway().Kill()
	must(t, s.StartGateway(ctx))
	if out := c.gets(0, "device", "list"); strings.Contains(out, "node-leaf") {
		t.Errorf("a removed leaf is back: %s", out)
	}
	c.gets(0, "device", "add", "node-leaf")
	must(t, s.Restore(ctx))
	for _, e := range awaitEvents(ctx, t, s, count) {
		if e.Device != "node-leaf" {
			t.Errorf("an event arrives as %q's", e.Device)
		}
	}
	c.gets(9, "device", "add", "node-leaf")
	if names, _ := filepath.Glob(s.Dir() + "/gateway/leaf.d/*.removed"); len(names) != 1 {
		t.Errorf("removed leaves on flash: %q", names)
	}
	// What was settled in the moments before a kill may not be on flash: then it is sent
	// again, and the leaf is forgotten at the next start.
	for left := 5; ; left-- {
		must(t, s.Await(ctx, "nothing to be left", func() bool {
			return metric(ctx, s, "fieldgate_store_messages") == 0
		}))
		s.Gateway().Kill()
		must(t, s.StartGateway(ctx))
		names, _ := filepath.Glob(s.Dir() + "/gateway/leaf.d/*.removed")
		if len(names) == 0 {
			break
		}
		if left == 0 {
			t.Fatalf("removed leaves are not forgotten: %q", names)
		}
	}
}

// A leaf that is disabled or removed is out at once, and cannot come back.
func TestLeafIsPutOut(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 2*patience)
	s := newSite(ctx, t, site.Plan{Leaves: []site.Device{{ID: "by-hand", Kind: site.MQTT3}}})
	enrolling(t, s)
	must(t, s.StartGateway(ctx))
	c := &terminal{t, ctx, s}
	added := decoded[struct{ Password string }](t, c.gets(0, "device", "add", "sensor", "--password", "--output", "json"))
	trust, err := site.Trust(s.CAFile())
	must(t, err)
	lost := make(chan string, 8)
	connect := func(id, password string) error {
		o := mqtt.NewClientOptions().AddBroker("ssl://" + s.Broker()).SetClientID(id).SetUsername(id).SetPassword(password).
			SetTLSConfig(trust).SetAutoReconnect(false).SetCleanSession(false).
			SetConnectionLostHandler(func(mqtt.Client, error) { lost <- id })
		client := mqtt.NewClient(o)
		t.Cleanup(func() { client.Disconnect(0) })
		token := client.Connect()
		token.WaitTimeout(patience)
		return token.Error()
	}
	out := func(id, password string, how ...string) {
		t.Helper()
		must(t, connect(id, password))
		c.gets(0, how...)
		select {
		case who := <-lost:
			if who != id {
				t.Errorf("%v: %s is out, want %s", how, who, id)
			}
		case <-time.After(patience):
			t.Fatalf("%v: %s is still connected", how, id)
		}
		if connect(id, password) == nil {
			t.Errorf("%v: %s is back", how, id)
		}
	}
	out("by-hand", site.Password("by-hand"), "device", "disable", "by-hand")
	out("sensor", added.Password, "device", "disable", "sensor")
	c.gets(0, "device", "enable", "sensor")
	out("sensor", added.Password, "device", "rename", "sensor", "sensor-2")
	out("sensor-2", added.Password, "device", "remove", "sensor-2")
	c.gets(0, "device", "add", "sensor-2", "--password")
	if connect("sensor-2", added.Password) == nil {
		t.Error("the password of a removed leaf is good for the next one of its name")
	}
}

// One leaf is removed while all send: it is put out, what was taken of it arrives in its
// order, nothing more does, and the others notice nothing.
func TestRemoveUnderLoad(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 4*patience)
	leaves := devices(4, site.MQTT3, site.MQTT5)
	s := newSite(ctx, t, site.Plan{Leaves: leaves})
	enrolling(t, s)
	must(t, s.StartGateway(ctx))
	c, o := &terminal{t, ctx, s}, newOperator(t, s)
	crew := launch(ctx, t, s, leaves, leafsim.Options{Rate: 50, Window: 32})
	const out, window = "goes", 16
	added := decoded[struct{ Password string }](t, c.gets(0, "device", "add", out, "--password", "--output", "json"))
	trust, err := site.Trust(s.CAFile())
	must(t, err)
	lost := make(chan struct{})
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("ssl://" + s.Broker()).SetClientID(out).SetUsername(out).SetPassword(added.Password).
		SetTLSConfig(trust).SetAutoReconnect(false).SetConnectionLostHandler(func(mqtt.Client, error) { close(lost) }))
	t.Cleanup(func() { client.Disconnect(0) })
	connected := client.Connect()
	if !connected.WaitTimeout(patience) {
		t.Fatal("no CONNACK")
	}
	must(t, connected.Error())
	var count atomic.Int64 // of messages that were taken, from the first on
	go func() {
		for {
			tokens := make([]mqtt.Token, window)
			for i := range tokens {
				tokens[i] = client.Publish("leaf/"+out+"/telemetry", 1, false, strconv.FormatInt(count.Load()+int64(i), 10))
			}
			for _, token := range tokens {
				if token.Wait() && token.Error() != nil {
					return
				}
				count.Add(1)
			}
		}
	}()
	o.await(ctx, "all to send", func() bool { return crew.Stats().Connected && crew.Stats().Acked > 100 && count.Load() > 100 })
	c.gets(0, "device", "remove", out)
	select {
	case <-lost:
	case <-time.After(patience):
		t.Fatalf("%s is still connected", out)
	}
	acknowledged := int(count.Load())
	arrived := func() (bodies []string) {
		for _, a := range s.Events() {
			if a.Device == out && a.Kind == "" {
				bodies = append(bodies, string(a.Body))
			}
		}
		return bodies
	}
	o.await(ctx, "what was taken of it to arrive", func() bool {
		return len(arrived()) >= acknowledged && !strings.Contains(c.gets(0, "store", "list", "--output", "jsonl"), out)
	})
	known := len(arrived())
	before := crew.Stats().Acked
	o.await(ctx, "the others to go on", func() bool { return crew.Stats().Acked >= before+300 })
	bodies := arrived()
	if n := len(bodies) - known; n > window { // what was on its way to the hub at that moment
		t.Errorf("%d messages of a removed leaf have arrived since", n)
	}
	for i, body := range bodies {
		if body != strconv.Itoa(i) {
			t.Fatalf("message %d of it is %s, of %d acknowledged", i, body, acknowledged)
		}
	}
	if n := o.said("leaf disconnected"); n != 1 {
		t.Errorf("%d connections ended, want that of %s only", n, out)
	}
	if strings.Contains(c.gets(0, "device", "list"), out) {
		t.Errorf("%s is still listed", out)
	}
	must(t, crew.Finish(ctx))
	allArrived(ctx, t, s)
}

// A leaf's file is deleted by hand, and the gateway started: what the leaf has handed over
// waits, and whoever looks is told so, and by which command it goes on.
func TestLeafWhoseFileIsGone(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 3*patience)
	s := newSite(ctx, t, site.Plan{Leaves: []site.Device{{ID: "stays", Kind: site.MQTT3}}})
	enrolling(t, s)
	must(t, s.StartGateway(ctx))
	must(t, s.Cut(ctx))
	c := &terminal{t, ctx, s}
	for _, leaf := range []string{"sensor-3", "sensor-4", "sensor-5"} {
		added := decoded[struct{ Password string }](t, c.gets(0, "device", "add", leaf, "--password", "--output", "json"))
		publishOnce(t, s, leaf, added.Password)
	}
	s.Gateway().Kill()
	for _, leaf := range []string{"sensor-3", "sensor-4", "sensor-5"} {
		must(t, os.Remove(filepath.Join(s.Dir(), "gateway", "leaf.d", leaf+".leaf.toml")))
	}
	must(t, s.StartGateway(ctx))
	must(t, s.Restore(ctx))
	status := func(want ...string) {
		t.Helper()
		must(t, s.Await(ctx, want[0], func() bool {
			out := c.gets(0, "status")
			return !slices.ContainsFunc(want, func(text string) bool { return !strings.Contains(out, text) })
		}))
	}
	status("state    messages of 3 leaves wait here that are not configured\n", "\n         sensor-3: its messages wait on flash, and no such leaf is configured\n", "next     what is wrong, and what to do about it: fieldgate check")
	out, _, code := c.run(nil, "check", "--config", s.ConfigFile())
	if code != 8 {
		t.Errorf("exit code %d of check, want 8", code)
	}
	for _, want := range []string{
		"error    identity         messages of sensor-3 wait here, and no such leaf is configured\n",
		" next: carry them up: fieldgate device add sensor-3; or let them go: fieldgate store purge --leaf sensor-3\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("check does not say %q:\n%s", want, out)
		}
	}
	c.gets(0, "device", "add", "sensor-3")
	if e := awaitEvents(ctx, t, s, 1)[0]; e.Device != "sensor-3" || string(e.Body) != "of sensor-3" {
		t.Errorf("%q arrives as %q's", e.Body, e.Device)
	}
	status("messages of 2 leaves wait here that are not configured")
	c.gets(0, "store", "purge", "--leaf", "sensor-4", "--yes")
	if out := c.gets(0, "status"); strings.Contains(out, "sensor-4") || !strings.Contains(out, "messages of sensor-5 wait here, and no such leaf is configured") {
		t.Errorf("right after its messages were purged it says: %s", out)
	}
	c.gets(0, "store", "purge", "--all", "--yes")
	if out := c.gets(0, "status"); strings.Contains(out, "sensor-5") {
		t.Errorf("right after all was purged it says: %s", out)
	}
}

// publishOnce has a leaf log in with its password and hand over one message.
func publishOnce(t *testing.T, s *site.Site, id, password string) {
	t.Helper()
	trust, err := site.Trust(s.CAFile())
	must(t, err)
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("ssl://" + s.Broker()).SetClientID(id).SetUsername(id).SetPassword(password).
		SetTLSConfig(trust).SetAutoReconnect(false))
	defer client.Disconnect(0)
	for _, token := range []func() mqtt.Token{client.Connect, func() mqtt.Token { return client.Publish("leaf/"+id+"/telemetry", 1, false, "of "+id) }} {
		waiting := token()
		if !waiting.WaitTimeout(patience) {
			t.Fatalf("%s gets no answer", id)
		}
		must(t, waiting.Error())
	}
}

// What leaves have handed over goes to the hub under the id that they had then, when
// they have got another one, or their tables are gone, however these went, and the gateway
// has been killed since.
func TestBacklogOfLeavesThatAreNoMore(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 3*patience)
	s := newSite(ctx, t, site.Plan{Leaves: []site.Device{
		{ID: "by-hand", Kind: site.MQTT3}, {ID: "restarted", Kind: site.MQTT3}, {ID: "stopped", Kind: site.MQTT3}, {ID: "stays", Kind: site.MQTT3},
	}})
	enrolling(t, s)
	must(t, s.StartGateway(ctx))
	must(t, s.Cut(ctx))
	c := &terminal{t, ctx, s}
	added := decoded[struct{ Password string }](t, c.gets(0, "device", "add", "sensor-3", "--password", "--output", "json"))
	publishOnce(t, s, "sensor-3", added.Password)
	for _, leaf := range []string{"by-hand", "restarted", "stopped"} {
		publishOnce(t, s, leaf, site.Password(leaf))
	}

	c.gets(0, "device", "rename", "sensor-3", "sensor-4")
	bench := filepath.Join(s.Dir(), "gateway", "leaf.d", "bench.toml")
	takeOut := func(leaf string) {
		t.Helper()
		text, err := os.ReadFile(bench)
		must(t, err)
		before, rest, found := strings.Cut(string(text), "[[leaf]]\nid = \""+leaf+"\"\n")
		_, rest, more := strings.Cut(rest, "[[leaf]]\n")
		if !found || !more {
			t.Fatalf("the leaves are\n%s", text)
		}
		must(t, os.WriteFile(bench, []byte(before+"[[leaf]]\n"+rest), 0o644))
	}
	takeOut("by-hand")
	o := newOperator(t, s)
	o.hangUp(ctx)
	must(t, os.Remove(filepath.Join(s.Dir(), "gateway", "by-hand.key")))
	takeOut("restarted")
	o.wants(ctx, 0, "is kept", "apply", o.other("[store]\n", "[store]\ncommit_window = \"12ms\"\n"), "--restart", "--confirm", "0s")
	must(t, os.Remove(filepath.Join(s.Dir(), "gateway", "restarted.key")))
	if out := c.gets(0, "device", "list"); strings.Contains(out, "by-hand") || strings.Contains(out, "sensor-3") {
		t.Errorf("leaves that are no more: %s", out)
	}
	publishOnce(t, s, "sensor-4", added.Password)

	s.Gateway().Kill()
	takeOut("stopped")
	must(t, s.StartGateway(ctx))
	must(t, os.Remove(filepath.Join(s.Dir(), "gateway", "stopped.key")))
	s.Gateway().Kill()
	must(t, s.StartGateway(ctx))
	must(t, s.Restore(ctx))
	for _, e := range awaitEvents(ctx, t, s, 5) {
		if string(e.Body) != "of "+e.Device {
			t.Errorf("%q arrives as %q's", e.Body, e.Device)
		}
	}
}
