package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway/control"
)

// applying is what the commands have in common that have a running gateway take over
// a configuration.
type applying struct {
	remote
	confirm time.Duration
	restart bool
	look    bool
}

func (a *applying) allFlags(c *cobra.Command) {
	a.list = "run: fieldgate config history"
	a.flags(c, textForms...)
	c.Flags().DurationVar(&a.confirm, "confirm", 2*time.Minute, "`TIME` in which the connection to the hub has to be back; 0 for never going back")
	c.Flags().BoolVar(&a.restart, "restart", false, "let the gateway start again if a key needs that; leaves connect again")
	c.Flags().BoolVar(&a.look, "dry-run", false, "only say what would change")
}

// rollBackText explains what all of them do.
const rollBackText = `
It is checked first, what changes is shown, and it counts at once. If the connection
to the hub stood before, it has to be back within --confirm, for ten seconds on end (a
quarter of --confirm, if that is less), with every leaf that the hub took before; else
the gateway goes back to what it had, by itself, also when this command or the SSH
session has ended, and also when it was killed meanwhile. Keys that need a restart are
named, and nothing is applied without --restart.

Over AMQP each leaf whose key or auth has changed is proven to the hub, whether it has
something to send or not. Not proven are leaves with auth = "relay", who bring their
tokens, leaves that are new, and over MQTT any leaf: the hub knows only the gateway
there. Of these it counts what the hub says to what they send meanwhile.

Leaves that "device disable" and "device rename" have changed stay as they are: no
rollback lets one in again.

Exit codes: 3 mistakes, 4 no daemon, 5 gone back for the hub was not there, 9 a restart
is needed.`

func applyCommand(std streams) *cobra.Command {
	var a applying
	c := &cobra.Command{
		Use:   "apply [FILE]",
		Short: "Have the running gateway take over a configuration, safely",
		Long: `Puts FILE in the place of the gateway's configuration file; without FILE the gateway
takes over what was changed there with "config set" or an editor, and in leaf.d.
` + rollBackText,
		Example: "  fieldgate config apply\n  fieldgate config apply new.toml --confirm 5m\n  fieldgate config apply --dry-run",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			change := control.ConfigChange{}
			if len(args) == 1 {
				text, err := os.ReadFile(args[0])
				if err != nil {
					return configFailure(args[0], err, exitConfig, "")
				}
				change.Text = new(string(text))
			}
			return a.apply(cmd.Context(), std, change)
		},
	}
	a.allFlags(c)
	return c
}

func rollBackCommand(std streams) *cobra.Command {
	var a applying
	c := &cobra.Command{
		Use:   "rollback [REVISION]",
		Short: "Go back to a former configuration",
		Long: `Goes back to a former configuration: that before the one that runs, or the one with
that number in "fieldgate config history". Files of leaf.d that the gateway has
written itself, for leaves that were added, stay as they are.
` + rollBackText,
		Example: "  fieldgate config rollback\n  fieldgate config rollback 7 --dry-run",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := a.client().ConfigRevisions(cmd.Context())
			if err != nil {
				return a.failed("cannot go back", err)
			}
			number, err := wantedRevision(list, args)
			if err != nil {
				return err
			}
			return a.apply(cmd.Context(), std, control.ConfigChange{Revision: number})
		},
	}
	a.allFlags(c)
	return c
}

// wantedRevision is the one that is named, or the one before the one that runs.
func wantedRevision(list []control.ConfigRevision, args []string) (int, error) {
	if len(args) == 1 {
		number, err := strconv.Atoi(args[0])
		if err != nil || !slices.ContainsFunc(list, func(r control.ConfigRevision) bool { return r.Number == number }) {
			return 0, &failure{exitNotFound, "cannot go back", fmt.Errorf("there is no revision %s", args[0]), "run: fieldgate config history"}
		}
		return number, nil
	}
	before := 0
	for _, r := range list {
		if r.Running {
			break
		}
		if r.State == "kept" {
			before = r.Number
		}
	}
	if before == 0 {
		return 0, &failure{exitNotFound, "cannot go back", errors.New("no configuration ran before this one"), "run: fieldgate config history"}
	}
	return before, nil
}

// appliedResult is how it went, for JSON.
type appliedResult struct {
	control.ConfigApplied
	Why string `json:"why,omitempty"` // it was undone
}

