package upload

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
)

func mustOpen(t testing.TB, dir string, adjust ...func(*Config)) *Spool {
	t.Helper()
	cfg := DefaultConfig()
	for _, a := range adjust {
		a(&cfg)
	}
	s, err := Open(dir, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// content returns what a whole file holds.
func content(t testing.TB, s *Spool, id string) string {
	t.Helper()
	f, err := s.find(id)
	must(t, err)
	var all bytes.Buffer
	for _, block := range f.head.Order {
		b, err := s.read(f, block)
		must(t, err)
		all.Write(b)
	}
	if int64(all.Len()) != f.head.Size {
		t.Errorf("size %d, want %d", f.head.Size, all.Len())
	}
	return all.String()
}

func TestAFileSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	id, err := s.Begin("pump-1", "logs/today.txt", time.Now())
	must(t, err)
	must(t, s.Put(id, "b", []byte("second ")))
	must(t, s.Put(id, "a", []byte("never")))
	s = mustOpen(t, dir)
	again, err := s.Begin("pump-1", "logs/today.txt", time.Now())
	if err != nil || again != id {
		t.Errorf("begun again: %q, %v, want %q", again, err, id)
	}
	must(t, s.Put(id, "a", []byte("first ")))
	if got, err := s.Has(id); err != nil || len(got) != 2 {
		t.Errorf("has %q, %v", got, err)
	}
	if err := s.Finish(id); !errors.Is(err, ErrBlock) {
		t.Errorf("finished without an order: %v", err)
	}
	if err := s.Arrange(id, []string{"a", "missing"}); !errors.Is(err, ErrBlock) {
		t.Errorf("a block that is not there: %v", err)
	}
	must(t, s.Arrange(id, []string{"a", "b", "a"}))
	must(t, s.Finish(id))
	must(t, s.Finish(id))
	if err := s.Put(id, "c", nil); !errors.Is(err, ErrWhole) {
		t.Errorf("written to after the end: %v", err)
	}
	s = mustOpen(t, dir)
	if got := content(t, s, id); got != "first second first " {
		t.Errorf("got %q", got)
	}
	if st := s.State(); st.Files != 1 || st.Waiting != 1 {
		t.Errorf("state %+v", st)
	}
}

func TestNames(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	for _, name := range []string{"", "..", "a/../b", "/a", "a//b", "a/", "./a", `a\b`, "a\x00", strings.Repeat("x", 1025)} {
		if _, err := s.Begin("pump-1", name, time.Now()); !errors.Is(err, ErrName) {
			t.Errorf("%q: got %v", name, err)
		}
	}
	if _, err := s.Begin("pump-1", "größe & zeichen #1.txt", time.Now()); err != nil {
		t.Error(err)
	}
}

func TestBounds(t *testing.T) {
	s := mustOpen(t, t.TempDir(), func(c *Config) { c.MaxBytes, c.MaxFile = 1<<20, 512<<10 })
	var ids []string
	for i := range maxPerLeaf {
		id, err := s.Begin("pump-1", fmt.Sprint(i), time.Now())
		must(t, err)
		ids = append(ids, id)
	}
	if _, err := s.Begin("pump-1", "one more", time.Now()); !errors.Is(err, ErrMany) {
		t.Errorf("got %v", err)
	}
	block := make([]byte, 200<<10)
	must(t, s.Put(ids[0], "1", block))
	must(t, s.Put(ids[0], "2", block))
	if err := s.Put(ids[0], "3", block); !errors.Is(err, gateway.ErrTooLarge) {
		t.Errorf("file too large: got %v", err)
	}
	must(t, s.Put(ids[1], "1", block))
	must(t, s.Put(ids[1], "2", block))
	must(t, s.Put(ids[2], "1", block))
	if err := s.Put(ids[3], "1", block); !errors.Is(err, gateway.ErrStoreFull) {
		t.Errorf("spool full: got %v", err)
	}
	must(t, s.Cancel(ids[0]))
	must(t, s.Put(ids[3], "1", block))
	if err := s.Put(ids[3], strings.Repeat("x", 65), nil); !errors.Is(err, ErrBlock) {
		t.Errorf("block id: got %v", err)
	}
	if err := s.Put(ids[0], "1", block); !errors.Is(err, ErrGone) {
		t.Errorf("cancelled: got %v", err)
	}
	for _, id := range ids[1:] {
		must(t, s.Cancel(id))
	}
	if st := s.State(); st.Bytes != 0 || st.Files != 0 {
		t.Errorf("state %+v", st)
	}
	if left, err := os.ReadDir(s.dir); err != nil || len(left) > 0 {
		t.Errorf("left on disk: %v, %v", left, err)
	}
}

func TestAbandonedFilesGo(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	start := time.Now()
	_, err := s.Begin("pump-1", "a", start)
	must(t, err)
	whole, err := s.Begin("pump-1", "b", start)
	must(t, err)
	must(t, s.Put(whole, "1", []byte("x")))
	must(t, s.Arrange(whole, []string{"1"}))
	must(t, s.Finish(whole))
	s.abandon(start.Add(23 * time.Hour))
	if n := s.State().Files; n != 2 {
		t.Errorf("%d files before the time", n)
	}
	s.abandon(start.Add(25 * time.Hour))
	if st := s.State(); st.Files != 1 || st.Waiting != 1 || st.Dropped != 1 {
		t.Errorf("state %+v", st)
	}
}

// copyOf returns a copy of a folder, as a crash at this moment leaves it.
func copyOf(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	must(t, os.CopyFS(to, os.DirFS(dir)))
	return to
}

// Whatever is cut off or changed: what opens has the right content, and the rest
// of the files is there.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	make := func(name string) string {
		id, err := s.Begin("pump-1", name, time.Now())
		must(t, err)
		var order []string
		for i := range 5 {
			block := fmt.Sprint(i)
			must(t, s.Put(id, block, []byte(name+"-"+block+" ")))
			order = append(order, block)
		}
		must(t, s.Arrange(id, order))
		must(t, s.Finish(id))
		return id
	}
	hurt, well := make("hurt"), make("well")
	want := content(t, s, hurt)
	info, err := os.Stat(filepath.Join(dir, hurt, "data"))
	must(t, err)
	for i := range int(info.Size()) {
		for _, damage := range []func([]byte) []byte{
			func(b []byte) []byte { return b[:i] },
			func(b []byte) []byte { b[i] ^= 0x10; return b },
		} {
			crashed := copyOf(t, dir)
			name := filepath.Join(crashed, hurt, "data")
			b, err := os.ReadFile(name)
			must(t, err)
			must(t, os.WriteFile(name, damage(b), 0o600))
			s := mustOpen(t, crashed)
			if f, err := s.find(hurt); err == nil {
				if got := content(t, s, f.id); got != want {
					t.Fatalf("damage at %d: got %q", i, got)
				}
			} else if s.State().Dropped != 1 {
				t.Fatalf("damage at %d is not counted", i)
			}
			if got := content(t, s, well); !strings.HasPrefix(got, "well-0 ") {
				t.Fatalf("damage at %d: the other file is %q", i, got)
			}
		}
	}
	crashed := copyOf(t, dir)
	must(t, os.WriteFile(filepath.Join(crashed, hurt, "head.json"), []byte("{"), 0o600))
	must(t, os.Mkdir(filepath.Join(crashed, "begun"), 0o700))
	if st := mustOpen(t, crashed).State(); st.Files != 1 || st.Dropped != 1 {
		t.Errorf("state %+v", st)
	}
	if _, err := os.Stat(filepath.Join(crashed, "last.damaged", "data")); err != nil {
		t.Error("the damaged file is not kept for a look")
	}
}

