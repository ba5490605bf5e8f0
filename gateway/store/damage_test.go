package store

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// positions is at how many places each kind of file is damaged. More by
// FIELDGATE_DAMAGE, for the night.
func damagePositions(t *testing.T) int {
	if text := os.Getenv("FIELDGATE_DAMAGE"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if testing.Short() {
		return 5
	}
	return 100
}

// memoryFolder is a folder where syncing costs nothing, where there is one.
func memoryFolder(t *testing.T) string {
	t.Helper()
	base := "/dev/shm"
	if info, err := os.Stat(base); err != nil || !info.IsDir() {
		base = os.TempDir()
	}
	dir, err := os.MkdirTemp(base, "fieldgate-damage-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// patient is a store that is to be damaged: sealed segments, one that was being
// written when the process died, a few settled messages, dead letters and notes.
type patient struct {
	dir     string   // never touched
	older   []string // what it was before: a while ago, and at its first start
	files   []string // of it, relative
	all     []int    // what is to be delivered
	letters int
	start   uint32
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	base := memoryFolder(t)
	dir := filepath.Join(base, "busy")
	s := mustOpen(t, dir, testConfig(), patientTuning)
	mustClose(t, s)
	p := &patient{dir: filepath.Join(base, "patient"), older: []string{filepath.Join(base, "young"), filepath.Join(base, "new")}}
	copyFolder(t, dir, p.older[1])
	s = mustOpen(t, dir, testConfig(), patientTuning)
	n := 0
	for n < 2200 {
		if n == 1750 { // the last segment has been begun
			calm(t, s)
			copyFolder(t, dir, p.older[0])
		}
		mustPut(t, s, gateway.LaneTelemetry, messages("a", n, 30, 700), gateway.Unread)
		n += 30
		for range 5 { // alone: they stand in the write-ahead log and in the table
			mustPut(t, s, gateway.LaneTelemetry, messages("a", n, 1, 300), gateway.Unread)
			n++
		}
	}
	done, err := s.Read(gateway.LaneTelemetry, 10, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Settle(positions(done)...)
	for i := range 5 {
		if err := s.DeadLetter(message("poison", i, 2000), "refused"); err != nil {
			t.Fatal(err)
		}
	}
	calm(t, s)
	p.all, p.letters = span(10, n-10), 5
	p.start, _ = s.Start()
	copyFolder(t, dir, p.dir)
	mustClose(t, s)
	p.files = filesBut(t, p.dir, ballastName)
	return p
}

func copyFolder(t testing.TB, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
}

// kinds sorts the store's files into kinds: what is written by the same code.
func (p *patient) kinds() map[string][]string {
	kinds := map[string][]string{}
	for _, f := range p.files {
		kind := filepath.Base(f)
		if ext := filepath.Ext(f); ext != "" {
			kind = "*" + ext
		}
		switch top := filepath.Dir(f); {
		case top == metaName:
			kind = "meta/" + kind
		case top != ".":
			kind = "segment/" + kind
		}
		kinds[kind] = append(kinds[kind], f)
	}
	return kinds
}

// harm is one way of damaging a file.
type harm struct {
	name string
	// most is how many messages of a segment may be lost to it, -1 for as many
	// as its segment has.
	most int
	do   func(t *testing.T, dir, file string)
	// killed says that a process that had found the damage was killed, maybe before
	// it could write its account.
	killed bool
}

// used is how much of a file is not a hole at its end: logs are made longer than
// what is in them.
func used(data []byte) int { return len(bytes.TrimRight(data, "\x00")) }

func flipBit(random *rand.Rand) func(t *testing.T, dir, file string) {
	return func(t *testing.T, dir, file string) {
		f, err := os.OpenFile(filepath.Join(dir, file), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		n := used(mustReadFile(t, dir, file))
		if n == 0 {
			return
		}
		at := int64(random.IntN(n))
		var b [1]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1 << random.IntN(8)
		if _, err := f.WriteAt(b[:], at); err != nil {
			t.Fatal(err)
		}
	}
}

func cutShort(random *rand.Rand) func(t *testing.T, dir, file string) {
	return func(t *testing.T, dir, file string) {
		if n := used(mustReadFile(t, dir, file)); n > 0 {
			if err := os.Truncate(filepath.Join(dir, file), int64(random.IntN(n))); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func empty(t *testing.T, dir, file string) {
	if err := os.Truncate(filepath.Join(dir, file), 0); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, dir, file string) {
	if err := os.Remove(filepath.Join(dir, file)); err != nil {
		t.Fatal(err)
	}
}

// replaceWith puts another file in the place of one.
func replaceWith(other func(file string) string) func(t *testing.T, dir, file string) {
	return func(t *testing.T, dir, file string) {
		data, err := os.ReadFile(other(file))
		if err != nil {
			return // there is none
		}
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamageCampaign damages every kind of file of a store in every way, at many
// places. The store must open, say how much is lost, deliver in order whatever
// is intact, and never a wrong body.
func TestDamageCampaign(t *testing.T) {
	p := newPatient(t)
	seed := rand.Uint64()
	t.Logf("seed %d, %d messages", seed, len(p.all))
	random := rand.New(rand.NewPCG(seed, 0))
	places := damagePositions(t)
	kinds := p.kinds()
	for _, want := range []string{
		"segment/*.vlog", "segment/*.mem", "segment/*.sst", "segment/MANIFEST", "segment/KEYREGISTRY", "segment/index", "segment/settled",
		"meta/*.vlog", "meta/*.mem", "meta/MANIFEST", "meta/KEYREGISTRY", startsName,
	} {
		if len(kinds[want]) == 0 {
			t.Errorf("there is no file of kind %s to be damaged", want)
		}
	}
	for kind, files := range kinds {
		if filepath.Base(kind) == "DISCARD" {
			continue // Badger's statistics, removed before each opening
		}
		if kind == markerName {
			continue // says whose folder it is: a store without it is refused, see TestForeignFolders
		}
		t.Run(kind, func(t *testing.T) {
			swap := func(file string) string { // with another of its kind
				return filepath.Join(p.dir, files[(slices.Index(files, file)+1)%len(files)])
			}
			for _, h := range []struct {
				harm
				times int
			}{
				{harm{"bit", 1, flipBit(random), false}, places},
				{harm{"cut short", -1, cutShort(random), false}, places / 10},
				{harm{"empty", -1, empty, false}, 2},
				{harm{"missing", -1, remove, false}, 2},
				{harm{"swapped", -1, replaceWith(swap), false}, 2},
				{harm{"older", -1, replaceWith(p.before(0)), false}, 2},
				{harm{"of the first start", -1, replaceWith(p.before(1)), false}, 2},
			} {
				for i := range h.times {
					file := files[random.IntN(len(files))]
					if i < 2 {
						file = files[i*(len(files)-1)] // the first and the last at least
					}
					p.examine(t, file, h.harm)
				}
			}
		})
	}
}

// before finds an older copy of a file.
func (p *patient) before(age int) func(file string) string {
	return func(file string) string { return filepath.Join(p.older[age], file) }
}

// examine damages one file of a copy and looks at what becomes of the store.
func (p *patient) examine(t *testing.T, file string, h harm) {
	t.Helper()
	dir := filepath.Join(filepath.Dir(p.dir), "copy")
	defer os.RemoveAll(dir)
	copyFolder(t, p.dir, dir)
	h.do(t, dir, file)
	what := fmt.Sprintf("%s %s", file, h.name)
	s, err := open(dir, testConfig(), slog.New(slog.DiscardHandler), patientTuning)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	defer mustClose(t, s)
	p.judge(t, what, h, s)
}

// TestDamageThenKill damages a store and kills the process that recovers it, at random
// moments: that costs no message more. The account of what was found may be lost
// with the process: it is written when the meta database is open.
func TestDamageThenKill(t *testing.T) {
	p := newPatient(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	heads := slices.DeleteFunc(p.kinds()["segment/*.mem"], func(f string) bool { // one may be opened ahead
		return used(mustReadFile(t, p.dir, f)) < 1000
	})
	head := filepath.Dir(heads[0])
	for i := range damagePositions(t) / 5 {
		dir := filepath.Join(filepath.Dir(p.dir), "copy")
		copyFolder(t, p.dir, dir)
		file := filepath.Join(head, []string{"000001.vlog", "00001.mem"}[i%2])
		flipBit(random)(t, dir, file)
		for range 1 + random.IntN(3) {
			openAndKill(t, dir, time.Duration(random.IntN(40_000))*time.Microsecond)
		}
		s := mustOpen(t, dir, testConfig(), patientTuning)
		p.judge(t, file+" bit", harm{"bit", 1, nil, true}, s)
		mustClose(t, s)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// openAndKill has another process open a store and kills it after a while.
func openAndKill(t *testing.T, dir string, after time.Duration) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childFolder+"="+dir, childOpens+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = out.Read(make([]byte, 1)) // it begins
	time.Sleep(after)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
}

func (p *patient) judge(t *testing.T, what string, h harm, s *Store) {
	t.Helper()
	got := readAll(t, s, gateway.LaneTelemetry)
	if !slices.IsSorted(seqs(got)) {
		t.Errorf("%s: out of order", what)
	}
	there := map[int]bool{}
	for _, m := range got {
		seq := int(m.Message.Seq)
		if there[seq] {
			t.Errorf("%s: message %d comes twice", what, seq)
		}
		there[seq] = true
		size := 700
		if seq%35 >= 30 {
			size = 300
		}
		if want := message("a", seq, size); !bytes.Equal(want.Body, m.Message.Body) {
			t.Errorf("%s: message %d has a wrong body", what, seq)
		}
	}
	lost, last := 0, p.all[len(p.all)-1]
	for _, n := range p.all {
		if !there[n] {
			lost++
		}
	}
	damage := s.State().Damage
	if lost > 0 && h.name != "bit" && !there[last] && damage.Commits == 0 && damage.Messages < int64(lost) {
		lost-- // the last commit, of one message: its damage looks like its interruption
	}
	if h.most >= 0 && lost > h.most {
		t.Errorf("%s: %d messages lost, at most %d are damaged", what, lost, h.most)
	}
	switch {
	case damage.Messages > int64(lost):
		t.Errorf("%s: %d messages lost, reported %+v", what, lost, damage)
	case damage.Messages < int64(lost) && damage.Commits == 0 && !h.killed:
		t.Errorf("%s: %d messages lost, reported %+v", what, lost, damage)
	case lost > 0 && !h.killed && (damage.From.IsZero() || damage.To.Before(damage.From)):
		t.Errorf("%s: no span in %+v", what, damage)
	}
	if s.start <= p.start {
		t.Errorf("%s: start %d after start %d: message ids would be used again", what, s.start, p.start)
	}
	if n := s.State().DeadLetters; n < p.letters && damage.Meta == 0 &&
		(filepath.Dir(what) != metaName || h.name == "bit" && n < p.letters-1) { // the mark at the end of the last may be hit
		t.Errorf("%s: %d dead letters of %d, and no word of it", what, n, p.letters)
	}
}
