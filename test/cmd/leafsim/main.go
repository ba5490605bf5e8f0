// Leafsim plays leaf devices on the bench, checks that nothing of what was
// acknowledged to them is missing at the hub, and shows the gateway's main job
// from end to end.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "leafsim:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	c := &cobra.Command{
		Use:           "leafsim",
		Short:         "Simulated leaves, a checker, and a demonstration",
		Example:       "  leafsim demo --bin bin",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	c.AddCommand(runCommand(), modbusCommand(), checkCommand(), demoCommand())
	return c
}
