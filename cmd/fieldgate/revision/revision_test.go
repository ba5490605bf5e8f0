package revision

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever is tried, the last good configuration is never forgotten, and a book that
// is opened again says what was written last.
func TestTheLastGoodOneIsAlwaysThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "revision-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		b, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		good, trial, steps := "", "", rapid.IntRange(1, 40).Draw(t, "steps")
		for i := range steps {
			text := fmt.Sprint(i / 2) // every other one is as the one before
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				_, err := b.Add(Files{"a.toml": text}, "test", Good, time.Now())
				if (err == nil) != (trial == "") {
					t.Fatalf("add with a trial %q: %v", trial, err)
				}
				if err == nil {
					good = text
				}
			case 1:
				if _, err := b.Add(Files{"a.toml": text}, "test", OnTrial, time.Now()); err == nil {
					trial = text
				} else if !errors.Is(err, ErrTrial) {
					t.Fatal(err)
				}
			case 2:
				if err := b.End(Good, ""); err != nil {
					t.Fatal(err)
				}
				if trial != "" {
					good, trial = trial, ""
				}
			case 3:
				if err := b.End(Undone, "because"); err != nil {
					t.Fatal(err)
				}
				trial = ""
			case 5: // another one takes the place of one that was lost
				if trial == "" {
					continue
				}
				b.Lose("because")
				if r, known := b.Trial(); known || b.List()[len(b.List())-1].State != Undone {
					t.Fatalf("it is lost, and still on trial: %+v", r)
				}
				if err := b.Amend(func(f Files) { f["a.toml"] += "+" }); err != nil {
					t.Fatal(err)
				}
				if good != "" {
					good += "+"
				}
				if again, err := Open(dir); err != nil {
					t.Fatal(err)
				} else if r, known := again.Trial(); !known || r.Files["a.toml"] != trial+"+" {
					t.Fatalf("opened anew it is not on trial: %v %+v", known, r)
				}
				if _, err := b.Add(Files{"a.toml": text}, "test", OnTrial, time.Now()); err != nil {
					t.Fatal(err)
				}
				trial = text
			case 4:
				if err := b.Amend(func(f Files) { f["a.toml"] += "+" }); err != nil {
					t.Fatal(err)
				}
				for _, text := range []*string{&good, &trial} {
					if *text != "" {
						*text += "+"
					}
				}
			}
			if b, err = Open(dir); err != nil {
				t.Fatal(err)
			}
			g, _ := b.Good()
			r, _ := b.Trial()
			if g.Files["a.toml"] != good || r.Files["a.toml"] != trial || len(b.List()) > Kept {
				t.Fatalf("good %q, want %q; trial %q, want %q; %d kept", g.Files["a.toml"], good, r.Files["a.toml"], trial, len(b.List()))
			}
		}
		list := b.List()
		if !slices.IsSortedFunc(list, func(a, b Revision) int { return a.Number - b.Number }) {
			t.Fatalf("out of order: %+v", list)
		}
	})
}

// What cannot be read is set aside, and a gateway goes on without it.
func TestDamage(t *testing.T) {
	for _, text := range []string{
		"", "[{", `[{"number":0}]`, `[{"number":1,"state":"kept","files":{"../x.toml":""}}]`, `[{"number":1,"state":"kept","files":{"/etc/passwd":""}}]`,
		`[{"number":1,"state":"trial"},{"number":2,"state":"kept"}]`,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := Open(dir)
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if _, err := b.Add(Files{"a.toml": "x"}, "test", Good, time.Now()); err != nil {
			t.Error(err)
		}
		if kept, err := os.ReadFile(filepath.Join(dir, fileName+".damaged")); err != nil || string(kept) != text {
			t.Errorf("set aside: %q, %v", kept, err)
		}
	}
}

// What cannot be written is as if it had not been asked for.
func TestFolderThatCannotBe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := Open(dir)
	if err == nil {
		t.Error("opened a file")
	}
	if _, err := b.Add(Files{}, "test", Good, time.Now()); err == nil {
		t.Error("kept in what is no folder")
	}
	if len(b.List()) != 0 {
		t.Errorf("%+v", b.List())
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`[{"number":1,"state":"kept","files":{"a.toml":"x"}}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := parse(text)
		if err != nil {
			return
		}
		for _, r := range list {
			for name := range r.Files {
				if !filepath.IsLocal(name) {
					t.Fatalf("file %q", name)
				}
			}
		}
	})
}
