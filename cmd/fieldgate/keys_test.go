package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/pelletier/go-toml/v2"
)

// plainNames are keys whose names sound like a secret.
var plainNames = map[string]bool{"hub.token_ttl": true}

// A key that could hold a secret is never shown, and the tables of every list can be
// told apart.
func TestEveryKeyIsInItsClass(t *testing.T) {
	suspicious := regexp.MustCompile(`key|pass|secret|token|credential|pin$`)
	seen := make(map[string]bool)
	eachKey(configShape(), func(k *key) {
		seen[k.path] = true
		last := k.path[strings.LastIndex(k.path, ".")+1:]
		if suspicious.MatchString(last) && !strings.HasSuffix(last, "_file") && !secrets[k.path] && !plainNames[k.path] {
			t.Errorf("%s sounds like a secret: put it into secrets, or here if it is none", k.path)
		}
		if k.list && k.table.key(idKeys[k.path]) == nil {
			t.Errorf("the tables of %s have no key %q to be told apart by", k.path, idKeys[k.path])
		}
	})
	if len(seen) < 150 {
		t.Errorf("only %d keys", len(seen))
	}
	for _, classes := range []map[string]bool{secrets, plainNames} {
		for path := range classes {
			if !seen[path] {
				t.Errorf("there is no key %s any more", path)
			}
		}
	}
	for path := range changes {
		if path != "" && !seen[strings.TrimSuffix(path, "[]")] {
			t.Errorf("there is no key %s any more", path)
		}
	}
}

// Every key of the example can be named, and means itself.
func TestEverySettingHasItsName(t *testing.T) {
	s, err := readSettings(folder(t, exampleText(t)), true)
	if err != nil {
		t.Fatal(err)
	}
	set := 0
	for _, want := range s.all {
		got, err := s.findOne(want.name)
		if err != nil || got != want {
			t.Errorf("%s means %+v: %v", want.name, got, err)
		}
		if want.key == nil {
			t.Errorf("%s is no key", want.name)
		}
		if want.set {
			set++
		}
	}
	if set < 90 {
		t.Errorf("only %d keys are set", set)
	}
}

// fieldgate runs a command line in the test's own process.
func fieldgate(args ...string) (code int, stdout, stderr string) {
	var out, errs writer
	code = execute(context.Background(), args, streams{nil, &out, &errs})
	return code, strings.TrimSpace(strings.Join(out.lines(), "\n")), strings.Join(errs.lines(), "\n")
}

// What is shown is a configuration, and the same one.
func TestShownConfigurationIsValid(t *testing.T) {
	text := strings.Replace(exampleText(t), "proxy = \"http://gate@10.0.0.1:3128\"\nproxy_password_file = \"proxy.password\"\n", "", 1)
	file := folder(t, text)
	_, shown, _ := fieldgate("config", "show", "--config", file)
	again := filepath.Join(filepath.Dir(file), "again.toml")
	if err := os.WriteFile(again, []byte(shown), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadConfig(again); err != nil {
		t.Errorf("%v\n%s", err, shown)
	}
	if code, out, _ := fieldgate("config", "diff", again, "--config", file); code != exitOK || out != "no difference" {
		t.Errorf("code %d\n%s", code, out)
	}
	_, out, _ := fieldgate("config", "show", "--config", file, "--output", "json")
	var tree map[string]any
	if err := json.Unmarshal([]byte(out), &tree); err != nil {
		t.Fatal(err)
	}
	if leaves, _ := tree["leaf"].([]any); len(leaves) != 3 {
		t.Errorf("leaves in JSON: %v", tree["leaf"])
	}
}

// Secrets, planted wherever a file can have one, come out nowhere.
func TestSecretsAreNotShown(t *testing.T) {
	const canary = "0badcafe0badcafe"
	text := strings.NewReplacer(
		"http://gate@10.0.0.1:3128", "http://gate:"+canary+"@10.0.0.1:3128",
		"read = \"5m\"", "write = \""+canary+"\"",
		"[uplink]\n", "key = \""+canary+"\"\n\n[uplink]\n", // not key_file
		"password_file = \"pump-1.hash\"", "password = \""+canary+"\"",
	).Replace(exampleText(t))
	if strings.Count(text, canary) != 4 {
		t.Fatal("the canaries are not where they should be")
	}
	file := folder(t, text)
	for _, name := range []string{"pump-1.key", "proxy.password", "bind.key"} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(file), name), []byte(canary), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other := folder(t, exampleText(t))
	for _, args := range [][]string{
		{"config", "show", "-c", file},
		{"config", "show", "-c", file, "-o", "json"},
		{"config", "get", "hub", "-c", file},
		{"config", "get", "hub", "-c", file, "-o", "json"},
		{"config", "get", "hub.proxy", "-c", file},
		{"config", "get", "leaf.pump-1", "-c", file},
		{"config", "get", "ble", "-c", file},
		{"config", "diff", other, "-c", file},
		{"config", "diff", file, "-c", other, "-o", "json"},
		{"config", "set", "uplink.window", "9", "-c", file},
		{"config", "validate", file},
		{"config", "list"},
	} {
		_, out, errs := fieldgate(args...)
		if strings.Contains(out+errs, canary) {
			t.Errorf("%v shows a secret:\n%s\n%s", args, out, errs)
		}
	}
	if _, out, _ := fieldgate("config", "get", "hub.proxy", "-c", file); out != hidden {
		t.Errorf("the proxy is %q", out)
	}
}

