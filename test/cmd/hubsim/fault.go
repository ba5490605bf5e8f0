package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/test/hubsim/control"
)

// faultCommand has a command for each switch.
func faultCommand() *cobra.Command {
	c := family(&cobra.Command{
		Use:     "fault",
		Short:   "Make the hub misbehave",
		Long:    "Makes a hub that serves misbehave.",
		Example: "  hubsim fault cut --dir hub\n  hubsim fault restore --dir hub",
	})
	for _, f := range control.Faults {
		c.AddCommand(switchCommand(f))
	}
	return c
}

func switchCommand(f control.Fault) *cobra.Command {
	c := &cobra.Command{
		Use:     strings.TrimSpace(f.Name + " " + strings.Join(f.Args, " ")),
		Short:   strings.ToUpper(f.Help[:1]) + f.Help[1:],
		Example: "  " + strings.Join(strings.Fields("hubsim fault "+f.Name+" "+f.Example+" --dir hub"), " "),
		Args:    between(len(f.Args), len(f.Args)),
	}
	if strings.HasPrefix(f.Example, "-") {
		c.Example = "  hubsim fault " + f.Name + " --dir hub -- " + f.Example // or it would be taken for a flag
	}
	dir := dirFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		did, err := control.NewClient(*dir).Fault(cmd.Context(), f.Name, args...)
		if err == nil {
			fmt.Fprintln(cmd.OutOrStdout(), did)
		}
		return err
	}
	return c
}
