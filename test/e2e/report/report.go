// Package report keeps what long tests measured: go test shows nothing of a
// package that passed, and figures are worth something then, too.
package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// folder is the environment variable that names where reports go; make shows
// them when all tests are done.
const folder = "FIELDGATE_REPORTS"

// Write logs a report and, if a folder is named, keeps it there.
func Write(t *testing.T, name, text string) {
	t.Helper()
	t.Logf("%s\n%s", name, text)
	dir := os.Getenv(folder)
	if dir == "" {
		return
	}
	file := strings.Map(func(r rune) rune {
		if r == ' ' || r == filepath.Separator {
			return '-'
		}
		return r
	}, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Error(err)
		return
	}
	if err := os.WriteFile(filepath.Join(dir, file+".txt"), []byte(name+"\n\n"+text), 0o644); err != nil {
		t.Error(err)
	}
}

// Nightly says that there is time for everything.
func Nightly() bool { return os.Getenv("FIELDGATE_NIGHTLY") != "" }
