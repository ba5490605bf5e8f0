package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/control"
)

// choice is the flags that choose among what waits.
type choice struct {
	leaf, lane string
	older      time.Duration
	given      func(flag string) bool
}

func (x *choice) flags(c *cobra.Command) {
	x.given = c.Flags().Changed
	c.Flags().StringVar(&x.leaf, "leaf", "", "only messages of the leaf with this `ID`")
	c.Flags().StringVar(&x.lane, "lane", "", fmt.Sprintf("only messages in the lane `NAME`, one of %v", gateway.LaneNames))
	c.Flags().DurationVar(&x.older, "older-than", 0, "only messages that are known to be older, like 24h")
	_ = c.RegisterFlagCompletionFunc("leaf", func(cmd *cobra.Command, _ []string, begin string) ([]string, cobra.ShellCompDirective) {
		return leafIDs(cmd, nil, begin)
	})
	_ = c.RegisterFlagCompletionFunc("lane", cobra.FixedCompletions(gateway.LaneNames[:], cobra.ShellCompDirectiveNoFileComp))
}

// control is what is chosen. A flag that is given and empty chooses nothing: it comes
// from a variable of a script that is not set, and all would be meant.
func (x *choice) control() (control.Choice, error) {
	for flag, value := range map[string]string{"leaf": x.leaf, "lane": x.lane} {
		if value == "" && x.given(flag) {
			return control.Choice{}, fmt.Errorf("--%s is empty: write which one, or leave it out", flag)
		}
	}
	if x.older < 0 {
		return control.Choice{}, fmt.Errorf("--older-than %s is no age", x.older)
	}
	if x.lane != "" && x.lane != gateway.LaneNames[gateway.LaneAlarm] && x.lane != gateway.LaneNames[gateway.LaneTelemetry] {
		return control.Choice{}, fmt.Errorf("there is no lane %q: write one of %v", x.lane, gateway.LaneNames)
	}
	return control.Choice{Leaf: x.leaf, Lane: x.lane, OlderSeconds: x.older.Seconds()}, nil
}

func storeListCommand(std streams) *cobra.Command {
	var r remote
	var x choice
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List the messages that wait on flash",
		Long: `Lists what waits on flash for the hub, lane by lane, in the order in which it will be
sent. Nothing is disturbed by that. Messages that are in memory only, because the hub
takes them promptly, are not among it.`,
		Example: "  fieldgate store list --leaf pump-1\n  fieldgate store list --limit 0 --output jsonl",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			chosen, err := x.control()
			if err != nil {
				return err
			}
			out := rows{out: std.out, form: r.output}
			if r.forPeople() {
				out.table = tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
			}
			err = r.client().Waiting(cmd.Context(), chosen, limit, out.add)
			if err == nil {
				err = out.end()
			}
			if err == nil && r.forPeople() && out.count == 0 {
				fmt.Fprintln(std.err, "nothing waits on flash")
			}
			if err == nil && r.forPeople() && limit > 0 && out.count == limit {
				fmt.Fprintf(std.err, "there may be more: --limit 0 lists all\n")
			}
			return r.failed("cannot list what waits", err)
		},
	}
	r.flags(c, forms...)
	x.flags(c)
	c.Flags().IntVarP(&limit, "limit", "n", 100, "at most so many `MESSAGES`, 0 for all")
	return c
}

// rows writes messages as they come: there may be a million.
type rows struct {
	out   io.Writer
	form  string
	table *tabwriter.Writer // for people
	count int
}

// rowsAligned is how many rows of a table have their columns in common.
const rowsAligned = 100

