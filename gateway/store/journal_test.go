package store

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// What was settled last is synced too, though nothing is settled any more.
func TestLastSettledIsSynced(t *testing.T) {
	tn := patientTuning
	tn.syncLag = 200 * time.Millisecond
	s := mustOpen(t, t.TempDir(), testConfig(), tn)
	ps := mustPut(t, s, gateway.LaneTelemetry, messages("a", 0, 3, 10), gateway.Out)
	l := s.lanes[gateway.LaneTelemetry]
	head := func() (fresh int, unsynced bool, synced time.Time) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.segments[0].fresh, l.segments[0].unsynced, l.segments[0].synced
	}
	written := func() bool { fresh, _, _ := head(); return fresh == 0 }
	s.Settle(ps[0])
	eventually(t, "the first is in the journal", written)
	s.Settle(ps[1])
	last := time.Now()
	eventually(t, "the second is in the journal", written)
	eventually(t, "it is synced", func() bool {
		_, unsynced, synced := head()
		return !unsynced && synced.After(last)
	})
}

// When half a record could not even be taken out again, that is done before the
// next is written.
func TestTornJournalIsMended(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), patientTuning)
	ps := mustPut(t, s, gateway.LaneTelemetry, messages("a", 0, 100, 10), gateway.Out)
	l := s.lanes[gateway.LaneTelemetry]
	head := l.segments[0]
	s.Settle(ps[:10]...)
	calm(t, s)
	head.io.Lock()
	path := filepath.Join(head.dir, journalName)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("half a record"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	l.mu.Lock()
	head.torn = true
	l.mu.Unlock()
	head.io.Unlock()
	s.Settle(ps[10:50]...)
	calm(t, s)
	again := newSegment(head.lane, head.number, copyOf(t, head.dir))
	again.add(100, gateway.Unread)
	if err := replayJournal(again); err != nil {
		t.Fatal(err)
	}
	if again.unsettled != 50 {
		t.Errorf("%d unsettled, want 50", again.unsettled)
	}
}

// Nothing of a drained segment is taken for lost when the power goes while its
// contents are being given up.
func TestDrainedSegmentIsNoDamage(t *testing.T) {
	base := t.TempDir()
	tn := patientTuning
	tn.journalLag, tn.idleAfter = time.Hour, time.Millisecond
	s := mustOpen(t, base+"/busy", testConfig(), tn)
	copied := make(chan struct{})
	s.tuning.beforeFlush = func() {
		defer close(copied)
		copyFolder(t, base+"/busy", base+"/crashed")
	}
	ps := mustPut(t, s, gateway.LaneTelemetry, messages("a", 0, 50, 1000), gateway.Unread)
	got, err := s.Read(gateway.LaneTelemetry, 100, 1<<20, nil)
	if err != nil || len(got) != len(ps) {
		t.Fatal(len(got), err)
	}
	s.Settle(ps[:20]...)
	calm(t, s)
	s.Settle(ps[20:]...)
	<-copied
	s = mustOpen(t, base+"/crashed", testConfig(), patientTuning)
	if got := readAll(t, s, gateway.LaneTelemetry); len(got) > 0 {
		t.Errorf("read %d settled messages", len(got))
	}
	if d := s.State().Damage; d != (gateway.Damage{}) {
		t.Errorf("reported %+v", d)
	}
}

// The journal of another segment settles nothing.
func TestJournalInTheWrongPlace(t *testing.T) {
	other := newSegment(gateway.LaneTelemetry, 7, t.TempDir())
	other.add(5, gateway.Unread)
	other.set(0, 1, settled)
	if err := appendJournal(other.dir, other.takeNews([]uint32{0}), false); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*segment{newSegment(gateway.LaneTelemetry, 8, other.dir), newSegment(gateway.LaneAlarm, 7, other.dir)} {
		s.add(5, gateway.Unread)
		journal := mustReadFile(t, s.dir, journalName)
		if applyJournal(s, journal); s.unsettled != 5 {
			t.Errorf("lane %v, segment %d: %d unsettled, want 5", s.lane, s.number, s.unsettled)
		}
	}
}
