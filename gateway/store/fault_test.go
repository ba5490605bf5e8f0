package store

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/gateway"
)

// framesOf makes frames of two messages for blocks of a segment. Block 0 and 1 are
// a commit each, those from 2 on one.
func framesOf(s *segment, blocks ...uint32) map[uint32][]byte {
	frames := map[uint32][]byte{}
	for _, block := range blocks {
		frames[block] = appendFrame(nil, s.address(block), max(0, int(block)-2), []byte("first, second"), []int{6, 13})
	}
	return frames
}

func TestUnfinishedCommitIsDropped(t *testing.T) {
	s := newSegment(gateway.LaneTelemetry, 7, "")
	torn := func(frames map[uint32][]byte, block uint32) map[uint32][]byte {
		frames[block][len(frames[block])-1] ^= 1
		return frames
	}
	halved := func(frames map[uint32][]byte, block uint32) map[uint32][]byte {
		clear(frames[block][frameHeader+frameSlot : frameHeader+2*frameSlot+frameSum])
		return frames
	}
	tests := []struct {
		name   string
		frames map[uint32][]byte
		known  []uint32
		want   []uint32
		from   uint32
	}{
		{"all is known", framesOf(s, 0, 1, 2), []uint32{0, 1, 2}, []uint32{0, 1, 2}, 0},
		{"what follows without a gap stays", framesOf(s, 0, 1, 2, 3), []uint32{0, 1}, []uint32{0, 1, 2, 3}, 0},
		{"what is behind a gap in the last commit goes", framesOf(s, 0, 1, 3, 4), []uint32{0, 1}, []uint32{0, 1}, 0},
		{"what is torn goes, and what is behind it", torn(framesOf(s, 0, 1, 2, 3, 4), 3), []uint32{0, 1}, []uint32{0, 1, 2}, 0},
		{"a commit before is damaged, not unfinished", torn(framesOf(s, 0, 1, 2), 1), nil, []uint32{0, 1, 2}, 0},
		{"a commit before is missing, not unfinished", framesOf(s, 0, 2, 3), nil, []uint32{0, 2, 3}, 0},
		{"what is known and torn stays", torn(framesOf(s, 0, 1, 2, 3), 3), []uint32{0, 1, 2, 3}, []uint32{0, 1, 2, 3}, 0},
		{"what has only half a header is torn", halved(framesOf(s, 0, 1, 2), 2), []uint32{0, 1}, []uint32{0, 1}, 0},
		{"the same behind a whole one", halved(framesOf(s, 0, 1, 2, 3), 3), []uint32{0, 1}, []uint32{0, 1, 2}, 0},
		{"the same behind one with half a header", halved(halved(framesOf(s, 0, 1, 2, 3), 2), 3), []uint32{0, 1}, []uint32{0, 1}, 0},
		{"the same behind a gap", halved(framesOf(s, 0, 1, 3), 3), []uint32{0, 1}, []uint32{0, 1}, 0},
		{"the same at the begin", halved(framesOf(s, 0), 0), nil, nil, 0},
		{"the same behind a damaged commit", halved(torn(framesOf(s, 0, 1, 2), 1), 2), []uint32{0, 1}, []uint32{0, 1}, 0},
		{"what is known and has half a header stays", halved(framesOf(s, 0, 1, 2, 3), 3), []uint32{0, 1, 2, 3}, []uint32{0, 1, 2, 3}, 0},
		{"it is by its number none with what is damaged before", halved(framesOf(s, 0, 1, 3, 4, 5), 5), []uint32{0}, []uint32{0, 1, 3, 4}, 5},
		{"the same behind one that is torn", halved(torn(framesOf(s, 0, 1, 2), 1), 2), []uint32{0}, []uint32{0, 1}, 2},
		{"its header says more than its number", torn(framesOf(s, 0, 1, 2, 3, 4), 2), []uint32{0}, []uint32{0, 1}, 4},
		{"nothing is known", framesOf(s, 3, 4), nil, nil, 0},
		{"nothing is there", nil, nil, nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			known := map[uint32][]byte{}
			for _, block := range tt.known {
				known[block] = nil // the database knows it and cannot read it
			}
			dropUnfinished(tt.frames, known, tt.from)
			if got := slices.Sorted(maps.Keys(tt.frames)); !slices.Equal(got, tt.want) {
				t.Errorf("blocks %v stay, want %v", got, tt.want)
			}
		})
	}
}

// Badger calls log.Fatal when it cannot make its file of statistics.
func TestFatalInBadgerIsAnError(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "DISCARD"), 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := openSegment(dir, 1<<20, slog.New(slog.DiscardHandler))
	if err == nil {
		t.Fatal("opened", db.Close())
	}
	if !strings.Contains(err.Error(), "DISCARD") {
		t.Errorf("the error does not say what it is about: %v", err)
	}
}

// A removal that was interrupted is finished when it is tried again.
func TestTrashIsTriedAgain(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), patientTuning)
	left := filepath.Join(s.dir, trashName, "telemetry-0000000000000007", "file")
	if err := os.MkdirAll(filepath.Dir(left), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.trash(s.lanes[gateway.LaneTelemetry].path(7)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(left)); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
}

// What cannot be removed now is removed later, and until then the state says so.
func TestUnusedSegmentIsRemovedLater(t *testing.T) {
	s := mustOpen(t, t.TempDir(), testConfig(), fastTuning)
	l := s.lanes[gateway.LaneTelemetry]
	unused := newSegment(l.id, 7, l.path(7))
	if err := os.MkdirAll(unused.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// A file in place of the folder is in the way, whoever asks.
	inTheWay := filepath.Join(s.dir, trashName)
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.discard(unused)
	if state := s.State(); state.Hindered == nil || state.Errors == 0 || state.Failing != nil {
		t.Errorf("hindered %v, %d errors, failing %v; want the state to tell", state.Hindered, state.Errors, state.Failing)
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the folder is removed and the state is well", func() bool {
		_, err := os.Stat(unused.dir)
		return os.IsNotExist(err) && s.State().Hindered == nil
	})
}

// The old files of a rewritten segment are away and the new ones could not be put
// in their place: reading does that.
func TestRewriteIsFinishedByReading(t *testing.T) {
	dir := filledCopy(t)
	s := mustOpen(t, dir, testConfig(), patientTuning)
	first := filepath.Dir(segmentFiles(t, dir, indexName)[0])
	if err := os.Rename(first, first+rewriteSuffix); err != nil {
		t.Fatal(err)
	}
	if got := seqs(readAll(t, s, gateway.LaneTelemetry)); !slices.Equal(got, span(0, 3000)) {
		t.Errorf("read %d of 3000", len(got))
	}
}
