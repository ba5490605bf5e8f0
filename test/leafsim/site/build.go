package site

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Build builds the programs fieldgate, hubsim and leafsim into a folder, for
// tests. tags are build tags of the gateway: none for the one that is shipped.
func Build(ctx context.Context, dir string, tags ...string) error {
	for _, p := range []struct{ name, folder, tags string }{
		{"fieldgate", "cmd/fieldgate", strings.Join(tags, ",")},
		{"hubsim", "test/cmd/hubsim", ""},
		{"leafsim", "test/cmd/leafsim", ""},
	} {
		build := exec.CommandContext(ctx, "go", "build", "-tags", p.tags, "-o", filepath.Join(dir, p.name),
			"github.com/fieldgate/fieldgate/"+p.folder)
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot build %s: %w\n%s", p.name, err, out)
		}
	}
	return nil
}

// LookAtSources looks at every Go file of ours, in a test; New does it too. go test remembers what
// a test has looked at: without this it would take the result of a test of other
// programs for one of these.
func LookAtSources() error {
	if !testing.Testing() {
		return nil
	}
	root, err := os.Getwd()
	for err == nil && root != filepath.Dir(root) {
		if _, missing := os.Stat(filepath.Join(root, "go.mod")); missing == nil {
			break
		}
		root = filepath.Dir(root)
	}
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "node_modules" || entry.Name() == ".git") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) == ".go" {
			_, err = os.Stat(path)
		}
		return err
	})
}