// TestSpoolHolds plays random histories with crashes at every step: a block whose
// Put returned is there, with its last content, and nothing else is whole.
func TestSpoolHolds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "spool")
		must(t, err)
		defer os.RemoveAll(dir)
		s := mustOpen(t, dir, func(c *Config) { c.MaxBytes, c.MaxFile = 1<<20, 1<<20 })
		model := make(map[string]map[string]string) // by name, block: content
		var whole []string
		names := rapid.SampledFrom([]string{"a", "b"})
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				name, block := names.Draw(t, "name"), rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "block")
				if slices.Contains(whole, name) {
					return
				}
				text := rapid.StringN(0, 50, -1).Draw(t, "content")
				id, err := s.Begin("leaf", name, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Put(id, block, []byte(text)); err != nil {
					t.Fatal(err)
				}
				if model[name] == nil {
					model[name] = make(map[string]string)
				}
				model[name][block] = text
			},
			"finish": func(t *rapid.T) {
				name := names.Draw(t, "name")
				if model[name] == nil || slices.Contains(whole, name) {
					return
				}
				id, err := s.Begin("leaf", name, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				order, err := s.Has(id)
				if err == nil {
					err = errors.Join(s.Arrange(id, order), s.Finish(id))
				}
				if err != nil {
					t.Fatal(err)
				}
				whole = append(whole, name)
			},
			"crash": func(*rapid.T) { s = mustOpenAt(dir) },
			"": func(t *rapid.T) {
				for _, f := range s.files {
					for block, want := range model[f.head.Name] {
						if got, err := s.read(f, block); err != nil || string(got) != want {
							t.Fatalf("%s/%s: got %q, %v, want %q", f.head.Name, block, got, err, want)
						}
					}
					if len(f.blocks) != len(model[f.head.Name]) || f.head.Whole != slices.Contains(whole, f.head.Name) {
						t.Fatalf("%s: %d blocks, whole %v", f.head.Name, len(f.blocks), f.head.Whole)
					}
				}
			},
		})
	})
}

