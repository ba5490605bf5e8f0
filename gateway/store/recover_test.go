package store

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/gateway"
)

// crashedStore makes a store below base with n messages in one segment of the
// given size that was being written when the process died.
func crashedStore(t *testing.T, base string, n int, segmentSize gateway.Size, settle int) (dir string, cfg Config) {
	t.Helper()
	cfg = testConfig()
	cfg.SegmentSize = segmentSize
	busy := filepath.Join(base, "busy")
	s := mustOpen(t, busy, cfg, patientTuning)
	for i := 0; i < n; i += 50 {
		mustPut(t, s, gateway.LaneTelemetry, messages("a", i, 50, 1000), gateway.Unread)
	}
	for i := range settle {
		got, err := s.Read(gateway.LaneTelemetry, 1, 1, nil)
		if err != nil || len(got) != 1 {
			t.Fatalf("read %d: %d messages, %v", i, len(got), err)
		}
		s.Settle(got[0].Position)
	}
	calm(t, s)
	dir = filepath.Join(base, "crashed")
	copyFolder(t, busy, dir)
	mustClose(t, s)
	if err := os.RemoveAll(busy); err != nil {
		t.Fatal(err)
	}
	return dir, cfg
}

// firstLog returns the log of that kind of the first segment. There may be another
// one, opened ahead and empty.
func firstLog(t *testing.T, dir, pattern string) string {
	t.Helper()
	return segmentFiles(t, dir, pattern)[0]
}

// spoilFile turns n bytes over from the first place behind from where text stands.
func spoilFile(t *testing.T, path, text string, from, n int) {
	t.Helper()
	data := mustReadFile(t, path)
	i := bytes.Index(data[from:], []byte(text))
	if i < 0 {
		t.Fatalf("%s does not contain %q", path, text)
	}
	for at := from + i; at < from+i+n; at++ {
		data[at] ^= 0xff
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data[from+i:from+i+n], int64(from+i)); err != nil {
		t.Fatal(err)
	}
}

// fillUpTo leaves free bytes on the file system of the folder.
func fillUpTo(t *testing.T, dir string, free int64) {
	t.Helper()
	have, err := freeSpace(dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "blocker"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(have - free); err != nil {
		t.Fatal(err)
	}
	if err := allocate(f.Name(), have-free); err != nil {
		t.Fatal(err)
	}
}

// A segment that has to be written anew at the start may need more room than
// there is without the ballast.
func TestRewriteAtStartHasTheBallast(t *testing.T) {
	disk := t.TempDir()
	mount(t, disk, "-t", "tmpfs", "-o", "size=256M", "none")
	const n = 12_000 // of 1 KiB: nearly a whole segment
	dir, cfg := crashedStore(t, disk, n, 16<<20, 0)
	if err := os.WriteFile(filepath.Join(dir, ballastName), make([]byte, ballastSize), 0o600); err != nil {
		t.Fatal(err)
	}
	mem := firstLog(t, dir, "*.mem")
	spoilFile(t, mem, "", 300, 40)
	fillUpTo(t, disk, 13<<20)
	s := mustOpen(t, dir, cfg, patientTuning)
	if got := seqs(readAll(t, s, gateway.LaneTelemetry)); !slices.Equal(got, span(0, n)) {
		t.Errorf("read %d of %d", len(got), n)
	}
}

// What was reserved for a segment and not written before the crash is room to start
// with, though others have taken the rest and the ballast.
func TestStartTakesWhatWasReserved(t *testing.T) { smallDisks(t, "96M", startTakesWhatWasReserved) }

func startTakesWhatWasReserved(t *testing.T, disk string) {
	dir, cfg := crashedStore(t, disk, 500, 16<<20, 0)
	if err := errors.Join(dropBallast(dir), allocate(firstLog(t, dir, "*.vlog"), 18<<20)); err != nil {
		t.Fatal(err)
	}
	occupy(t, filepath.Join(disk, "blocker"))
	s := mustOpen(t, dir, cfg, patientTuning)
	if got := seqs(readAll(t, s, gateway.LaneTelemetry)); !slices.Equal(got, span(0, 500)) {
		t.Errorf("read %d of 500", len(got))
	}
}

// Without room to write a damaged segment anew the store does not open, and
// leaves what is there as it is: when there is room nothing more is lost.
func TestNoRoomToRewriteCostsNothing(t *testing.T) {
	disk := t.TempDir()
	mount(t, disk, "-t", "tmpfs", "-o", "size=256M", "none")
	const n = 12_000
	dir, cfg := crashedStore(t, disk, n, 16<<20, 0)
	spoilFile(t, firstLog(t, dir, "*.vlog"), "a/4/", 0, 4) // in the first of many blocks
	if err := dropBallast(dir); err != nil {
		t.Fatal(err)
	}
	fillUpTo(t, disk, 13<<20)
	for range 2 {
		if s, err := open(dir, cfg, slog.New(slog.DiscardHandler), patientTuning); !errors.Is(err, gateway.ErrStoreFull) {
			t.Fatalf("got %v, %v, want %v", s, err, gateway.ErrStoreFull)
		}
	}
	if err := os.Remove(filepath.Join(disk, "blocker")); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, dir, cfg, patientTuning)
	if got := seqs(readAll(t, s, gateway.LaneTelemetry)); !slices.Equal(got, slices.Delete(span(0, n), 4, 5)) {
		t.Errorf("read %d of %d", len(got), n)
	}
	if d := s.State().Damage; d.Messages != 1 || d.Commits != 0 {
		t.Errorf("reported %+v, want one message", d)
	}
}

