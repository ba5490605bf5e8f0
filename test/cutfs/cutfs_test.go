package cutfs

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const mapper = "CUTFS_TEST_MAP"

// TestMain lets the test binary be a program with a memory map.
func TestMain(m *testing.M) {
	if file := os.Getenv(mapper); file != "" {
		if err := mapAndWait(file); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// mapAndWait changes a page of a file through a map and syncs it, changes it and
// another one without syncing, says so, and waits to be killed.
func mapAndWait(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := f.Truncate(4 * pageSize); err != nil {
		return err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, 4*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(data, "synced")
	if err := unix.Msync(data, unix.MS_SYNC); err != nil {
		return err
	}
	copy(data, "volatile")
	copy(data[2*pageSize:], "volatile")
	fmt.Println("ready")
	select {}
}

// mounted serves an image for the length of a test.
func mounted(t *testing.T, image *Image, o Options) (*FS, string) {
	t.Helper()
	dir := t.TempDir()
	f, err := Mount(dir, image, o)
	if errors.Is(err, ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return f, dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, text string, path ...string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(path...), []byte(text), 0o644))
}

func fsync(t *testing.T, path ...string) {
	t.Helper()
	f, err := os.Open(filepath.Join(path...))
	must(t, err)
	must(t, errors.Join(f.Sync(), f.Close()))
}

// files lists the files of an image with their contents, and its folders.
func files(t *testing.T, image *Image) map[string]string {
	t.Helper()
	found := map[string]string{}
	var walk func(n *node, path string)
	walk = func(n *node, path string) {
		for name, child := range n.entries {
			if child.folder {
				found[path+name+"/"] = ""
				walk(child, path+name+"/")
				continue
			}
			if child.target != "" {
				found[path+name] = "-> " + child.target
				continue
			}
			content := make([]byte, child.size)
			child.read(content, 0)
			found[path+name] = string(content)
		}
	}
	walk(image.root, "")
	return found
}

// left is what a strict cut leaves.
func left(t *testing.T, f *FS) map[string]string { return files(t, f.Survivors(Strict, nil)) }

func equal(t *testing.T, got, want map[string]string) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("left is %q, want %q", got, want)
	}
}

