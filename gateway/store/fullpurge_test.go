package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/fieldgate/fieldgate/gateway"
)

// A purge on a full disk goes through all that is chosen, and says what it could not
// record. Said again when there is room, it is on flash.
func TestPurgeOnAFullDisk(t *testing.T) {
	disk := t.TempDir()
	mount(t, disk, "-t", "tmpfs", "-o", "size=64M", "none")
	slow := patientTuning
	slow.journalLag, slow.syncLag = 1<<40, 1<<40
	dir := filepath.Join(disk, "s")
	s := mustOpen(t, dir, testConfig(), slow)
	mixed(t, s)
	occupy(t, filepath.Join(disk, "blocker"))
	odd := func(m *gateway.Message) bool { return m.Seq%2 == 1 }
	sum, err := s.Purge(t.Context(), gateway.LaneTelemetry, odd)
	if !errors.Is(err, gateway.ErrStoreFailed) {
		t.Fatalf("the disk is not full, which proves nothing: %+v, %v", sum, err)
	}
	if sum.Messages != 1500 {
		t.Errorf("%d of 1500 are purged", sum.Messages)
	}
	if err := os.Remove(filepath.Join(disk, "blocker")); err != nil {
		t.Fatal(err)
	}
	if sum, err := s.Purge(t.Context(), gateway.LaneTelemetry, odd); err != nil || sum.Messages != 0 {
		t.Errorf("again: %+v, %v", sum, err)
	}
	again := mustOpen(t, copyOf(t, dir), testConfig(), patientTuning)
	for _, n := range seqs(readAll(t, again, gateway.LaneTelemetry)) {
		if n%2 == 1 {
			t.Fatalf("message %d is back after a crash", n)
		}
	}
}
