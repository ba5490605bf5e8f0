package store

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/fieldgate/fieldgate/gateway"
)

// A journal record of which a full disk took only a part must not hide those
// that are written behind it when there is room again.
func TestJournalOnAFullDisk(t *testing.T) {
	disk := t.TempDir()
	mount(t, disk, "-t", "tmpfs", "-o", "size=1M", "none")
	s := newSegment(gateway.LaneTelemetry, 1, disk)
	for range 1000 {
		s.add(1, gateway.Unread)
	}
	note := func(from, to uint32) error {
		var blocks []uint32
		for b := from; b < to; b++ {
			s.set(b, 0, settled)
			blocks = append(blocks, b)
		}
		return appendJournal(s.dir, s.takeNews(blocks), true)
	}
	if err := note(0, 300); err != nil { // 3300 bytes
		t.Fatal(err)
	}
	occupy(t, filepath.Join(disk, "blocker"))
	if err := note(300, 400); err == nil {
		t.Fatal("the disk is not full: the test proves nothing")
	}
	if err := os.Remove(filepath.Join(disk, "blocker")); err != nil {
		t.Fatal(err)
	}
	if err := note(300, 1000); err != nil { // the keeper tries again, and goes on
		t.Fatal(err)
	}
	again := newSegment(gateway.LaneTelemetry, 1, disk)
	for range 1000 {
		again.add(1, gateway.Unread)
	}
	if err := replayJournal(again); err != nil {
		t.Fatal(err)
	}
	if again.unsettled > 0 {
		t.Errorf("%d of 1000 settled messages are to be sent again", again.unsettled)
	}
}
