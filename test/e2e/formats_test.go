package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// keepFormat makes testdata/formats/NAME.tar.gz with the program of today: once for each
// release that changes what is on flash, and never again for the same name.
var keepFormat = flag.String("keep-format", "", "write what a gateway of today leaves on flash to testdata/formats, under this `NAME`")

// formatConfig is the configuration of such a gateway. The ports are not those of any
// run; what is kept never expires.
const formatConfig = `[gateway]
name = "old-gate"
data_dir = "data"
[hub]
host = "hub.example"
address = "127.0.0.1:1"
https_address = "127.0.0.1:2"
ca_file = "hub-ca.pem"
[lane.telemetry]
ttl = "0s"
[lane.alarm]
ttl = "0s"
[store]
allow_any_filesystem = true
[control]
socket = "control.sock"
[metrics]
address = ""
[[broker.listener]]
address = "127.0.0.1:3"
plain = true
[[leaf]]
id = "pump-1"
key_file = "pump-1.key"
`

// formatKey is the leaf's key at the hub, known to everybody.
const formatKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

// What was acknowledged to the leaf while the hub was away.
var (
	formatTelemetry = []string{`{"n":1}`, `{"n":2}`, `{"n":3}`}
	formatAlarm     = `{"alarm":true}`
	formatReported  = `{"period":5}`
	formatFile      = strings.Repeat("0123456789", 100)
)

// formatBench is a gateway on a folder that is there already.
type formatBench struct{ uploadBench }

// newFormatBench starts a hub and writes where it is into the configuration, and the
// name by which it is trusted.
func newFormatBench(t *testing.T, dir string) *formatBench {
	t.Helper()
	b := &formatBench{uploadBench{enrolBench: enrolBench{t: t, dir: dir}}}
	var err error
	b.hub, err = hubsim.Start(hubsim.Config{Dir: folder(t), Host: "hub.example", Devices: map[string]string{"pump-1": formatKey}})
	must(t, err)
	t.Cleanup(func() { b.hub.Close() })
	b.key, err = identity.ParseKey(formatKey)
	must(t, err)
	b.broker, err = site.FreeAddress()
	must(t, err)
	info := b.hub.Info()
	ca, err := os.ReadFile(info.CAFile)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "hub-ca.pem"), ca, 0o600))
	file := filepath.Join(dir, "fieldgate.toml")
	text, err := os.ReadFile(file)
	must(t, err)
	places := strings.NewReplacer(`"127.0.0.1:1"`, fmt.Sprintf(`"127.0.0.1:%d"`, info.AMQPPort), `"127.0.0.1:2"`, fmt.Sprintf(`"127.0.0.1:%d"`, info.HTTPSPort),
		`"127.0.0.1:3"`, fmt.Sprintf("%q", b.broker))
	must(t, os.WriteFile(file, []byte(places.Replace(string(text))), 0o600))
	return b
}

// fieldgate runs a command of the operator.
func (b *formatBench) fieldgate(ctx context.Context, args ...string) string {
	b.t.Helper()
	c := exec.CommandContext(ctx, filepath.Join(bin, "fieldgate"), args...)
	c.Dir = b.dir
	c.Env = append(os.Environ(), "FIELDGATE_CONFIG="+filepath.Join(b.dir, "fieldgate.toml"), "FIELDGATE_SOCKET="+filepath.Join(b.dir, "control.sock"))
	out, err := c.CombinedOutput()
	if err != nil {
		b.t.Errorf("fieldgate %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// What gateways of former versions have left on flash is read by this one: messages in
// custody, in their order; a reported property and a file that wait; a sealed key; the
// configurations of before. An update may therefore be installed with a full store.
func TestFormerFormats(t *testing.T) {
	kept, err := filepath.Glob("testdata/formats/*.tar.gz")
	must(t, err)
	if len(kept) == 0 && *keepFormat == "" {
		t.Fatal("nothing is kept")
	}
	for _, archive := range kept {
		t.Run(strings.TrimSuffix(filepath.Base(archive), ".tar.gz"), func(t *testing.T) {
			ctx := testContext(t, 2*patience)
			dir := folder(t)
			if out, err := exec.CommandContext(ctx, "tar", "-xzf", archive, "-C", dir).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			b := newFormatBench(t, dir)
			b.fieldgate(ctx, "config", "validate", filepath.Join(dir, "fieldgate.toml"))
			b.start()
			want := append(slices.Clone(formatTelemetry), formatAlarm)
			slices.Sort(want)
			b.await(ctx, "all messages at the hub", func() bool {
				got := b.bodies()
				slices.Sort(got)
				return slices.Equal(slices.Compact(got), want)
			})
			if got := slices.DeleteFunc(b.bodies(), func(body string) bool { return body == formatAlarm }); !slices.Equal(got, formatTelemetry) {
				t.Errorf("telemetry came as %q", got)
			}
			b.await(ctx, "the reported property at the hub", func() bool {
				document, err := b.hub.Domain().Twins.ForDevice(registry.ID{Device: "pump-1"})
				return err == nil && strings.Contains(string(document), `"period":5`)
			})
			b.uploadBench.arrived(ctx, "log.txt", formatFile)
			if out := b.fieldgate(ctx, "config", "history"); !strings.Contains(out, "user 0") {
				t.Errorf("the history of the configuration is\n%s", out)
			}
		})
	}
}

func (b *formatBench) bodies() (all []string) {
	for a := range b.hub.Arrivals() {
		all = append(all, string(a.Body))
	}
	return all
}

// What the next version will have to read.
func TestKeepFormat(t *testing.T) {
	if *keepFormat == "" {
		t.Skip("only with -keep-format")
	}
	ctx := testContext(t, 2*patience)
	dir := folder(t)
	must(t, os.WriteFile(filepath.Join(dir, "fieldgate.toml"), []byte(formatConfig), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "pump-1.key"), []byte(formatKey), 0o600))
	b := newFormatBench(t, dir)
	b.hub.Cut()
	b.fieldgate(ctx, "secrets", "seal")
	b.start()
	client := b.connect(ctx)
	for _, body := range formatTelemetry {
		b.say(ctx, client, "leaf/pump-1/telemetry", body)
	}
	b.say(ctx, client, "leaf/pump-1/alarm", formatAlarm)
	b.say(ctx, client, "leaf/pump-1/twin/reported", formatReported)
	b.say(ctx, client, "leaf/pump-1/file/log.txt/1", formatFile)
	b.say(ctx, client, "leaf/pump-1/file/log.txt/end", "")
	client.Disconnect(100)
	other := filepath.Join(dir, "other.toml")
	text, err := os.ReadFile(filepath.Join(dir, "fieldgate.toml"))
	must(t, err)
	must(t, os.WriteFile(other, append(text, "# changed\n"...), 0o600))
	b.fieldgate(ctx, "config", "apply", other)
	b.stop()
	must(t, os.WriteFile(filepath.Join(dir, "fieldgate.toml"), []byte(formatConfig), 0o600))
	must(t, os.MkdirAll("testdata/formats", 0o755))
	archive, err := filepath.Abs(filepath.Join("testdata/formats", *keepFormat+".tar.gz"))
	must(t, err)
	args := []string{
		"--sparse", "--sort=name", "--owner=0", "--group=0", "-czf", archive, "-C", dir, "--exclude=hub-ca.pem", "--exclude=*.log", "--exclude=*.sock", "--exclude=other.toml", ".",
	}
	if out, err := exec.CommandContext(ctx, "tar", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
