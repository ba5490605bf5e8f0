package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// rewrite changes a file of a test's configuration.
func rewrite(t *testing.T, file string, oldNew ...string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(oldNew); i += 2 {
		if !strings.Contains(string(text), oldNew[i]) {
			t.Fatalf("%s has no %q", file, oldNew[i])
		}
		text = []byte(strings.Replace(string(text), oldNew[i], oldNew[i+1], 1))
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func hangUp(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// A signal makes the daemon take over what has changed, and only as a whole.
func TestHangUpTakesOverTheConfiguration(t *testing.T) {
	file := folder(t, exampleText(t))
	d := start(t, file)
	ready := d.logged("ready", "", "")

	rewrite(t, file, "level = \"info\"", "level = \"debug\"", "max_connections = 500", "max_connections = 400",
		"spill_after = \"250ms\"", "spill_after = \"300ms\"", "keep_alive = \"30s\"", "keep_alive = \"40s\"")
	hangUp(t)
	d.logged("configuration is taken over", "changed", "hub.keep_alive broker.max_connections lane.telemetry.spill_after log.level")

	// A file that a key names counts as well: a certificate that was renewed.
	cert, key := certificate(t)
	for name, text := range map[string]string{"cert.pem": cert, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(file), name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hangUp(t)
	d.logged("configuration is taken over", "changed", "nothing")
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM([]byte(cert))
	c, err := tls.Dial("tcp", fmt.Sprint(ready["addresses"].([]any)[0]), &tls.Config{RootCAs: trusted, ServerName: "gate-7.example"})
	if err != nil {
		t.Fatalf("the listener does not show its new certificate: %v", err)
	}
	c.Close()

	// A mistake changes nothing, nor does a key that needs a restart.
	rewrite(t, file, "max_connections = 400", "max_connections = 300", "window = 64", "widnow = 64")
	hangUp(t)
	d.logged("configuration is as it was", "next", "fieldgate config validate "+file)
	rewrite(t, file, "widnow = 64", "window = 64", "min_free = \"32MiB\"", "min_free = \"33MiB\"")
	hangUp(t)
	d.logged("configuration is as it was", "error", "counts only when the gateway starts again: store.min_free")
	rewrite(t, file, "min_free = \"33MiB\"", "min_free = \"32MiB\"")
	hangUp(t)
	d.logged("configuration is taken over", "changed", "broker.max_connections") // it had not counted yet
	if code := d.end(); code != exitOK {
		t.Errorf("exit code %d:\n%s", code, strings.Join(d.log.lines(), ""))
	}
}

// Every key that does not need a restart has somebody who is told: the parts take
// over whole tables, so it is enough that these are known here.
func TestEveryLiveTableIsTakenOver(t *testing.T) {
	known := map[string]bool{
		"hub": true, "uplink": true, "broker": true, "twin": true, "upload": true, "path": true, "lane": true, "log": true,
		"leaf": true, "map": true, "module": true, "serial": true, "ble": true,
	}
	eachKey(configShape(), func(k *key) {
		table, _, _ := strings.Cut(strings.TrimSuffix(k.path, "[]"), ".")
		table = strings.TrimSuffix(table, "[]")
		if k.table == nil && k.change() != changeRestart && !known[table] {
			t.Errorf("%s is marked %s, but reload.go tells nobody", k.path, k.change())
		}
	})
}

// Ports and devices come, change and go with the configuration while the gateway runs.
func TestDriversFollowTheConfiguration(t *testing.T) {
	file := folder(t, exampleText(t))
	d := start(t, file)
	d.logged("ready", "", "")
	run := d.operator(file)
	extra := leafFile(t, file)
	drivers := func() (names []string) {
		var s struct{ Drivers []struct{ Name string } }
		if err := json.Unmarshal([]byte(run(exitOK, "status", "--output", "json")), &s); err != nil {
			t.Fatal(err)
		}
		for _, x := range s.Drivers {
			names = append(names, x.Name)
		}
		return names
	}
	before := drivers()
	const port, advert = "[[serial]]\nport = \"usb:NONE-SUCH\"\nleaf = \"node-7\"\nbaud = 9600\n", "[[ble.advert]]\naddress = \"A4:C1:38:00:00:77\"\nleaf = \"node-7\"\n"
	for _, step := range []struct {
		text string
		more []string
	}{
		{port, []string{"serial:usb:NONE-SUCH"}},
		{strings.Replace(port, "9600", "1200", 1) + advert, []string{"serial:usb:NONE-SUCH"}},
		{strings.Replace(port, "NONE", "ANY", 1), []string{"serial:usb:ANY-SUCH"}},
		{"", nil},
	} {
		if err := os.WriteFile(extra, []byte(step.text), 0o600); err != nil {
			t.Fatal(err)
		}
		run(exitOK, "config", "apply")
		want := append(slices.Clone(before), step.more...)
		got := drivers()
		if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("with %q drivers are %q, want %q", step.text, got, want)
		}
	}
	if code := d.end(); code != exitOK {
		t.Errorf("exit code %d:\n%s", code, strings.Join(d.log.lines(), ""))
	}
}

// A port is changed in the file for a leaf that is added before that is applied: there is
// one driver at that port all the while, and afterwards.
func TestAPortIsServedOnce(t *testing.T) {
	file := folder(t, exampleText(t))
	d := start(t, file)
	d.logged("ready", "", "")
	run := d.operator(file)
	extra := leafFile(t, file)
	const port = "[[serial]]\nport = \"usb:NONE-SUCH\"\nleaf = \"node-7\"\n"
	step := func(what string) {
		t.Helper()
		if n := strings.Count(run(exitOK, "status", "--output", "json"), `"serial:usb:NONE-SUCH"`); n != 1 {
			t.Fatalf("%s: %d drivers at the port", what, n)
		}
	}
	mustWrite(t, extra, []byte(port))
	run(exitOK, "config", "apply")
	step("applied")
	mustWrite(t, extra, []byte(strings.Replace(port, "node-7", "new-1", 1)))
	key := filepath.Join(t.TempDir(), "key")
	mustWrite(t, key, []byte("MDEyMzQ1Njc4OWFiY2RlZg=="))
	run(exitOK, "device", "add", "new-1", "--hub-key-file", key)
	step("the leaf is added")
	run(exitOK, "config", "apply")
	step("the change is applied")
	run(exitOK, "device", "show", "new-1")
	if code := d.end(); code != exitOK {
		t.Errorf("exit code %d:\n%s", code, strings.Join(d.log.lines(), ""))
	}
}

// What a file of leaf.d brought comes back with it, and goes with it.
func TestRollBackOfLeafD(t *testing.T) {
	file := folder(t, exampleText(t))
	d := start(t, file)
	d.logged("ready", "", "")
	extra := leafFile(t, file)
	text := "[[leaf]]\nid = \"extra\"\nkey_file = \"../pump-1.key\"\n"
	if err := os.WriteFile(extra, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run := d.operator(file)
	run(exitOK, "config", "apply")
	run(exitOK, "device", "show", "extra")
	if err := os.Remove(extra); err != nil {
		t.Fatal(err)
	}
	run(exitOK, "config", "apply")
	run(exitNotFound, "device", "show", "extra")

	run(exitOK, "config", "rollback")
	run(exitOK, "device", "show", "extra")
	if got, err := os.ReadFile(extra); err != nil || string(got) != text {
		t.Errorf("the file is %q, %v", got, err)
	}
	run(exitOK, "config", "rollback", "1")
	run(exitNotFound, "device", "show", "extra")
	if _, err := os.Stat(extra); err == nil {
		t.Error("the file is there still")
	}

	// So does a port in such a file.
	port := "[[serial]]\nport = \"/dev/serial/by-id/usb-x\"\nleaf = \"pump-1\"\n"
	if err := os.WriteFile(extra, []byte(port), 0o600); err != nil {
		t.Fatal(err)
	}
	run(exitOK, "config", "apply")
	if err := os.Remove(extra); err != nil {
		t.Fatal(err)
	}
	run(exitOK, "config", "apply")
	run(exitOK, "config", "rollback")
	if out := run(exitOK, "status"); !strings.Contains(out, "usb-x") {
		t.Errorf("the port has not come back:\n%s", out)
	}
	if out := run(exitOK, "config", "history"); strings.Count(out, "kept") != 8 {
		t.Errorf("history\n%s", out)
	}
	if code := d.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// leafFile makes the folder of leaves beside a configuration, and names a file there.
func leafFile(t *testing.T, file string) string {
	t.Helper()
	extra := filepath.Join(filepath.Dir(file), "leaf.d", "extra.toml")
	if err := os.Mkdir(filepath.Dir(extra), 0o700); err != nil {
		t.Fatal(err)
	}
	return extra
}
