package store

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/fieldgate/fieldgate/gateway"
)

func notesOf(t *testing.T, s *Store, kind string) string {
	t.Helper()
	text := ""
	err := s.EachNote(kind, func(name string, value []byte) error {
		text += fmt.Sprintf("%s=%s ", name, value)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestNotesStay(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, testConfig(), fastTuning)
	for _, step := range []map[string][]byte{
		{"b": []byte("2"), "a": []byte("1"), "gone": []byte("x")},
		{"b": []byte("3"), "gone": nil, "never": nil, "empty": {}},
	} {
		if err := s.SetNotes("twin", step); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetNotes("twi", map[string][]byte{"n": []byte("other kind")}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, want := notesOf(t, s, "twin"), "a=1 b=3 empty= "; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got, want := notesOf(t, s, "twi"), "n=other kind "; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		for name, want := range map[string]string{"a": "1", "gone": "", "b": "3"} {
			if got, err := s.Note("twin", name); err != nil || string(got) != want {
				t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
			}
		}
		mustClose(t, s)
		s = mustOpen(t, dir, testConfig(), fastTuning)
	}
}

func TestEachNoteEndsWithTheError(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), fastTuning)
	if err := s.SetNotes("k", map[string][]byte{"a": nil, "b": []byte("1"), "c": []byte("2")}); err != nil {
		t.Fatal(err)
	}
	calls, stop := 0, errors.New("enough")
	err := s.EachNote("k", func(string, []byte) error {
		calls++
		return stop
	})
	if calls != 1 || !errors.Is(err, stop) {
		t.Errorf("got %d calls and %v", calls, err)
	}
}

func TestNotesHaveABound(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), fastTuning)
	if err := s.SetNotes("k", map[string][]byte{"a": make([]byte, maxNoteBytes)}); !errors.Is(err, gateway.ErrTooLarge) {
		t.Errorf("got %v, want %v", err, gateway.ErrTooLarge)
	}
	largest := make([]byte, maxNoteBytes-100)
	if err := s.SetNotes("k", map[string][]byte{"a": largest}); err != nil {
		t.Error(err)
	}
	if got, err := s.Note("k", "a"); err != nil || len(got) != len(largest) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestNotesAfterClose(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), fastTuning)
	mustClose(t, s)
	_, err := s.Note("k", "a")
	for what, err := range map[string]error{
		"read":  err,
		"write": s.SetNotes("k", map[string][]byte{"a": {1}}),
		"each":  s.EachNote("k", nil),
	} {
		if !errors.Is(err, gateway.ErrStoreFailed) {
			t.Errorf("%s: got %v, want %v", what, err, gateway.ErrStoreFailed)
		}
	}
}

// The shelf and notes take something on a disk that is full, within what is
// reserved for them; then nothing, and the process lives. With room they go on.
func TestNotesAndLettersOnAFullDisk(t *testing.T) { smallDisks(t, "96M", notesOnFullDisk) }

func notesOnFullDisk(t *testing.T, dir string) {
	store, blocker := dir+"/store", dir+"/blocker"
	s := mustOpen(t, store, testConfig(), fastTuning)
	if err := s.SetNotes("k", map[string][]byte{"a": []byte("before")}); err != nil {
		t.Fatal(err)
	}
	occupy(t, blocker)
	if err := s.SetNotes("k", map[string][]byte{"a": []byte("full")}); err != nil {
		t.Errorf("note on a full disk: %v", err)
	}
	shelve := func() (n int, err error) {
		for ; err == nil && n < 40; n++ {
			err = s.DeadLetter(message("poison", n, 250<<10), "refused")
		}
		return n, err
	}
	n, err := shelve()
	if !errors.Is(err, gateway.ErrStoreFull) || n < 10 {
		t.Errorf("after %d letters of 250 KiB: %v, want %v", n, err, gateway.ErrStoreFull)
	}
	if err := s.SetNotes("k", map[string][]byte{"a": []byte("more")}); !errors.Is(err, gateway.ErrStoreFull) {
		t.Errorf("got %v, want %v", err, gateway.ErrStoreFull)
	}
	if got, err := s.Note("k", "a"); err != nil || string(got) != "full" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := os.Remove(blocker); err != nil {
		t.Fatal(err)
	}
	if n, err := shelve(); err != nil || n != 40 {
		t.Errorf("with room again: %d letters, %v", n, err)
	}
	mustClose(t, s)
	s = mustOpen(t, store, testConfig(), fastTuning)
	if n := s.State().DeadLetters; n < 50 {
		t.Errorf("%d letters after the next start", n)
	}
}

// On a disk that the store itself has filled to the floor letters and notes are
// kept, with what was reserved for them, below the floor and with the ballast's
// room; and the store can still be opened.
func TestLettersOnADiskFilledToTheFloor(t *testing.T) {
	for _, floor := range []gateway.Size{4 << 20, 32 << 20} {
		for _, left := range []int64{0, 17 << 20} { // others take more
			dir := t.TempDir()
			mount(t, dir, "-t", "tmpfs", "-o", "size=110M", "none")
			store := dir + "/store"
			cfg := DefaultConfig()
			cfg.AllowAnyFS, cfg.CommitWindow, cfg.MinFree = true, 0, floor
			s := mustOpen(t, store, cfg, patientTuning)
			n := 0
			for {
				_, err := put(s, gateway.LaneTelemetry, messages("a", n, 50, 4000), gateway.Unread)
				if errors.Is(err, gateway.ErrStoreFull) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				n += 50
			}
			if free, _ := freeSpace(dir); free > left {
				fillUpTo(t, dir, left)
			}
			letters := 0
			var err error
			for ; err == nil && letters < 60; letters++ {
				err = s.DeadLetter(message("poison", letters, 200<<10), "refused")
			}
			t.Logf("floor %v, %d MiB left by others: %d letters of 200 KiB, %v", floor, left>>20, letters, err)
			if letters < 15 || err != nil && !errors.Is(err, gateway.ErrStoreFull) {
				t.Errorf("floor %v, %d MiB left by others: %d letters of 200 KiB, %v", floor, left>>20, letters, err)
			}
			kept := s.State().DeadLetters
			mustClose(t, s)
			s = mustOpen(t, store, cfg, patientTuning)
			if got := s.State().DeadLetters; got != kept {
				t.Errorf("floor %v, %d MiB left: %d letters at the next start, want %d", floor, left>>20, got, kept)
			}
			if got := len(readAll(t, s, gateway.LaneTelemetry)); got != n {
				t.Errorf("floor %v, %d MiB left: read %d of %d", floor, left>>20, got, n)
			}
			mustClose(t, s)
		}
	}
}