// A damaged folder is kept only where that leaves the room that the next start
// needs.
func TestDamagedFolderGivesWay(t *testing.T) {
	disk := t.TempDir()
	mount(t, disk, "-t", "tmpfs", "-o", "size=64M", "none")
	dir, cfg := crashedStore(t, disk, 500, 1<<20, 0)
	segment := filepath.Dir(firstLog(t, dir, "*.mem"))
	if err := os.WriteFile(filepath.Join(segment, "MANIFEST"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(dir, damagedName, "old")
	if err := os.MkdirAll(old, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(old, "file"), make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	fillUpTo(t, disk, 10<<20)
	s := mustOpen(t, dir, cfg, patientTuning)
	if got := seqs(readAll(t, s, gateway.LaneTelemetry)); !slices.Equal(got, span(0, 500)) {
		t.Errorf("read %d of 500", len(got))
	}
	if kept, _ := filepath.Glob(filepath.Join(dir, damagedName, "*")); len(kept) > 1 || slices.Contains(kept, old) {
		t.Errorf("kept: %v", kept)
	}
}

// damagedTail makes a crashed store whose last commit, one small message, stands
// in the write-ahead log, and damages it there.
func damagedTail(t *testing.T, harm func(t *testing.T, mem string, at int)) *Store {
	t.Helper()
	base := t.TempDir()
	s := mustOpen(t, base+"/busy", testConfig(), patientTuning)
	for i := range 40 {
		mustPut(t, s, gateway.LaneTelemetry, messages("a", i, 1, 500), gateway.Unread)
	}
	calm(t, s)
	dir := base + "/crashed"
	copyFolder(t, base+"/busy", dir)
	mem := firstLog(t, dir, "*.mem")
	harm(t, mem, bytes.Index(mustReadFile(t, mem), []byte("a/39/")))
	return mustOpen(t, dir, testConfig(), patientTuning)
}

// What a flipped bit in the last commit has cost is reported; what looks like a
// commit that was interrupted is not, because nobody was told that it is safe.
func TestDamageInTheLastCommit(t *testing.T) {
	const last = 39
	tests := []struct {
		name string
		harm func(t *testing.T, mem string, at int)
		want gateway.Damage
	}{
		{"a flipped bit", func(t *testing.T, mem string, at int) { spoilFile(t, mem, "", at, 1) }, gateway.Damage{Messages: 1}},
		{"many wrong bytes", func(t *testing.T, mem string, at int) { spoilFile(t, mem, "", at-40, 100) }, gateway.Damage{Commits: 1}},
		{"the end is not written", func(t *testing.T, mem string, at int) {
			zero(t, mem, at, 2000)
		}, gateway.Damage{}},
		{"a sector is not written", func(t *testing.T, mem string, at int) {
			spoilFile(t, mem, "", at, 1)
			begin := reach(mustReadFile(t, mem))
			zero(t, mem, begin, 512-begin%512)
		}, gateway.Damage{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := damagedTail(t, tt.harm)
			got := seqs(readAll(t, s, gateway.LaneTelemetry))
			if !slices.Equal(got, span(0, last)) {
				t.Errorf("read %v, want all but the last", got)
			}
			d := s.State().Damage
			if d.Messages != tt.want.Messages || d.Commits != tt.want.Commits {
				t.Errorf("reported %+v, want %+v", d, tt.want)
			}
		})
	}
}

// zero makes bytes of a file zero, as they are where nothing was written.
func zero(t *testing.T, path string, at, n int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, n), int64(at)); err != nil {
		t.Fatal(err)
	}
}

// A block that the journal names was complete: when it is gone, it is known how
// many messages that cost, and what was settled of it is no loss.
func TestJournalProvesWhatIsMissing(t *testing.T) {
	for _, tt := range []struct {
		settle, lost int
	}{{50, 0}, {30, 20}} {
		dir, cfg := crashedStore(t, t.TempDir(), 50, 1<<20, tt.settle)
		vlog := firstLog(t, dir, "*.vlog")
		if err := os.Truncate(vlog, 0); err != nil {
			t.Fatal(err)
		}
		s := mustOpen(t, dir, cfg, patientTuning)
		if got := readAll(t, s, gateway.LaneTelemetry); len(got) > 0 {
			t.Errorf("settled %d: read %d", tt.settle, len(got))
		}
		if d := s.State().Damage; int(d.Messages) != tt.lost || d.Commits != 0 {
			t.Errorf("settled %d: reported %+v, want %d messages", tt.settle, d, tt.lost)
		}
		mustClose(t, s)
	}
}

// The old files of a thinned segment are away and the new ones do not get into
// their place: what was thinned out is counted all the same, and once.
func TestThinnedOutIsCountedWhenTheExchangeFails(t *testing.T) {
	dir := filledCopy(t)
	s := mustOpen(t, dir, testConfig(), patientTuning)
	l := s.lanes[gateway.LaneTelemetry]
	first := l.segments[0]
	inTheWay := first.dir + "/in/the/way"
	sieve := sieve{lane: l, segment: first, seen: map[string]int{}}
	first.io.Lock()
	err := l.openReading(first)
	if err == nil {
		err = l.rewrite(first, logSize(first.dir)+segmentMemtable, func(dir string) error {
			return errors.Join(s.trash(dir), os.MkdirAll(inTheWay, 0o700))
		}, sieve.feed)
	}
	first.io.Unlock()
	if err != nil || len(sieve.dropped) == 0 {
		t.Fatalf("%d thinned out, %v: want them to be counted", len(sieve.dropped), err)
	}
	if err := os.RemoveAll(first.dir); err != nil {
		t.Fatal(err)
	}
	if got := len(readAll(t, s, gateway.LaneTelemetry)); got != 3000-len(sieve.dropped) {
		t.Errorf("read %d, want %d", got, 3000-len(sieve.dropped))
	}
}

// A rewrite begins with an empty folder, whatever an earlier one has left.
func TestRewriteBeginsAnew(t *testing.T) {
	dir := filledCopy(t)
	s := mustOpen(t, dir, testConfig(), patientTuning)
	l := s.lanes[gateway.LaneTelemetry]
	first := l.segments[0]
	copyFolder(t, first.dir, first.dir+rewriteSuffix)
	if err := l.thin(first); err != nil {
		t.Fatal(err)
	}
	dropped := int(s.State().Lanes[gateway.LaneTelemetry].Dropped[gateway.DropQuota])
	if got := len(readAll(t, s, gateway.LaneTelemetry)); dropped == 0 || got != 3000-dropped {
		t.Errorf("read %d, %d thinned out", got, dropped)
	}
	if vlogs, _ := filepath.Glob(filepath.Join(first.dir, "*.vlog")); len(vlogs) != 1 {
		t.Errorf("value logs: %v", vlogs)
	}
}

// A segment of more commits than Badger takes into one transaction can be written
// anew: one leaf that is slow, with the hub away, fills it message by message.
func TestRewriteOfManySmallCommits(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), patientTuning)
	l := s.lanes[gateway.LaneTelemetry]
	sealed := func() *segment {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.segments) > 0 && l.segments[0].sealed {
			return l.segments[0]
		}
		return nil
	}
	n := 0
	for ; sealed() == nil && n < 10000; n++ {
		mustPut(t, s, gateway.LaneTelemetry, messages("a", n, 1, 20), gateway.Unread)
	}
	first := sealed()
	if first == nil || len(first.table) < 1700 {
		t.Fatalf("%d commits, and no sealed segment with more than one transaction takes", n)
	}
	if err := l.thin(first); err != nil {
		t.Fatal(err)
	}
	dropped := int(s.State().Lanes[gateway.LaneTelemetry].Dropped[gateway.DropQuota])
	if got := len(readAll(t, s, gateway.LaneTelemetry)); dropped == 0 || got != n-dropped {
		t.Errorf("read %d, %d of %d thinned out", got, dropped, n)
	}
}

