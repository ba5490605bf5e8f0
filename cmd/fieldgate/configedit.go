package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/editor"
	"github.com/fieldgate/fieldgate/gateway/control"
)

func editCommand(std streams) *cobra.Command {
	var a applying
	var file string
	c := &cobra.Command{
		Use:   "edit",
		Short: "Edit the configuration file, check it, apply it",
		Long: `Opens the configuration file in VISUAL, EDITOR or vi. What is saved is checked; at a
terminal mistakes lead back into the editor. Then the running gateway applies it as
"config apply" does; where none runs it is written, and counts at the next start. A
text that is not applied is kept, and it is said where.
` + rollBackText,
		Example: "  sudo fieldgate config edit\n  EDITOR=nano fieldgate config edit --confirm 5m",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			old, err := os.ReadFile(file)
			if err != nil {
				return configFailure(file, err, exitConfig, "")
			}
			text, err := editUntilRight(cmd.Context(), std, file, old)
			switch {
			case err != nil:
				return err
			case bytes.Equal(text, old):
				fmt.Fprintln(std.out, "nothing was changed")
				return nil
			}
			return keepText(std, text, a.applyEdited(cmd.Context(), std, file, old, text))
		},
	}
	a.allFlags(c)
	c.Flags().StringVarP(&file, "config", "c", defaultConfig(), "configuration `FILE`")
	return c
}

// editUntilRight edits a text until there are no mistakes in it.
func editUntilRight(ctx context.Context, std streams, file string, text []byte) ([]byte, error) {
	for {
		edited, err := editor.Edit(ctx, editor.Program(), filepath.Base(file), text, std.in, std.out, std.err)
		if err != nil {
			return nil, &failure{exitFailed, "cannot edit the configuration", err, "name an editor in EDITOR, or use: fieldgate config set"}
		}
		_, err = loadConfigWith(file, map[string][]byte{file: edited})
		if err == nil {
			return edited, nil
		}
		wrong := configFailure(file, err, exitConfig, "mend the places above; nothing has changed")
		if !isTerminal(std.in) {
			return nil, keepText(std, edited, wrong)
		}
		fmt.Fprintf(std.err, "%v\nEdit again? [Y/n] ", err)
		answer, _ := bufio.NewReader(std.in).ReadString('\n')
		if strings.HasPrefix(strings.ToLower(strings.TrimSpace(answer)), "n") {
			return nil, keepText(std, edited, wrong)
		}
		text = edited
	}
}

// applyEdited has a running gateway apply a text, or writes it where none runs.
func (a *applying) applyEdited(ctx context.Context, std streams, file string, old, text []byte) error {
	if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, old) {
		return &failure{exitFailed, "cannot apply the configuration", errors.Join(errors.New("somebody else has changed the file meanwhile"), err), "put both together, then run: fieldgate config apply"}
	}
	_, err := a.client().ConfigRevisions(ctx)
	if !errors.Is(err, control.ErrNotRunning) {
		return a.apply(ctx, std, control.ConfigChange{Text: new(string(text))})
	}
	unlock, err := lockFolder(filepath.Dir(file))
	if err != nil {
		return &failure{exitFailed, "cannot write " + file, err, lockHint(err)}
	}
	err = replaceFile(file, text)
	unlock()
	if err != nil {
		return &failure{exitFailed, "cannot write " + file, err, "run it with sudo"}
	}
	fmt.Fprintf(std.out, "no gateway runs: written to %s, and counts when one starts\n", file)
	return nil
}

// keepText keeps a text that was not applied, and says where.
func keepText(std streams, text []byte, err error) error {
	if err == nil {
		return nil
	}
	f, failed := os.CreateTemp("", "fieldgate-*.toml") // mode 0600
	if failed == nil {
		_, failed = f.Write(text)
		failed = errors.Join(failed, f.Close())
	}
	if failed != nil {
		fmt.Fprintf(std.err, "the text cannot be kept: %v\n", failed)
		return err
	}
	fmt.Fprintf(std.err, "the text is kept in %s\n", f.Name())
	return err
}
