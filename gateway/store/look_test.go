package store

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/fieldgate/fieldgate/gateway"
)

// mixed fills some segments: leaves a and b in turns, 3,000 messages.
func mixed(t *testing.T, s *Store) {
	t.Helper()
	for i := 0; i < 3000; i += 30 {
		leaf := []string{"a", "b"}[i/30%2]
		mustPut(t, s, gateway.LaneTelemetry, messages(leaf, i, 30, 700), gateway.Unread)
	}
}

func look(t *testing.T, s *Store) (all []gateway.Waiting) {
	t.Helper()
	err := s.Look(t.Context(), gateway.LaneTelemetry, func(w gateway.Waiting) bool {
		all = append(all, w)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func lookedSeqs(all []gateway.Waiting) (out []int) {
	for _, w := range all {
		out = append(out, int(w.Message.Seq))
	}
	return out
}

func ofLeaf(leaf string) func(*gateway.Message) bool {
	return func(m *gateway.Message) bool { return m.Leaf == leaf }
}

// openSealedSegments counts the sealed segments that are open.
func openSealedSegments(s *Store) (n int) {
	l := s.lanes[gateway.LaneTelemetry]
	l.mu.Lock()
	all := slices.Clone(l.segments)
	l.mu.Unlock()
	for _, seg := range all {
		seg.io.Lock()
		l.mu.Lock()
		if seg.sealed && seg.db != nil {
			n++
		}
		l.mu.Unlock()
		seg.io.Unlock()
	}
	return n
}

func TestLookDisturbsNobody(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), patientTuning)
	mixed(t, s)
	calm(t, s)
	first, err := s.Read(gateway.LaneTelemetry, 10, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := look(t, s)
	if !slices.Equal(lookedSeqs(all), span(0, 3000)) {
		t.Fatalf("looked at %d of 3000", len(all))
	}
	for i, w := range all {
		want := gateway.Unread
		if i < len(first) {
			want = gateway.Out
		}
		if w.State != want || string(w.Message.Body) != string(message(w.Message.Leaf, i, 700).Body) {
			t.Fatalf("message %d has state %d, want %d, or a wrong body", i, w.State, want)
		}
	}
	if n := openSealedSegments(s); n > 1 { // the one that is read
		t.Errorf("%d sealed segments were left open", n)
	}
	n := 0
	err = s.Look(t.Context(), gateway.LaneTelemetry, func(gateway.Waiting) bool { n++; return n < 5 })
	if err != nil || n != 5 {
		t.Errorf("looked at %d, want 5: %v", n, err)
	}
	// While somebody looks, reading goes on where it was.
	var rest []gateway.Stored
	err = s.Look(t.Context(), gateway.LaneTelemetry, func(gateway.Waiting) bool {
		got, err := s.Read(gateway.LaneTelemetry, 7, 1<<20, nil)
		if err != nil {
			t.Error(err)
		}
		rest = append(rest, got...)
		mustPut(t, s, gateway.LaneAlarm, messages("c", 1, 1, 10), gateway.Unread)
		return len(rest) < 500
	})
	if err != nil {
		t.Fatal(err)
	}
	rest = append(rest, readAll(t, s, gateway.LaneTelemetry)...)
	if !slices.Equal(seqs(rest), span(10, 2990)) {
		t.Errorf("read %d in a wrong order", len(rest))
	}
	v, err := s.Verify(t.Context(), gateway.LaneTelemetry)
	if err != nil || v.Messages != 3000 || v.Damaged != 0 || v.Bytes < 3000*700 {
		t.Errorf("verified %+v, %v", v, err)
	}
}

func TestPurgeOfALeaf(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, testConfig(), patientTuning)
	var told []gateway.GivenUp
	s.OnGiveUp(func(runs []gateway.GivenUp) { told = append(told, runs...) })
	mixed(t, s)
	out, err := s.Read(gateway.LaneTelemetry, 40, 1<<20, nil) // 30 of a, 10 of b
	if err != nil || len(out) != 40 {
		t.Fatalf("read %d: %v", len(out), err)
	}
	sum, err := s.Purge(t.Context(), gateway.LaneTelemetry, ofLeaf("a"))
	if err != nil || sum != (gateway.Purged{Messages: 1470, Under: 30}) {
		t.Fatalf("purged %+v, %v", sum, err)
	}
	if n := s.State().Lanes[gateway.LaneTelemetry].Dropped[gateway.DropPurged]; n != 1470 {
		t.Errorf("%d counted as purged", n)
	}
	named := 0
	for _, r := range told {
		if r.Leaf != "a" || r.Why != gateway.DropPurged {
			t.Errorf("told of %+v", r)
		}
		named += int(r.Last - r.First + 1)
	}
	if named != 1470 {
		t.Errorf("told of %d", named)
	}
	// What is under way is settled later, or comes back.
	for _, m := range out[:20] {
		s.Settle(m.Position)
	}
	for _, m := range out[20:] {
		if n := s.Release(false, m.Position); n != 0 {
			t.Errorf("%d dropped", n)
		}
	}
	var want []int
	for i := 20; i < 3000; i++ {
		if i < 30 || i/30%2 == 1 {
			want = append(want, i)
		}
	}
	if got := lookedSeqs(look(t, s)); !slices.Equal(got, want) {
		t.Errorf("%d are left, want %d", len(got), len(want))
	}
	// It is on flash: a crash now brings nothing back but what was not settled.
	calm(t, s)
	crashed := copyOf(t, dir)
	again := mustOpen(t, crashed, testConfig(), patientTuning)
	if got := seqs(readAll(t, again, gateway.LaneTelemetry)); !slices.Equal(got, want) {
		t.Errorf("after a crash %d are left, want %d", len(got), len(want))
	}
	if got := seqs(readAll(t, s, gateway.LaneTelemetry)); !slices.Equal(got, want) {
		t.Errorf("read %d, want %d", len(got), len(want))
	}
}

// At the moment in which Purge returns all of it is on flash, with nothing left to the
// keeper.
func TestPurgeIsOnFlashWhenItReturns(t *testing.T) {
	slow := patientTuning
	slow.journalLag, slow.syncLag = 1<<40, 1<<40
	dir := t.TempDir()
	s := mustOpen(t, dir, testConfig(), slow)
	mustPut(t, s, gateway.LaneTelemetry, messages("a", 0, 100, 100), gateway.Unread)
	if sum, err := s.Purge(t.Context(), gateway.LaneTelemetry, func(m *gateway.Message) bool { return m.Seq%2 == 0 }); err != nil || sum.Messages != 50 {
		t.Fatalf("purged %+v, %v", sum, err)
	}
	again := mustOpen(t, copyOf(t, dir), testConfig(), patientTuning)
	if got := readAll(t, again, gateway.LaneTelemetry); len(got) != 50 || got[0].Message.Seq != 1 {
		t.Errorf("after a crash %d are there, want 50", len(got))
	}
}

func TestPurgeOfAllGivesRoomBack(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), fastTuning)
	mixed(t, s)
	before := s.State().BytesOnDisk
	sum, err := s.Purge(t.Context(), gateway.LaneTelemetry, func(*gateway.Message) bool { return true })
	if err != nil || sum.Messages != 3000 {
		t.Fatalf("purged %+v, %v", sum, err)
	}
	eventually(t, "disk use falls", func() bool { return s.State().BytesOnDisk < before/2 })
	mustPut(t, s, gateway.LaneTelemetry, messages("a", 5000, 3, 10), gateway.Unread)
	if got := seqs(readAll(t, s, gateway.LaneTelemetry)); !slices.Equal(got, span(5000, 3)) {
		t.Errorf("read %v", got)
	}
}

