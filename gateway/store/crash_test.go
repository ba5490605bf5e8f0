package store

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
)

func mustReadFile(t testing.TB, elem ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// copyOf returns a copy of a store's folder, as a crash at this moment would
// leave it.
func copyOf(t testing.TB, dir string) string {
	t.Helper()
	for range 20 {
		to := filepath.Join(t.TempDir(), "copy")
		out, err := exec.Command("cp", "-a", "--sparse=always", dir, to).CombinedOutput()
		if err == nil {
			return to
		}
		// The meta database tidies up after its start, under cp's feet.
		t.Logf("cp: %v: %s", err, out)
	}
	t.Fatal("cannot copy the store")
	return ""
}

// calm waits until the keeper has nothing under way, so that a copy is of one
// moment.
func calm(t testing.TB, s *Store) {
	eventually(t, "keeper is done", func() bool {
		for _, l := range s.lanes {
			l.mu.Lock()
			busy := slices.ContainsFunc(l.segments, func(s *segment) bool {
				return s.closing && !s.sealed || s.unsettled == 0 && s.sealed || s.finishing || s.fresh > 0
			})
			l.mu.Unlock()
			if busy {
				return false
			}
		}
		return true
	})
}

// model is what the store must look like from outside: a slice.
type model struct {
	entries []modelEntry
	next    int
}

type modelEntry struct {
	seq   int
	leaf  string
	pos   gateway.Position
	state gateway.StoredState
}

func (m *model) pick(state gateway.StoredState) (is []int) {
	for i := range m.entries {
		if m.entries[i].state == state {
			is = append(is, i)
		}
	}
	return is
}

func (m *model) reset() {
	for i := range m.entries {
		if m.entries[i].state != settled {
			m.entries[i].state = gateway.Unread
		}
	}
}

// TestModel runs random calls on a store and on a slice and compares.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := filepath.Join(t.TempDir(), "store")
		s := mustOpen(t, dir, testConfig(), patientTuning)
		m := &model{}
		const lane = gateway.LaneTelemetry
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				state := gateway.StoredState(rapid.IntRange(0, 2).Draw(rt, "state"))
				var ms []*gateway.Message
				size := rapid.SampledFrom([]int{0, 100, 20_000}).Draw(rt, "size")
				for range rapid.IntRange(1, 30).Draw(rt, "n") {
					ms = append(ms, message(rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "leaf"), m.next, size))
					m.next++
				}
				for i, p := range mustPut(t, s, lane, ms, state) {
					m.entries = append(m.entries, modelEntry{int(ms[i].Seq), ms[i].Leaf, p, state})
				}
			},
			"read": func(rt *rapid.T) {
				most := rapid.IntRange(1, 50).Draw(rt, "max")
				refused := rapid.SampledFrom([]string{"", "", "b"}).Draw(rt, "refused")
				got, err := s.Read(lane, most, 1<<30, func(leaf string) bool { return leaf == refused })
				if err != nil {
					rt.Fatal(err)
				}
				var want []int
				for _, i := range m.pick(gateway.Unread) {
					if len(want) == most {
						break
					}
					if m.entries[i].leaf == refused {
						m.entries[i].state = gateway.Parked
						continue
					}
					m.entries[i].state = gateway.Out
					want = append(want, m.entries[i].seq)
				}
				if !slices.Equal(seqs(got), want) {
					rt.Fatalf("read %v, want %v", seqs(got), want)
				}
			},
			"settle": func(rt *rapid.T) {
				for _, i := range m.pick(gateway.Out) {
					if rapid.Bool().Draw(rt, "this") {
						s.Settle(m.entries[i].pos)
						m.entries[i].state = settled
					}
				}
			},
			"release": func(rt *rapid.T) {
				park := rapid.Bool().Draw(rt, "park")
				for _, i := range m.pick(gateway.Out) {
					if rapid.Bool().Draw(rt, "this") {
						s.Release(park, m.entries[i].pos)
						m.entries[i].state = gateway.Unread
						if park {
							m.entries[i].state = gateway.Parked
						}
					}
				}
			},
			"unpark": func(*rapid.T) {
				s.Unpark(lane)
				for _, i := range m.pick(gateway.Parked) {
					m.entries[i].state = gateway.Unread
				}
			},
			"reopen": func(*rapid.T) {
				mustClose(t, s)
				s = mustOpen(t, dir, testConfig(), patientTuning)
				m.reset()
			},
			"crash": func(*rapid.T) {
				// The journal is up to date when the keeper is done, so that
				// nothing is there twice.
				calm(t, s)
				dir = copyOf(t, dir)
				mustClose(t, s)
				s = mustOpen(t, dir, testConfig(), patientTuning)
				m.reset()
			},
			"": func(rt *rapid.T) {
				if got, want := s.Unread(lane), len(m.pick(gateway.Unread)); got != want {
					rt.Fatalf("%d unread, want %d", got, want)
				}
				want := len(m.entries) - len(m.pick(settled))
				if got := s.State().Lanes[lane].Messages; got != want {
					rt.Fatalf("%d messages, want %d", got, want)
				}
			},
		})
		mustClose(t, s)
	})
}

