// Command faultproxy is a bad link between any client and any server; see
// package test/faultproxy.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/test/faultproxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "faultproxy:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var cfg faultproxy.Config
	var switches []string
	c := &cobra.Command{
		Use:   "faultproxy --to HOST:PORT",
		Short: "A bad link between any client and any server",
		Long: `Carries TCP connections to a server over a link that is as bad as you like. It
prints the address on which it listens, then "ready", and takes switches from
standard input, one a line:

` + help,
		Example: `  faultproxy --to 127.0.0.1:5671 --listen 127.0.0.1:15671 --set "latency 300ms" --set "bandwidth 8000"
  faultproxy --to 127.0.0.1:5671 --set "preset gprs"`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), cfg, switches)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.To, "to", "", "`address` of the server")
	f.StringVar(&cfg.Listen, "listen", "127.0.0.1:0", "`address` to listen on")
	f.StringArrayVar(&switches, "set", nil, "a `switch` to begin with; can be given often")
	_ = c.MarkFlagRequired("to") // the flag exists
	return c
}

// run carries until ctx ends. The end of standard input ends nothing.
func run(ctx context.Context, in io.Reader, out io.Writer, cfg faultproxy.Config, switches []string) error {
	p, err := faultproxy.Start(cfg)
	if err != nil {
		return err
	}
	for _, line := range switches {
		if _, err := pull(p, line); err != nil {
			return errors.Join(err, p.Close())
		}
	}
	fmt.Fprintf(out, "%s to %s\nready\n", p.Addr(), cfg.To)
	go func() { // ends with the process: a read of standard input cannot be interrupted
		for lines := bufio.NewScanner(in); lines.Scan(); {
			did, err := pull(p, lines.Text())
			if err != nil {
				did = err.Error()
			}
			fmt.Fprintln(out, did)
		}
	}()
	<-ctx.Done()
	return p.Close()
}
