package bounds

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

const mib = 1 << 20

// patience bounds what must happen. It is no expectation.
const patience = 4 * time.Minute

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// usage is what a process uses at one moment, by the kernel's account.
type usage struct {
	rss  int64 // VmRSS: everything that is in memory, file pages of the program and the store too
	anon int64 // RssAnon: what only this process has, and nothing else can be asked to give back
	fds  int
	gos  int // goroutines, by the gateway's own metric
}

func (u usage) String() string {
	return fmt.Sprintf("VmRSS %.1f MiB, RssAnon %.1f MiB, %d files, %d goroutines",
		float64(u.rss)/mib, float64(u.anon)/mib, u.fds, u.gos)
}

// use reads what the gateway uses now.
func use(ctx context.Context, s *site.Site) (u usage, err error) {
	pid := s.Gateway().PID()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	if u.rss, err = field(string(status), "VmRSS"); err != nil {
		return u, err
	}
	if u.anon, err = field(string(status), "RssAnon"); err != nil {
		return u, err
	}
	u.rss, u.anon = u.rss*1024, u.anon*1024
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return u, err
	}
	u.fds = len(files)
	m, err := s.Metrics(ctx)
	u.gos = int(m.Sum("fieldgate_goroutines"))
	return u, err
}

// field reads a number of a file in /proc.
func field(text, name string) (int64, error) {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		}
	}
	return 0, fmt.Errorf("no %s", name)
}

// bytesRead is what the gateway has read so far with system calls, from the page
// cache too (proc_pid_io(5), rchar).
func bytesRead(s *site.Site) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", s.Gateway().PID()))
	if err != nil {
		return 0, err
	}
	return field(string(text), "rchar")
}

// onDisk is what a folder occupies. Files may come and go meanwhile.
func onDisk(dir string) (bytes int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil {
			var info fs.FileInfo
			if info, err = entry.Info(); err == nil {
				bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return bytes, err
}

// metric reads one metric, summed over its labels; -1 while it cannot be read.
func metric(ctx context.Context, s *site.Site, name string) float64 {
	m, err := s.Metrics(ctx)
	if err != nil || !m.Has(name) {
		return -1
	}
	return m.Sum(name)
}

// newSite makes a site whose folder is kept when the test fails.
func newSite(ctx context.Context, t *testing.T, plan site.Plan) *site.Site {
	t.Helper()
	dir, err := os.MkdirTemp("", "fieldgate-bounds-")
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("everything is kept in %s", dir)
		} else if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	plan.Dir, plan.Bin = dir, filepath.Join(dir, "bin")
	must(t, site.Build(ctx, plan.Bin))
	s, err := site.New(ctx, plan)
	must(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func devices(n int, kinds ...site.Kind) (list []site.Device) {
	for i := range n {
		list = append(list, site.Device{ID: fmt.Sprintf("leaf-%03d", i+1), Kind: kinds[i%len(kinds)]})
	}
	return list
}
