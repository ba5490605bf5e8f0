package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway/control"
)

// maxRecords is how many lines of the log are remembered.
const maxRecords = 1000

// logLines remembers the last lines of the log, for operators where there is no
// journal, or who may not read it. The zero value is ready. Safe for concurrent use.
type logLines struct {
	mu   sync.Mutex
	ring []control.Record // guarded by mu; in a circle once it is full
	last uint64           // number of the last one; guarded by mu
}

func (l *logLines) add(e control.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	e.Message = cut(e.Message, maxFacts)
	r := control.Record{Number: l.last, Time: e.Time, Level: e.Level, Part: e.Part, Leaf: e.Leaf, Message: e.Message, Facts: e.Facts}
	if len(l.ring) < maxRecords {
		l.ring = append(l.ring, r)
		return
	}
	l.ring[(l.last-1)%maxRecords] = r
}

// Records returns those with a number above after, the oldest first.
func (l *logLines) Records(after uint64) []control.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := []control.Record{}
	first := l.last - uint64(len(l.ring)) + 1
	if after > l.last { // of a daemon before this one
		after = 0
	}
	for n := max(first, after+1); n <= l.last; n++ {
		all = append(all, l.ring[(n-1)%maxRecords])
	}
	return all
}

// watch returns a log that hands everything on to the old one, and what that takes
// to the memory too.
func (l *logLines) watch(log *slog.Logger, least slog.Leveler) *slog.Logger {
	return slog.New(&listener{next: log.Handler(), add: l.add, least: least})
}

// logLook is what the commands have in common that show lines of the log.
type logLook struct {
	remote
	leaf   string // only what is about it
	follow bool
	lines  int
}

func (l *logLook) flags(c *cobra.Command) {
	l.remote.flags(c, forms...)
	c.Flags().BoolVarP(&l.follow, "follow", "f", false, "and go on with what comes, until interrupted")
	c.Flags().IntVarP(&l.lines, "lines", "n", maxRecords, "how many of the last lines")
}

func (l *logLook) run(ctx context.Context, out io.Writer) error {
	if l.lines < 1 {
		return fmt.Errorf("--lines %d makes no sense", l.lines)
	}
	all, err := l.client().Records(ctx, 0, l.leaf)
	if err != nil {
		return l.failed("cannot read the log", err)
	}
	all = all[max(0, len(all)-l.lines):]
	if !l.follow {
		return writeRecords(out, l.output, all)
	}
	return l.failed("cannot follow the log", l.more(ctx, out, all))
}

func logsCommand(std streams) *cobra.Command {
	var l logLook
	c := &cobra.Command{
		Use:   "logs [-f]",
		Short: "Show the last lines of the daemon's log",
		Long: fmt.Sprintf(`Shows what the daemon has logged, the oldest first: the last %d lines since its
start, which it remembers. All of it, with what was before, is in the journal:
journalctl -u fieldgate.`, maxRecords),
		Example: "  fieldgate logs -f\n  fieldgate logs --device pump-1 --lines 20\n  fieldgate logs --output jsonl",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return l.run(cmd.Context(), std.out)
		},
	}
	l.flags(c)
	c.Flags().StringVar(&l.leaf, "device", "", "only what is about this `LEAF`")
	return c
}

func deviceLogsCommand(std streams) *cobra.Command {
	l := logLook{remote: remote{list: devicesHint}}
	c := &cobra.Command{
		Use:   "logs LEAF [-f]",
		Short: "Show the last lines of the log about a leaf",
		Long: `Shows what the daemon has logged about a leaf, the oldest first, as far as it
remembers; also of one that was removed since. The same as fieldgate logs --device.`,
		Example: "  fieldgate device logs pump-1\n  fieldgate device logs pump-1 -f",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l.leaf = args[0]
			said, err := l.client().Records(cmd.Context(), 0, l.leaf)
			if err == nil && len(said) == 0 { // nothing to say of it, or a name that was misspelt
				_, err = l.client().Device(cmd.Context(), l.leaf)
			}
			if err != nil {
				return l.failed("cannot read the log", err)
			}
			return l.run(cmd.Context(), std.out)
		},
	}
	l.flags(c)
	return c
}

// more writes all, and what comes until ctx ends.
func (l *logLook) more(ctx context.Context, out io.Writer, all []control.Record) error {
	form := l.output
	if form == "json" { // a list that does not end is a list of lines
		form = "jsonl"
	}
	last := uint64(0)
	for {
		if err := writeRecords(out, form, all); err != nil {
			return err
		}
		for _, x := range all {
			last = x.Number
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return nil
		}
		var err error
		if all, err = l.client().Records(ctx, last, l.leaf); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

func writeRecords(out io.Writer, form string, all []control.Record) error {
	if form != "table" {
		if len(all) == 0 && form != "json" {
			return nil
		}
		return encode(out, form, all)
	}
	for _, x := range all {
		text := x.Message
		if x.Leaf != "" {
			text = x.Leaf + ": " + text
		}
		if x.Facts != "" {
			text += ", " + x.Facts
		}
		say(out, "%s %-7s %-8s %s", x.Time.UTC().Format("2006-01-02T15:04:05.000Z"), x.Level, orDash(x.Part), text)
	}
	return nil
}
