package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway/control"
)

func deadLettersCommand(std streams) *cobra.Command {
	c := group("dead-letters", "Messages that the hub refused for good",
		listLettersCommand(std), replayLettersCommand(std), exportLettersCommand(std), purgeLettersCommand(std))
	c.Long = `A message that the hub will never take, for what it is, leaves its lane for the
shelf, so that those behind it go on. The shelf holds at most 1,000 messages and
16 MiB; the oldest give way.`
	return c
}

func listLettersCommand(std streams) *cobra.Command {
	var r remote
	c := &cobra.Command{
		Use:     "list",
		Short:   "List them, the oldest first",
		Example: "  fieldgate store dead-letters list\n  fieldgate store dead-letters list --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			letters, err := r.client().DeadLetters(cmd.Context())
			if err != nil {
				return r.failed("cannot list the dead letters", err)
			}
			if !r.forPeople() {
				return encode(std.out, r.output, letters)
			}
			return printLetters(std, letters)
		},
	}
	r.flags(c, forms...)
	return c
}

func printLetters(std streams, letters []control.Letter) error {
	if len(letters) == 0 {
		fmt.Fprintln(std.err, "no dead letters")
		return nil
	}
	t := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NUMBER\tREFUSED\tLEAF\tLANE\tBYTES\tREASON")
	for _, l := range letters {
		putRow(t, l.Number, l.Time.Format(time.RFC3339), l.Leaf, l.Lane, l.Bytes, l.Reason)
	}
	return t.Flush()
}

func replayLettersCommand(std streams) *cobra.Command {
	return chooseLetters("replay {NUMBER... | --all}", "Put them back into their lanes",
		`Hands dead letters over again, with their message ids, behind what is in their
lanes now. One that the hub refuses again comes back to the shelf.`,
		"  fieldgate store dead-letters replay 3 4\n  fieldgate store dead-letters replay --all",
		func(ctx context.Context, r *remote, s control.Selection) error {
			n, err := r.client().ReplayDeadLetters(ctx, s)
			if err == nil {
				fmt.Fprintf(std.out, "%s back in custody\n", count(n, "message is", "messages are"))
			}
			return r.failed("cannot replay dead letters", err)
		})
}

func purgeLettersCommand(std streams) *cobra.Command {
	var yes bool
	c := chooseLetters("purge {NUMBER... | --all} --yes", "Remove them for good",
		`Removes dead letters. Nothing else has a copy of them: export them first.`,
		"  fieldgate store dead-letters purge --all --yes",
		func(ctx context.Context, r *remote, s control.Selection) error {
			if !yes {
				return r.notSure(ctx, s)
			}
			n, err := r.client().PurgeDeadLetters(ctx, s)
			if err == nil {
				fmt.Fprintf(std.out, "%s purged\n", count(n, "dead letter", "dead letters"))
			}
			return r.failed("cannot purge dead letters", err)
		})
	c.Flags().BoolVar(&yes, "yes", false, "do it")
	return c
}

// notSure refuses to lose what nobody has confirmed, and says how much it is.
func (r *remote) notSure(ctx context.Context, s control.Selection) error {
	n := len(s.Numbers)
	if s.All {
		letters, err := r.client().DeadLetters(ctx)
		if err != nil {
			return r.failed("cannot list the dead letters", err)
		}
		n = len(letters)
	}
	why := fmt.Errorf("%s would be lost", count(n, "undelivered message", "undelivered messages"))
	return &failure{exitForbidden, "nothing was purged", why, "add --yes"}
}

func exportLettersCommand(std streams) *cobra.Command {
	var r remote
	c := &cobra.Command{
		Use:   "export",
		Short: "Write them as lines of JSON",
		Long: `Writes every dead letter with its properties and its body, in Base64, as one line
of JSON to standard output.`,
		Example: "  fieldgate store dead-letters export > dead-letters.jsonl",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.failed("cannot export the dead letters", r.client().ExportDeadLetters(cmd.Context(), std.out))
		},
	}
	r.flags(c)
	return c
}

// chooseLetters makes a command that does something with the letters it is given.
func chooseLetters(use, short, long, example string, do func(context.Context, *remote, control.Selection) error) *cobra.Command {
	var r remote
	var all bool
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example,
		RunE: func(cmd *cobra.Command, args []string) error {
			s := control.Selection{All: all}
			for _, a := range args {
				n, err := strconv.ParseUint(a, 10, 64)
				if err != nil {
					return fmt.Errorf("%q is no number of a dead letter", a)
				}
				s.Numbers = append(s.Numbers, n)
			}
			if all == (len(s.Numbers) > 0) {
				return errors.New("name dead letters by number, or write --all")
			}
			return do(cmd.Context(), &r, s)
		},
	}
	r.flags(c)
	c.Flags().BoolVar(&all, "all", false, "all of them")
	return c
}
