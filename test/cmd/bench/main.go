// Bench measures the gateway beside a mosquitto bridge and writes the tables.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/test/bench"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var plan bench.Plan
	var bin, out string
	var only, bombs string
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure the gateway beside a mosquitto bridge",
		Example: `  bench --bin bin --out test/bench/RESULTS.md
  bench --bin bin --scale 0.1 --only '20 x 50'`,
		Args: cobra.NoArgs, SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if plan.Only, err = regexp.Compile(only); err != nil {
				return err
			}
			if plan.Bombs, err = regexp.Compile(bombs); err != nil {
				return err
			}
			if plan.Env.Self, err = os.Executable(); err != nil {
				return err
			}
			if plan.Env.Bin, err = filepath.Abs(bin); err != nil {
				return err
			}
			report, err := plan.Run(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if out == "" {
				_, err = fmt.Fprint(cmd.OutOrStdout(), report)
				return err
			}
			return bench.WriteReport(out, report)
		},
	}
	f := c.Flags()
	f.StringVar(&bin, "bin", "bin", "`folder` with the program fieldgate")
	f.StringVar(&plan.Env.Dir, "dir", "", "`folder` on the disk to be measured; default: a new one in the present one")
	f.Float64Var(&plan.Scale, "scale", 1, "how much of each load is sent, `part` of 1")
	f.StringVar(&only, "only", "", "measure only what matches this regular `expression`, a rig and a load or a special one")
	f.StringVar(&bombs, "bombs", "", "of \"others\" measure only the bombs that match this regular `expression`")
	f.StringVar(&out, "out", "", "`file` for the tables, whose hand-written end is kept; default: standard output")
	f.StringVar(&plan.Env.Profiles, "profiles", "", "`folder` for profiles of a gateway that was built with -tags profile")
	c.AddCommand(&cobra.Command{
		Use: "hub", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return bench.ServeHub() },
	}, &cobra.Command{
		Use: "bomb", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return bench.Throw() },
	})
	return c
}
