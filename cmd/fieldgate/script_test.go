package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/store"
	"github.com/fieldgate/fieldgate/test/fakebluez"
)

// TestMain lets the scripts call fieldgate as a program.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"fieldgate": func() { os.Exit(mainCode()) }, "without-chown": withoutChown})
}

// TestScripts runs testdata/script/*.txtar, sessions at a terminal.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("FIELDGATE_SOCKET", filepath.Join(e.WorkDir, "control.sock"))
			// With the race detector a program sleeps for a second before it exits, and
			// scripts start some hundreds. What races has long been seen by then.
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			port, err := freePort()
			if err != nil {
				return err
			}
			e.Setenv("PORT", port)
			cert, key := certificate(t)
			for name, text := range map[string]string{"cert.pem": cert, "key.pem": key} {
				if err := os.WriteFile(filepath.Join(e.WorkDir, name), []byte(text), 0o600); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "awaits": awaits, "shelve": shelve, "bluez": bluez},
	})
}

// freePort is one on which nobody listens.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, errors.Join(err, l.Close())
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

// awaits program args... runs a program until it exits with 0.
func awaits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: awaits program [args...]")
	}
	for limit := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if time.Now().After(limit) {
			ts.Fatalf("never: %v", err)
		}
	}
}

// shelve DIR LEAF BODY... puts messages on the dead-letter shelf of the store in
// DIR, which no daemon may have open.
func shelve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: shelve DIR LEAF BODY...")
	}
	cfg := store.DefaultConfig()
	cfg.AllowAnyFS = true
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(dir), 0o700))
	s, err := store.Open(dir, cfg, slog.New(slog.DiscardHandler))
	ts.Check(err)
	for i, body := range args[2:] {
		ts.Check(s.DeadLetter(&gateway.Message{
			Leaf: args[1], Lane: gateway.LaneTelemetry, Channel: "c", Body: []byte(body), Start: 1, Seq: uint64(i + 1),
			System:     gateway.System{MessageID: fmt.Sprintf("id-%d", i+1)},
			Properties: []gateway.Property{{Name: "site", Value: "north"}},
		}, "amqp:not-allowed: bad property"))
	}
	ts.Check(s.Close())
}

// bluez starts a BlueZ without a radio, for programs that are started later, with two
// devices in reach: C8:00:00:00:00:01 shows the passkey 123456, C8:00:00:00:00:02 proves nothing.
func bluez(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: bluez")
	}
	dir, err := os.MkdirTemp("", "bluez-") // a unix socket's path has at most 107 characters
	ts.Check(err)
	ts.Defer(func() { os.RemoveAll(dir) })
	bus, err := fakebluez.StartBus(dir)
	if errors.Is(err, fakebluez.ErrNoBus) && os.Getenv("CI") != "true" {
		ts.Fatalf("%v", err)
	}
	ts.Check(err)
	ts.Defer(func() { _ = bus.Stop() })
	ts.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.Address)
	z := fakebluez.New(bus, fakebluez.Options{})
	ts.Check(z.Start())
	ts.Defer(z.Stop)
	devices := []*fakebluez.Device{
		z.Add(&fakebluez.Device{Address: "C8:00:00:00:00:01", Name: "valve", RSSI: -40, Pairing: fakebluez.ShowsKey, Passkey: 123456}),
		z.Add(&fakebluez.Device{Address: "C8:00:00:00:00:02", Name: "lamp", RSSI: -70, Pairing: fakebluez.JustWorks}),
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			for _, d := range devices {
				d.Advertise(nil, nil)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	ts.Defer(func() { cancel(); <-ended })
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
