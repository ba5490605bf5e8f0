package main

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/fieldgate/fieldgate/board"
	"github.com/fieldgate/fieldgate/cmd/fieldgate/firstboot"
	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// errReset says that the button has asked for a factory reset, which comes with the
// next start of the machine. Whoever started the program sees exitReset.
var errReset = errors.New("the button has asked for a factory reset")

// button is what the presses of the board's button do.
type button struct {
	window *pairing.Window
	// reset asks for a factory reset; nil where nothing would carry it out.
	reset   func() error
	log     *slog.Logger
	presses chan board.Press
}

// newButton makes the button of a gateway with that configuration file. Only on a
// machine that was set up by its card does "fieldgate first-boot" carry a reset out:
// its unit sets FIELDGATE_APPLIANCE.
func newButton(window *pairing.Window, file string, log *slog.Logger) *button {
	b := &button{window: window, log: log, presses: make(chan board.Press, 8)}
	if os.Getenv("FIELDGATE_APPLIANCE") != "" {
		b.reset = (&firstboot.Gateway{Config: file}).Request
	}
	return b
}

// press notes a press. It does not block: who presses more often than the gateway can
// follow has pressed less often.
func (b *button) press(p board.Press) {
	select {
	case b.presses <- p:
	default:
	}
}

// run does what the presses say until ctx ends. The error is errReset, or nil.
func (b *button) run(ctx context.Context) error {
	for {
		select {
		case p := <-b.presses:
			if p == board.Long && b.askForReset() {
				return errReset
			}
			if p == board.Short {
				b.pair()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// pair opens the pairing window; approves the leaf that has asked to join; or closes
// the window in which none has, or one that has its answer already.
func (b *button) pair() {
	s := b.window.State()
	var err error
	what := "approve"
	switch {
	case !s.Open:
		what = "open"
		_, _, err = b.window.Open(pairing.Options{})
	case s.State == pairing.Claimed:
		err = b.window.Approve(s.Claim)
	default:
		what = "close"
		err = b.window.Close()
	}
	if err != nil {
		b.log.Warn("the button's press came to nothing", "pairing", what, "error", err)
	}
}

// askForReset returns whether the reset will come.
func (b *button) askForReset() bool {
	if b.reset == nil {
		b.log.Warn("no factory reset by the button: this machine was not set up by a card", "next", "fieldgate factory-reset --help")
		return false
	}
	if err := b.reset(); err != nil {
		b.log.Error("no factory reset: it cannot be asked for", "error", err)
		return false
	}
	b.log.Warn("factory reset: the button was held, everything is deleted at the next start", "event", "factory-reset")
	return true
}