func TestSchema(t *testing.T) {
	text, err := json.Marshal(configSchema())
	if err != nil {
		t.Fatal(err)
	}
	var schema jsonschema.Schema
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	check, err := schema.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	validate := func(text string) error {
		var values, tree map[string]any
		if err := toml.Unmarshal([]byte(text), &values); err != nil {
			t.Fatal(err)
		}
		inJSON, err := json.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(inJSON, &tree); err != nil {
			t.Fatal(err)
		}
		return check.Validate(tree)
	}
	example := exampleText(t)
	if err := validate(example); err != nil {
		t.Errorf("the example: %v", err)
	}
	for _, m := range []struct{ old, wrong string }{
		{"keep_alive = ", "keepalive = "},
		{"[hub]", "[hbu]"},
		{"\"30s\"", "30"},
		{"\"30s\"", "\"30 sec\""},
		{"\"4MiB\"", "\"4MB\""},
		{"window = 64", "window = \"64\""},
		{"plain = true", "plain = \"yes\""},
		{"format = \"modbus\"", "format = \"modbuss\""},
		{"name = \"filter\"", "name = \"fitler\""},
		{"delta = 0.2", "detla = 0.2"},
		{"[[serial.slave]]", "[[serial.slaves]]"},
	} {
		if !strings.Contains(example, m.old) {
			t.Fatalf("the example has no %s", m.old)
		}
		if validate(strings.Replace(example, m.old, m.wrong, 1)) == nil {
			t.Errorf("%s instead of %s is right for the schema", m.wrong, m.old)
		}
	}
	if _, out, _ := fieldgate("config", "schema"); !strings.Contains(out, "2020-12") {
		t.Error("the schema says no version")
	}
}

// Everything that is a default may be written out.
func TestDefaultsSatisfyTheSchema(t *testing.T) {
	eachKey(configShape(), func(k *key) {
		if k.table != nil || k.fallback() == nil {
			return
		}
		text, err := json.Marshal(typeSchema(k.value.Type()))
		if err != nil {
			t.Fatal(err)
		}
		var schema jsonschema.Schema
		if err := json.Unmarshal(text, &schema); err != nil {
			t.Fatal(err)
		}
		check, err := schema.Resolve(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := check.Validate(k.fallback()); err != nil {
			t.Errorf("%s: %v", k.path, err)
		}
	})
}

// Many hands at once: nobody's change is lost.
func TestChangesAtOnce(t *testing.T) {
	file := folder(t, exampleText(t))
	want := map[string]string{
		"uplink.window": "7", "hub.timeout": "9s", "twin.hub_wait": "1s", "upload.rate": "1MiB", "leaf.pump-1.disabled": "true", "log.level": "warn",
	}
	var all sync.WaitGroup
	for name, value := range want {
		all.Go(func() {
			if code, _, errs := fieldgate("config", "set", name, value, "-c", file); code != exitOK {
				t.Errorf("%s: %s", name, errs)
			}
		})
	}
	all.Wait()
	for name, value := range want {
		if _, got, _ := fieldgate("config", "get", name, "-c", file); got != value {
			t.Errorf("%s is %s, want %s", name, got, value)
		}
	}
}

// The file keeps its mode and its place behind a link; where the new one cannot be
// written the old one stays as it is.
func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "real.toml"), filepath.Join(dir, "fieldgate.toml")
	if err := errors.Join(os.WriteFile(file, []byte("old"), 0o640), os.Symlink("real.toml", link)); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(link, []byte("new")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(link)
	if err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link is gone: %v, %v", info, err)
	}
	text, err := os.ReadFile(file)
	if info, _ := os.Stat(file); err != nil || string(text) != "new" || info.Mode().Perm() != 0o640 {
		t.Errorf("the file is %q, %v, %v", text, info, err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "real.toml.new", "full"), 0o700); err != nil { // in the way
		t.Fatal(err)
	}
	if err := replaceFile(link, []byte("newer")); err == nil {
		t.Error("written all the same")
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "new" {
		t.Errorf("the file is %q, %v", text, err)
	}
}

// FuzzAddress: no name of a key brings the program down, and what it finds is there.
func FuzzAddress(f *testing.F) {
	for _, seed := range []string{"hub.host", "leaf[0].id", "leaf[id=pump-1]", `map[topic="a]b"].kind`, "ble.advert.x.deadband.y", "[", "a.[1]", `"`, "broker.listener[address=[::1]:1].plain"} {
		f.Add(seed)
	}
	file := filepath.Join(f.TempDir(), "fieldgate.toml")
	text, err := os.ReadFile("testdata/fieldgate.toml")
	if err := errors.Join(err, os.WriteFile(file, text, 0o600)); err != nil {
		f.Fatal(err)
	}
	s, err := readSettings(file, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, address string) {
		found, err := s.find(address)
		if (err == nil) != (len(found) > 0) {
			t.Errorf("%q: %d settings, %v", address, len(found), err)
		}
		for _, one := range found {
			_ = fmt.Sprint(one.name, one.shown(), one.seen())
		}
	})
}

// A key within a table of values can be set and taken out like any other, by every
// way of naming a table of a list.
func TestSetWithinATable(t *testing.T) {
	file := folder(t, exampleText(t))
	for _, advert := range []string{`ble.advert."A4:C1:38:12:34:56"`, "ble.advert[address=A4:C1:38:12:34:56]", "ble.advert[0]"} {
		name := advert + ".deadband.humidity"
		if code, _, errs := fieldgate("config", "set", name, "1.5", "-c", file); code != exitOK {
			t.Fatalf("%s: %s", name, errs)
		}
		if _, got, _ := fieldgate("config", "get", name, "-c", file); got != "1.5" {
			t.Errorf("%s is %q", name, got)
		}
		if code, _, errs := fieldgate("config", "unset", name, "-c", file); code != exitOK {
			t.Errorf("%s: %s", name, errs)
		}
		if text, err := os.ReadFile(file); err != nil || string(text) != exampleText(t) {
			t.Errorf("%s: after all the file has changed: %v", name, err)
		}
	}
}
