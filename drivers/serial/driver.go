// Package serial reaches leaves that speak lines of text over a serial port:
// newline-delimited JSON objects, packs of SenML, sentences of NMEA 0183, or any
// text. One Driver serves one port, and
// a problem of one port or leaf stays with that port.
//
// A line takes this way through the package:
//
//  1. package port opens and locks the device, and opens it again after it was
//     unplugged; where the leaf has a key, package hello lets nobody else in;
//     driver.go reads it,
//  2. lines.go cuts the bytes into lines and finds its way back after noise,
//  3. format.go makes readings of a line, for each leaf one message,
//  4. package handover brings it into custody in order, and stops the reading of
//     the port while the gateway is at a bound or the store cannot take it,
//  5. answer.go tells the leaf.
//
// # Lines
//
// A line ends with LF or CRLF. What is not a reading (noise, lines that are too
// long, log lines among JSON) is discarded and counted by reason, and the line
// after it is fine. The first line after the opening may be the tail of one: in
// JSON that shows; a text line is taken only if the port was silent for 200 ms
// before it.
//
// # Answers
//
// With ack = "line" the leaf gets one line for each line that was understood,
// in the same order: {"ack":N} once the line is in custody, where N is the number
// in the field "seq" of a JSON line, a whole number of 0 to 2^64-1. For lines
// without such a number it is "ACK n", where n counts the understood lines since
// the port was opened: 1, 2, 3. {"nak":N} or "NAK n" says that the gateway
// will never take the line (unknown leaf, too large), so repeating it is of no
// use. Lines that were not understood have no answer; a leaf that misses an
// answer sends the line again. A leaf that starts anew should begin with another
// number than the last time: an answer may still be under way.
package serial

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/drivers/handover"
	"github.com/fieldgate/fieldgate/drivers/serial/hello"
	"github.com/fieldgate/fieldgate/drivers/serial/port"
	"github.com/fieldgate/fieldgate/gateway"
)

// silence before a line proves that the line is whole. At 50 baud, the slowest
// speed, a character takes 200 ms.
const silence = 200 * time.Millisecond

// Driver serves one port. It implements gateway.Driver.
type Driver struct {
	cfg    Config
	clock  gateway.Clock
	format format
	tally  *tally
	keeper *port.Keeper
	guard  *hello.Guard // nil: whoever is at the port is the leaf
}

// New makes a driver for one port. It does not touch the port. The error is that
// of Validate.
func New(cfg Config, clock gateway.Clock, log *slog.Logger) (*Driver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	log = log.With("driver", "serial", "port", cfg.Port)
	return &Driver{
		cfg: cfg, clock: clock, format: newFormat(cfg), tally: newTally(cfg.lane(), log),
		keeper: port.NewKeeper(cfg.Config, log), guard: hello.NewGuard(cfg.Leaf, &cfg.Hello, log),
	}, nil
}

// Name identifies the driver by its port, "serial:/dev/serial/by-id/usb-FTDI_…".
func (d *Driver) Name() string { return "serial:" + d.cfg.Port }

// State is described at gateway.Driver.
func (d *Driver) State() gateway.DriverState {
	s := d.keeper.Driver(d.Name(), "serial")
	d.tally.fill(&s)
	d.tally.peers(&s, d.cfg.Leaf)
	d.guard.Fill(&s)
	return s
}

// Run serves the port until ctx ends, and then returns nil. A port that is
// missing, busy or lost is tried again until it is there. Run may be called once.
func (d *Driver) Run(ctx context.Context, ways gateway.Ways) error {
	h := handover.New(d.cfg.MaxInflight, ways.Up, d.tally)
	var parts sync.WaitGroup
	parts.Go(func() { h.Run(ctx) })
	d.keeper.Run(ctx, func(ctx context.Context, p *port.Port) error { return d.serve(ctx, p, h) })
	parts.Wait()
	return nil
}

// serve reads an open port until it is lost or ctx ends, and closes it.
func (d *Driver) serve(ctx context.Context, p *port.Port, h *handover.Queue) error {
	d.tally.opened()
	if err := d.guard.Wait(ctx, p); err != nil {
		return err
	}
	s := session{Driver: d, handover: h, lines: newSplitter(int(d.cfg.MaxLine))}
	var parts sync.WaitGroup
	if d.cfg.Ack == AckLine {
		s.answers = newAnswers(p, d.cfg.MaxInflight, h.Wake, d.tally)
		parts.Go(s.answers.run)
	}

	err := s.read(ctx, p)

	p.Close() // ends a write that waits
	if s.answers != nil {
		s.answers.end()
	}
	parts.Wait()
	if n := s.lines.rest(); n > 0 {
		d.tally.discard(DiscardTorn, n)
	}
	return err
}

// session is what belongs to one opening of the port.
type session struct {
	*Driver
	handover   *handover.Queue
	lines      *splitter
	answers    *answers // nil when leaves are not answered
	understood uint64   // lines so far
}

// read turns bytes into messages. It returns why the port cannot be read any
// more, or the error of ctx.
func (s *session) read(ctx context.Context, p *port.Port) error {
	buf := make([]byte, 4096)
	if err := p.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	for {
		n, err := p.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.lines.quiet()
			err = p.SetReadDeadline(time.Time{})
		}
		if err != nil {
			return err
		}
		if err := s.lines.feed(buf[:n], func(l line) error { return s.take(ctx, l) }); err != nil {
			return err
		}
	}
}

// take brings one line on its way.
func (s *session) take(ctx context.Context, l line) error {
	if l.tooLong {
		s.tally.discard(DiscardTooLong, l.size)
		return nil
	}
	if s.guard != nil && hello.IsAnswer(l.text) {
		return nil // to a question that was asked once more
	}
	now := s.clock()
	rs, why := s.format(l, now)
	if why != "" {
		if why != blank {
			s.tally.discard(why, l.size)
		}
		return nil
	}
	s.understood++
	s.tally.arrived(now)
	answer := s.answer(rs[0].seq, s.understood)
	all := true // of the line's messages before the last are in custody
	for i, r := range rs {
		item := &handover.Item{Message: s.message(r, now), Size: l.size / len(rs), Answer: answer}
		if answer != nil && len(rs) > 1 {
			last := i == len(rs)-1
			item.Answer = func(taken bool) bool {
				all = all && taken
				return !last || answer(all)
			}
		}
		if err := s.handover.Put(ctx, item); err != nil {
			return err
		}
	}
	return nil
}

// message makes a message of a reading. It is stamped here and not on entry to
// the gateway, since it may have to wait before.
func (s *session) message(r reading, now gateway.Instant) *gateway.Message {
	return &gateway.Message{
		Leaf:     r.leaf,
		Kind:     gateway.Telemetry,
		Lane:     s.cfg.lane(),
		Channel:  s.cfg.Channel,
		System:   gateway.System{ContentType: r.contentType, ContentEncoding: "utf-8"},
		Body:     bytes.Clone(r.body),
		Captured: now,
	}
}

// answer returns what tells the leaf the fate of its nth line; nil when leaves
// are not answered.
func (s *session) answer(seq string, n uint64) func(bool) bool {
	if s.answers == nil {
		return nil
	}
	return func(taken bool) bool { return s.answers.offer(answerText(taken, seq, n)) }
}
