package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// awaitEvents waits until so many events have arrived and returns them.
func awaitEvents(ctx context.Context, t *testing.T, s *site.Site, n int) []hubsim.Arrival {
	t.Helper()
	must(t, s.Await(ctx, strconv.Itoa(n)+" events", func() bool { return len(s.Events()) >= n }))
	return s.Events()
}

// The vendor's own Node device SDK, as it is, with only GatewayHostName and the
// CA added.
func TestNodeSDK(t *testing.T) {
	t.Parallel()
	node, err := exec.LookPath("node")
	if err != nil {
		need(t, "node is not installed")
	}
	scripts, err := filepath.Abs("../node")
	must(t, err)
	if _, err := os.Stat(filepath.Join(scripts, "node_modules", "azure-iot-device-mqtt")); err != nil {
		need(t, "test/node has no node_modules: run npm ci there")
	}
	ctx := testContext(t, 2*patience)
	s := running(ctx, t, site.Plan{Leaves: []site.Device{{ID: "node-leaf", Kind: site.SDK}}})
	const count = 20
	leaf := exec.CommandContext(ctx, node, filepath.Join(scripts, "gateway-leaf.js"),
		s.ConnectionString("node-leaf")+";GatewayHostName="+strings.Replace(s.Broker(), "127.0.0.1", "localhost", 1), s.CAFile(), strconv.Itoa(count))
	out, err := leaf.CombinedOutput()
	if err != nil {
		t.Fatalf("the SDK's leaf: %v\n%s", err, out)
	}
	for i, e := range awaitEvents(ctx, t, s, count) {
		var body struct{ N int }
		if err := json.Unmarshal(e.Body, &body); err != nil || body.N != i+1 || e.Device != "node-leaf" {
			t.Errorf("event %d is %s of %s, %v; want number %d", i, e.Body, e.Device, err, i+1)
		}
		got := []string{e.MessageID, e.CorrelationID, e.ContentType, e.ContentEncoding, e.Properties["site"], e.Properties["größe & zeichen"]}
		want := []string{"node-" + strconv.Itoa(i+1), "c-1", "application/json", "utf-8", "plant 7", "50 % = ½"}
		for k := range want {
			if got[k] != want[k] {
				t.Errorf("event %d carries %q, want %q", i, got, want)
				break
			}
		}
	}
}

// mosquitto_pub as in the README.
func TestMosquittoPub(t *testing.T) {
	t.Parallel()
	pub, err := exec.LookPath("mosquitto_pub")
	if err != nil {
		need(t, "mosquitto_pub is not installed (Debian package mosquitto-clients)")
	}
	ctx := testContext(t, 2*patience)
	s := running(ctx, t, site.Plan{Leaves: []site.Device{{ID: "pump-1", Kind: site.MQTT3}, {ID: "pump-2", Kind: site.MQTT3}}})
	_, port, _ := strings.Cut(s.Broker(), ":")
	publish := func(topic, password string, more ...string) error {
		args := append([]string{
			"-h", "localhost", "-p", port, "--cafile", s.CAFile(), "-u", "pump-1", "-P", password, "-q", "1",
			"-t", topic, "-m", `{"temperature": 21.5}`,
		}, more...)
		return exec.CommandContext(ctx, pub, args...).Run()
	}
	for i, more := range [][]string{{}, {"-V", "mqttv5", "-D", "publish", "user-property", "site", "plant 7"}} {
		if err := publish("leaf/pump-1/telemetry/outlet", site.Password("pump-1"), more...); err != nil {
			t.Fatal(err)
		}
		e := awaitEvents(ctx, t, s, i+1)[i]
		if e.Device != "pump-1" || string(e.Body) != `{"temperature": 21.5}` || e.MessageID == "" || e.Properties["fieldgate-channel"] != "outlet" {
			t.Errorf("arrived: %+v", e)
		}
	}
	if got := s.Events()[1].Properties["site"]; got != "plant 7" {
		t.Errorf("the MQTT 5 user property arrived as %q", got)
	}

	// A wrong password, and another leaf's topic, get nothing through.
	if err := publish("leaf/pump-1/telemetry", "guessed"); !failed(err) {
		t.Errorf("with a wrong password mosquitto_pub ended with %v", err)
	}
	_ = publish("leaf/pump-2/telemetry", site.Password("pump-1")) // 3.1.1 has no way to say no
	must(t, publish("leaf/pump-1/alarm", site.Password("pump-1")))
	events := awaitEvents(ctx, t, s, 3)
	if last := events[len(events)-1]; len(events) != 3 || last.Properties["fieldgate-lane"] != "alarm" {
		t.Errorf("%d events, the last in lane %q; want 3 and alarm", len(events), last.Properties["fieldgate-lane"])
	}
}

// failed says whether a program ran and did not succeed.
func failed(err error) bool {
	_, ran := errors.AsType[*exec.ExitError](err)
	return ran
}