const (
	childFolder = "FIELDGATE_STORE_TEST_CHILD"
	childOpens  = "FIELDGATE_STORE_TEST_CHILD_OPENS" // and does no more
	childFull   = "FIELDGATE_STORE_TEST_CHILD_FULL"  // and bears with a full disk
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childFolder); dir != "" {
		if err := busy(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// Every run of the model opens real databases. -rapid.checks asks for more.
	if err := flag.Set("rapid.checks", "25"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// busy appends and settles until it is killed. It says what was acknowledged
// after it was, and what is settled before it is.
func busy(dir string) error {
	if os.Getenv(childOpens) != "" {
		fmt.Println("begin")
		if _, err := open(dir, testConfig(), slog.New(slog.DiscardHandler), patientTuning); err != nil {
			return err
		}
		select {}
	}
	s, err := open(dir, testConfig(), slog.New(slog.DiscardHandler), fastTuning)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	start, _ := s.Start()
	full := os.Getenv(childFull) != ""
	for i := 0; ; i += 20 {
		if full && i%100 == 0 {
			letter := int(start)<<24 + i
			if err := s.DeadLetter(message("poison", letter, 30_000), "no"); err == nil {
				fmt.Fprintf(out, "shelved %d\n", letter)
			} else if !errors.Is(err, gateway.ErrStoreFull) {
				return err
			}
		}
		if _, err := put(s, gateway.LaneTelemetry, messages("a", int(start)<<24+i, 20, 500), gateway.Unread); err == nil {
			fmt.Fprintf(out, "acked %d\n", int(start)<<24+i+19)
		} else if !full || !errors.Is(err, gateway.ErrStoreFull) {
			return err
		}
		out.Flush()
		if i%3 != 0 {
			continue
		}
		got, err := s.Read(gateway.LaneTelemetry, 50, 1<<20, nil)
		if err != nil {
			return err
		}
		for _, m := range got {
			fmt.Fprintf(out, "settled %d\n", m.Message.Seq)
		}
		out.Flush()
		s.Settle(positions(got)...)
	}
}

// TestKill kills a busy process at random moments. What was acknowledged and not
// settled must be there, in order and once.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	done := map[int]bool{} // settled
	acked := []int{}       // everything acknowledged, in order
	for round := range 8 {
		for _, line := range killed(t, dir, func() {}) {
			var n int
			if _, err := fmt.Sscanf(line, "acked %d", &n); err == nil {
				acked = append(acked, span(n-19, 20)...)
			} else if _, err := fmt.Sscanf(line, "settled %d", &n); err == nil {
				done[n] = true
			}
		}
		s := mustOpen(t, dir, testConfig(), patientTuning)
		got := readAll(t, s, gateway.LaneTelemetry)
		inStore := seqs(got)
		if !slices.IsSorted(inStore) || len(slices.Compact(slices.Clone(inStore))) != len(inStore) {
			t.Errorf("round %d: out of order or twice", round)
		}
		for _, n := range acked {
			if _, ok := slices.BinarySearch(inStore, n); !ok && !done[n] {
				t.Errorf("round %d: acknowledged message %d is lost", round, n)
			}
		}
		if d := s.State().Damage; d != (gateway.Damage{}) {
			t.Errorf("round %d: damage is reported: %+v", round, d)
		}
		t.Logf("round %d: %d acknowledged so far, %d in the store", round, len(acked), len(inStore))
		mustClose(t, s)
	}
}

// killed runs the busy process for a while, kills it and returns what it said.
func killed(t *testing.T, dir string, meanwhile func(), env ...string) (lines []string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), childFolder+"="+dir), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Duration(100+rand.IntN(400))*time.Millisecond, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	meanwhile()
	in := bufio.NewReader(out)
	for {
		line, err := in.ReadString('\n')
		if err != nil { // an incomplete last line says nothing
			break
		}
		lines = append(lines, strings.TrimSpace(line))
	}
	_ = cmd.Wait() // it was killed
	if code := cmd.ProcessState.ExitCode(); code > 1 {
		t.Errorf("it did not live until it was killed: %v", cmd.ProcessState)
	}
	return lines
}

