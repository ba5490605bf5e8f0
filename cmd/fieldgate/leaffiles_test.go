package main

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/revision"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/store"
	"github.com/fieldgate/fieldgate/gateway/upload"
	"github.com/fieldgate/fieldgate/test/cutfs"
)

// leafDisk is the configuration of leafFiles on a disk that can fail.
func leafDisk(t *testing.T) (*powered, leafFiles) {
	t.Helper()
	p := power(t, cutfs.Blank())
	file := filepath.Join(p.dir, "fieldgate.toml")
	text := "[hub]\nhost = \"hub.example\"\ndevice_id = \"gate-7\"\nkey_file = \"gate.key\"\n[[broker.listener]]\naddress = \"127.0.0.1:0\"\nplain = true\n"
	mustWrite(t, file, []byte(text))
	mustWrite(t, filepath.Join(p.dir, "gate.key"), []byte(hubKey))
	return p, leafFiles{file, func(secret string) string { return secret }}
}

// A leaf is there whole or not at all, whichever sync fails: a leaf without its
// secrets would keep the gateway from starting.
func TestAddingALeafFailsAsAWhole(t *testing.T) {
	const syncs = 4 // of hash and table, each with its folder
	for n := 1; n <= syncs+1; n++ {
		p, f := leafDisk(t)
		hit := p.fs.Break(cutfs.Fault{Kind: cutfs.Sync, Nth: n, Errno: syscall.EIO})
		_, err := f.add(&newLeaf{id: "pump-1", auth: "gateway", passwordHash: passwordHash}, nil)
		select {
		case <-hit:
		default:
			if n <= syncs || err != nil {
				t.Fatalf("sync %d of %d has not failed: %v", n, syncs, err)
			}
			continue
		}
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("sync %d fails, and adding says %v", n, err)
		}
		if left, _ := filepath.Glob(filepath.Join(f.dir(), "*")); len(left) > 0 {
			t.Errorf("sync %d fails, and there is left %q", n, left)
		}
		if _, err := loadConfig(f.config); err != nil {
			t.Errorf("sync %d fails, and the gateway does not start: %v", n, err)
		}
	}
}

// A leaf whose file has gone is gone, though that could not be synced.
func TestRemovedThoughNotSynced(t *testing.T) {
	p, f := leafDisk(t)
	if _, err := f.add(&newLeaf{id: "pump-1", auth: "gateway"}, nil); err != nil {
		t.Fatal(err)
	}
	p.fs.Break(cutfs.Fault{Kind: cutfs.Sync, Nth: 1, Errno: syscall.EIO})
	if rest, err := f.remove("pump-1", nil, nil); rest == nil || !errors.Is(err, syscall.EIO) {
		t.Errorf("gone: %v, %v", rest != nil, err)
	}
	if rest, err := f.remove("pump-2", nil, nil); rest == nil || err != nil {
		t.Errorf("one that is not there is gone: %v, %v", rest != nil, err)
	}
}

