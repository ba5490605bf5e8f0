package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// fastTuning makes the store do at once what it otherwise does later.
var fastTuning = tuning{retryAfter: time.Millisecond, idleAfter: time.Millisecond, journalLag: time.Millisecond, syncLag: time.Millisecond}

// patientTuning keeps the head until the test ends.
var patientTuning = tuning{retryAfter: time.Millisecond, idleAfter: time.Hour, journalLag: time.Millisecond, syncLag: time.Millisecond}

func testConfig() Config {
	cfg := DefaultConfig()
	cfg.SegmentSize = 1 << 20
	cfg.MinFree = 4 << 20
	cfg.CommitWindow = 0
	cfg.AllowAnyFS = true
	return cfg
}

func mustOpen(t testing.TB, dir string, cfg Config, tn tuning) *Store {
	t.Helper()
	s, err := open(dir, cfg, slog.New(slog.DiscardHandler), tn)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func mustClose(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// message makes a message whose body says which one it is.
func message(leaf string, seq int, size int) *gateway.Message {
	body := fmt.Appendf(nil, "%s/%d/", leaf, seq)
	for len(body) < size {
		body = append(body, byte('a'+len(body)%26))
	}
	return &gateway.Message{
		Leaf: leaf, Lane: gateway.LaneTelemetry, Seq: uint64(seq), Start: 1, Body: body,
		Captured: gateway.Instant{Wall: time.Unix(1_700_000_000+int64(seq), 0).UTC(), Quality: gateway.Synced},
	}
}

func messages(leaf string, from, n, size int) []*gateway.Message {
	ms := make([]*gateway.Message, n)
	for i := range ms {
		ms[i] = message(leaf, from+i, size)
	}
	return ms
}

// put appends and waits for the answer.
func put(s *Store, lane gateway.Lane, ms []*gateway.Message, state gateway.StoredState) ([]gateway.Position, error) {
	type answer struct {
		ps  []gateway.Position
		err error
	}
	c := make(chan answer, 1)
	s.Append(lane, ms, state, func(ps []gateway.Position, err error) { c <- answer{ps, err} })
	a := <-c
	return a.ps, a.err
}

func mustPut(t testing.TB, s *Store, lane gateway.Lane, ms []*gateway.Message, state gateway.StoredState) []gateway.Position {
	t.Helper()
	ps, err := put(s, lane, ms, state)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	if len(ps) != len(ms) {
		t.Fatalf("append of %d messages gave %d positions", len(ms), len(ps))
	}
	return ps
}

// readAll reads until nothing is unread.
func readAll(t testing.TB, s *Store, lane gateway.Lane) []gateway.Stored {
	t.Helper()
	var all []gateway.Stored
	for {
		got, err := s.Read(lane, 100, 1<<20, nil)
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		if len(got) == 0 {
			return all
		}
		all = append(all, got...)
	}
}

func seqs(stored []gateway.Stored) []int {
	out := make([]int, len(stored))
	for i, m := range stored {
		out[i] = int(m.Message.Seq)
	}
	return out
}

func span(from, n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = from + i
	}
	return out
}

func positions(stored []gateway.Stored) []gateway.Position {
	out := make([]gateway.Position, len(stored))
	for i, m := range stored {
		out[i] = m.Position
	}
	return out
}

// eventually waits for a condition; the test's own time limit ends it.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 30_000 {
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("never happened: %s", what)
}

