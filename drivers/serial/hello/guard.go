package hello

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/port"
	"github.com/fieldgate/fieldgate/gateway"
)

// Config says with what the leaf on a port proves that it is there. Its keys stand in the
// [[serial]] table of what speaks on the port.
type Config struct {
	// KeyFile names the file with the key of the leaf, 32 to 128 hexadecimal digits. With it
	// what comes from the port is taken only once the device there has answered HELLO with
	// that key, each time that the port is opened.
	KeyFile string `toml:"key_file"`

	Key Key `toml:"-"` // what is in the file
}

// Validate checks that it goes together with the one leaf of the port, "" for none. The
// error is of type *gateway.KeyError.
func (c *Config) Validate(leaf string) error {
	if c.KeyFile != "" && leaf == "" {
		return gateway.BadKey("key_file", "is the key of one leaf: write its id in leaf")
	}
	return nil
}

// Guard lets nobody but the leaf speak on a port. Its methods are safe for concurrent use.
type Guard struct {
	leaf  string
	key   Key
	pause time.Duration // between wrong answers and the next question
	log   *slog.Logger

	mu sync.Mutex
	// guarded by mu:
	why    error // why the device is not the leaf; nil: it is, or the port is not open
	since  time.Time
	lost   int64 // bytes of what was not proven to be the leaf
	proven int64 // times
	wrong  int64
}

// NewGuard makes one for the leaf of a port; nil where it has no key.
func NewGuard(leaf string, c *Config, log *slog.Logger) *Guard {
	if c.KeyFile == "" {
		return nil
	}
	return &Guard{leaf: leaf, key: c.Key, pause: againMax, log: log}
}

// Wait returns nil when the device at a port that was just opened has proven that it is
// the leaf, at once for a nil Guard. Until then it asks, and throws away what comes. The
// error says why the port cannot be used any more, or is that of ctx.
func (g *Guard) Wait(ctx context.Context, p *port.Port) error {
	if g == nil {
		return nil
	}
	g.is(ErrSilent)
	defer g.is(nil)
	for alarmed := false; ; {
		err := Prove(ctx, p, g.leaf, g.key, 0, g.throw)
		switch {
		case err == nil:
			g.mu.Lock()
			g.proven++
			g.mu.Unlock()
			g.log.Info("device has proven that it is the leaf", "leaf", g.leaf)
			return nil
		case !errors.Is(err, ErrWrong):
			return err
		}
		g.mu.Lock()
		g.wrong++
		g.mu.Unlock()
		g.is(err)
		if !alarmed {
			alarmed = true
			g.log.Error("another device is at the port of the leaf", "event", "leaf-unproven", "leaf", g.leaf, "error", err)
		}
		if err := g.ignore(ctx, p); err != nil {
			return err
		}
	}
}

// ignore throws away what comes for a while. The error is that of Wait.
func (g *Guard) ignore(ctx context.Context, p *port.Port) error {
	e := ear{p: p, lost: g.throw}
	defer e.drop()
	for end := time.Now().Add(g.pause); time.Now().Before(end); {
		if _, err := e.listen(ctx, time.Until(end)); err != nil {
			return err
		}
	}
	return nil
}

func (g *Guard) is(why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.why == nil || why == nil {
		g.since = time.Now()
	}
	g.why = why
}

func (g *Guard) throw(bytes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lost += int64(bytes)
}

// Fill adds what it knows to the state of the driver, whose peers are there by now.
func (g *Guard) Fill(s *gateway.DriverState) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.Counts == nil {
		s.Counts = make(map[string]int64)
	}
	s.Counts["unproven_bytes"], s.Counts["hello_right"], s.Counts["hello_wrong"] = g.lost, g.proven, g.wrong
	if g.why == nil || !s.Up {
		return
	}
	s.Leaves = 0
	s.Note = "unproven: what comes is thrown away until HELLO is answered with the key of " + g.leaf
	for i := range s.Peers {
		if p := &s.Peers[i]; p.Leaf == g.leaf {
			p.Up, p.Err, p.Since = false, g.why.Error(), g.since
		}
	}
}
