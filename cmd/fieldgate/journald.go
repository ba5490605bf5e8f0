package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// withPriority is a log that journald keeps: each line begins with its priority, as
// sd-daemon(3) says, so that "journalctl -p err" finds errors.
type withPriority struct {
	byLevel [4]slog.Handler // debug, info, warn, error
}

// toJournald says whether what is written to w goes to journald. systemd says which
// file that is, for it is inherited by whoever writes elsewhere (systemd.exec(5)).
func toJournald(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	var at unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &at); err != nil {
		return false
	}
	return os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", at.Dev, at.Ino)
}

// newWithPriority makes one of what makes a handler for a writer.
func newWithPriority(w io.Writer, handler func(io.Writer) slog.Handler) *withPriority {
	h := new(withPriority)
	for i, priority := range []string{"<7>", "<6>", "<4>", "<3>"} {
		h.byLevel[i] = handler(prefixed{w, priority})
	}
	return h
}

// prefixed writes something before each line.
type prefixed struct {
	to     io.Writer
	prefix string
}

// Write writes all at once: lines of several handlers do not mix.
func (p prefixed) Write(line []byte) (int, error) {
	n, err := p.to.Write(append([]byte(p.prefix), line...))
	return max(0, n-len(p.prefix)), err
}

func (h *withPriority) Enabled(ctx context.Context, l slog.Level) bool {
	return h.byLevel[0].Enabled(ctx, l)
}

func (h *withPriority) Handle(ctx context.Context, r slog.Record) error {
	i := 0
	for _, least := range []slog.Level{slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if r.Level >= least {
			i++
		}
	}
	return h.byLevel[i].Handle(ctx, r)
}

func (h *withPriority) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.each(func(one slog.Handler) slog.Handler { return one.WithAttrs(attrs) })
}

func (h *withPriority) WithGroup(name string) slog.Handler {
	return h.each(func(one slog.Handler) slog.Handler { return one.WithGroup(name) })
}

func (h *withPriority) each(f func(slog.Handler) slog.Handler) slog.Handler {
	next := new(withPriority)
	for i, one := range h.byLevel {
		next.byLevel[i] = f(one)
	}
	return next
}