// A purge beside reading, settling and writing: each message is either read once or
// purged, and what is read is in order.
func TestPurgeBesideTheFeeder(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), fastTuning)
	mixed(t, s)
	var read []int
	var all sync.WaitGroup
	all.Go(func() {
		for i := range 50 {
			if _, err := put(s, gateway.LaneTelemetry, messages("c", 3000+i*10, 10, 100), gateway.Unread); err != nil {
				t.Error(err)
			}
		}
	})
	stop := make(chan struct{})
	all.Go(func() {
		for over := false; ; {
			got, err := s.Read(gateway.LaneTelemetry, 20, 1<<20, nil)
			if err != nil {
				t.Error(err)
				return
			}
			for _, m := range got {
				read = append(read, int(m.Message.Seq))
				s.Settle(m.Position)
			}
			if len(got) == 0 && over {
				return
			}
			select {
			case <-stop:
				over = true
			default:
			}
		}
	})
	for range 5 {
		if _, err := s.Purge(t.Context(), gateway.LaneTelemetry, ofLeaf("a")); err != nil {
			t.Error(err)
		}
	}
	n := int(s.State().Lanes[gateway.LaneTelemetry].Dropped[gateway.DropPurged])
	eventually(t, "everything is written", func() bool {
		return s.State().Lanes[gateway.LaneTelemetry].Messages == 0 || s.Unread(gateway.LaneTelemetry) == 0
	})
	close(stop)
	all.Wait()
	read = append(read, seqs(readAll(t, s, gateway.LaneTelemetry))...)
	if !slices.IsSorted(read) || len(slices.Compact(slices.Clone(read))) != len(read) {
		t.Error("read out of order or twice")
	}
	if len(read)+n != 3500 {
		t.Errorf("%d read and %d purged of 3500", len(read), n)
	}
}

func TestVerifyFindsDamageAndLeavesIt(t *testing.T) {
	dir := filledCopy(t)
	path := segmentFiles(t, dir, "000001.vlog")[0]
	data := mustReadFile(t, path)
	at := bytes.Index(data, []byte("a/100/"))
	if at < 0 {
		t.Fatal("message 100 is not in the first segment")
	}
	data[at+20] ^= 0x10
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, dir, testConfig(), patientTuning)
	for range 2 {
		v, err := s.Verify(t.Context(), gateway.LaneTelemetry)
		if err != nil || v.Damaged != 1 || v.Messages+v.Damaged != 3000 || len(v.Spans) != 1 {
			t.Fatalf("verified %+v, %v", v, err)
		}
		if x := v.Spans[0]; x.Err == nil || x.From.Wall.IsZero() || x.First.Lane != gateway.LaneTelemetry {
			t.Errorf("span %+v", x)
		}
		if n := s.State().Lanes[gateway.LaneTelemetry].Messages; n != 3000 {
			t.Errorf("%d are left", n)
		}
	}
	if got := readAll(t, s, gateway.LaneTelemetry); len(got) != 2999 {
		t.Errorf("read %d", len(got))
	}
}

func TestLookAfterClose(t *testing.T) {
	s, err := open(filepath.Join(t.TempDir(), "s"), testConfig(), slog.New(slog.DiscardHandler), fastTuning)
	if err != nil {
		t.Fatal(err)
	}
	mixed(t, s)
	calm(t, s)
	err = s.Look(t.Context(), gateway.LaneTelemetry, func(gateway.Waiting) bool {
		mustClose(t, s)
		return true
	})
	if !errors.Is(err, gateway.ErrStoreFailed) {
		t.Errorf("looking went on behind the end: %v", err)
	}
	if n := openSealedSegments(s); n != 0 {
		t.Errorf("%d segments are open after the end", n)
	}
}
