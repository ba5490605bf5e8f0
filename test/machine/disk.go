package machine

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// WriteDisk writes the first file system of a machine into a file: from says what stands
// where in it, files and folders with all that is in them. It is a cpio archive (kernel,
// Documentation/driver-api/early-userspace/buffer-format.rst), which is not compressed:
// an emulated processor is slow.
func WriteDisk(file string, from map[string]string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(f, 1<<20)
	a := &archive{out: out}
	for _, dir := range []string{"proc", "sys", "dev", "tmp"} {
		a.add(dir, fs.ModeDir|0o755, nil)
	}
	for _, to := range slices.Sorted(maps.Keys(from)) {
		a.tree(from[to], to)
	}
	a.add("TRAILER!!!", 0, nil)
	return errors.Join(a.err, out.Flush(), f.Close())
}

// archive is a cpio archive in the making.
type archive struct {
	out    io.Writer
	number int
	err    error
}

// tree adds a file, or a folder with everything in it; "" is the top.
func (a *archive) tree(from, to string) {
	a.err = errors.Join(a.err, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		name = filepath.Join(to, name)
		info, err := d.Info()
		if err != nil || name == "." {
			return err
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			a.add(name, fs.ModeSymlink|0o777, []byte(target))
			return err
		case info.IsDir():
			a.add(name, fs.ModeDir|0o755, nil)
			return nil
		}
		content, err := os.ReadFile(path)
		a.add(name, 0o755, content)
		return err
	}))
}

func (a *archive) add(name string, mode fs.FileMode, content []byte) {
	if a.err != nil {
		return
	}
	kind := 0o100000
	switch {
	case mode.IsDir():
		kind = 0o040000
	case mode&fs.ModeSymlink != 0:
		kind = 0o120000
	}
	a.number++
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", a.number, kind|int(mode.Perm()), 0, 0, 1, 0,
		len(content), 0, 0, 0, 0, len(name)+1, 0)
	pad := func(n int) []byte { return make([]byte, (4-n%4)%4) }
	entry := append(append([]byte(head+name), 0), pad(len(head)+len(name)+1)...)
	entry = append(append(entry, content...), pad(len(content))...)
	_, a.err = a.out.Write(entry)
}
