// Command hubsim is an IoT hub on the bench; see test/hubsim/README.md.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "hubsim:", err)
		os.Exit(1)
	}
}

// examples are what somebody does who meets hubsim for the first time.
const examples = `  hubsim serve --dir hub --mqtt-port 0 --amqp-port 0 --https-port 0 --device pump-1
  hubsim watch --dir hub
  hubsim send pump-1 "open the valve" --dir hub
  hubsim twin pump-1 '{"properties":{"desired":{"interval":5}}}' --dir hub
  hubsim call pump-1 reboot '{"delay":3}' --dir hub
  hubsim fault cut --dir hub`

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "hubsim",
		Short: "An IoT hub on the bench",
		Long: `An IoT hub on the bench: telemetry, commands, twins, methods, file upload,
registry, jobs and provisioning, over MQTT, AMQP and HTTPS, for the vendor's own
clients. "hubsim serve" runs it; every other verb speaks to one that runs, by
its directory.`,
		Example:       examples,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(serveCommand(), faultCommand(), statsCommand(), arrivalsCommand(), watchCommand(),
		deviceCommand(), sendCommand(), twinCommand(), callCommand())
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return fmt.Errorf("%w; an argument that begins with - goes behind --", err)
	})
	return root
}

// family makes c the parent of verbs: alone it shows its help, and a word that
// is none of them is an error. The flags of the verb that was meant are no news.
func family(c *cobra.Command) *cobra.Command {
	c.FParseErrWhitelist.UnknownFlags = true
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return fmt.Errorf("there is no %q: see \"%s --help\"", cmd.CommandPath()+" "+args[0], cmd.CommandPath())
	}
	return c
}

// between checks the number of arguments and shows how it is written.
func between(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return fmt.Errorf("too few or too many arguments; write it as: %s", strings.TrimSuffix(c.UseLine(), " [flags]"))
		}
		return nil
	}
}

// dirFlag adds --dir, which says which hub is meant.
func dirFlag(c *cobra.Command) *string {
	return c.Flags().String("dir", "hub", "`directory` of the hub that serves")
}