// A page that cannot be read costs what is on it, not what is behind it.
func TestUnreadablePage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	page := os.Getpagesize()
	whole := bytes.Repeat([]byte{1}, 3*page)
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	var got []byte
	calls := 0
	whole = whole[:page] // what is left of it then
	err := withReadable(path, func(data []byte) {
		if calls++; calls == 1 {
			// The kernel answers for a page that it cannot bring as it does for one
			// behind the end of the file.
			if err := os.Truncate(path, int64(page)); err != nil {
				t.Error(err)
			}
		}
		got = bytes.Clone(data)
	})
	if err != nil || calls != 2 || !bytes.Equal(got, whole) {
		t.Errorf("%d calls, %d bytes, %v", calls, len(got), err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := readPages(f, 3*page); !bytes.Equal(got, append(whole, make([]byte, 2*page)...)) {
		t.Error("what cannot be read is not zeros")
	}
}

// A drop that was cut short, with the folder gone, is finished: nothing of it is
// damage.
func TestDropThatWasCutShort(t *testing.T) {
	dir := filledCopy(t)
	s := mustOpen(t, dir, testConfig(), patientTuning)
	s.OnGiveUp(func([]gateway.GivenUp) {})
	l := s.lanes[gateway.LaneTelemetry]
	first := l.segments[0]
	if err := os.RemoveAll(first.dir); err != nil {
		t.Fatal(err)
	}
	if err := l.drop(first); err != nil {
		t.Fatal(err)
	}
	if st := s.State(); st.Damage.Messages != 0 || st.Lanes[gateway.LaneTelemetry].Dropped[gateway.DropQuota] == 0 {
		t.Errorf("state %+v", st)
	}
}

// A damaged message in a segment that is thinned stays a damaged one, and an
// intact one in a block that the database does not find any more stays intact.
func TestThinKeepsAccountOfDamage(t *testing.T) {
	for _, out := range []bool{false, true} {
		dir := filledCopy(t)
		s := mustOpen(t, dir, testConfig(), patientTuning)
		l := s.lanes[gateway.LaneTelemetry]
		first := l.segments[0]
		lane := func() gateway.LaneState { return s.State().Lanes[gateway.LaneTelemetry] }
		var held []gateway.Stored
		if out { // what is on its way to the hub is damaged on flash, and comes back
			var err error
			if held, err = s.Read(gateway.LaneTelemetry, 10, 1<<20, nil); err != nil {
				t.Fatal(err)
			}
		}
		spoilFile(t, filepath.Join(first.dir, "000001.vlog"), "a/4/", 0, 1)
		spoilFile(t, filepath.Join(first.dir, "000001.vlog"), "a/100/", 0, 1)
		if err := l.thin(first); err != nil {
			t.Fatal(err)
		}
		s.Release(false, positions(held)...)
		got := readAll(t, s, gateway.LaneTelemetry)
		st := lane()
		if st.Dropped[gateway.DropDamaged] != 2 || s.State().Damage.Messages != 2 {
			t.Errorf("out %v: %d counted as damaged, want 2", out, st.Dropped[gateway.DropDamaged])
		}
		if sum := len(got) + int(st.Dropped[gateway.DropQuota]) + 2; sum != 3000 {
			t.Errorf("out %v: %d messages accounted for, want 3000", out, sum)
		}
		mustClose(t, s)
	}
}

// Frames are looked for in the raw files once, not for every block that fails.
func TestManyDamagedBlocksAreFoundAtOnce(t *testing.T) {
	dir := filledCopy(t)
	s := mustOpen(t, dir, testConfig(), patientTuning)
	l := s.lanes[gateway.LaneTelemetry]
	first := l.segments[0]
	first.io.Lock()
	defer first.io.Unlock()
	a, err := l.salvageBlock(first, 0)
	places := first.places
	b, berr := l.salvageBlock(first, 1)
	if a == nil || b == nil || len(places) < 2 {
		t.Fatalf("found %d and %d bytes, %d places, %v, %v", len(a), len(b), len(places), err, berr)
	}
	// The same map: a search would have made another.
	delete(places, 0)
	if again, _ := l.salvageBlock(first, 0); again != nil {
		t.Error("searched again")
	}
}

// A handover without messages in front of one with a single message.
func TestEmptyHandover(t *testing.T) {
	cfg := testConfig()
	cfg.CommitWindow = gateway.Duration(100e6)
	s := mustOpen(t, t.TempDir(), cfg, patientTuning)
	mustPut(t, s, gateway.LaneTelemetry, messages("a", 0, 2, 1), gateway.Unread) // the window begins
	answers := make(chan error, 2)
	for n := range 2 {
		s.Append(gateway.LaneTelemetry, messages("a", 2, n, 1), gateway.Unread, func(_ []gateway.Position, err error) { answers <- err })
	}
	for range 2 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
}

// A write-ahead log that is missing or short is damage once it had its full size,
// also when nothing else is left of the segment. While the segment is made it is
// none.
func TestShortLog(t *testing.T) {
	for _, made := range []bool{false, true} {
		base := t.TempDir()
		s := mustOpen(t, base+"/busy", testConfig(), patientTuning)
		mustPut(t, s, gateway.LaneTelemetry, messages("a", 0, 1, 100), gateway.Unread)
		dir := base + "/crashed"
		copyFolder(t, base+"/busy", dir)
		mem := firstLog(t, dir, "*.mem")
		if err := os.Truncate(mem, 0); err != nil {
			t.Fatal(err)
		}
		want := int64(1)
		if !made {
			want = 0
			if err := os.Remove(filepath.Join(filepath.Dir(mem), fullLogsName)); err != nil {
				t.Fatal(err)
			}
		}
		s = mustOpen(t, dir, testConfig(), patientTuning)
		if d := s.State().Damage; d.Commits != want {
			t.Errorf("made %v: reported %+v, want %d commits", made, d, want)
		}
	}
}

// Badger shortens and removes write-ahead logs of segments that are given up or
// recovered. When the process is killed in between, that is no damage.
func TestKilledBetweenIsNoDamage(t *testing.T) {
	tests := []struct {
		name string
		do   func(t *testing.T, s *Store, l *lane, made *segment) // up to where it is killed
	}{
		{"an empty segment is closed and not yet removed", func(_ *testing.T, _ *Store, l *lane, made *segment) {
			l.closeUnused(made)
		}},
		{"an empty segment is recovered and not yet removed", func(t *testing.T, s *Store, l *lane, made *segment) {
			dir := filepath.Join(t.TempDir(), "crashed")
			copyFolder(t, made.dir, dir)
			l.discard(made)
			if err := os.Rename(dir, made.dir); err != nil {
				t.Fatal(err)
			}
			inTheWay := filepath.Join(s.dir, trashName)
			if err := errors.Join(os.RemoveAll(inTheWay), os.WriteFile(inTheWay, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			if _, err := l.recoverUnsealed(made.number); !errors.Is(err, unix.ENOTDIR) {
				t.Fatalf("recovered with %v, want it to be hindered", err)
			}
		}},
		{"a drained segment that cannot be flushed is emptied and not yet removed", func(t *testing.T, _ *Store, l *lane, made *segment) {
			frame := appendFrame(nil, made.address(0), 0, []byte("body"), []int{4})
			made.add(1, gateway.Unread)
			made.set(0, 0, settled)
			err := errors.Join(made.db.put([]encodedBlock{{0, frame}}), l.writeJournal(made, true))
			made.db.values, made.db.wal, made.db.lame = 0, 0, true // as when its flush has failed
			if err := errors.Join(err, made.db.drop()); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			busy := t.TempDir()
			s := mustOpen(t, busy, testConfig(), patientTuning)
			l := s.lanes[gateway.LaneTelemetry]
			made, err := l.create(l.nextNumber())
			if err != nil {
				t.Fatal(err)
			}
			tt.do(t, s, l, made)
			s = mustOpen(t, copyOf(t, busy), testConfig(), patientTuning)
			if d := s.State().Damage; d != (gateway.Damage{}) {
				t.Errorf("reported %+v", d)
			}
		})
	}
}
