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

func logsCommand(std streams) *cobra.Command {
	var r remote
	var follow bool
	var leaf string
	var lines int
	c := &cobra.Command{
		Use:   "logs [-f]",
		Short: "Show the last lines of the daemon's log",
		Long: fmt.Sprintf(`Shows what the daemon has logged, the oldest first: the last %d lines since its
start, which it remembers. All of it, with what was before, is in the journal:
journalctl -u fieldgate.`, maxRecords),
		Example: "  fieldgate logs -f\n  fieldgate logs --device pump-1 --lines 20\n  fieldgate logs --output jsonl",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lines < 1 {
				return fmt.Errorf("--lines %d makes no sense", lines)
			}
			all, err := r.client().Records(cmd.Context(), 0, leaf)
			if err != nil {
				return r.failed("cannot read the log", err)
			}
			all = all[max(0, len(all)-lines):]
			if !follow {
				return writeRecords(std.out, r.output, all)
			}
			return r.failed("cannot follow the log", r.follow(cmd.Context(), std.out, leaf, all))
		},
	}
	r.flags(c, forms...)
	c.Flags().BoolVarP(&follow, "follow", "f", false, "and go on with what comes, until interrupted")
	c.Flags().StringVar(&leaf, "device", "", "only what is about this `LEAF`")
	c.Flags().IntVarP(&lines, "lines", "n", maxRecords, "how many of the last lines")
	return c
}

// follow writes what comes until ctx ends.
func (r *remote) follow(ctx context.Context, out io.Writer, leaf string, all []control.Record) error {
	form := r.output
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
		if all, err = r.client().Records(ctx, last, leaf); err != nil {
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
		fmt.Fprintf(out, "%s %-7s %-8s %s\n", x.Time.UTC().Format("2006-01-02T15:04:05.000Z"), x.Level, orDash(x.Part), text)
	}
	return nil
}
