package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// runToEnd runs fieldgate to its end and returns exit code and output.
func runToEnd(ctx context.Context, t *testing.T, s *site.Site) (int, string) {
	t.Helper()
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "fieldgate"), "run", "--config", s.ConfigFile()).CombinedOutput()
	if err == nil {
		return 0, string(out)
	}
	if !failed(err) {
		t.Fatal(err)
	}
	return err.(*exec.ExitError).ExitCode(), string(out)
}

func TestWrongConfiguration(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, patience)
	s := newSite(ctx, t, site.Plan{Leaves: devices(1, site.SDK)})
	text, err := os.ReadFile(s.ConfigFile())
	must(t, err)
	for _, c := range []struct{ right, wrong, hint string }{
		{"data_dir", "data_dri", `data_dir`},
		{`keep_alive = "2s"`, `keep_alive = 2`, `"30s"`},
		{`backoff_max = "1s"`, `backoff_max = "1 fortnight"`, `"30s"`},
		{`custody = "relay"`, `custody = "rely"`, `"relay"`},
		{`[metrics]`, `[metrics`, ``},
	} {
		wrong := strings.Replace(string(text), c.right, c.wrong, 1)
		must(t, os.WriteFile(s.ConfigFile(), []byte(wrong), 0o644))
		line := 1 + strings.Count(wrong[:strings.Index(wrong, c.wrong)], "\n")
		code, out := runToEnd(ctx, t, s)
		place := regexp.MustCompile(regexp.QuoteMeta(s.ConfigFile()) + `:(\d+):\d+`)
		if at := place.FindStringSubmatch(out); code != 78 || at == nil || at[1] != strconv.Itoa(line) || !strings.Contains(out, c.hint) {
			t.Errorf("%s: exit code %d, want 78, line %d and %s; it said:\n%s", c.wrong, code, line, c.hint, out)
		}
	}
}

// A folder that something else has made its own is left as it is.
func TestForeignStoreFolder(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, patience)
	s := newSite(ctx, t, site.Plan{Leaves: devices(1, site.SDK)})
	store := filepath.Join(s.DataDir(), "store")
	must(t, os.MkdirAll(store, 0o755))
	must(t, os.WriteFile(filepath.Join(store, "thesis.tex"), []byte("years of work"), 0o644))
	before := contents(t, s.DataDir())
	code, out := runToEnd(ctx, t, s)
	if code != 1 || !strings.Contains(out, store) {
		t.Errorf("exit code %d, want 1 and a word about %s; it said:\n%s", code, store, out)
	}
	after := contents(t, s.DataDir())
	for file, text := range before {
		if after[file] != text {
			t.Errorf("%s was %q and is %q", file, text, after[file])
		}
	}
}

// contents are all files below a folder.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		files[path] = string(text)
		return err
	})
	must(t, err)
	return files
}

// mqttGarbage is what strangers and broken firmware send after the handshake.
var mqttGarbage = map[string][]byte{
	"another protocol": []byte("GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"),
	"zeros":            make([]byte, 64),
	"all bits set":     slices.Repeat([]byte{0xff}, 64),
	// CONNECT that claims 256 MB (MQTT 3.1.1, section 2.2.3).
	"huge claim": {0x10, 0xff, 0xff, 0xff, 0x7f, 0, 4, 'M', 'Q', 'T', 'T'},
	// MQTT 5 SUBSCRIBE whose filter has no options byte, before any CONNECT.
	"cut subscribe": {0x82, 0x06, 0, 1, 0, 0, 1, 'a'},
}

// Garbage closes the connection on which it came, is counted, and disturbs
// nobody else.
func TestGarbageOnMQTT(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 2*patience)
	list := devices(3, site.SDK, site.MQTT5, site.MQTT3)
	s := running(ctx, t, site.Plan{Leaves: list})
	crew := launch(ctx, t, s, list, leafsim.Options{Rate: 50})
	must(t, s.Await(ctx, "all leaves to connect", func() bool { return crew.Stats().Connected }))
	const counter = "fieldgate_leaf_discarded_total"
	for _, name := range slices.Sorted(maps.Keys(mqttGarbage)) {
		before := metric(ctx, s, counter)
		sendGarbage(ctx, t, s, name, mqttGarbage[name])
		must(t, s.Await(ctx, name+" to be counted", func() bool { return metric(ctx, s, counter) > before }))
	}
	acked := crew.Stats().Acked
	must(t, s.Await(ctx, "leaves to go on", func() bool { return crew.Stats().Acked > acked+50 }))
	must(t, crew.Finish(ctx))
	if stats := crew.Stats(); stats.Connects != uint64(len(list)) || stats.Resent != 0 {
		t.Errorf("the other leaves were disturbed: %+v", stats)
	}
	allArrived(ctx, t, s)
}

// sendGarbage writes bytes to the broker and waits until it hangs up.
func sendGarbage(ctx context.Context, t *testing.T, s *site.Site, name string, garbage []byte) {
	t.Helper()
	ca, err := os.ReadFile(s.CAFile())
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	d := tls.Dialer{Config: &tls.Config{RootCAs: pool}}
	c, err := d.DialContext(ctx, "tcp", s.Broker())
	must(t, err)
	defer c.Close()
	_, err = c.Write(garbage)
	must(t, err)
	must(t, c.SetReadDeadline(time.Now().Add(patience)))
	_, err = io.Copy(io.Discard, c)
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		t.Errorf("%s: the connection is still open", name)
	}
}

// Noise on a serial line costs nothing but itself: the lines after it arrive.
func TestNoiseOnSerial(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 2*patience)
	list := devices(2, site.Serial)
	s := running(ctx, t, site.Plan{Leaves: list})
	crew := launch(ctx, t, s, list, leafsim.Options{Rate: 50})
	acked := func() uint64 { return crew.Stats().Acked }
	must(t, s.Await(ctx, "serial leaves", func() bool { return acked() > 20 }))
	const counter = "fieldgate_leaf_discarded_total"
	for _, noise := range []string{"\x00\xff\xfe\r\n", "boot: clock 80 MHz\n", "{\"n\":\n", strings.Repeat("x", 10000) + "\n"} {
		counted, before := metric(ctx, s, counter), acked()
		must(t, s.Noise(list[0], []byte(noise)))
		must(t, s.Await(ctx, "noise to be counted", func() bool { return metric(ctx, s, counter) > counted }))
		must(t, s.Await(ctx, "leaves to go on", func() bool { return acked() > before+20 }))
	}
	must(t, crew.Finish(ctx))
	if other := crew.Leaves()[1].Stats(); other.Resent != 0 {
		t.Errorf("noise on one line made the leaf on the other send again: %+v", other)
	}
	allArrived(ctx, t, s)
}
