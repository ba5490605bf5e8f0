package store

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/fieldgate/fieldgate/gateway"
)

const (
	pageSize   = 4096
	sectorSize = 512
	sectors    = pageSize / sectorSize // of a page
)

// interruption is a store whose last commit is under way when the power goes. Its
// logs are made for one segment, so what is not written of them is zeros.
type interruption struct {
	before string // a copy without the commit
	acked  int    // messages in that
	last   int    // messages of the commit
	vlog   change
	mem    change
}

// change is what a commit changes in a file, page by page.
type change struct {
	file  string // below the store's folder
	at    []int64
	pages [][]byte
}

// written is of how many sectors of each page, from its begin, the new contents are
// on flash.
type written []int

// interrupt makes a store with a commit of n messages under way. In the log that
// takes its block it begins shift bytes before the end of a page.
func interrupt(t *testing.T, shift, n, size int) *interruption {
	t.Helper()
	base := memoryFolder(t)
	busy := filepath.Join(base, "busy")
	s := mustOpen(t, busy, testConfig(), patientTuning)
	in := &interruption{before: filepath.Join(base, "before"), last: n}
	add := func(n, size int) {
		mustPut(t, s, gateway.LaneTelemetry, messages("a", in.acked, n, size), gateway.Unread)
		in.acked += n
	}
	pattern, pad, most := "*.vlog", 1500, 5500
	if n*(size+100) < valueThreshold {
		pattern, pad, most = "*.mem", 150, 500
	}
	for range 5 { // their numbers have two digits from here on, in that log too
		add(7, 300) // in the value log
		add(1, 100) // in the write-ahead log
	}
	log := firstLog(t, busy, pattern)
	end := func() int { return reach(mustReadFile(t, log)) }
	begin := end()
	add(1, pad)
	one := end() - begin // what a commit of one such message takes
	missing := func() int { return (2*pageSize - shift - (end()+one)%pageSize) % pageSize }
	for missing() > most-pad {
		add(1, most)
	}
	add(1, pad+missing())
	if got := pageSize - end()%pageSize; got%pageSize != shift {
		t.Fatalf("the commit would begin %d bytes before the end of a page, want %d", got, shift)
	}
	calm(t, s)
	copyFolder(t, busy, in.before)
	acked, commits := in.acked, s.State().Commits
	add(n, size)
	in.acked = acked
	if got := s.State().Commits - commits; got != 1 {
		t.Fatalf("the messages took %d commits, want one", got)
	}
	calm(t, s)
	in.vlog = in.changes(t, busy, firstLog(t, busy, "*.vlog"))
	in.mem = in.changes(t, busy, firstLog(t, busy, "*.mem"))
	mustClose(t, s)
	if len(in.vlog.at) == 0 != (pattern == "*.mem") {
		t.Fatalf("the commit changes %d pages of the value log", len(in.vlog.at))
	}
	return in
}

// changes compares a file with what it was.
func (in *interruption) changes(t *testing.T, busy, path string) change {
	t.Helper()
	file, err := filepath.Rel(busy, path)
	if err != nil {
		t.Fatal(err)
	}
	c := change{file: file}
	before, after := mustReadFile(t, in.before, file), mustReadFile(t, path)
	for at := 0; at+pageSize <= len(after); at += pageSize {
		if page := after[at : at+pageSize]; !bytes.Equal(page, before[at:at+pageSize]) {
			c.at, c.pages = append(c.at, int64(at)), append(c.pages, page)
		}
	}
	return c
}

func (c change) none() written { return make(written, len(c.pages)) }

func (c change) all() written { return slices.Repeat(written{sectors}, len(c.pages)) }

// ways lists what of the file may be written when the power goes: any pages, and of
// one only some sectors. Of many pages they are some ways, by chance.
func (c change) ways(random *rand.Rand) (list []written) {
	for bits := range 1 << min(len(c.pages), 4) {
		w := c.none()
		for i := range w {
			if i < 4 && bits>>i&1 != 0 || i >= 4 && random.IntN(2) == 0 {
				w[i] = sectors
			}
		}
		list = append(list, w)
		if len(w) > 0 && bits%4 == 3 {
			torn := slices.Clone(w)
			torn[random.IntN(len(w))] = 1 + random.IntN(sectors-1)
			list = append(list, torn)
		}
	}
	return list
}

