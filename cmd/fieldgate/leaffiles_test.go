package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
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
	if rest, err := f.remove("pump-1", nil); rest == nil || !errors.Is(err, syscall.EIO) {
		t.Errorf("gone: %v, %v", rest != nil, err)
	}
	if rest, err := f.remove("pump-2", nil); rest == nil || err != nil {
		t.Errorf("one that is not there is gone: %v, %v", rest != nil, err)
	}
}

// The proof of a removed leaf stays for as long as anything is in custody that may
// need it, whatever it is.
func TestRemovedLeafIsForgottenLast(t *testing.T) {
	onStore := func(t *testing.T, data string, put func(*store.Store) error) {
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
	for name, leave := range map[string]func(t *testing.T, data string){
		"nothing": func(*testing.T, string) {},
		"a dead letter": func(t *testing.T, data string) {
			onStore(t, data, func(s *store.Store) error {
				return s.DeadLetter(&gateway.Message{Leaf: "gone", Lane: gateway.LaneTelemetry, Body: []byte("x"), Start: 1, Seq: 1}, "refused")
			})
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
