package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

func checkCommand() *cobra.Command {
	var acks, hub string
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "check",
		Short: "Compare what was acknowledged with what arrived at the hub",
		Long: `Reads the acknowledgements that leaves wrote down, and the events of a running
hubsim as a back end reads them, and prints one row per leaf: acknowledged, arrived, lost, duplicated, out
of order. What comes from leaves that nobody acknowledges, like meters and sensors, is counted and not judged. Ends
with 1 if a promise was broken.`,
		Example: "  leafsim check --acks acks.jsonl --hub hub",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			report, err := site.CheckFiles(ctx, acks, hub)
			if err != nil {
				return err
			}
			if err := report.WriteTable(cmd.OutOrStdout()); err != nil {
				return err
			}
			if err := report.Err(); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "OK")
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&acks, "acks", "acks.jsonl", "`file` of acknowledgements that leafsim run wrote")
	f.StringVar(&hub, "hub", "hub", "`folder` of the hubsim that serves")
	f.DurationVar(&timeout, "timeout", time.Minute, "how long reading may take")
	return c
}