func TestWhatIsNotSyncedIsGone(t *testing.T) {
	for _, names := range []Names{Journaled, ByFile} {
		f, dir := mounted(t, Blank(), Options{Names: names})
		must(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
		write(t, "never synced", dir, "a/b/gone")
		equal(t, left(t, f), map[string]string{})
		write(t, "first", dir, "a/b/kept")
		fsync(t, dir, "a/b/kept")
		write(t, "second, longer", dir, "a/b/kept")
		got := left(t, f)
		if got["a/b/kept"] != "first" {
			t.Errorf("%v: left is %q, want the content of the last sync", names, got["a/b/kept"])
		}
		// The journal brings the other name as well, without contents.
		if _, ok := got["a/b/gone"]; ok != (names == Journaled) || got["a/b/gone"] != "" {
			t.Errorf("%v: name of the other file there: %v, with %q", names, ok, got["a/b/gone"])
		}
		seen, err := os.ReadFile(filepath.Join(dir, "a/b/kept"))
		must(t, err)
		if string(seen) != "second, longer" {
			t.Errorf("a program sees %q", seen)
		}
	}
}

func TestNamesOfFoldersOnly(t *testing.T) {
	f, dir := mounted(t, Blank(), Options{Names: ByFolder})
	write(t, "x", dir, "file")
	fsync(t, dir, "file")
	equal(t, left(t, f), map[string]string{})
	fsync(t, dir)
	equal(t, left(t, f), map[string]string{"file": "x"})
}

func TestRenameAndRemove(t *testing.T) {
	for _, names := range []Names{Journaled, ByFile} {
		f, dir := mounted(t, Blank(), Options{Names: names})
		write(t, "1", dir, "one")
		write(t, "2", dir, "two")
		fsync(t, dir, "one")
		fsync(t, dir, "two")
		must(t, os.Rename(filepath.Join(dir, "one"), filepath.Join(dir, "two")))
		equal(t, left(t, f), map[string]string{"one": "1", "two": "2"})
		write(t, "3", dir, "three")
		fsync(t, dir, "three")
		want := map[string]string{"two": "1", "three": "3"}
		if names == ByFile {
			want = map[string]string{"one": "1", "two": "2", "three": "3"}
		}
		equal(t, left(t, f), want)
		fsync(t, dir, "two")
		equal(t, left(t, f), map[string]string{"two": "1", "three": "3"})
		must(t, os.Remove(filepath.Join(dir, "two")))
		equal(t, left(t, f), map[string]string{"two": "1", "three": "3"})
		fsync(t, dir)
		equal(t, left(t, f), map[string]string{"three": "3"})
	}
}

// A link is a name like any other.
func TestLinks(t *testing.T) {
	f, dir := mounted(t, Blank(), Options{Names: ByFile})
	must(t, os.Symlink("nowhere", filepath.Join(dir, "link")))
	if got, err := os.Readlink(filepath.Join(dir, "link")); err != nil || got != "nowhere" {
		t.Errorf("a program reads %q, %v", got, err)
	}
	if _, err := os.OpenFile(filepath.Join(dir, "link"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); !errors.Is(err, os.ErrExist) {
		t.Errorf("a file is made in its place: %v", err)
	}
	equal(t, left(t, f), map[string]string{})
	fsync(t, dir)
	equal(t, left(t, f), map[string]string{"link": "-> nowhere"})
	must(t, os.Remove(filepath.Join(dir, "link")))
	fsync(t, dir)
	equal(t, left(t, f), map[string]string{})
}

// TestLuck looks at many cuts of one moment: pages, lengths and names that were
// not synced are there in some of them and not in others, and never otherwise.
func TestLuck(t *testing.T) {
	for _, names := range []Names{Journaled, ByFile} {
		f, dir := mounted(t, Blank(), Options{Names: names})
		old, fresh := strings.Repeat("o", 2*pageSize), strings.Repeat("n", 3*pageSize)
		write(t, old, dir, "file")
		fsync(t, dir, "file")
		file, err := os.OpenFile(filepath.Join(dir, "file"), os.O_WRONLY, 0)
		must(t, err)
		_, err = file.WriteString(fresh)
		must(t, errors.Join(err, file.Close()))
		must(t, os.Mkdir(filepath.Join(dir, "folder"), 0o755))
		write(t, "", dir, "folder/inside")
		write(t, "", dir, "other")
		random := rand.New(rand.NewPCG(1, 2))
		seen := map[string]int{}
		for range 300 {
			got := files(t, f.Survivors(RandomHalf, random))
			content := got["file"]
			for i := 0; i < len(content); i += pageSize {
				letters := slices.Compact([]byte(content[i : i+pageSize]))
				if len(letters) != 1 {
					t.Fatal("a page is torn")
				}
				seen[fmt.Sprintf("page %d is %q", i/pageSize, letters)]++
			}
			seen[fmt.Sprintf("%d pages", len(content)/pageSize)]++
			_, folder := got["folder/"]
			_, inside := got["folder/inside"]
			_, other := got["other"]
			seen[fmt.Sprint("names ", folder, inside, other)]++
			if names == Journaled && other && !inside {
				t.Fatal("a later name is there without an earlier one")
			}
		}
		want := []string{
			`page 0 is "o"`, `page 0 is "n"`, `page 1 is "o"`, `page 1 is "n"`, `page 2 is "n"`, `page 2 is "\x00"`,
			"2 pages", "3 pages", "names false false false", "names true false false", "names true true false", "names true true true",
		}
		if names == ByFile {
			want = append(want, "names false false true", "names true false true")
		}
		if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("%v: in 300 cuts there were %q, want %q", names, got, want)
		}
	}
}

func TestTornPage(t *testing.T) {
	f, dir := mounted(t, Blank(), Options{})
	write(t, strings.Repeat("o", 2*pageSize), dir, "file")
	fsync(t, dir, "file")
	file, err := os.OpenFile(filepath.Join(dir, "file"), os.O_WRONLY, 0)
	must(t, err)
	_, err = file.WriteString(strings.Repeat("n", 2*pageSize))
	must(t, errors.Join(err, file.Close()))
	random := rand.New(rand.NewPCG(1, 2))
	at := map[int]bool{}
	for range 100 {
		last := files(t, f.Survivors(Torn, random))["file"][pageSize:]
		i := strings.IndexByte(last, 'o')
		if i <= 0 || i%sectorSize != 0 || strings.Trim(last[:i], "n")+strings.Trim(last[i:], "o") != "" {
			t.Fatalf("the page written last is torn at %d", i)
		}
		at[i] = true
	}
	if len(at) != pageSize/sectorSize-1 {
		t.Errorf("torn at %v", at)
	}
}

// TestMap kills a program that has changed a file through a memory map.
func TestMap(t *testing.T) {
	f, dir := mounted(t, Blank(), Options{})
	program := exec.Command(os.Args[0])
	program.Env = append(os.Environ(), mapper+"="+filepath.Join(dir, "file"))
	out, err := program.StdoutPipe()
	must(t, err)
	must(t, program.Start())
	line := make([]byte, 64)
	n, _ := out.Read(line)
	if string(line[:n]) != "ready\n" {
		t.Fatalf("program says %q", line[:n])
	}
	f.Cut()
	must(t, program.Process.Kill())
	f.Thaw()
	_ = program.Wait() // it was killed
	synced := make([]byte, 4*pageSize)
	copy(synced, "synced")
	if got := left(t, f)["file"]; got != string(synced) {
		t.Errorf("left is %q, want what was synced", bytes.Trim([]byte(got), "\x00"))
	}
	random := rand.New(rand.NewPCG(1, 2))
	seen := map[string]bool{}
	for range 100 {
		got := files(t, f.Survivors(RandomHalf, random))["file"]
		seen[strings.Trim(got[:pageSize], "\x00")+"/"+strings.Trim(got[2*pageSize:3*pageSize], "\x00")] = true
	}
	want := []string{"synced/", "synced/volatile", "volatile/", "volatile/volatile"}
	if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, want) {
		t.Errorf("in 100 cuts there were %q, want %q", got, want)
	}
}