// Of a leaf that was removed more than once the key counts that it had last, whoever wrote
// its table; what cannot be read is said.
func TestTheLastProofCounts(t *testing.T) {
	keys := []string{hubKey, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}
	file := folder(t, exampleText(t))
	f := leafFiles{file, func(secret string) string { return secret }}
	want := func(key string) {
		t.Helper()
		cfg, err := loadConfig(file)
		if err != nil {
			t.Fatal(err)
		}
		all, unread := f.removed(&cfg.tables)
		k, err := identity.ParseKey(key)
		if len(all) != 1 || unread != nil || err != nil || all[0].ID != "visitor" || !all[0].key.Equal(k) {
			t.Errorf("removed are %+v, %v, %v", all, unread, err)
		}
		if left, _ := filepath.Glob(filepath.Join(f.dir(), "*")); len(left) != 2 {
			t.Errorf("there are %q", left)
		}
	}
	byHand := func(key string) {
		t.Helper()
		mustWrite(t, filepath.Join(filepath.Dir(file), "visitor.key"), []byte(key))
		mustWrite(t, filepath.Join(f.dir(), "hand.toml"), []byte("[[leaf]]\nid = \"visitor\"\nkey_file = \"../visitor.key\"\n"))
		cfg, err := loadConfig(file)
		if err != nil {
			t.Fatal(err)
		}
		l, err := cfg.leaf("visitor")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(f.dir(), "hand.toml")); err != nil {
			t.Fatal(err)
		}
		if cfg, err = loadConfig(file); err != nil {
			t.Fatal(err)
		}
		if err := f.keepProof(cfg, &l); err != nil {
			t.Fatal(err)
		}
	}
	byCommand := func(key string) {
		t.Helper()
		if _, err := f.add(&newLeaf{id: "visitor", hubKey: key}, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := f.remove("visitor", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i, remove := range []func(string){byCommand, byCommand, byHand, byHand, byCommand} {
		remove(keys[i%len(keys)])
		want(keys[i%len(keys)])
	}
	bad := mustWrite(t, filepath.Join(f.dir(), "bad"+removedSuffix), []byte("[[leaf]"))
	if all, unread := f.removed(&tables{}); len(all) != 1 || unread == nil || !strings.Contains(unread.Error(), bad) {
		t.Errorf("removed are %+v, %v", all, unread)
	}
}

// What was kept of removed leaves goes, but no key that is another's by now; and what does
// not go is no reason not to start.
func TestForgettingDoesNoHarm(t *testing.T) {
	file := folder(t, exampleText(t))
	dir := filepath.Join(filepath.Dir(file), "leaf.d")
	stuck := filepath.Join(dir, "stuck"+removedSuffix)
	if err := os.MkdirAll(filepath.Join(stuck, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	key := mustWrite(t, filepath.Join(dir, "gone.hub.key"), []byte(hubKey))
	other := mustWrite(t, filepath.Join(dir, "other.hub.key"), []byte(hubKey))
	gone := mustWrite(t, filepath.Join(dir, "gone"+removedSuffix), []byte("[[leaf]]\nid = \"gone\"\nkey_file = \"gone.hub.key\"\n"))
	mustWrite(t, filepath.Join(dir, "other"+removedSuffix), []byte("[[leaf]]\nid = \"other\"\nkey_file = \"other.hub.key\"\n"))
	mustWrite(t, filepath.Join(dir, "hand.toml"), []byte("[[leaf]]\nid = \"back\"\nkey_file = \"gone.hub.key\"\n"))
	for range 2 {
		d := start(t, file)
		d.logged("removed leaves are not forgotten", "", "")
		d.logged("ready", "", "")
		if code := d.end(); code != exitOK {
			t.Fatalf("exit code %d", code)
		}
	}
	for name, there := range map[string]bool{key: true, gone: false, other: false} {
		if _, err := os.Stat(name); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// onStore does something to a store that nobody has open.
func onStore(t *testing.T, data string, put func(*store.Store) error) {
	t.Helper()
	cfg := store.DefaultConfig()
	cfg.AllowAnyFS = true
	s, err := store.Open(filepath.Join(data, "store"), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(put(s), s.Close()); err != nil {
		t.Fatal(err)
	}
}

// deadLetterOf is left in custody until an operator says what is to become of it.
func deadLetterOf(leaf string) func(*store.Store) error {
	return func(s *store.Store) error {
		return s.DeadLetter(&gateway.Message{Leaf: leaf, Lane: gateway.LaneTelemetry, Body: []byte("x"), Start: 1, Seq: 1}, "refused")
	}
}

// A leaf that only a configuration had that did not stand its trial may have left something
// here meanwhile: its proof is kept, whether the gateway went back by itself or was killed.
func TestProofsOfATrial(t *testing.T) {
	file := folder(t, exampleText(t))
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dataDirOf(file), 0o700); err != nil {
		t.Fatal(err)
	}
	onStore(t, dataDirOf(file), deadLetterOf("guest"))
	with := func(leaf string) string {
		key := mustWrite(t, filepath.Join(dir, leaf+".key"), []byte(hubKey))
		return exampleText(t) + "\n[[leaf]]\nid = \"" + leaf + "\"\nkey_file = \"" + filepath.Base(key) + "\"\n"
	}
	a, _, _, closing := openApplier(file)
	files, err := filesOf(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.book.Add(files, "test", revision.Good, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.book.Add(revision.Files{filepath.Base(file): with("guest")}, "test", revision.OnTrial, time.Now()); err != nil {
		t.Fatal(err)
	}
	closing() // killed
	d := start(t, file)
	d.logged("ready", "", "")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	other := mustWrite(t, filepath.Join(dir, "other.toml"), []byte(with("tenant")))
	rewrite(t, other, "[twin]", "[[broker.listener]]\naddress = \""+l.Addr().String()+"\"\nplain = true\n\n[twin]")
	d.operator(file)(exitUnreachable, "config", "apply", other, "--restart")
	if code := d.end(); code != exitOK {
		t.Fatalf("exit code %d", code)
	}
	cfg, err := loadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	all, unread := (leafFiles{file, cfg.sealed}).removed(&cfg.tables)
	if len(all) != 2 || unread != nil || all[0].ID != "guest" || all[1].ID != "tenant" || all[0].key.IsZero() {
		t.Errorf("proofs are kept of %+v, %v", all, unread)
	}
}

// The proof of a removed leaf stays for as long as anything is in custody that may
// need it, whatever it is.
func TestRemovedLeafIsForgottenLast(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, data string){
		"nothing": func(*testing.T, string) {},
		"a dead letter": func(t *testing.T, data string) {
			onStore(t, data, deadLetterOf("gone"))
		},
		"reported properties": func(t *testing.T, data string) {
			onStore(t, data, func(s *store.Store) error {
				return s.SetNotes("reported", map[string][]byte{"gone": []byte(`[{"on":true}]`)})
			})
		},
		"a file": func(t *testing.T, data string) {
			files, err := upload.Open(filepath.Join(data, "upload"), upload.DefaultConfig(), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if err := files.Part("gone", "log.txt", 1, []byte("x"), time.Now()); err != nil {
				t.Fatal(err)
			}
			if begun, err := files.End("gone", "log.txt"); !begun || err != nil {
				t.Fatal(begun, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := folder(t, exampleText(t))
			dir := filepath.Dir(file)
			data := dataDirOf(file)
			if err := errors.Join(os.Mkdir(filepath.Join(dir, "leaf.d"), 0o700), os.MkdirAll(data, 0o700)); err != nil {
				t.Fatal(err)
			}
			key := mustWrite(t, filepath.Join(dir, "leaf.d", "gone.hub.key"), []byte(hubKey))
			table := mustWrite(t, filepath.Join(dir, "leaf.d", "gone"+removedSuffix), []byte("[[leaf]]\nid = \"gone\"\nkey_file = \"gone.hub.key\"\n"))
			leave(t, data)
			d := start(t, file)
			d.logged("ready", "", "")
			if code := d.end(); code != exitOK {
				t.Fatalf("exit code %d:\n%s", code, strings.Join(d.log.lines(), ""))
			}
			for _, one := range []string{key, table} {
				if _, err := os.Stat(one); (err != nil) != (name == "nothing") {
					t.Errorf("with %s left: %s: %v", name, filepath.Base(one), err)
				}
			}
		})
	}
}

// A leaf's files get a name under which there is none yet, whatever it is of: it may be
// the operator's.
func TestFreeStem(t *testing.T) {
	for _, suffix := range []string{".leaf.toml", ".leaf.removed", ".hub.key", ".login.key", ".hash", ".line.key"} {
		dir := t.TempDir()
		mustWrite(t, filepath.Join(dir, "pump_1"+suffix), nil)
		mustWrite(t, filepath.Join(dir, "pump_1.2"+suffix), nil)
		if got := freeStem(dir, "pump.1"); got != "pump_1.3" {
			t.Errorf("beside *%s it is %s, want pump_1.3", suffix, got)
		}
	}
}
