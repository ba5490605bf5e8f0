package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func netcheckCommand(std streams) *cobra.Command {
	var x examiner
	var form formFlag
	c := &cobra.Command{
		Use:   "netcheck",
		Short: "Try every way to the hub, and time it",
		Long: `Connects to the hub on each port and protocol, as far as its certificate and, for
a WebSocket, its answer, and shows how long that took and what failed. Ways that
the gateway is configured to go have a star. It needs no daemon, disturbs none, and
says nothing of a leaf to anybody.

The exit code is 5 if none of the ways with a star is open.`,
		Example: "  fieldgate netcheck\n  fieldgate netcheck --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := x.load(cmd.Context()); err != nil {
				return err
			}
			ways, configured := allWays(&x.cfg.Hub)
			all, open := []attempt{}, 0
			for i, way := range ways {
				a := try(cmd.Context(), way, x.clock)
				a.Configured = i < configured
				if a.Configured && a.err == nil {
					open++
				}
				all = append(all, a)
			}
			if err := writeAttempts(std.out, form.output, all); err != nil {
				return err
			}
			if open == 0 {
				return &failure{exitUnreachable, "no configured way to the hub is open", all[0].err, "fieldgate check"}
			}
			return nil
		},
	}
	form.flag(c, forms...)
	x.flags(c)
	return c
}

// load reads the configuration and the clock, for commands that need no more.
func (x *examiner) load(ctx context.Context) error {
	for _, f := range x.checkConfig(ctx) {
		if f.Result == resultError {
			return &failure{f.code, f.What, errors.New(f.Why), f.Next}
		}
	}
	return nil
}

func writeAttempts(out io.Writer, form string, all []attempt) error {
	if form != "table" {
		return encode(out, form, all)
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, " \tWAY\tADDRESS\tCONNECT\tSECURE\tCERTIFICATE\tRESULT")
	for _, a := range all {
		star, expires, end := " ", "-", "open"
		if a.Configured {
			star = "*"
		}
		if !a.Expires.IsZero() {
			expires = "good for " + short(time.Until(a.Expires))
		}
		if a.err != nil {
			end = "closed: " + a.Error
			if a.Hint != "" {
				end += " (" + a.Hint + ")"
			}
		}
		putRow(t, star, a.Transport, a.Address, took(a.Connect), took(a.Secure), expires, end)
	}
	return t.Flush()
}

// took writes a time in seconds that is known where it is not 0.
func took(seconds float64) string {
	if seconds == 0 {
		return "-"
	}
	return fmt.Sprintf("%d ms", time.Duration(seconds*float64(time.Second)).Milliseconds())
}