func TestReopenKeepsOrderAndStates(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, testConfig(), patientTuning)
	// More than one segment, in appends of different size.
	for i := 0; i < 3000; i += 60 {
		mustPut(t, s, gateway.LaneTelemetry, messages("a", i, 60, 700), gateway.Unread)
	}
	alarm := mustPut(t, s, gateway.LaneAlarm, messages("b", 0, 3, 10), gateway.Out)
	first, err := s.Read(gateway.LaneTelemetry, 1000, 64<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Settle(positions(first)...)
	s.Settle(alarm[1])
	start, installation := s.Start()
	mustClose(t, s)

	s = mustOpen(t, dir, testConfig(), patientTuning)
	if got, want := seqs(readAll(t, s, gateway.LaneTelemetry)), span(1000, 2000); !slices.Equal(got, want) {
		t.Errorf("telemetry after reopen: %d messages from %v, want 2000 from 1000", len(got), got[:min(3, len(got))])
	}
	if got, want := seqs(readAll(t, s, gateway.LaneAlarm)), []int{0, 2}; !slices.Equal(got, want) {
		t.Errorf("alarms after reopen: got %v, want %v", got, want)
	}
	start2, installation2 := s.Start()
	if start2 != start+1 || installation2 != installation || len(installation) != 8 {
		t.Errorf("start %d %q after start %d %q", start2, installation2, start, installation)
	}
}

func TestReadBounds(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), patientTuning)
	mustPut(t, s, gateway.LaneTelemetry, messages("a", 0, 20, 1000), gateway.Unread)
	got, err := s.Read(gateway.LaneTelemetry, 7, 1<<20, nil)
	if err != nil || len(got) != 7 {
		t.Fatalf("at most 7: got %d, %v", len(got), err)
	}
	got, err = s.Read(gateway.LaneTelemetry, 100, 3000, nil)
	if err != nil || len(got) != 3 {
		t.Fatalf("about 3000 bytes of 1128 each: got %d messages, %v", len(got), err)
	}
	got, err = s.Read(gateway.LaneTelemetry, 100, 1, nil)
	if err != nil || len(got) != 1 {
		t.Fatalf("at least one: got %d, %v", len(got), err)
	}
	if n := s.Unread(gateway.LaneTelemetry); n != 9 {
		t.Errorf("unread %d, want 9", n)
	}
}

func TestLargeHandovers(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), patientTuning)
	mustPut(t, s, gateway.LaneTelemetry, messages("big", 0, 1, 256<<10), gateway.Unread)
	mustPut(t, s, gateway.LaneTelemetry, messages("many", 1, 5000, 300), gateway.Unread)
	mustPut(t, s, gateway.LaneTelemetry, nil, gateway.Unread)
	got := readAll(t, s, gateway.LaneTelemetry)
	if !slices.Equal(seqs(got), span(0, 5001)) {
		t.Errorf("got %d messages", len(got))
	}
	if len(got) > 0 && len(got[0].Message.Body) != 256<<10 {
		t.Errorf("body of %d bytes", len(got[0].Message.Body))
	}
	if _, err := put(s, gateway.LaneTelemetry, messages("x", 0, 2, 301<<10), gateway.Unread); !errors.Is(err, gateway.ErrTooLarge) {
		t.Errorf("message above the bound: %v", err)
	}
}

func TestAnswersInOrder(t *testing.T) {
	cfg := testConfig()
	cfg.CommitWindow = gateway.Duration(2 * time.Millisecond)
	s := mustOpen(t, t.TempDir(), cfg, patientTuning)
	const n = 500
	order := make(chan int, n)
	for i := range n {
		size := 10
		if i%50 == 49 {
			size = 301 << 10 // refused, and still answered in its turn
		}
		s.Append(gateway.LaneTelemetry, messages("a", i, 1, size), gateway.Out, func(ps []gateway.Position, err error) {
			if (err != nil) != (size > 1000) {
				t.Errorf("append %d: %v", i, err)
			}
			s.Settle(ps...) // allowed in the callback
			order <- i
		})
	}
	for want := range n {
		if got := <-order; got != want {
			t.Fatalf("answer %d came in place of %d", got, want)
		}
	}
	if c := s.State().Commits; c >= n {
		t.Errorf("%d commits for %d appends: no group commit", c, n)
	}
}