// TestCutAtAnOperation aims at one sync, before and after it takes effect. The
// program's call must not return before the thaw, and then fail.
func TestCutAtAnOperation(t *testing.T) {
	for _, after := range []bool{false, true} {
		f, dir := mounted(t, Blank(), Options{})
		write(t, "1", dir, "one")
		fsync(t, dir, "one")
		write(t, "2", dir, "two")
		file, err := os.Open(filepath.Join(dir, "two"))
		must(t, err)
		cut := f.CutWhen(func(op Op) bool { return op.Kind == Sync && op.Name == "two" }, after)
		returned := make(chan error)
		go func() { returned <- file.Sync() }()
		<-cut
		select {
		case err := <-returned:
			t.Errorf("the call returned after the cut: %v", err)
		default:
		}
		f.Thaw()
		if err := <-returned; !errors.Is(err, syscall.EIO) {
			t.Errorf("the call returned %v, want EIO", err)
		}
		must(t, file.Close())
		want := map[string]string{"one": "1"}
		if after {
			want["two"] = "2"
		}
		equal(t, left(t, f), want)
		if err := os.WriteFile(filepath.Join(dir, "three"), nil, 0o644); !errors.Is(err, syscall.EIO) {
			t.Errorf("after the cut a file was made: %v", err)
		}
	}
}

func TestPowerOnAgain(t *testing.T) {
	f, dir := mounted(t, Blank(), Options{})
	must(t, os.Mkdir(filepath.Join(dir, "folder"), 0o755))
	write(t, "kept", dir, "folder/file")
	fsync(t, dir, "folder/file")
	f.Cut()
	f.Thaw()
	again, dir := mounted(t, f.Survivors(Strict, nil), Options{})
	content, err := os.ReadFile(filepath.Join(dir, "folder/file"))
	must(t, err)
	if string(content) != "kept" {
		t.Errorf("read %q", content)
	}
	write(t, "changed and gone", dir, "folder/file")
	equal(t, left(t, again), map[string]string{"folder/": "", "folder/file": "kept"})
	saved := filepath.Join(t.TempDir(), "saved")
	must(t, again.Survivors(Strict, nil).Save(saved))
	content, err = os.ReadFile(filepath.Join(saved, "folder/file"))
	must(t, err)
	if string(content) != "kept" {
		t.Errorf("saved %q", content)
	}
}