// TestKillOnAFullDisk kills a busy process on a disk that others fill and free again.
// What was acknowledged and not settled is there, and so is what was shelved.
func TestKillOnAFullDisk(t *testing.T) { smallDisks(t, "96M", killOnAFullDisk) }

func killOnAFullDisk(t *testing.T, disk string) {
	dir, blocker := filepath.Join(disk, "store"), filepath.Join(disk, "blocker")
	done, shelved := map[int]bool{}, map[int]bool{}
	var acked []int
	for round := range 6 {
		lines := killed(t, dir, func() {
			for range rand.IntN(4) {
				time.Sleep(time.Duration(rand.IntN(80)) * time.Millisecond)
				if free, err := freeSpace(disk); err == nil && free > 0 {
					_ = os.WriteFile(blocker, nil, 0o600)
					_ = allocate(blocker, rand.Int64N(free+1))
				}
			}
		}, childFull+"=1")
		_ = os.Remove(blocker) // it may not have come to that
		for _, line := range lines {
			var n int
			if _, err := fmt.Sscanf(line, "acked %d", &n); err == nil {
				acked = append(acked, span(n-19, 20)...)
			} else if _, err := fmt.Sscanf(line, "settled %d", &n); err == nil {
				done[n] = true
			} else if _, err := fmt.Sscanf(line, "shelved %d", &n); err == nil {
				shelved[n] = true
			}
		}
		s := mustOpen(t, dir, testConfig(), patientTuning)
		got := readAll(t, s, gateway.LaneTelemetry)
		inStore := seqs(got)
		if !slices.IsSorted(inStore) || len(slices.Compact(slices.Clone(inStore))) != len(inStore) {
			t.Errorf("round %d: out of order or twice", round)
		}
		for _, n := range acked {
			if _, ok := slices.BinarySearch(inStore, n); !ok && !done[n] {
				t.Errorf("round %d: acknowledged message %d is lost", round, n)
			}
		}
		lost := maps.Clone(shelved)
		if err := s.DeadLetters(func(d DeadLetter) bool { delete(lost, int(d.Message.Seq)); return true }); err != nil {
			t.Error(err)
		}
		if len(lost) > 0 && s.State().DeadLetters < 400 { // the oldest give way
			t.Errorf("round %d: letters %v are lost", round, slices.Sorted(maps.Keys(lost)))
		}
		if d := s.State().Damage; d != (gateway.Damage{}) {
			t.Errorf("round %d: damage is reported: %+v", round, d)
		}
		t.Logf("round %d: %d acknowledged, %d in the store, %d shelved", round, len(acked), len(inStore), len(shelved))
		s.Settle(positions(got)...)
		for _, n := range inStore {
			done[n] = true
		}
		mustClose(t, s)
	}
}