// A leaf that waits for each acknowledgement does not wait for the window too,
// which would gather nothing; several leaves do.
func TestWindowIsNotForALeafAlone(t *testing.T) {
	cfg := testConfig()
	cfg.CommitWindow = gateway.Duration(time.Hour) // whoever waits for it never ends
	s := mustOpen(t, t.TempDir(), cfg, patientTuning)
	for i := range 20 {
		mustPut(t, s, gateway.LaneTelemetry, messages("a", i, 1, 10), gateway.Unread)
	}
	answered := make(chan struct{})
	s.Append(gateway.LaneTelemetry, messages("b", 0, 1, 10), gateway.Unread, func([]gateway.Position, error) { close(answered) })
	s.Append(gateway.LaneTelemetry, messages("a", 20, 1, 10), gateway.Unread, func([]gateway.Position, error) {})
	if c := s.State().Commits; c != 20 {
		t.Errorf("%d commits, want 20: two leaves are gathered", c)
	}
	select {
	case <-answered:
		t.Error("the window was not kept")
	default:
	}
}

func TestParkAndUnpark(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), patientTuning)
	for i := range 10 {
		mustPut(t, s, gateway.LaneTelemetry, []*gateway.Message{message([]string{"good", "bad"}[i%2], i, 10)}, gateway.Unread)
	}
	park := func(leaf string) bool { return leaf == "bad" }
	got, err := s.Read(gateway.LaneTelemetry, 100, 1<<20, park)
	if err != nil || !slices.Equal(seqs(got), []int{0, 2, 4, 6, 8}) {
		t.Fatalf("got %v, %v", seqs(got), err)
	}
	s.Release(true, got[1].Position)
	s.Release(false, got[0].Position)
	if got := seqs(readAll(t, s, gateway.LaneTelemetry)); !slices.Equal(got, []int{0}) {
		t.Fatalf("after release: got %v", got)
	}
	s.Unpark(gateway.LaneTelemetry)
	if got := seqs(readAll(t, s, gateway.LaneTelemetry)); !slices.Equal(got, []int{1, 2, 3, 5, 7, 9}) {
		t.Fatalf("after unpark: got %v", got)
	}
	if n := s.State().Lanes[gateway.LaneTelemetry].Messages; n != 10 {
		t.Errorf("%d messages, want 10", n)
	}
}

func TestUnknownPositionsAreIgnored(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), patientTuning)
	p := mustPut(t, s, gateway.LaneTelemetry, messages("a", 0, 1, 10), gateway.Out)[0]
	odd := []gateway.Position{
		{Lane: 9, Segment: p.Segment},
		{Lane: p.Lane, Segment: p.Segment + 1},
		{Lane: p.Lane, Segment: p.Segment, Block: 7},
		{Lane: p.Lane, Segment: p.Segment, Index: 7},
	}
	s.Settle(odd...)
	s.Release(false, odd...)
	if n := s.State().Lanes[gateway.LaneTelemetry].Messages; n != 1 {
		t.Errorf("%d messages, want 1", n)
	}
}

