package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// ordered is a gateway whose hub may ask for updates, the hub, a server with updates,
// and the machine's RAUC.
type ordered struct {
	t      *testing.T
	hub    *hubsim.Hub
	server *httptest.Server
	rauc   *fakeRAUC
	dir    string // of the configuration
	daemon *daemon
	asked  atomic.Int64 // of the server
	told   atomic.Value // by whoever was led on to a bundle: the address before
}

// newOrdered starts all of it. The server has bundles by name, and "/elsewhere" leads to
// a folder that is not allowed.
func newOrdered(t *testing.T, transport string, bundles map[string]string) *ordered {
	o := &ordered{t: t, rauc: newFakeRAUC(t)}
	o.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.asked.Add(1)
		name, allowed := strings.CutPrefix(r.URL.Path, "/fieldgate/")
		text, there := bundles[name]
		switch {
		case name == "loop":
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		case name == "led-on":
			http.Redirect(w, r, "/fieldgate/1.5.0", http.StatusFound)
		case name == "slow":
			w.Header().Set("Content-Length", "1000")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case name == "elsewhere":
			http.Redirect(w, r, "/secret/1.5.0?token=canary", http.StatusFound)
		case name == "broken":
			w.Header().Set("Content-Length", "1000")
			w.Write([]byte("signed 1.5.0"))
		case name == "huge":
			w.Header().Set("Content-Length", fmt.Sprint(maxBundle+1))
		case name == "endless":
			w.Write([]byte("signed"))
			w.(http.Flusher).Flush()
		case allowed && there:
			o.told.Store(r.Referer())
			w.Header().Set("Content-Length", fmt.Sprint(len(text)))
			w.Write([]byte(text))
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(o.server.Close)
	var err error
	o.hub, err = hubsim.Start(hubsim.Config{Dir: t.TempDir(), Host: "hub.test", Devices: map[string]string{"gate-7": hubKey}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.hub.Close() })
	info := o.hub.Info()
	port := map[string]int{dial.AMQP: info.AMQPPort, dial.MQTT: info.MQTTPort}[transport]
	t.Setenv("FIELDGATE_SLOTS", o.rauc.kept)
	file := folder(t, fmt.Sprintf(`
[gateway]
data_dir = "data"
report_every = "1s"
[hub]
host = "hub.test"
transport = %q
address = "127.0.0.1:%d"
ca_file = "hub-ca.pem"
device_id = "gate-7"
key_file = "pump-1.key"
[update]
from = ["%s/fieldgate/"]
[store]
allow_any_filesystem = true
[control]
socket = ""
[metrics]
address = ""
[log]
format = "json"
[[broker.listener]]
address = "127.0.0.1:0"
plain = true
`, transport, port, o.server.URL))
	o.dir = filepath.Dir(file)
	ca, err := os.ReadFile(info.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	ca = append(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.server.Certificate().Raw})...)
	if err := os.WriteFile(filepath.Join(o.dir, "hub-ca.pem"), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	o.daemon = start(t, file)
	o.daemon.logged("connected to hub", "", "")
	return o
}

// call calls the gateway's own method.
func (o *ordered) call(name, body string) (status int, said string) {
	o.t.Helper()
	r, err := o.hub.Domain().Methods.Invoke(o.t.Context(), registry.ID{Device: "gate-7"}, methods.Call{
		Name: name, Payload: json.RawMessage(body), ConnectTimeout: time.Minute, ResponseTimeout: time.Minute,
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return int(r.Status), string(r.Payload)
}

// order asks for the bundle of a name.
func (o *ordered) order(name string) {
	o.t.Helper()
	if status, said := o.call("update", fmt.Sprintf(`{"url": "%s/fieldgate/%s?token=canary"}`, o.server.URL, name)); status != http.StatusAccepted || said != `{"state":"accepted"}` {
		o.t.Fatalf("%s: %d %s", name, status, said)
	}
}

// reported waits until the gateway's own twin says that of the update.
func (o *ordered) reported(want func(updateState) bool) updateState {
	o.t.Helper()
	var last string
	for range 3000 {
		document, err := o.hub.Domain().Twins.ForDevice(registry.ID{Device: "gate-7"})
		var at struct {
			Reported struct {
				Fieldgate struct{ Status struct{ Update updateState } }
			}
		}
		if err != nil || json.Unmarshal(document, &at) != nil {
			o.t.Fatalf("%v\n%s", err, document)
		}
		if strings.Contains(string(document), "canary") {
			o.t.Fatalf("a secret is in the twin:\n%s", document)
		}
		if u := at.Reported.Fieldgate.Status.Update; want(u) {
			return u
		}
		last = string(document)
		time.Sleep(20 * time.Millisecond)
	}
	o.t.Fatalf("never in the twin; it is\n%s", last)
	return updateState{}
}

// root does what systemd has root do when there is an order.
func (o *ordered) root() (said string, code int, restarted bool) {
	o.t.Helper()
	out, said, code := o.rauc.run(o.t, "take", filepath.Join(o.dir, "data", "update"))
	o.rauc.set(func() {
		restarted = len(o.rauc.started) > 0
		if restarted && o.rauc.started[0] != "reboot.target replace-irreversibly" {
			o.t.Errorf("systemd was to start %q", o.rauc.started)
		}
		o.rauc.started = nil
	})
	return out + said, code, restarted
}

// The hub asks for an update over each transport: the answer comes at once, the bundle
// is fetched, taken by root and installed, and how it ends is seen in the twin, also
// after the machine has started anew.
func TestUpdateByHub(t *testing.T) {
	for _, transport := range []string{dial.AMQP, dial.MQTT} {
		t.Run(transport, func(t *testing.T) {
			o := newOrdered(t, transport, map[string]string{"1.5.0": "signed 1.5.0"})
			o.order("1.5.0")
			u := o.reported(func(u updateState) bool { return u.State == updateFetched })
			if want := o.server.URL + "/fieldgate/1.5.0"; u.URL != want {
				t.Errorf("the address is said to be %q, want %q", u.URL, want)
			}
			if status, said := o.call("update", fmt.Sprintf(`{"url": "%s/fieldgate/1.5.0"}`, o.server.URL)); status != http.StatusConflict {
				t.Errorf("a second one: %d %s", status, said)
			}
			if said, code, restarted := o.root(); code != exitOK || !restarted {
				t.Errorf("%d, restarted %v\n%s", code, restarted, said)
			}
			o.reported(func(u updateState) bool { return u.State == updateInstalled && u.Version == "1.5.0" })
			if left, err := os.ReadDir(filepath.Join(o.dir, "data", "update")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			// Another start of the machine, from the other slot.
			o.startedAnew(func(s *updateState) {})
			o.rauc.set(func() { o.rauc.version["rootfs.0"] = "1.5.0" })
			if out, said, code := o.rauc.run(t, "mark-good", "--await", "1ms"); code != exitOK {
				t.Errorf("%d\n%s%s", code, out, said)
			}
			o.reported(func(u updateState) bool { return u.State == updateGood && u.Version == "1.5.0" && u.Error == "" })
			if code := o.daemon.end(); code != exitOK {
				t.Errorf("exit code %d", code)
			}
			if log := strings.Join(o.daemon.log.lines(), ""); strings.Contains(log, "canary") {
				t.Errorf("a secret is in the log:\n%s", log)
			}
		})
	}
}

// startedAnew makes what is noted that of a former start of the machine.
func (o *ordered) startedAnew(change func(*updateState)) {
	o.t.Helper()
	s := readUpdateState(o.rauc.kept)
	if s == nil {
		o.t.Fatal("nothing is noted")
	}
	s.Boot = "another"
	change(s)
	text, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(filepath.Join(o.rauc.kept, noteUpdate), text, 0o600)
	}
	if err != nil {
		o.t.Fatal(err)
	}
}

// What the hub may not have, and what goes wrong on the way. None of it restarts the
// machine, and each of it is told.
func TestUpdateByHubRefused(t *testing.T) {
	o := newOrdered(t, dial.AMQP, map[string]string{"forged": "forged 1.5.0", "older": "signed 1.2.0", "damaged": "signed 1.5.0+damaged"})
	for body, want := range map[string]int{
		`{"url": "http://` + o.server.Listener.Addr().String() + `/fieldgate/1.5.0"}`: http.StatusForbidden,
		`{"url": "` + o.server.URL + `/secret/1.5.0"}`:                                http.StatusForbidden,
		`{"url": "` + o.server.URL + `/fieldgate/../secret/1.5.0"}`:                   http.StatusForbidden,
		`{"url": "https://elsewhere.example/fieldgate/1.5.0"}`:                        http.StatusForbidden,
		`{"url": "file:///etc/shadow"}`:                                               http.StatusForbidden,
		`{"url": "` + o.server.URL + `/fieldgate/older", "allow_downgrade": true}`:    http.StatusBadRequest,
		`{}`:   http.StatusForbidden,
		`null`: http.StatusForbidden,
		`17`:   http.StatusBadRequest,
	} {
		if status, said := o.call("update", body); status != want || !strings.Contains(said, "error") {
			t.Errorf("%s: %d %s, want %d", body, status, said, want)
		}
	}
	if status, said := o.call("format", `{}`); status != http.StatusNotFound {
		t.Errorf("a method that is none: %d %s", status, said)
	}
	if n := o.asked.Load(); n > 0 {
		t.Errorf("the server was asked %d times", n)
	}

	for name, want := range map[string]string{
		"absent": "404", "elsewhere": "does not allow", "loop": "more than 10 times", "broken": "broken off after 12 of 1000 bytes", "huge": "at most", "endless": "how large",
	} {
		o.order(name)
		u := o.reported(func(u updateState) bool { return u.State == updateFailed && strings.HasSuffix(u.URL, "/"+name) })
		if !strings.Contains(u.Error, want) {
			t.Errorf("%s: %q, want %q", name, u.Error, want)
		}
		if left, err := os.ReadDir(filepath.Join(o.dir, "data", "update")); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v, %v", name, left, err)
		}
	}
	for name, want := range map[string]string{"forged": "signature", "older": "1.2.0 is older than 1.3.0", "damaged": "Input/output error"} {
		o.order(name)
		o.reported(func(u updateState) bool { return u.State == updateFetched && strings.HasSuffix(u.URL, "/"+name) })
		if said, code, restarted := o.root(); code != exitForbidden || restarted {
			t.Errorf("%s: %d, restarted %v\n%s", name, code, restarted, said)
		}
		u := o.reported(func(u updateState) bool { return u.State == updateRefused && strings.HasSuffix(u.URL, "/"+name) })
		if !strings.Contains(u.Error, want) {
			t.Errorf("%s: %q, want %q", name, u.Error, want)
		}
	}
	if code := o.daemon.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// Whoever is led on to another server does not tell it the address before, and in the
// place of a bundle there may be anything.
func TestUpdateIsLedOn(t *testing.T) {
	o := newOrdered(t, dial.AMQP, map[string]string{"1.5.0": "signed 1.5.0"})
	for _, name := range []string{"part", orderBundle} {
		if err := os.MkdirAll(filepath.Join(o.dir, "data", "update", name, "full"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	o.order("led-on")
	o.reported(func(u updateState) bool { return u.State == updateFetched })
	if told := o.told.Load(); told != "" {
		t.Errorf("the next server was told %q", told)
	}
	if said, code, _ := o.root(); code != exitOK {
		t.Errorf("%d\n%s", code, said)
	}
	if code := o.daemon.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// A daemon that ends while it fetches says so when it is there again, however it ended;
// then the hub can ask anew.
func TestUpdateInterrupted(t *testing.T) {
	o := newOrdered(t, dial.AMQP, map[string]string{"1.5.0": "signed 1.5.0"})
	file := filepath.Join(o.dir, "fieldgate.toml")
	for _, kill := range []bool{false, true} {
		o.order("slow")
		o.reported(func(u updateState) bool { return u.State == updateFetching })
		noted := filepath.Join(o.dir, "data", "update.json")
		was, err := os.ReadFile(noted)
		if err != nil || strings.Contains(string(was), "canary") {
			t.Fatalf("%s, %v", was, err)
		}
		if code := o.daemon.end(); code != exitOK {
			t.Errorf("exit code %d", code)
		}
		if kill { // as it was found then
			mustWrite(t, noted, was)
			mustWrite(t, filepath.Join(o.dir, "data", "update", "part"), []byte("half"))
		}
		o.daemon = start(t, file)
		u := o.reported(func(u updateState) bool { return u.State == updateFailed })
		if want := o.server.URL + "/fieldgate/slow"; u.URL != want || !strings.Contains(u.Error, "started anew while it was fetched") {
			t.Errorf("killed %v: it says %+v", kill, u)
		}
	}
	o.order("1.5.0")
	o.reported(func(u updateState) bool { return u.State == updateFetched })
	if code := o.daemon.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// What is left in the folder goes when the daemon starts: all but an order and its
// bundle, and what root is at. That it cannot go does not end the daemon.
func TestUpdateLeftovers(t *testing.T) {
	kept := t.TempDir()
	begin := func(dir string) error {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		f := &fetcher{dir: dir, kept: kept, log: slog.New(slog.DiscardHandler)}
		return f.Run(ctx)
	}
	lay := func(names ...string) (dir string) {
		t.Helper()
		dir = t.TempDir()
		for _, name := range names {
			name, folder := strings.CutSuffix(filepath.Join(dir, name), "+")
			if folder {
				if err := os.MkdirAll(filepath.Join(name, "full"), 0o700); err != nil {
					t.Fatal(err)
				}
				continue
			}
			mustWrite(t, name, nil)
		}
		return dir
	}
	for _, c := range []struct {
		name       string
		laid, left []string
	}{
		{"a bundle without an order", []string{orderBundle, "part"}, nil},
		{"folders", []string{orderBundle + "+", "part+", orderFile + "+"}, nil},
		{"an order", []string{orderBundle, orderFile, "part"}, []string{orderBundle, orderFile}},
	} {
		dir := lay(c.laid...)
		if err := begin(dir); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		var left []string
		list, err := os.ReadDir(dir)
		for _, e := range list {
			left = append(left, e.Name())
		}
		if err != nil || !slices.Equal(left, c.left) {
			t.Errorf("%s: left are %v, %v", c.name, left, err)
		}
	}
	u := updater{kept: kept}
	done, err := u.alone()
	if err != nil {
		t.Fatal(err)
	}
	dir := lay(orderBundle)
	if err := begin(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, orderBundle)); err != nil {
		t.Errorf("while root takes an update: %v", err)
	}
	done()
	if err := begin(mustWrite(t, filepath.Join(t.TempDir(), "file"), nil)); err != nil {
		t.Errorf("where nothing can be removed: %v", err)
	}
}

// An installation whose process was killed does not stand in the way of the next, and
// one that runs does.
func TestUpdateKilled(t *testing.T) {
	rauc := newFakeRAUC(t)
	text, err := json.Marshal(updateState{State: updateInstalling, Version: "1.5.0", Boot: bootID(), Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(rauc.kept, noteUpdate), text)
	f := &fetcher{dir: t.TempDir(), kept: rauc.kept}
	u := updater{kept: rauc.kept}
	done, err := u.alone()
	if err != nil {
		t.Fatal(err)
	}
	if s := readUpdateState(rauc.kept); s.State != updateInstalling || !f.installing() {
		t.Errorf("while it runs it is %+v", s)
	}
	bundle := mustWrite(t, filepath.Join(t.TempDir(), "new.raucb"), []byte("signed 1.5.0"))
	if _, said, code := rauc.run(t, "install", bundle); code != exitFailed || !strings.Contains(said, "another update is being installed") {
		t.Errorf("another one: %d %s", code, said)
	}
	ordered := t.TempDir()
	mustWrite(t, filepath.Join(ordered, orderFile), []byte(`{"url":"https://updates.example/1.5.0"}`))
	mustWrite(t, filepath.Join(ordered, orderBundle), []byte("signed 1.5.0"))
	if _, said, code := rauc.run(t, "take", ordered); code != exitFailed || !strings.Contains(said, "another update is being installed") {
		t.Errorf("an order meanwhile: %d %s", code, said)
	}
	if _, err := os.Stat(filepath.Join(ordered, orderFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("systemd would start it again for the order: %v", err)
	}
	if s := notedUpdateState(rauc.kept); s.State != updateFailed || s.URL != "https://updates.example/1.5.0" {
		t.Errorf("the hub is told of %+v", s)
	}
	done()
	mustWrite(t, filepath.Join(rauc.kept, noteUpdate), text)
	if s := readUpdateState(rauc.kept); s.State != updateFailed || !strings.Contains(s.Error, "ended before") || f.installing() {
		t.Errorf("when it was killed it is %+v", s)
	}
	if out, said, code := rauc.run(t, "install", bundle); code != exitOK {
		t.Errorf("the next one: %d %s%s", code, out, said)
	}
	if s := readUpdateState(rauc.kept); s.State != updateInstalled {
		t.Errorf("then it is %+v", s)
	}
}

// What is said after the next start of the machine.
func TestUpdateAfterStart(t *testing.T) {
	rauc := newFakeRAUC(t)
	t.Setenv("FIELDGATE_CONFIG", filepath.Join(t.TempDir(), "absent.toml")) // then a start is good
	for _, c := range []struct{ state, version, want, says string }{
		{updateInstalled, "1.3.0", updateGood, ""},
		{updateInstalled, "1.5.0", updateBack, "did not prove good"},
		{updateTrial, "1.5.0", updateBack, "did not prove good"},
		{updateInstalling, "1.5.0", updateFailed, "started anew while"},
		{updateRefused, "1.5.0", updateRefused, ""},
	} {
		if err := os.MkdirAll(filepath.Join(rauc.kept, orderBundle, "full"), 0o700); err != nil { // left by a cut of power
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(rauc.kept, noteUpdate), []byte(`{"state":"`+c.state+`","version":"`+c.version+`"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, said, code := rauc.run(t, "mark-good", "--await", "1ms"); code != exitOK {
			t.Errorf("%d\n%s%s", code, out, said)
		}
		if s := readUpdateState(rauc.kept); s == nil || s.State != c.want || !strings.Contains(s.Error, c.says) {
			t.Errorf("%s %s became %+v, want %s", c.state, c.version, s, c.want)
		}
		if _, err := os.Lstat(filepath.Join(rauc.kept, orderBundle)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what was left stays: %v", err)
		}
	}
}

// Root does not trust the folder of the daemon.
func TestTakeTrustsNobody(t *testing.T) {
	rauc := newFakeRAUC(t)
	secret := filepath.Join(t.TempDir(), "shadow")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(secret, "signed 9.0.0")
	const good = `{"url": "https://updates.example/1.5.0"}`
	for name, prepare := range map[string]func(dir string) error{
		"a link for the bundle": func(dir string) error {
			write(filepath.Join(dir, orderFile), good)
			return os.Symlink(secret, filepath.Join(dir, orderBundle))
		},
		"a second name of another file": func(dir string) error {
			write(filepath.Join(dir, orderFile), good)
			return os.Link(secret, filepath.Join(dir, orderBundle))
		},
		"a link for the order": func(dir string) error {
			write(filepath.Join(dir, orderBundle), "signed 1.5.0")
			return os.Symlink(secret, filepath.Join(dir, orderFile))
		},
		"a folder for the bundle": func(dir string) error {
			write(filepath.Join(dir, orderFile), good)
			return os.Mkdir(filepath.Join(dir, orderBundle), 0o700)
		},
		"no bundle": func(dir string) error { write(filepath.Join(dir, orderFile), good); return nil },
		"no order":  func(dir string) error { write(filepath.Join(dir, orderBundle), "signed 1.5.0"); return nil },
		"an order of nothing": func(dir string) error {
			write(filepath.Join(dir, orderFile), "{")
			write(filepath.Join(dir, orderBundle), "signed 1.5.0")
			return nil
		},
	} {
		dir := t.TempDir()
		if err := prepare(dir); err != nil {
			t.Fatal(err)
		}
		if out, said, code := rauc.run(t, "take", dir); code == exitOK {
			t.Errorf("%s: %s%s", name, out, said)
		}
		if _, err := os.Lstat(filepath.Join(dir, orderFile)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the order would be tried again: %v", name, err)
		}
		rauc.set(func() {
			if rauc.primary != "rootfs.0" {
				t.Errorf("%s: something was installed", name)
			}
		})
	}
	if text, err := os.ReadFile(secret); err != nil || string(text) != "signed 9.0.0" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestUpdateConfig(t *testing.T) {
	for _, from := range []string{"http://a.example/", "https://a.example", "https://u:p@a.example/", "https://a.example/x", "https://a.example/?x/", "ftp://a/", "/", ""} {
		if (&updateConfig{From: []string{from}}).Validate() == nil {
			t.Errorf("%q is taken", from)
		}
	}
	c := &updateConfig{From: []string{"https://a.example/x/", "https://b.example:8443/"}}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	for address, want := range map[string]bool{
		"https://a.example/x/1": true, "https://A.example/x/y/1?z": true, "https://b.example:8443/1": true,
		"https://a.example/y/1": false, "https://a.example/x": false, "https://a.example:8443/x/1": false, "http://a.example/x/1": false,
		"https://b.example/1": false, "https://a.example/x/../y": false, "https://a.example/x/%2e%2e/y": false, "https://a.example.evil/x/1": false,
		"https://a.example@evil/x/1": false, "https://a.example/x//1": false,
	} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if c.allows(u) != want {
			t.Errorf("%s: %v", address, !want)
		}
	}
}

func FuzzOrder(f *testing.F) {
	f.Add([]byte(`{"url": "https://updates.example/1.5.0?x", "restart": false}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		o, err := parseOrder(text)
		if err == nil && (strings.ContainsAny(o.URL, "?#@") || !strings.HasPrefix(o.URL, "https://")) {
			t.Errorf("%q became the address %q", text, o.URL)
		}
		f := &fetcher{cfg: updateConfig{From: []string{"https://updates.example/"}}, kept: "/nonexistent"}
		if status, _ := f.ask(text); status == http.StatusAccepted {
			t.Errorf("%q is accepted on a machine without slots", text)
		}
	})
}
