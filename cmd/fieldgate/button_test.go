package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/board"
	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// Somebody at the box: opens the window, a leaf asks to join, is approved; closes
// the window, opens it again, closes it while nobody has come.
func TestAShortPressPairs(t *testing.T) {
	var admitted []string
	w := &pairing.Window{
		Known: func(string) bool { return false }, Usable: func(string) error { return nil }, Log: slog.New(slog.DiscardHandler),
		Admit: func(r pairing.Request, _ string) (pairing.Answer, error) {
			admitted = append(admitted, r.ID)
			return pairing.Answer{ID: r.ID, Password: "x"}, nil
		},
	}
	b := newButton(w, "", slog.New(slog.DiscardHandler))
	b.pair()
	code, err := w.Code()
	if err != nil {
		t.Fatalf("after the first press: %v", err)
	}
	guest, err := w.Enter(code.Text(), "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = guest.Claim(pairing.Request{ID: "pump-1"}); err != nil {
		t.Fatal(err)
	}
	if len(admitted) > 0 {
		t.Errorf("%v before the second press", admitted)
	}
	b.pair()
	if s := w.State(); len(admitted) != 1 || s.State != pairing.Approved {
		t.Errorf("admitted %v, %+v after the second press", admitted, s)
	}
	for _, open := range []bool{false, true, false} {
		b.pair()
		if got := w.State().Open; got != open {
			t.Fatalf("open %v, want %v", got, open)
		}
	}
	if len(admitted) != 1 {
		t.Errorf("admitted %v", admitted)
	}
}

// A long press asks for the reset as the command does, where something will carry it
// out, and ends the gateway. Where it cannot be asked for, or nobody would, it goes on.
func TestALongPressResets(t *testing.T) {
	for _, c := range []struct {
		name      string
		appliance string
		folder    string // of the configuration
		want      error
	}{
		{"set up by a card", "1", t.TempDir(), errReset},
		{"somebody's own system", "", t.TempDir(), nil},
		{"it cannot be written", "1", filepath.Join(t.TempDir(), "none"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("FIELDGATE_APPLIANCE", c.appliance)
			said := new(strings.Builder)
			b := newButton(new(pairing.Window), filepath.Join(c.folder, "fieldgate.toml"), slog.New(slog.NewTextHandler(said, nil)))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- b.run(ctx) }()
			b.presses <- board.Long
			if c.want == nil {
				for range cap(b.presses) + 1 { // room for the last of them is only when the long one is done with
					b.presses <- board.Press("")
				}
				cancel()
			}
			if err := <-ended; !errors.Is(err, c.want) {
				t.Errorf("ended with %v, want %v", err, c.want)
			}
			_, err := os.Stat(filepath.Join(c.folder, ".factory-reset"))
			if (err == nil) != (c.want != nil) {
				t.Errorf("asked for: %v; said %s", err == nil, said)
			}
			if !strings.Contains(said.String(), "factory reset") {
				t.Errorf("said only %q", said)
			}
		})
	}
}