// filesBut lists the files of a store outside the parts that are named.
func filesBut(t *testing.T, dir string, but ...string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != dir {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if !e.IsDir() && !slices.ContainsFunc(but, func(b string) bool { return strings.HasPrefix(name, b) }) {
			files = append(files, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestNothingIsWrittenWithoutAppend(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, testConfig(), fastTuning)
	_, _ = s.Read(gateway.LaneTelemetry, 10, 1000, nil)
	s.Unpark(gateway.LaneAlarm)
	s.State()
	mustClose(t, s)
	if files := filesBut(t, dir, metaName, markerName, ballastName, startsName); len(files) > 0 {
		t.Errorf("files without any message: %v", files)
	}
}

func TestDiskIsFreeAfterDrain(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig()
	s := mustOpen(t, dir, cfg, fastTuning)
	for i := range 8 {
		mustPut(t, s, gateway.LaneTelemetry, messages("a", i*400, 400, 1000), gateway.Unread)
	}
	if use := diskUse(filepath.Join(dir, queueName)); use < 3<<20 {
		t.Fatalf("only %d bytes on disk before the drain", use)
	}
	for {
		got, err := s.Read(gateway.LaneTelemetry, 100, 1<<20, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			break
		}
		s.Settle(positions(got)...)
	}
	eventually(t, "store is empty", func() bool { return s.State().BytesOnDisk == 0 })
	// The last segment counts as gone before its files are.
	eventually(t, "nothing is left of it", func() bool {
		return len(filesBut(t, dir, metaName, markerName, ballastName, startsName)) == 0
	})
	if n := s.State().Lanes[gateway.LaneTelemetry].Messages; n != 0 {
		t.Errorf("%d messages after the drain", n)
	}
	mustPut(t, s, gateway.LaneTelemetry, messages("a", 9999, 1, 10), gateway.Unread)
	if got := seqs(readAll(t, s, gateway.LaneTelemetry)); !slices.Equal(got, []int{9999}) {
		t.Errorf("after the drain: got %v", got)
	}
}

func TestBlockAtBound(t *testing.T) {
	cfg := testConfig()
	cfg.Lanes[gateway.LaneTelemetry] = LaneConfig{MaxBytes: gateway.Size(2 * reservation(1<<20)), Full: FullBlock}
	dir := t.TempDir()
	s := mustOpen(t, dir, cfg, patientTuning)
	stored := fill(t, s, cfg.Lanes[gateway.LaneTelemetry].MaxBytes)
	if st := s.State(); st.Failing == nil || st.Lanes[gateway.LaneTelemetry].Limit != int64(cfg.Lanes[gateway.LaneTelemetry].MaxBytes) {
		t.Errorf("state of a full lane: %+v", st)
	}
	mustPut(t, s, gateway.LaneAlarm, messages("b", 0, 1, 100), gateway.Unread) // lanes are independent
	got := readAll(t, s, gateway.LaneTelemetry)
	if !slices.Equal(seqs(got), span(0, stored)) {
		t.Fatalf("read %d of %d", len(got), stored)
	}
	s.Settle(positions(got)...)
	eventually(t, "the state to say that there is room, with nobody writing", func() bool { return s.State().Failing == nil })
	if _, err := put(s, gateway.LaneTelemetry, messages("a", stored, 1, 1000), gateway.Unread); err != nil {
		t.Errorf("the state said that there was room: %v", err)
	}
}

// fill appends until the lane is full and returns how many messages it took.
func fill(t *testing.T, s *Store, bound gateway.Size) int {
	t.Helper()
	for n := 0; n < int(bound); n += 50 {
		_, err := put(s, gateway.LaneTelemetry, messages("a", n, 50, 1000), gateway.Unread)
		if errors.Is(err, gateway.ErrStoreFull) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the bound was never reached")
	return 0
}

func TestDropOldest(t *testing.T) {
	cfg := testConfig()
	cfg.Lanes[gateway.LaneTelemetry] = LaneConfig{MaxBytes: gateway.Size(2 * reservation(1<<20)), Full: FullDropOldest}
	s := mustOpen(t, t.TempDir(), cfg, patientTuning)
	var told []gateway.GivenUp
	s.OnGiveUp(func(runs []gateway.GivenUp) { told = append(told, runs...) })
	out := mustPut(t, s, gateway.LaneTelemetry, messages("a", 0, 2, 1000), gateway.Out)
	const n = 20_000
	for i := 2; i < n; i += 50 {
		mustPut(t, s, gateway.LaneTelemetry, messages("a", i, min(50, n-i), 1000), gateway.Unread)
		if use := s.State().BytesOnDisk; use > int64(cfg.Lanes[gateway.LaneTelemetry].MaxBytes) {
			t.Fatalf("%d bytes on disk, bound %d", use, cfg.Lanes[gateway.LaneTelemetry].MaxBytes)
		}
	}
	got := seqs(readAll(t, s, gateway.LaneTelemetry))
	dropped := int(s.State().Lanes[gateway.LaneTelemetry].Dropped[gateway.DropQuota])
	// The two that are out are neither read nor dropped.
	if dropped == 0 || !slices.Equal(got, span(dropped+2, n-dropped-2)) {
		t.Errorf("dropped %d, read %d from %v", dropped, len(got), got[:min(1, len(got))])
	}
	next := uint64(2)
	for _, run := range told {
		if run.Leaf != "a" || run.Lane != gateway.LaneTelemetry || run.First != next {
			t.Errorf("told of %+v, want %d first", run, next)
		}
		next = run.Last + 1
	}
	if int(next) != dropped+2 {
		t.Errorf("told of all below %d, want %d", next, dropped+2)
	}
	s.Settle(out[0])
	if n := s.Release(false, out[1]); n != 1 { // its segment is gone: now it is lost, and counted
		t.Errorf("release says %d dropped", n)
	}
	if d := int(s.State().Lanes[gateway.LaneTelemetry].Dropped[gateway.DropQuota]); d != dropped+1 {
		t.Errorf("dropped %d after release, want %d", d, dropped+1)
	}
}

func TestThin(t *testing.T) {
	cfg := testConfig()
	cfg.Lanes[gateway.LaneTelemetry] = LaneConfig{MaxBytes: gateway.Size(3 * reservation(1<<20)), Full: FullThin}
	dir := t.TempDir()
	s := mustOpen(t, dir, cfg, patientTuning)
	told := map[string]int{}
	s.OnGiveUp(func(runs []gateway.GivenUp) {
		for _, r := range runs {
			for seq := r.First; seq <= r.Last; seq++ {
				told[fmt.Sprint(r.Leaf, "/", seq)]++
			}
		}
	})
	out := mustPut(t, s, gateway.LaneTelemetry, messages("out", 0, 4, 1000), gateway.Out)
	n := 0
	for s.State().Lanes[gateway.LaneTelemetry].Dropped[gateway.DropQuota] == 0 {
		for _, leaf := range []string{"a", "b"} {
			mustPut(t, s, gateway.LaneTelemetry, messages(leaf, n, 25, 1000), gateway.Unread)
		}
		n += 25
	}
	st := s.State()
	dropped := int(st.Lanes[gateway.LaneTelemetry].Dropped[gateway.DropQuota])
	if st.BytesOnDisk > int64(cfg.Lanes[gateway.LaneTelemetry].MaxBytes) {
		t.Errorf("%d bytes on disk", st.BytesOnDisk)
	}
	if want := 2*n + 4 - dropped; st.Lanes[gateway.LaneTelemetry].Messages != want {
		t.Errorf("%d messages, want %d", st.Lanes[gateway.LaneTelemetry].Messages, want)
	}
	s.Release(false, out...)
	mustClose(t, s)

	s = mustOpen(t, dir, cfg, patientTuning)
	perLeaf := map[string][]int{}
	total := 0
	for _, m := range readAll(t, s, gateway.LaneTelemetry) {
		perLeaf[m.Message.Leaf] = append(perLeaf[m.Message.Leaf], int(m.Message.Seq))
		total++
	}
	if total != 2*n+4-dropped {
		t.Errorf("%d messages after reopen, want %d", total, 2*n+4-dropped)
	}
	for _, leaf := range []string{"a", "b"} {
		for seq := range n {
			if there, said := slices.Contains(perLeaf[leaf], seq), told[fmt.Sprint(leaf, "/", seq)]; there == (said == 1) || said > 1 {
				t.Fatalf("%s/%d is there: %t, and was said to be dropped %d times", leaf, seq, there, said)
			}
		}
	}
	if len(told) != dropped {
		t.Errorf("%d said to be dropped, want %d", len(told), dropped)
	}
	if !slices.Equal(perLeaf["out"], span(0, 4)) {
		t.Errorf("messages that were out: %v", perLeaf["out"])
	}
	for _, leaf := range []string{"a", "b"} {
		got := perLeaf[leaf]
		if len(got) < 4 || !slices.IsSorted(got) || !slices.Equal(got[:4], []int{0, 2, 4, 6}) {
			t.Errorf("leaf %s: thinned to %v", leaf, got[:min(6, len(got))])
		}
	}
}

func TestDeadLetters(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, testConfig(), fastTuning)
	for i := range 70 { // 70 times 250 KiB is more than the shelf holds
		if err := s.DeadLetter(message("poison", i, 250<<10), fmt.Sprintf("reason %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, s)
	s = mustOpen(t, dir, testConfig(), fastTuning)
	next := 70 - s.State().DeadLetters
	if next <= 0 || next > 10 {
		t.Fatalf("%d dead letters", s.State().DeadLetters)
	}
	err := s.DeadLetters(func(d DeadLetter) bool {
		if int(d.Message.Seq) != next || d.Reason != fmt.Sprintf("reason %d", next) || len(d.Message.Body) != 250<<10 {
			t.Errorf("got letter %d %q, want %d", d.Message.Seq, d.Reason, next)
		}
		next++
		return true
	})
	if err != nil || next != 70 {
		t.Errorf("ended before letter %d: %v", next, err)
	}
}

func TestDroppedDeadLettersStayAway(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, testConfig(), fastTuning)
	for i := range 5 {
		if err := s.DeadLetter(message("poison", i, 10), "no"); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := s.DropDeadLetters(2, 4, 5, 77); n != 3 || err != nil {
		t.Fatalf("dropped %d, %v, want 3", n, err)
	}
	if err := s.DeadLetter(message("poison", 5, 10), "no"); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	s = mustOpen(t, dir, testConfig(), fastTuning)
	var got []uint64
	if err := s.DeadLetters(func(d DeadLetter) bool { got = append(got, d.Number); return true }); err != nil {
		t.Fatal(err)
	}
	if want := []uint64{1, 3, 6}; !slices.Equal(got, want) || s.State().DeadLetters != 3 {
		t.Errorf("on the shelf %v, want %v", got, want)
	}
}

func TestAppendAfterClose(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), fastTuning)
	mustClose(t, s)
	if _, err := put(s, gateway.LaneTelemetry, messages("a", 0, 1, 1), gateway.Unread); !errors.Is(err, gateway.ErrStoreFailed) {
		t.Errorf("got %v", err)
	}
	if err := s.DeadLetter(message("a", 0, 1), ""); !errors.Is(err, gateway.ErrStoreFailed) {
		t.Errorf("dead letter: got %v", err)
	}
}

// TestSilentSyncError: Badger only logs that it could not sync the value log, and
// reports the commit as done. Nothing may be acknowledged then.
func TestSilentSyncError(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), patientTuning)
	mustPut(t, s, gateway.LaneTelemetry, messages("a", 0, 5, 1000), gateway.Unread)
	l := s.lanes[gateway.LaneTelemetry]
	l.mu.Lock()
	head := l.segments[len(l.segments)-1].db
	l.mu.Unlock()
	(*badgerLog)(head).Errorf("Error while curlf sync: %v\n", fs.ErrInvalid)

	_, err := put(s, gateway.LaneTelemetry, messages("a", 5, 5, 1000), gateway.Unread)
	if !errors.Is(err, gateway.ErrStoreFailed) {
		t.Fatalf("append: %v", err)
	}
	if !errors.Is(s.State().Failing, gateway.ErrStoreFailed) {
		t.Errorf("state: %v", s.State().Failing)
	}
	mustPut(t, s, gateway.LaneTelemetry, messages("a", 10, 5, 1000), gateway.Unread)
	if s.State().Failing != nil {
		t.Errorf("state after recovery: %v", s.State().Failing)
	}
	if got, want := seqs(readAll(t, s, gateway.LaneTelemetry)), append(span(0, 5), span(10, 5)...); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestForeignFolders(t *testing.T) {
	write := func(name, text string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name    string
		prepare func(t *testing.T, dir string)
		want    error
	}{
		{"other things", write("photo.jpg", "x"), ErrForeign},
		{"odd marker", write(markerName, "hello"), ErrForeign},
		{"newer", write(markerName, markerText+"2\n"), ErrNewer},
		{"in use", func(t *testing.T, dir string) { mustOpen(t, dir, testConfig(), fastTuning) }, ErrLocked},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			tt.prepare(t, dir)
			before := filesBut(t, dir)
			s, err := Open(dir, testConfig(), slog.New(slog.DiscardHandler))
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if s != nil {
				t.Error("a store and an error")
			}
			if after := filesBut(t, dir); !slices.Equal(before, after) {
				t.Errorf("files were %v, are %v", before, after)
			}
		})
	}
	t.Run("a file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		write("file", "x")(t, filepath.Dir(path))
		if _, err := Open(path, testConfig(), slog.New(slog.DiscardHandler)); !errors.Is(err, ErrNotWritable) {
			t.Errorf("got %v", err)
		}
	})
}

