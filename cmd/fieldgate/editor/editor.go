// Package editor has somebody at a terminal edit a text with the editor of their
// choice. It is the one place from where the program starts another one: for the
// operator, never for the daemon.
package editor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Program is the editor that the environment asks for: VISUAL, else EDITOR, else vi.
// There may be arguments in it.
func Program() string { return cmp.Or(os.Getenv("VISUAL"), os.Getenv("EDITOR"), "vi") }

// Edit opens a text in a program under the name, which says what kind of text it is, and
// returns what was saved. The file is readable by nobody else, and gone afterwards.
func Edit(ctx context.Context, program, name string, text []byte, in io.Reader, out, errs io.Writer) (edited []byte, err error) {
	words := strings.Fields(program)
	if len(words) == 0 {
		return nil, errors.New("no editor is named")
	}
	dir, err := os.MkdirTemp("", "fieldgate-") // mode 0700
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	run := exec.CommandContext(ctx, words[0], append(words[1:], file)...)
	run.Stdin, run.Stdout, run.Stderr = in, out, errs
	if err := run.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w", program, err)
	}
	return os.ReadFile(file)
}
