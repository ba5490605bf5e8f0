package store

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/gateway"
)

// A database that was given up and goes on in the background does that in its own
// folder, also when another one has its name by then.
func TestLateWorkStaysInItsFolder(t *testing.T) {
	base := t.TempDir()
	dir, away := filepath.Join(base, "segment"), filepath.Join(base, "away")
	begin := func() *database {
		db, err := openSegment(dir, 1<<20, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := db.put([]encodedBlock{{0, []byte("a small block stays in the memtable")}}); err != nil {
			t.Fatal(err)
		}
		return db
	}
	names := func(dir string) (names []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	late := begin()
	if err := os.Rename(dir, away); err != nil {
		t.Fatal(err)
	}
	other := begin()
	before := names(dir)
	if err := late.closeSoon(); err != nil {
		t.Errorf("close: %v", err)
	}
	if after := names(dir); !slices.Equal(after, before) {
		t.Errorf("in the folder of the other were %v, are %v", before, after)
	}
	if left := names(away); !slices.ContainsFunc(left, func(n string) bool { return strings.HasSuffix(n, ".sst") }) {
		t.Errorf("in its own folder is no table: %v", left)
	}
	if err := other.closeSoon(); err != nil {
		t.Errorf("close of the other: %v", err)
	}
	db, err := readSegment(dir, 1<<20, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if found, err := db.get(0, func([]byte) {}); !found || err != nil {
		t.Errorf("the other has lost its block: %v", err)
	}
	if err := db.closeSoon(); err != nil {
		t.Error(err)
	}
}

// Databases give back what they hold of their folders, and errors name those.
func TestFoldersAreGivenBack(t *testing.T) {
	held := func() (n int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(entries)
	}
	dir := filepath.Join(t.TempDir(), "segment")
	var before int
	for i := range 5 {
		db, err := openSegment(dir, 1<<20, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := db.closeSoon(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "KEYREGISTRY"), fmt.Append(nil, "nonsense", i), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = openSegment(dir, 1<<20, slog.New(slog.DiscardHandler))
		if err == nil || strings.Contains(err.Error(), "/proc/") {
			t.Errorf("got %v", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			before = held()
		}
	}
	if after := held(); after > before {
		t.Errorf("%d files open, %d before", after, before)
	}
}

// What stands in the place of the next log cannot be removed for a while: then the
// segment is not closed and nothing of it is lost, and later it is.
func TestLinkThatStays(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), patientTuning)
	mustPut(t, s, gateway.LaneTelemetry, messages("a", 0, 50, 1000), gateway.Unread)
	l := s.lanes[gateway.LaneTelemetry]
	head := l.segments[0]
	stuck := filepath.Join(head.dir, "stuck") // a folder that is not empty
	if err := os.MkdirAll(filepath.Join(stuck, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	head.io.Lock()
	head.db.block = stuck
	if err := head.db.flush(); err == nil || head.db.flushed {
		t.Errorf("flushed %v, %v", head.db.flushed, err)
	}
	head.io.Unlock()
	l.mu.Lock()
	head.closing = true
	l.mu.Unlock()
	l.finish(head)
	if state := s.State(); head.sealed || state.Hindered == nil {
		t.Errorf("sealed %v, hindered %v", head.sealed, state.Hindered)
	}
	got := readAll(t, s, gateway.LaneTelemetry)
	if !slices.Equal(seqs(got), span(0, 50)) {
		t.Errorf("read %d of 50", len(got))
	}
	if err := os.RemoveAll(stuck); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is sealed and the state is well", func() bool {
		l.mu.Lock()
		sealed := head.sealed
		l.mu.Unlock()
		return sealed && s.State().Hindered == nil
	})
	s.Release(false, positions(got)...)
	if got := seqs(readAll(t, s, gateway.LaneTelemetry)); !slices.Equal(got, span(0, 50)) {
		t.Errorf("read %d of 50 after it was closed", len(got))
	}
}

// A link that a crash has left in the place of a log is no damage.
func TestLinkThatACrashLeft(t *testing.T) {
	dir := filledCopy(t)
	logs := segmentFiles(t, dir, "*.mem")
	for _, log := range logs {
		if err := os.Symlink("00002.mem", filepath.Join(filepath.Dir(log), "00002.mem")); err != nil {
			t.Fatal(err)
		}
	}
	s := mustOpen(t, dir, testConfig(), patientTuning)
	if got := seqs(readAll(t, s, gateway.LaneTelemetry)); !slices.Equal(got, span(0, 3000)) {
		t.Errorf("read %d of 3000", len(got))
	}
	if d := s.State().Damage; d != (gateway.Damage{}) {
		t.Errorf("reported %+v", d)
	}
}

// A name that is taken in the trash by what an earlier removal has left.
func TestNameIsTakenInTheTrash(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), fastTuning)
	ps := mustPut(t, s, gateway.LaneTelemetry, messages("a", 0, 50, 1000), gateway.Unread)
	l := s.lanes[gateway.LaneTelemetry]
	head := l.segments[0]
	left := filepath.Join(s.dir, trashName, "telemetry-"+segmentName(head.number), "file")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Settle(ps...)
	eventually(t, "nothing is left", func() bool {
		inTrash, _ := filepath.Glob(filepath.Join(s.dir, trashName, "*"))
		_, err := os.Stat(head.dir)
		return len(inTrash) == 0 && os.IsNotExist(err) && s.State().BytesOnDisk == 0
	})
	if h := s.State().Hindered; h != nil {
		t.Error(h)
	}
}

// A meta database that reports an error when it is closed has lost nothing: the
// folder is given free, and the program does not end in failure.
func TestMetaDoesNotClose(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, testConfig(), patientTuning)
	if err := s.DeadLetter(message("poison", 1, 10), "no"); err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	spoilt := 0
	for _, e := range fds { // Badger's statistics, which it closes
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if fd, nerr := strconv.Atoi(e.Name()); err == nil && nerr == nil && to == filepath.Join(dir, metaName, "DISCARD") {
			if err := unix.Close(fd); err != nil {
				t.Fatal(err)
			}
			spoilt++
		}
	}
	before := s.State().Errors
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if after := s.State().Errors; spoilt != 1 || after != before+1 {
		t.Errorf("%d files spoilt, %d errors counted, want 1 and 1", spoilt, after-before)
	}
	s = mustOpen(t, dir, testConfig(), patientTuning)
	if n := s.State().DeadLetters; n != 1 {
		t.Errorf("%d letters, want 1", n)
	}
}