func mustOpenAt(dir string) *Spool {
	cfg := DefaultConfig()
	cfg.MaxBytes, cfg.MaxFile = 1<<20, 1<<20
	s, err := Open(dir, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		panic(err)
	}
	return s
}

func TestManyLeavesAtOnce(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			id, err := s.Begin(fmt.Sprint("leaf-", i), "f", time.Now())
			if err != nil {
				t.Error(err)
				return
			}
			for n := range 20 {
				if err := s.Put(id, fmt.Sprint(n%3), fmt.Append(nil, i, n)); err != nil {
					t.Error(err)
				}
			}
			if err := errors.Join(s.Arrange(id, []string{"0", "1", "2"}), s.Finish(id)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if st := s.State(); st.Waiting != 20 {
		t.Errorf("state %+v", st)
	}
	var last uint64
	for _, f := range s.next() {
		if f.head.Number <= last {
			t.Errorf("number %d after %d", f.head.Number, last)
		}
		last = f.head.Number
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, "a", []byte("content")), "b", nil))
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 0, 9, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		x := &file{blocks: make(map[string]span)}
		if err := x.scan(bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		if x.end > int64(len(b)) {
			t.Fatalf("the good part ends at %d of %d", x.end, len(b))
		}
		y := &file{blocks: make(map[string]span)}
		if err := y.scan(io.LimitReader(bytes.NewReader(b), x.end)); err != nil || y.end != x.end || len(y.blocks) != len(x.blocks) {
			t.Fatalf("cut off behind the good part it reads otherwise: %d, %v", y.end, err)
		}
	})
}

// A block that comes again, as its acknowledgement was lost, takes no room twice.
func TestABlockThatComesAgainTakesNoRoom(t *testing.T) {
	dir := t.TempDir()
	small := func(c *Config) { c.MaxFile = 64 << 10 }
	s := mustOpen(t, dir, small)
	id, err := s.Begin("pump-1", "f", time.Now())
	must(t, err)
	half := []byte(strings.Repeat("x", 30<<10))
	must(t, s.Put(id, "a", half))
	s = mustOpen(t, dir, small) // the other has crashed
	for range 3 {
		must(t, s.Put(id, "a", half))
	}
	must(t, s.Put(id, "b", half))
	if err := s.Put(id, "a", []byte("other")); err != nil {
		t.Errorf("another content: %v", err)
	}
	must(t, s.Arrange(id, []string{"a", "b"}))
	f, err := s.find(id)
	must(t, err)
	if f.head.Size != int64(len("other")+len(half)) {
		t.Errorf("the file has %d bytes", f.head.Size)
	}
}
