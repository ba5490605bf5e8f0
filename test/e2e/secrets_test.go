package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// canaries are the secrets of a site, as they are written and as they are.
func canaries(t *testing.T, s *site.Site, leaves []site.Device) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	add := func(name string, secret []byte) {
		if len(secret) < 8 {
			t.Fatalf("%s is too short to be looked for", name)
		}
		all[name] = secret
	}
	for _, d := range leaves {
		_, rest, _ := strings.Cut(s.ConnectionString(d.ID), "SharedAccessKey=")
		key, _, _ := strings.Cut(rest, ";")
		raw, err := base64.StdEncoding.DecodeString(key)
		must(t, err)
		add("key of "+d.ID, []byte(key))
		add("bytes of the key of "+d.ID, raw)
		if d.Kind == site.MQTT3 {
			add("password of "+d.ID, []byte(site.Password(d.ID)))
		}
	}
	for _, name := range []string{"broker.key"} {
		text, err := os.ReadFile(filepath.Join(s.Dir(), "gateway", name))
		must(t, err)
		block, _ := pem.Decode(text)
		add(name, block.Bytes[len(block.Bytes)/2:])
		add("a line of "+name, bytes.Split(text, []byte("\n"))[2])
	}
	hashes, err := filepath.Glob(filepath.Join(s.Dir(), "gateway", "*"))
	must(t, err)
	for _, name := range hashes {
		if text, err := os.ReadFile(name); err == nil && bytes.HasPrefix(text, []byte("$2")) {
			add("hash in "+filepath.Base(name), bytes.TrimSpace(text))
		}
	}
	return all
}

// Secrets that are sealed are nowhere: not in the files of the gateway, its store and
// all else in its data folder, its log at the level debug, its arguments and
// environment, what the control socket, the metrics and the local broker say, what the
// commands print, nor in what a crash leaves behind.
func TestCanariesAreNowhere(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 3*patience)
	leaves := []site.Device{{ID: "gate-7", Kind: site.Gateway}, {ID: "sdk-1", Kind: site.SDK}, {ID: "pump-1", Kind: site.MQTT3}, {ID: "under", Kind: site.MQTT5}}
	s := newSite(ctx, t, site.Plan{Leaves: leaves, Config: site.Config{Hub: ownDevice, Tail: "[log]\nlevel = \"debug\"\n"}})
	planted := canaries(t, s, leaves)
	if len(planted) < 12 {
		t.Fatalf("only %d secrets are looked for", len(planted))
	}
	c := &terminal{t, ctx, s}
	places := make(map[string][]byte)
	say := func(where string, text []byte) { places[where] = text }
	tool := func(args ...string) {
		out, complaint, code := c.runAs(nil, append(args, "--config", s.ConfigFile())...)
		if code != 0 {
			t.Errorf("fieldgate %v: %d %s", args, code, complaint)
		}
		say("fieldgate "+strings.Join(args, " "), []byte(out+complaint))
	}
	tool("secrets", "seal")
	if text := string(places["fieldgate secrets seal"]); strings.Count(text, "sealed now") < 6 {
		t.Errorf("sealed was\n%s", text)
	}
	must(t, s.StartGateway(ctx))
	working := leaves[1:]
	crew := launch(ctx, t, s, working, leafsim.Options{Count: 20, Rate: 50})
	must(t, s.Await(ctx, "messages over all ways", func() bool { return crew.Stats().Acked == uint64(20*len(working)) }))
	must(t, s.Cut(ctx)) // what is on flash counts as well
	more := launch(ctx, t, s, working, leafsim.Options{Count: 20, Rate: 50})
	must(t, s.Await(ctx, "messages on flash", func() bool { return more.Stats().Acked == uint64(20*len(working)) }))
	wrong := &firmware{t, ctx, s, "pump-1"}
	_ = wrong.command("mosquitto_pub", "-P", "not "+site.Password("pump-1")[:4], "-t", "x", "-m", "y").Run() // it is refused

	tool("secrets", "list")
	tool("config", "show")
	tool("config", "show", "--output", "json")
	say("the status", []byte(c.gets(0, "status")))
	for _, path := range []string{"state", "events", "dead-letters", "dead-letters/export", "devices", "devices/pump-1", "devices/pump-1/twin", "devices/sdk-1/messages"} {
		say("the socket on "+path, askSocket(t, filepath.Join(s.Dir(), "gateway", "control.sock"), "/v1/"+path))
	}
	metrics, err := s.Metrics(ctx)
	must(t, err)
	text, err := json.Marshal(metrics)
	must(t, err)
	say("the metrics", text)
	proc := filepath.Join("/proc", strconv.Itoa(s.Gateway().PID()))
	for _, name := range []string{"cmdline", "environ"} {
		text, err := os.ReadFile(filepath.Join(proc, name))
		must(t, err)
		say("its "+name, text)
	}
	limits, err := os.ReadFile(filepath.Join(proc, "limits"))
	must(t, err)
	for line := range strings.Lines(string(limits)) {
		if f := strings.Fields(line); strings.HasPrefix(line, "Max core file size") && (f[4] != "0" || f[5] != "0") {
			t.Errorf("a core dump would hold all secrets: %s", line)
		}
	}
	must(t, syscall.Kill(s.Gateway().PID(), syscall.SIGQUIT)) // a crash with all that it prints
	select {
	case <-s.Gateway().Done():
	case <-ctx.Done():
		t.Fatal("it does not end")
	}

	must(t, filepath.WalkDir(filepath.Join(s.Dir(), "gateway"), func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(name)
		say(name, text)
		return err
	}))
	log, err := os.ReadFile(s.Log("fieldgate"))
	must(t, err)
	if !bytes.Contains(log, []byte("goroutine ")) || !bytes.Contains(log, []byte("level=INFO")) {
		t.Error("the log has no crash or no details: it proves nothing")
	}
	say("the log", log)
	if len(places) < 30 {
		t.Errorf("only %d places were searched", len(places))
	}
	for where, text := range places {
		for name, secret := range planted {
			if bytes.Contains(text, secret) {
				t.Errorf("%s: the %s is in it", where, name)
			}
		}
	}
	t.Logf("%d secrets in %d places", len(planted), len(places))
}

// askSocket reads what the control socket says.
func askSocket(t *testing.T, socket, path string) []byte {
	t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	resp, err := client.Get("http://fieldgate" + path)
	must(t, err)
	defer resp.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	must(t, err)
	if resp.StatusCode >= 500 && resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%s: %s %s", path, resp.Status, b.String())
	}
	return b.Bytes()
}