func (c change) apply(t *testing.T, dir string, w written) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, c.file), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i, n := range w {
		if _, err := f.WriteAt(c.pages[i][:n*sectorSize], c.at[i]); err != nil {
			t.Fatal(err)
		}
	}
}

// left opens what is left when that is written, and harm is done to it.
func (in *interruption) left(t *testing.T, vlog, mem written, harm func(dir string)) (read []int, damage gateway.Damage) {
	t.Helper()
	dir := in.before + "-copy"
	copyFolder(t, in.before, dir)
	defer os.RemoveAll(dir)
	in.vlog.apply(t, dir, vlog)
	in.mem.apply(t, dir, mem)
	harm(dir)
	s, err := open(dir, testConfig(), slog.New(slog.DiscardHandler), patientTuning)
	if err != nil {
		t.Fatalf("value log %v, write-ahead log %v: %v", vlog, mem, err)
	}
	defer mustClose(t, s)
	return seqs(readAll(t, s, gateway.LaneTelemetry)), s.State().Damage
}

// interruptions are commits in the value log and in the write-ahead log, which begin
// at places of interest in a page and at random ones.
func interruptions(t *testing.T, use func(in *interruption, random *rand.Rand)) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	// An entry's header takes 17 bytes in the value log, the frame's 28 and 8 for
	// each message.
	scenes := []struct{ shift, n, size int }{
		{157, 14, 300}, // but for its checksum the frame's header is on the first page
		{250, 40, 300}, // half of it is
		{60, 2, 300},   // in the write-ahead log, as what follows it is
		{25, 1500, 20}, // several blocks
	}
	if places := damagePositions(t); places > 100 {
		for range places {
			n := []int{1 + random.IntN(2), 20 + random.IntN(60), 1100 + random.IntN(1000)}[random.IntN(3)]
			scenes = append(scenes, struct{ shift, n, size int }{random.IntN(600), n, 20 + random.IntN(min(280, commitBytes/n-150))})
		}
	}
	for _, s := range scenes {
		t.Run(fmt.Sprintf("%d messages of %d bytes, %d before the end of a page", s.n, s.size, s.shift), func(t *testing.T) {
			use(interrupt(t, s.shift, s.n, s.size), random)
		})
	}
}

// Whatever pages of a commit that was not synced get to the flash before the power
// goes: nobody was told of it, so it is no damage, and what is kept of it is its
// begin, because its leaves send all of it again. That holds too where the cut has
// damaged what tells of earlier commits, none of whose messages that costs.
func TestInterrupted(t *testing.T) {
	interruptions(t, func(in *interruption, random *rand.Rand) {
		look := func(vlog, mem written) {
			for _, what := range []string{"intact", "damaged"} {
				read, damage := in.left(t, vlog, mem, func(dir string) {
					if what == "damaged" { // where a block is, that stands in the value log
						spoilFile(t, filepath.Join(dir, in.mem.file), "", logHeader+3, 1)
					}
				})
				if len(read) < in.acked || !slices.Equal(read, span(0, len(read))) {
					t.Errorf("value log %v, write-ahead log %v, %s before: read %v, %d were acknowledged", vlog, mem, what, read, in.acked)
				}
				if damage != (gateway.Damage{}) {
					t.Errorf("value log %v, write-ahead log %v, %s before: reported %+v", vlog, mem, what, damage)
				}
			}
		}
		for _, w := range in.vlog.ways(random) {
			look(w, in.mem.none())
		}
		for _, w := range in.mem.ways(random) { // it is written when the value log is synced
			look(in.vlog.all(), w)
		}
	})
}

// Once the commit is synced, the same is damage, and counted.
func TestLastCommitIsDamaged(t *testing.T) {
	interruptions(t, func(in *interruption, random *rand.Rand) {
		for _, w := range in.vlog.ways(random) {
			read, damage := in.left(t, w, in.mem.all(), func(string) {})
			lost := in.acked + in.last - len(read)
			if lost > in.last || !slices.IsSorted(read) {
				t.Errorf("value log %v: read %v, %d should be intact", w, read, in.acked)
			}
			counted := int(damage.Messages) == lost && damage.Commits == 0 || int(damage.Messages) < lost && damage.Commits > 0
			if damage.Meta != 0 || !counted {
				t.Errorf("value log %v: %d lost, reported %+v", w, lost, damage)
			}
		}
	})
}