// filledCopy returns the folder of a store with 3000 messages in several
// segments; the last one was being written when the crash came.
func filledCopy(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	s := mustOpen(t, dir, testConfig(), patientTuning)
	for i := 0; i < 3000; i += 30 {
		mustPut(t, s, gateway.LaneTelemetry, messages("a", i, 30, 700), gateway.Unread)
	}
	calm(t, s)
	crashed := copyOf(t, dir)
	mustClose(t, s)
	return crashed
}

// segmentFiles lists files of the queue's segments, in the order of the segments.
func segmentFiles(t *testing.T, dir, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, queueName, "telemetry", "*", pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no %s: %v", pattern, err)
	}
	slices.Sort(files)
	return files
}

func TestEmptyLogsAreHealed(t *testing.T) {
	dir := filledCopy(t)
	logs := segmentFiles(t, dir, "*.mem")
	head := filepath.Dir(logs[len(logs)-1])
	for _, name := range []string{"00009.mem", "000009.vlog"} {
		if err := os.WriteFile(filepath.Join(head, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, metaName, "00077.mem"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, dir, testConfig(), patientTuning)
	if got := seqs(readAll(t, s, gateway.LaneTelemetry)); !slices.Equal(got, span(0, 3000)) {
		t.Errorf("read %d of 3000", len(got))
	}
}

// TestDamage breaks one file of a crashed store at a time. It must open, never
// give a wrong message, and lose no more than what was damaged.
func TestDamage(t *testing.T) {
	flip := func(at func(size int) int) func(path string, data []byte) []byte {
		return func(_ string, data []byte) []byte { data[at(len(data))] ^= 0x10; return data }
	}
	tests := []struct {
		name    string
		pattern string
		last    bool // the file of the last segment, else of the first
		change  func(path string, data []byte) []byte
		lose    int // at most
	}{
		{"bit in a sealed value log", "000001.vlog", false, flip(func(n int) int { return n / 2 }), 30},
		{"bit in the open value log", "000001.vlog", true, flip(func(int) int { return 40_000 }), 30},
		{"sealed value log cut short", "000001.vlog", false, func(_ string, d []byte) []byte { return d[:len(d)/2] }, 900},
		{"no table", "*.sst", false, func(path string, _ []byte) []byte { os.Remove(path); return nil }, 0},
		{"bit in a table", "*.sst", false, flip(func(n int) int { return n / 2 }), 0},
		{"no manifest", "MANIFEST", false, func(path string, _ []byte) []byte { os.Remove(path); return nil }, 0},
		{"bit in the manifest", "MANIFEST", false, flip(func(n int) int { return n - 3 }), 0},
		{"no index", "index", false, func(path string, _ []byte) []byte { os.Remove(path); return nil }, 0},
		{"bit in the index", "index", false, flip(func(n int) int { return n / 2 }), 0},
		{"bit in the open log", "*.mem", true, flip(func(int) int { return 100 }), 0},
		{"no open log", "*.mem", true, func(path string, _ []byte) []byte { os.Remove(path); return nil }, 0},
	}
	crashed := filledCopy(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := copyOf(t, crashed)
			files := segmentFiles(t, dir, tt.pattern)
			path := files[0]
			if tt.last {
				// The very last may have been opened ahead and be empty.
				heads := segmentFiles(t, dir, "*.mem")
				path = segmentFiles(t, dir, tt.pattern)[slices.Index(segmentDirs(files), filepath.Dir(heads[0]))]
			}
			if data := tt.change(path, mustReadFile(t, path)); data != nil {
				if err := os.WriteFile(path, data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s := mustOpen(t, dir, testConfig(), patientTuning)
			got := readAll(t, s, gateway.LaneTelemetry)
			if !slices.IsSorted(seqs(got)) || len(got) < 3000-tt.lose {
				t.Errorf("read %d of 3000, may lose %d", len(got), tt.lose)
			}
			for _, m := range got {
				if want := message("a", int(m.Message.Seq), 700); string(want.Body) != string(m.Message.Body) {
					t.Errorf("message %d has a wrong body", m.Message.Seq)
				}
			}
			if counted := int(s.State().Lanes[gateway.LaneTelemetry].Dropped[gateway.DropDamaged]); counted > 3000-len(got) {
				t.Errorf("%d counted as damaged, %d missing", counted, 3000-len(got))
			}
		})
	}
}

func segmentDirs(files []string) (dirs []string) {
	for _, f := range files {
		dirs = append(dirs, filepath.Dir(f))
	}
	return dirs
}

func TestDamagedMeta(t *testing.T) {
	dir := filledCopy(t)
	if err := os.WriteFile(filepath.Join(dir, metaName, "MANIFEST"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, dir, testConfig(), patientTuning)
	if got := seqs(readAll(t, s, gateway.LaneTelemetry)); !slices.Equal(got, span(0, 3000)) {
		t.Errorf("read %d of 3000", len(got))
	}
	if start, _ := s.Start(); start != 2 { // the stored messages were of start 1
		t.Errorf("start %d, want 2", start)
	}
	if kept, _ := filepath.Glob(filepath.Join(dir, damagedName, "*")); len(kept) != 1 {
		t.Errorf("set aside: %v", kept)
	}
}

// Badger cuts the log of the meta database off where it is damaged. That costs
// dead letters and notes, and is said.
func TestDamageInTheLogOfMeta(t *testing.T) {
	base := t.TempDir()
	s := mustOpen(t, base+"/busy", testConfig(), patientTuning)
	for i := range 5 {
		if err := s.DeadLetter(message("poison", i, 2000), "no"); err != nil {
			t.Fatal(err)
		}
	}
	dir := copyOf(t, base+"/busy")
	logs, err := filepath.Glob(filepath.Join(dir, metaName, "*.mem"))
	if err != nil || len(logs) == 0 {
		t.Fatal(logs, err)
	}
	spoilFile(t, logs[len(logs)-1], "poison/2/", 0, 1)
	s = mustOpen(t, dir, testConfig(), patientTuning)
	if n, d := s.State().DeadLetters, s.State().Damage; n != 2 || d.Meta != 1 {
		t.Errorf("%d letters, reported %+v, want 2 and one loss", n, d)
	}
	mustClose(t, s)
	s = mustOpen(t, dir, testConfig(), patientTuning)
	if d := s.State().Damage; d.Meta != 1 {
		t.Errorf("reported %+v at the next start, want one loss", d)
	}
}

func TestInterruptedRewrite(t *testing.T) {
	crashed := filledCopy(t)
	first := filepath.Dir(segmentFiles(t, crashed, indexName)[0])
	check := func(t *testing.T, dir string) {
		s := mustOpen(t, dir, testConfig(), patientTuning)
		if got := seqs(readAll(t, s, gateway.LaneTelemetry)); !slices.Equal(got, span(0, 3000)) {
			t.Errorf("read %d of 3000", len(got))
		}
		if left, _ := filepath.Glob(filepath.Join(dir, queueName, "*", "*"+rewriteSuffix)); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	}
	t.Run("before the exchange", func(t *testing.T) {
		dir := copyOf(t, crashed)
		half := filepath.Join(dir, queueName, "telemetry", filepath.Base(first)+rewriteSuffix)
		if err := os.MkdirAll(half, 0o700); err != nil {
			t.Fatal(err)
		}
		check(t, dir)
	})
	t.Run("within the exchange", func(t *testing.T) {
		dir := copyOf(t, crashed)
		old := filepath.Join(dir, queueName, "telemetry", filepath.Base(first))
		if err := os.Rename(old, old+rewriteSuffix); err != nil {
			t.Fatal(err)
		}
		check(t, dir)
	})
}

// TestMemoryOfBacklog checks the promise of 16 MiB for one million messages on
// the tables that hold it, for blocks of one message, the worst case.
func TestMemoryOfBacklog(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var segments []*segment
	for range 500 {
		s := newSegment(gateway.LaneTelemetry, 1, "")
		for range 2000 {
			s.add(1, gateway.Unread)
		}
		s.trim()
		segments = append(segments, s)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := int64(after.HeapAlloc) - int64(before.HeapAlloc); used > 16<<20 {
		t.Errorf("one million messages take %d bytes", used)
	}
	runtime.KeepAlive(segments)
}