func TestNewFileSystemMayHaveLostAndFound(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, dir, testConfig(), fastTuning)
}

// smallDisks runs a test on small file systems of its own, which only root can
// make: tmpfs, and what the appliance has.
func smallDisks(t *testing.T, size string, test func(t *testing.T, dir string)) {
	t.Run("tmpfs", func(t *testing.T) {
		dir := t.TempDir()
		mount(t, dir, "-t", "tmpfs", "-o", "size="+size, "none")
		test(t, dir)
	})
	t.Run("ext4", func(t *testing.T) {
		image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
		// Without blocks reserved for root, who fills the disk in these tests.
		for _, args := range [][]string{{"truncate", "-s", size, image}, {"mkfs.ext4", "-q", "-F", "-m", "0", image}} {
			need(t, args...)
		}
		mount(t, dir, "-o", "loop", image)
		test(t, dir)
	})
}

func mount(t *testing.T, dir string, args ...string) {
	t.Helper()
	need(t, append(append([]string{"mount"}, args...), dir)...)
	// Lazily: Badger keeps files mapped for good after some failures.
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "--lazy", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
}

// need runs a command that not every machine lets us run.
func need(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	t.Skipf("%v: %v: %s", args, err, out)
}

func TestUnsuitableFileSystem(t *testing.T) {
	dir := t.TempDir()
	mount(t, dir, "-t", "tmpfs", "-o", "size=64m", "none")
	cfg := testConfig()
	cfg.AllowAnyFS = false
	_, err := Open(dir, cfg, slog.New(slog.DiscardHandler))
	if !errors.Is(err, ErrFileSystem) || !strings.Contains(err.Error(), "store.allow_any_filesystem") || !strings.Contains(err.Error(), "tmpfs") {
		t.Errorf("got %v", err)
	}
}