func (l *rows) add(w control.Waiting) (err error) {
	l.count++
	if l.table == nil {
		return l.encode(w)
	}
	if l.count == 1 {
		fmt.Fprintln(l.table, "LEAF\tLANE\tNUMBER\tAGE\tBYTES\tSTATE\tMESSAGE ID")
	}
	age := "-"
	if w.AgeSeconds != nil {
		age = short(time.Duration(*w.AgeSeconds * float64(time.Second)))
	}
	fmt.Fprintf(l.table, "%s\t%s\t%d-%d\t%s\t%d\t%s\t%s\n", w.Leaf, w.Lane, w.Start, w.Seq, age, w.Bytes, w.State, w.MessageID)
	if l.count%rowsAligned == 0 {
		return l.table.Flush()
	}
	return nil
}

// encode writes one element of what is a list in the end.
func (l *rows) encode(w control.Waiting) error {
	if l.form != "json" {
		return encode(l.out, l.form, []control.Waiting{w})
	}
	text, err := json.MarshalIndent(w, "  ", "  ")
	if err != nil {
		return err
	}
	before := ",\n  "
	if l.count == 1 {
		before = "[\n  "
	}
	_, err = fmt.Fprintf(l.out, "%s%s", before, text)
	return err
}

func (l *rows) end() error {
	switch {
	case l.table != nil:
		return l.table.Flush()
	case l.count == 0:
		return encode(l.out, l.form, []control.Waiting{})
	case l.form == "json":
		_, err := fmt.Fprint(l.out, "\n]\n")
		return err
	}
	return nil
}

func storeExportCommand(std streams) *cobra.Command {
	var r remote
	var x choice
	var file string
	c := &cobra.Command{
		Use:   "export",
		Short: "Write the messages that wait on flash as lines of JSON",
		Long: `Writes what waits on flash with its properties and its body, in Base64, one line of JSON
for each message, so that it can be carried off by hand. It stays in custody, and is
sent when the hub is back. A file appears whole or not at all.`,
		Example: "  fieldgate store export --file /media/stick/gate-7.jsonl\n  ssh gate-7 fieldgate store export > gate-7.jsonl",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			chosen, err := x.control()
			if err != nil {
				return err
			}
			export := func(w io.Writer) error { return r.client().ExportWaiting(cmd.Context(), chosen, 0, w) }
			if file == "" || file == "-" {
				return r.failed("cannot export what waits", export(std.out))
			}
			n, err := writeWhole(file, export)
			if err == nil {
				fmt.Fprintf(std.err, "%s in %s\n", count(n, "message", "messages"), file)
			}
			return r.failed("cannot export what waits", err)
		},
	}
	r.flags(c)
	x.flags(c)
	c.Flags().StringVarP(&file, "file", "f", "-", "write to `FILE`, - for standard output")
	return c
}

// writeWhole writes a file that appears, synced, when all of it is there, and returns
// how many lines it has.
func writeWhole(file string, write func(io.Writer) error) (lines int, err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeAny(f.Name()))
		}
	}()
	counter := lineCounter{out: f}
	if err = errors.Join(write(&counter), f.Sync(), f.Close()); err != nil {
		return 0, err
	}
	if err = os.Rename(f.Name(), file); err != nil {
		return 0, err
	}
	return counter.lines, syncFolder(filepath.Dir(file))
}

type lineCounter struct {
	out   io.Writer
	lines int
}

func (c *lineCounter) Write(p []byte) (int, error) {
	c.lines += bytes.Count(p, []byte("\n"))
	return c.out.Write(p)
}

