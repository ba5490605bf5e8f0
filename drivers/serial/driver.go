// Package serial reaches leaves that speak lines of text over a serial port:
// newline-delimited JSON objects, or any text. One Driver serves one port, and
// a problem of one port or leaf stays with that port.
//
// A line takes this way through the package:
//
//  1. port.go opens and locks the device; driver.go reads it, and opens it
//     again after it was unplugged,
//  2. lines.go cuts the bytes into lines and finds its way back after noise,
//  3. format.go makes a reading of a line (JSON or text),
//  4. handover.go brings it into custody in order, and stops the reading of the
//     port while the gateway is at a bound or the store cannot take it,
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

	"github.com/fieldgate/fieldgate/gateway"
)

// How long to wait before a port that failed is opened again: from reopenMin,
// doubled each time up to reopenMax.
const (
	reopenMin = 100 * time.Millisecond
	reopenMax = time.Second
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
}

// New makes a driver for one port. It does not touch the port. The error is that
// of Validate.
func New(cfg Config, clock gateway.Clock, log *slog.Logger) (*Driver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	log = log.With("driver", "serial", "port", cfg.Port)
	return &Driver{cfg: cfg, clock: clock, format: newFormat(cfg), tally: newTally(log)}, nil
}

// Name identifies the driver by its port, "serial:/dev/serial/by-id/usb-FTDI_…".
func (d *Driver) Name() string { return "serial:" + d.cfg.Port }

// State is a snapshot for status and metrics. Safe for concurrent use.
func (d *Driver) State() State { return d.tally.snapshot() }

// Run serves the port until ctx ends, and then returns nil. A port that is
// missing, busy or lost is tried again until it is there. Run may be called once.
func (d *Driver) Run(ctx context.Context, up gateway.Handler) error {
	h := newHandover(d.cfg.MaxInflight, up, d.tally)
	var parts sync.WaitGroup
	parts.Go(func() { h.run(ctx) })
	d.keepOpen(ctx, h)
	parts.Wait()
	return nil
}

// keepOpen opens the port, serves it while it is there, and waits for it when it
// is not.
func (d *Driver) keepOpen(ctx context.Context, h *handover) {
	wait := reopenMin
	for ctx.Err() == nil {
		p, err := openPort(d.cfg.Port, d.cfg.mode())
		if err == nil {
			wait = reopenMin
			err = d.serve(ctx, p, h)
		}
		if ctx.Err() != nil {
			err = nil // we closed it
		}
		d.tally.closed(err)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, reopenMax)
	}
}

// serve reads an open port until it is lost or ctx ends, and closes it.
func (d *Driver) serve(ctx context.Context, p *port, h *handover) error {
	d.tally.opened(p.device)
	s := session{Driver: d, handover: h, lines: newSplitter(int(d.cfg.MaxLine))}
	var parts sync.WaitGroup
	if d.cfg.Ack == AckLine {
		s.answers = newAnswers(p, d.cfg.MaxInflight, func() { signal(h.wake) }, d.tally)
		parts.Go(s.answers.run)
	}
	ctx, over := context.WithCancel(ctx)
	parts.Go(func() {
		<-ctx.Done()
		p.close() // ends a read and a write that wait
	})

	err := s.read(ctx, p)

	over()
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
	handover   *handover
	lines      *splitter
	answers    *answers // nil when leaves are not answered
	understood uint64   // lines so far
}

// read turns bytes into messages. It returns why the port cannot be read any
// more, or the error of ctx.
func (s *session) read(ctx context.Context, p *port) error {
	buf := make([]byte, 4096)
	if err := p.file.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	for {
		n, err := p.read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.lines.quiet()
			err = p.file.SetReadDeadline(time.Time{})
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
	r, why := s.format(l)
	if why != "" {
		if why != blank {
			s.tally.discard(why, l.size)
		}
		return nil
	}
	s.understood++
	m := s.message(r)
	s.tally.arrived(m.Captured)
	return s.handover.put(ctx, &pending{msg: m, size: l.size, answer: s.answer(r.seq, s.understood)})
}

// message makes a message of a reading. It is stamped here and not on entry to
// the gateway, since it may have to wait before.
func (s *session) message(r reading) *gateway.Message {
	return &gateway.Message{
		Leaf:     r.leaf,
		Kind:     gateway.Telemetry,
		Lane:     s.cfg.lane(),
		Channel:  s.cfg.Channel,
		System:   gateway.System{ContentType: r.contentType, ContentEncoding: "utf-8"},
		Body:     bytes.Clone(r.body),
		Captured: s.clock(),
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