func TestFullDisk(t *testing.T) { smallDisks(t, "64M", fullDisk) }

func fullDisk(t *testing.T, dir string) {
	s := mustOpen(t, dir, testConfig(), patientTuning)
	n := 0
	blocker := filepath.Join(dir, "blocker")
	for ; n < 500; n += 50 {
		mustPut(t, s, gateway.LaneTelemetry, messages("a", n, 50, 1000), gateway.Unread)
	}
	occupy(t, blocker)
	for { // what was reserved is still there, then nothing
		_, err := put(s, gateway.LaneTelemetry, messages("a", n, 50, 1000), gateway.Unread)
		if errors.Is(err, gateway.ErrStoreFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n += 50
	}
	if err := s.State().Failing; !errors.Is(err, gateway.ErrStoreFull) {
		t.Errorf("state says %v", err)
	}
	if err := s.DeadLetter(message("a", 0, 10), ""); err != nil && !errors.Is(err, gateway.ErrStoreFull) {
		t.Errorf("dead letter on a full disk: %v", err)
	}
	got := readAll(t, s, gateway.LaneTelemetry)
	if !slices.Equal(seqs(got), span(0, n)) {
		t.Errorf("read %d of %d on the full disk", len(got), n)
	}
	s.Release(false, positions(got)...)
	if err := os.Remove(blocker); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the state to say that there is room, with nobody writing", func() bool { return s.State().Failing == nil })
	mustPut(t, s, gateway.LaneTelemetry, messages("a", n, 1, 1000), gateway.Unread)
	if got := readAll(t, s, gateway.LaneTelemetry); !slices.Equal(seqs(got), span(0, n+1)) {
		t.Errorf("read %d of %d after the disk was freed", len(got), n+1)
	}
}

func TestCloseOnFullDisk(t *testing.T) { smallDisks(t, "96M", closeOnFullDisk) }

func closeOnFullDisk(t *testing.T, dir string) {
	blocker := filepath.Join(dir, "blocker")
	for _, ballast := range []bool{true, false} {
		s := mustOpen(t, dir, testConfig(), patientTuning)
		for i := range 100 {
			mustPut(t, s, gateway.LaneTelemetry, messages("a", i, 1, 100), gateway.Unread)
		}
		if !ballast {
			if err := dropBallast(dir); err != nil {
				t.Fatal(err)
			}
		}
		occupy(t, blocker)
		mustClose(t, s)
		if err := os.Remove(blocker); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, dir, testConfig(), patientTuning)
		got := readAll(t, s, gateway.LaneTelemetry)
		if !slices.Equal(seqs(got), span(0, 100)) {
			t.Errorf("ballast %v: read %d of 100", ballast, len(got))
		}
		s.Settle(positions(got)...)
		mustClose(t, s)
	}
}