func TestLyingDisk(t *testing.T) {
	f, dir := mounted(t, Blank(), Options{Lying: true})
	write(t, "1", dir, "one")
	fsync(t, dir, "one")
	fsync(t, dir)
	equal(t, left(t, f), map[string]string{})
}

func TestFaults(t *testing.T) {
	f, dir := mounted(t, Blank(), Options{})
	path := filepath.Join(dir, "file")
	write(t, "x", path)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer file.Close()
	fresh := filepath.Join(dir, "fresh")
	try := map[Kind]func() error{ // each does one operation of its kind
		Write: func() error { _, err := file.WriteString("y"); return err },
		Sync:  file.Sync,
		Open:  func() error { return os.WriteFile(fresh, nil, 0o644) },
		Rename: func() error {
			from, to := path, path+"2"
			if _, err := os.Stat(from); err != nil {
				from, to = to, from
			}
			return os.Rename(from, to)
		},
		Remove: func() error { return errors.Join(os.WriteFile(fresh, nil, 0o644), os.Remove(fresh)) },
	}
	for _, kind := range Kinds {
		for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EROFS} {
			for _, forever := range []bool{false, true} {
				hit := f.Break(Fault{kind, 3, errno, forever})
				var failed []int
				for i := range 5 {
					if err := try[kind](); errors.Is(err, errno) {
						failed = append(failed, i+1)
					} else {
						must(t, err)
					}
				}
				<-hit
				want := []int{3}
				if forever {
					want = []int{3, 4, 5}
				}
				if !slices.Equal(failed, want) {
					t.Errorf("%v, %v, for ever %v: calls %v fail, want %v", kind, errno, forever, failed, want)
				}
				f.Mend()
				must(t, try[kind]())
			}
		}
	}
	write(t, "", path)
	f.Break(Fault{Kind: Open, Nth: 1, Errno: syscall.EROFS, Forever: true})
	if _, err := os.ReadFile(path); err != nil {
		t.Errorf("a file system that cannot be written cannot be read: %v", err)
	}
}

func TestRoom(t *testing.T) {
	const capacity = 100 * pageSize
	_, dir := mounted(t, Blank(), Options{Capacity: capacity})
	path := filepath.Join(dir, "file")
	free := func() int64 {
		var s unix.Statfs_t
		must(t, unix.Statfs(dir, &s))
		return int64(s.Bavail) * s.Bsize
	}
	file, err := os.Create(path)
	must(t, err)
	must(t, unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 60*pageSize))
	if info, err := file.Stat(); err != nil || info.Size() != 0 || free() != capacity-60*pageSize {
		t.Errorf("reserved: size %d, %v, %d free", info.Size(), err, free())
	}
	if err := unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 101*pageSize); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("reserving more than there is: %v", err)
	}
	if err := os.WriteFile(path+"2", make([]byte, 41*pageSize), 0o644); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing more than there is: %v", err)
	}
	must(t, os.Remove(path+"2"))
	_, err = file.WriteAt(bytes.Repeat([]byte{'x'}, 10*pageSize), 0)
	must(t, err)
	if free() != capacity-60*pageSize {
		t.Errorf("%d free after writing where room was reserved", free())
	}
	must(t, unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, 4*pageSize, 56*pageSize))
	if free() != capacity-4*pageSize {
		t.Errorf("%d free after giving room back", free())
	}
	content, err := os.ReadFile(path)
	must(t, err)
	if want := strings.Repeat("x", 4*pageSize) + strings.Repeat("\x00", 6*pageSize); string(content) != want {
		t.Error("what was given back does not read as zeros")
	}
	must(t, errors.Join(file.Close(), os.Remove(path)))
	for patience := time.Now().Add(time.Minute); free() != capacity; time.Sleep(time.Millisecond) {
		// The kernel says a moment later that it has no more use for the file.
		if time.Now().After(patience) {
			t.Fatalf("%d free after removal", free())
		}
	}
}