func storePurgeCommand(std streams) *cobra.Command {
	var r remote
	var x choice
	var all, yes bool
	c := &cobra.Command{
		Use:   "purge {--leaf ID | --lane NAME | --older-than AGE | --all}",
		Short: "Give up messages that wait on flash",
		Long: `Gives up messages that wait on flash: the hub never gets them, and nothing else has a copy,
so export them first. At a terminal it says how many they are, and asks for the leaf's
id, or the word purge; elsewhere it wants --yes. Messages that are on their way to the
hub at this moment stay. What is purged is counted under the reason purged, and logged.
The exit code is 10 if the store cannot write that down: how many were purged is said,
and after a crash they may be there again.`,
		Example: "  fieldgate store purge --leaf pump-1 --older-than 168h\n  fieldgate store purge --all --yes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			chosen, err := x.control()
			if err == nil && all == (chosen != control.Choice{}) {
				err = errors.New("choose messages with --leaf, --lane and --older-than, or write --all")
			}
			if err != nil {
				return err
			}
			if !yes {
				if err := r.askPurge(cmd.Context(), std, chosen); err != nil {
					return err
				}
			}
			n, err := r.client().Purge(cmd.Context(), control.PurgeOrder{Choice: chosen})
			if err != nil {
				return r.failed("cannot purge", err)
			}
			fmt.Fprintf(std.out, "%s purged\n", count(n.Messages, "message", "messages"))
			if n.Sending > 0 {
				fmt.Fprintf(std.err, "%s on the way to the hub: not purged\n", count(n.Sending, "message is", "messages are"))
			}
			return nil
		},
	}
	r.flags(c)
	x.flags(c)
	c.Flags().BoolVar(&all, "all", false, "all of them")
	c.Flags().BoolVar(&yes, "yes", false, "do it without asking")
	return c
}

// askPurge has the purge confirmed by name; without a terminal it refuses.
func (r *remote) askPurge(ctx context.Context, std streams, chosen control.Choice) error {
	n, err := r.client().Purge(ctx, control.PurgeOrder{Choice: chosen, Look: true})
	if err != nil {
		return r.failed("cannot see what would be purged", err)
	}
	lost := fmt.Errorf("%s would be lost", count(n.Messages, "undelivered message", "undelivered messages"))
	refused := &failure{exitForbidden, "nothing was purged", lost, "export them: fieldgate store export; then add --yes"}
	if !isTerminal(std.in) {
		return refused
	}
	word := "purge"
	if chosen.Leaf != "" {
		word = chosen.Leaf
	}
	fmt.Fprintf(std.err, "%v. To purge, type %s: ", lost, word)
	line, err := bufio.NewReader(io.LimitReader(std.in, 4096)).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != word {
		return refused
	}
	return nil
}

func storeVerifyCommand(std streams) *cobra.Command {
	var r remote
	c := &cobra.Command{
		Use:   "verify",
		Short: "Read all that waits on flash and check it",
		Long: `Reads every message that waits and compares its checksum. Nothing is changed: what is
damaged is set aside by the daemon when its turn comes, and the rest is sent. It
leaves half of the time to those who take and send messages. The exit code is 10 if
there is damage, or if the store cannot be read.`,
		Example: "  fieldgate store verify",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			lanes, err := r.client().Verify(cmd.Context())
			if err != nil {
				return r.failed("cannot verify the store", err)
			}
			if r.forPeople() {
				err = printVerified(std.out, lanes)
			} else {
				err = encode(std.out, r.output, lanes)
			}
			damaged := 0
			for _, l := range lanes {
				damaged += l.Damaged
			}
			if err == nil && damaged > 0 {
				why := fmt.Errorf("%s cannot be read", count(damaged, "message", "messages"))
				return &failure{exitStore, "the store is damaged", why, "see what the card says of itself: fieldgate diag collect; and export what is left: fieldgate store export"}
			}
			return err
		},
	}
	r.flags(c, forms...)
	return c
}

func printVerified(out io.Writer, lanes []control.Verified) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LANE\tINTACT\tSIZE\tDAMAGED")
	for _, l := range lanes {
		fmt.Fprintf(t, "%s\t%d\t%s\t%d\n", l.Lane, l.Messages, mebibytes(l.Bytes), l.Damaged)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, l := range lanes {
		for _, d := range l.Spans {
			fmt.Fprintf(out, "damaged: %s of lane %s, among those captured from %s to %s: %s\n", count(d.Messages, "message", "messages"),
				l.Lane, d.From.Format(time.RFC3339), d.To.Format(time.RFC3339), d.Error)
		}
	}
	return nil
}