// apply asks the gateway and waits for what comes of it.
func (a *applying) apply(ctx context.Context, std streams, change control.ConfigChange) error {
	const what = "cannot apply the configuration"
	change.ConfirmSeconds, change.Restart, change.Look = a.confirm.Seconds(), a.restart, a.look
	out, err := a.client().ApplyConfig(ctx, change)
	if mistakes, ok := errors.AsType[*control.Invalid](err); ok {
		for _, line := range mistakes.Mistakes {
			fmt.Fprintln(std.err, line)
		}
		return &failure{exitConfig, what, fmt.Errorf("it has %s", count(len(mistakes.Mistakes), "mistake", "mistakes")), "mend the places above; nothing has changed"}
	}
	if err != nil {
		return a.failed(what, err)
	}
	text := std.out
	if !a.forPeople() {
		text = io.Discard
	}
	printChanges(text, out.Changes)
	why := ""
	switch {
	case out.State == "" && out.Restart && !a.look:
		return &failure{
			exitForbidden, what, fmt.Errorf("it needs a restart for %s", strings.Join(restartKeys(out.Changes), ", ")),
			"run it again with --restart: leaves connect again after some seconds; nothing has changed so far",
		}
	case out.State == "trial":
		fmt.Fprintf(std.err, "revision %d counts, and has to prove itself within %v; the gateway sees to that alone\n", out.Revision, a.confirm)
		if out.State, why, err = a.await(ctx, out.Revision, out.Restart); err != nil {
			return err
		}
	}
	if !a.forPeople() {
		if err := encode(std.out, a.output, appliedResult{out, why}); err != nil {
			return err
		}
	}
	switch out.State {
	case "undone":
		return &failure{exitUnreachable, fmt.Sprintf("revision %d was undone, the gateway is as it was", out.Revision), errors.New(why), "look at the changes above: fieldgate config history"}
	case "kept":
		fmt.Fprintf(text, "revision %d is kept\n", out.Revision)
	}
	return nil
}

// await waits for the end of a trial. A gateway that starts again does not answer
// meanwhile.
func (a *applying) await(ctx context.Context, revision int, restart bool) (state, why string, err error) {
	give := time.Now().Add(a.confirm + 2*time.Minute)
	for tick := time.NewTicker(200 * time.Millisecond); ; {
		list, err := a.client().ConfigRevisions(ctx)
		for _, r := range list {
			if r.Number == revision && r.State != "trial" {
				return r.State, r.Why, nil
			}
		}
		if err != nil && (!restart || errors.Is(err, control.ErrForbidden) || time.Now().After(give)) && ctx.Err() == nil {
			return "", "", a.failed("cannot see what has become of the configuration", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", "", &failure{exitFailed, "no longer waiting", ctx.Err(), "the gateway goes on alone; see: fieldgate config history"}
		}
	}
}

func restartKeys(all []control.ConfigKey) []string {
	var keys []string
	for _, k := range all {
		if k.Change == changeRestart {
			keys = append(keys, k.Key)
		}
	}
	return keys
}

func printChanges(out io.Writer, all []control.ConfigKey) {
	list := make([]differing, len(all))
	for i, k := range all {
		list[i] = differing(k)
	}
	_ = printDifference(out, list)
}

func historyCommand(std streams) *cobra.Command {
	var r remote
	c := &cobra.Command{
		Use:   "history [REVISION]",
		Short: "List the last configurations, or print one",
		Long: `Lists the last ten configurations that the gateway ran with or tried, the newest
last. With a number it prints the files of that one, which takes the right to change
things: there may be secrets in them.`,
		Example: "  fieldgate config history\n  fieldgate config history 7",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return printRevision(cmd.Context(), &r, std.out, args[0])
			}
			list, err := r.client().ConfigRevisions(cmd.Context())
			if err != nil {
				return r.failed("cannot list the configurations", err)
			}
			if !r.forPeople() {
				return encode(std.out, r.output, list)
			}
			t := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "REVISION\tTIME\tBY\tSTATE")
			for _, x := range list {
				state := x.State
				if x.Running {
					state += ", runs"
				}
				if x.Why != "" {
					state += ": " + x.Why
				}
				putRow(t, x.Number, x.Time.Format(time.RFC3339), x.By, state)
			}
			return t.Flush()
		},
	}
	r.list = "run: fieldgate config history"
	r.flags(c, forms...)
	return c
}

func printRevision(ctx context.Context, r *remote, out io.Writer, number string) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return &failure{exitNotFound, "cannot print the configuration", fmt.Errorf("there is no revision %s", number), r.list}
	}
	files, err := r.client().ConfigRevisionFiles(ctx, n)
	if err != nil {
		return r.failed("cannot print the configuration", err)
	}
	if !r.forPeople() {
		return encode(out, r.output, files)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(out, "# %s\n%s\n", name, files[name])
	}
	return nil
}
