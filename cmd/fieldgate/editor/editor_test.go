package editor

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestEdit(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	edit := func(program string) (string, error) {
		text, err := Edit(t.Context(), program, "a.toml", []byte("a = 1\n"), nil, io.Discard, io.Discard)
		return string(text), err
	}
	if text, err := edit("sed -i s/1/2/"); err != nil || text != "a = 2\n" {
		t.Errorf("%q, %v", text, err)
	}
	for _, program := range []string{"false", "no-such-editor", ""} {
		if _, err := edit(program); err == nil {
			t.Errorf("%q has edited", program)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestProgram(t *testing.T) {
	t.Setenv("VISUAL", "")
	t.Setenv("EDITOR", "")
	if got := Program(); got != "vi" {
		t.Errorf("editor %q", got)
	}
	t.Setenv("EDITOR", "nano")
	if got := Program(); got != "nano" {
		t.Errorf("editor %q", got)
	}
	t.Setenv("VISUAL", "code -w")
	if got := Program(); got != "code -w" {
		t.Errorf("editor %q", got)
	}
}
