package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the scripts call fieldgate as a program.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"fieldgate": func() { os.Exit(mainCode()) }})
}

// TestScripts runs testdata/script/*.txtar, sessions at a terminal.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			cert, key := certificate(t)
			for name, text := range map[string]string{"cert.pem": cert, "key.pem": key} {
				if err := os.WriteFile(filepath.Join(e.WorkDir, name), []byte(text), 0o600); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits CODE program args... runs a program and checks with what it exits.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE program [args...]")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		failed, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = failed.ExitCode()
	}
	if want, err := strconv.Atoi(args[0]); err != nil || got != want {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// Every command explains itself with an example.
func TestEveryCommandHasAnExample(t *testing.T) {
	root := commands(streams{})
	all := root.Commands()
	for i := 0; i < len(all); i++ {
		c := all[i]
		all = append(all, c.Commands()...)
		if c.Example == "" || c.Short == "" {
			t.Errorf("%s --help has no example or no description", c.CommandPath())
		}
	}
	if root.Example == "" || len(all) < 6 {
		t.Errorf("found only %d commands, or no example for fieldgate itself", len(all))
	}
}

func TestFailureHasThreeLines(t *testing.T) {
	var out writer
	code := execute(context.Background(), []string{"config", "validate", filepath.Join(t.TempDir(), "none.toml")}, streams{nil, &out, &out})
	if code != exitConfig {
		t.Errorf("exit code %d, want %d", code, exitConfig)
	}
	if lines := out.lines(); len(lines) != 3 {
		t.Errorf("output has %d lines, want what, why and next:\n%s", len(lines), lines)
	}
}
