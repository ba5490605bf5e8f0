package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/fieldgate/fieldgate/test/cutfs"
)

// Which export is said to be on flash is there after a power cut: also its name.
func TestExportIsOnFlash(t *testing.T) {
	write := func(w io.Writer) error {
		_, err := io.WriteString(w, "{}\n")
		return err
	}
	const syncs = 2 // of the file and of its folder
	for n := 1; n <= syncs; n++ {
		p := power(t, cutfs.Blank())
		hit := p.fs.Break(cutfs.Fault{Kind: cutfs.Sync, Nth: n, Errno: syscall.EIO})
		file := filepath.Join(p.dir, "out.jsonl")
		_, err := writeWhole(file, write)
		select {
		case <-hit:
		default:
			t.Fatalf("there is no sync %d", n)
		}
		if !errors.Is(err, syscall.EIO) || errors.Is(err, os.ErrNotExist) {
			t.Errorf("sync %d fails, and exporting says %v", n, err)
		}
		if left, _ := filepath.Glob(filepath.Join(p.dir, ".out*")); len(left) > 0 {
			t.Errorf("sync %d fails, and there is left %q", n, left)
		}
	}
}
