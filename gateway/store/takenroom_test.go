package store

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fieldgate/fieldgate/gateway"
)

// Another process takes all room on the disk just when a segment that is closed
// writes its table through a memory map: the kernel answers with SIGBUS. The
// process must live on, nothing may be lost, and the segment is closed when
// there is room again.
func TestRoomTakenWhileClosing(t *testing.T) { smallDisks(t, "64M", roomTakenWhileClosing) }

func roomTakenWhileClosing(t *testing.T, dir string) {
	store, blocker := filepath.Join(dir, "store"), filepath.Join(dir, "blocker")
	var begun, taken atomic.Int32
	tn := patientTuning
	tn.beforeFlush = func() {
		if begun.Add(1) <= 2 { // also when it is tried again
			occupy(t, blocker)
			taken.Add(1)
		}
	}
	log := &logText{}
	s, err := open(store, testConfig(), slog.New(slog.NewTextHandler(log, nil)), tn)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	put100 := func() {
		for range 100 { // alone in their blocks, so that they are in the table
			mustPut(t, s, gateway.LaneTelemetry, messages("a", n, 1, 500), gateway.Unread)
			n++
		}
	}
	for begun.Load() == 0 {
		put100()
	}
	eventually(t, "the first fault", func() bool { return strings.Contains(log.text(), errFault.Error()) })
	got := readAll(t, s, gateway.LaneTelemetry)
	if !slices.Equal(seqs(got), span(0, n)) {
		t.Errorf("read %d of %d after the fault", len(got), n)
	}
	s.Release(false, positions(got)...)
	if left, _ := filepath.Glob(filepath.Join(store, queueName, "telemetry", "*", "*.sst")); len(left) > 0 {
		t.Errorf("torn tables are left over: %v", left)
	}
	if err := os.Remove(blocker); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a second attempt", func() bool { return taken.Load() == 2 })
	if err := os.Remove(blocker); err != nil {
		t.Fatal(err)
	}
	l := s.lanes[gateway.LaneTelemetry]
	eventually(t, "the segment is closed", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.segments[0].sealed
	})
	put100()
	if got = readAll(t, s, gateway.LaneTelemetry); !slices.Equal(seqs(got), span(0, n)) {
		t.Errorf("read %d of %d after it was closed", len(got), n)
	}
	s.Release(false, positions(got)...)
	mustClose(t, s)

	s = mustOpen(t, store, testConfig(), patientTuning)
	got = readAll(t, s, gateway.LaneTelemetry)
	if !slices.Equal(seqs(got), span(0, n)) {
		t.Errorf("read %d of %d after the next start", len(got), n)
	}
	s.Settle(positions(got)...)
	mustClose(t, s)
	if use := diskUse(filepath.Join(store, queueName)); use > 64<<10 {
		t.Errorf("%d bytes on disk after the drain", use)
	}
}

// logText gathers what a logger writes.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The disk has blocks, and no inode for another file: leaves are held back, and
// it goes on by itself when there are inodes again.
func TestNoInodes(t *testing.T) {
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	for _, args := range [][]string{{"truncate", "-s", "64M", image}, {"mkfs.ext4", "-q", "-F", "-m", "0", "-N", "128", image}} {
		need(t, args...)
	}
	mount(t, dir, "-o", "loop", image)
	store := filepath.Join(dir, "store")
	s := mustOpen(t, store, testConfig(), patientTuning)
	n := 0
	for ; n < 500; n += 50 {
		mustPut(t, s, gateway.LaneTelemetry, messages("a", n, 50, 1000), gateway.Unread)
	}
	var fillers []string
	for i := 0; ; i++ {
		path := filepath.Join(dir, "filler-"+strconv.Itoa(i))
		f, err := os.Create(path)
		if err != nil {
			break
		}
		f.Close()
		fillers = append(fillers, path)
	}
	var refusal error
	for refusal == nil {
		if _, refusal = put(s, gateway.LaneTelemetry, messages("a", n, 50, 1000), gateway.Unread); refusal == nil {
			n += 50
		}
	}
	if !errors.Is(refusal, gateway.ErrStoreFull) && !errors.Is(refusal, gateway.ErrStoreFailed) {
		t.Errorf("refused with %v", refusal)
	}
	if s.State().Failing == nil {
		t.Error("the state does not say that nothing can be stored")
	}
	got := readAll(t, s, gateway.LaneTelemetry)
	if !slices.Equal(seqs(got), span(0, n)) {
		t.Errorf("read %d of %d without inodes", len(got), n)
	}
	s.Release(false, positions(got)...)
	for _, path := range fillers {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "room again", func() bool {
		_, err := put(s, gateway.LaneTelemetry, messages("a", n, 1, 1000), gateway.Unread)
		return err == nil
	})
	got = readAll(t, s, gateway.LaneTelemetry)
	if !slices.Equal(seqs(got), span(0, n+1)) {
		t.Errorf("read %d of %d in the end", len(got), n+1)
	}
	s.Settle(positions(got)...)
	if damage := s.State().Damage; damage != (gateway.Damage{}) {
		t.Errorf("damage is reported: %+v", damage)
	}
}
