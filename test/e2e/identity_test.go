package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// ownDevice is what [hub] says of the gateway's own device.
const ownDevice = "device_id = \"gate-7\"\nkey_file = \"gate-7.key\"\n"

// Leaves that the hub does not know are sent under the gateway's identity, beside
// one that has its own: in order, with the same ids, across a cut link and kill -9,
// over one connection. A stock SDK is told in words that there is no twin.
func TestLeavesUnderTheGatewaysIdentity(t *testing.T) {
	t.Parallel()
	node, scripts := nodeScripts(t)
	for _, program := range []string{"mosquitto_pub", "mosquitto_rr"} {
		if _, err := exec.LookPath(program); err != nil {
			need(t, program+" is not installed (Debian package mosquitto-clients)")
		}
	}
	ctx := testContext(t, 2*patience)
	s := running(ctx, t, site.Plan{
		Leaves: []site.Device{
			{ID: "gate-7", Kind: site.Gateway},
			{ID: "node-leaf", Kind: site.SDK, Auth: "gateway"},
			{ID: "pump-1", Kind: site.MQTT3, Auth: "gateway"},
			{ID: "own-1", Kind: site.MQTT3},
		},
		Config: site.Config{Hub: ownDevice},
	})
	pump, own := &firmware{t, ctx, s, "pump-1"}, &firmware{t, ctx, s, "own-1"}
	connection := s.ConnectionString("node-leaf") + ";GatewayHostName=" + strings.Replace(s.Broker(), "127.0.0.1", "localhost", 1)
	out, err := exec.CommandContext(ctx, node, filepath.Join(scripts, "gateway-leaf.js"), connection, s.CAFile(), "5").CombinedOutput()
	if err != nil {
		t.Fatalf("the SDK's leaf: %v\n%s", err, out)
	}
	pump.publish("leaf/pump-1/telemetry/outlet", "0")
	own.publish("leaf/own-1/telemetry", "0")
	awaitEvents(ctx, t, s, 7)

	must(t, s.Cut(ctx))
	for i := 1; i <= 10; i++ {
		pump.publish("leaf/pump-1/telemetry/outlet", fmt.Sprint(i))
		own.publish("leaf/own-1/telemetry", fmt.Sprint(i))
	}
	s.Gateway().Kill()
	must(t, s.StartGateway(ctx))
	pump.publish("leaf/pump-1/telemetry/outlet", "11")
	must(t, s.Restore(ctx))
	got := make(map[string][]string)
	for _, e := range awaitEvents(ctx, t, s, 28) {
		leaf, named := e.Properties["fieldgate-leaf"]
		switch {
		case !named && e.Device == "own-1":
			leaf = e.Device
		case e.Device != "gate-7":
			t.Errorf("a message of %q came as %q", leaf, e.Device)
		}
		got[leaf] = append(got[leaf], string(e.Body))
	}
	equal(t, got["pump-1"], strings.Fields("0 1 2 3 4 5 6 7 8 9 10 11")...)
	equal(t, got["own-1"], strings.Fields("0 1 2 3 4 5 6 7 8 9 10")...)
	equal(t, got["node-leaf"], `{"n":1}`, `{"n":2}`, `{"n":3}`, `{"n":4}`, `{"n":5}`)
	if !s.OneConnectionAtATime() {
		t.Error("the hub saw two connections at a time")
	}

	out, err = exec.CommandContext(ctx, node, filepath.Join(scripts, "gateway-down.js"), "mqtt", connection, s.CAFile()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "the hub keeps no twin for it") {
		t.Errorf("the SDK asks for its twin: %v\n%s", err, out)
	}
	// The word on a report goes to the connection that reported.
	out, err = pump.command("mosquitto_rr", "-W", "30", "-t", "leaf/pump-1/twin/reported", "-e", "leaf/pump-1/twin/error", "-m", `{"a":1}`).CombinedOutput()
	if !strings.Contains(string(out), "400003") {
		t.Errorf("what is reported is refused: %v\n%s", err, out)
	}
}

// Files of such leaves lie in a folder of the gateway's device.
func TestFilesUnderTheGatewaysIdentity(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 2*patience)
	b := &uploadBench{enrolBench: enrolBench{t: t, dir: folder(t)}}
	var err error
	b.hub, err = hubsim.Start(hubsim.Config{Dir: filepath.Join(b.dir, "hub"), Host: "hub.example", Devices: map[string]string{"gate-7": ""}})
	must(t, err)
	t.Cleanup(func() { b.hub.Close() })
	b.broker, err = site.FreeAddress()
	must(t, err)
	info := b.hub.Info()
	_, key, _ := strings.Cut(info.Devices["gate-7"].ConnectionString, "SharedAccessKey=")
	b.secret("gate-7.key", key)
	b.secret("pump-1.key", key) // with which the leaf logs in; the hub does not know it
	b.key, err = identity.ParseKey(key)
	must(t, err)
	b.secret("fieldgate.toml", fmt.Sprintf(`[gateway]
data_dir = "data"
[hub]
host = "hub.example"
address = "127.0.0.1:%d"
https_address = "127.0.0.1:%d"
ca_file = %q
%s%s[[leaf]]
id = "pump-1"
key_file = "pump-1.key"
auth = "gateway"
`, info.AMQPPort, info.HTTPSPort, info.CAFile, ownDevice, b.rest()))
	b.start()
	client := b.connect(ctx)
	defer client.Disconnect(100)
	b.say(ctx, client, "leaf/pump-1/file/log.txt/1", "what happened")
	b.say(ctx, client, "leaf/pump-1/file/log.txt/end", "")
	var notice struct {
		DeviceID, BlobName string
		Size               int `json:"blobSizeInBytes"`
	}
	b.await(ctx, "the hub tells of the file", func() bool {
		d, ok := b.hub.Domain().FileNotices.Receive()
		if ok {
			must(t, json.Unmarshal(d.Message.Body, &notice))
		}
		return ok
	})
	if notice.DeviceID != "gate-7" || notice.BlobName != "gate-7/pump-1/log.txt" || notice.Size != len("what happened") {
		t.Errorf("the hub tells of %+v", notice)
	}
}