// TestStartOnFullDisk needs the ballast.
func TestStartOnFullDisk(t *testing.T) { smallDisks(t, "96M", startOnFullDisk) }

func startOnFullDisk(t *testing.T, dir string) {
	s := mustOpen(t, dir, testConfig(), patientTuning)
	mustPut(t, s, gateway.LaneTelemetry, messages("a", 0, 500, 1000), gateway.Unread)
	mustClose(t, s)
	occupy(t, filepath.Join(dir, "blocker"))
	s = mustOpen(t, dir, testConfig(), patientTuning)
	if got := readAll(t, s, gateway.LaneTelemetry); !slices.Equal(seqs(got), span(0, 500)) {
		t.Errorf("read %d of 500", len(got))
	}
}

// occupy fills the file system.
func occupy(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 64<<10)
	for err == nil {
		_, err = f.Write(chunk)
		if err != nil && len(chunk) > 1 {
			chunk, err = chunk[:len(chunk)/2], nil
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	cfg := testConfig()
	cfg.SegmentSize = 16 << 20
	cfg.Lanes[gateway.LaneTelemetry].Full = FullDropOldest
	cfg.Lanes[gateway.LaneTelemetry].MaxBytes = 128 << 20
	s := mustOpen(b, b.TempDir(), cfg, shippedTuning)
	ms := messages("leaf-0001", 0, 256, 200)
	b.SetBytes(256 * 200)
	for b.Loop() {
		mustPut(b, s, gateway.LaneTelemetry, ms, gateway.Unread)
	}
	b.ReportMetric(float64(b.N)*256/b.Elapsed().Seconds(), "msg/s")
}

func TestSyncsAreTimed(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), fastTuning)
	defer mustClose(t, s)
	var n atomic.Int64
	s.OnSync(func(d time.Duration) {
		if d > 0 {
			n.Add(1)
		}
	})
	if _, err := put(s, gateway.LaneTelemetry, messages("a", 0, 1, 1), gateway.Unread); err != nil {
		t.Fatal(err)
	}
	if got, want := n.Load(), s.State().Commits; got != want || want == 0 {
		t.Errorf("told of %d syncs, want %d", got, want)
	}
}
