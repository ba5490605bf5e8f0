// Command hubsim is an IoT hub on the bench; see test/hubsim/README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/control"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "hubsim:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "hubsim",
		Short:         "An IoT hub on the bench",
		Example:       "  hubsim serve --host hub.test --bind 127.0.0.1 --dir hub --amqp-port 0 --device pump-1",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(serveCommand(), faultCommand(), statsCommand(), arrivalsCommand(), watchCommand())
	return root
}

func serveCommand() *cobra.Command {
	var cfg hubsim.Config
	var devices []string
	var mqtt, https int
	var verbose bool
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve a hub until SIGTERM",
		Long: `Serves AMQP 1.0 over TLS: telemetry of devices, and the Event-Hubs-compatible
endpoint on which a back end reads it. It writes ca.pem and hub.json into the
directory and prints "ready" when it serves. Keys are random, and stay as long
as the directory does. MQTT and HTTPS are not served yet.`,
		Example: "  hubsim serve --host hub.test --bind 127.0.0.1 --dir hub --amqp-port 0 --device pump-1 --device pump-2:BASE64KEY",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if mqtt > 0 || https > 0 {
				return errors.New("only AMQP is served yet: leave --mqtt-port and --https-port out")
			}
			cfg.Devices = make(map[string]string)
			for _, d := range devices {
				id, key, _ := strings.Cut(d, ":")
				cfg.Devices[id] = key
			}
			if verbose {
				cfg.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelDebug}))
			}
			return serve(cmd.Context(), cmd.OutOrStdout(), cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Host, "host", "hub.test", "the hub's `name`, in tokens and certificate")
	f.StringVar(&cfg.Bind, "bind", "127.0.0.1", "`address` to listen on")
	f.StringVar(&cfg.Dir, "dir", "hub", "`directory` for ca.pem, hub.json and keys")
	f.IntVar(&cfg.AMQPPort, "amqp-port", 5671, "port for AMQP; 0 picks a free one")
	f.IntVar(&mqtt, "mqtt-port", 0, "not served yet")
	f.IntVar(&https, "https-port", 0, "not served yet")
	f.StringArrayVar(&devices, "device", nil, "`ID[:KEY]` of a device; can be given often")
	f.BoolVar(&verbose, "verbose", false, "log connections to standard error")
	return c
}

func serve(ctx context.Context, out io.Writer, cfg hubsim.Config) error {
	hub, err := hubsim.Start(cfg)
	if err != nil {
		return err
	}
	info := hub.Info()
	fmt.Fprintf(out, "hub %s: AMQP 1.0 over TLS on %s:%d, %d devices; MQTT and HTTPS are not served yet\nready\n",
		info.Host, info.Bind, info.AMQPPort, len(info.Devices))
	return errors.Join(control.Serve(ctx, cfg.Dir, hub), hub.Close())
}

// dirFlag adds --dir, which says which hub is meant.
func dirFlag(c *cobra.Command) *string {
	return c.Flags().String("dir", "hub", "`directory` of the hub that serves")
}

func faultCommand() *cobra.Command {
	var list strings.Builder
	for _, f := range control.Faults {
		fmt.Fprintf(&list, "  %-42s %s\n", strings.Join(append([]string{f.Name}, f.Args...), " "), f.Help)
	}
	c := &cobra.Command{
		Use:     "fault NAME [ARGUMENT]...",
		Short:   "Make the hub misbehave",
		Long:    "Makes a hub that serves misbehave:\n\n" + list.String(),
		Example: "  hubsim fault cut --dir hub\n  hubsim fault detach pump-1 amqp:link:detach-forced --dir hub",
		Args:    cobra.MinimumNArgs(1),
	}
	dir := dirFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		did, err := control.NewClient(*dir).Fault(cmd.Context(), args[0], args[1:]...)
		if err == nil {
			fmt.Fprintln(cmd.OutOrStdout(), did)
		}
		return err
	}
	return c
}

func statsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "stats",
		Short:   "Print what the hub counts",
		Example: "  hubsim stats --dir hub --json",
		Args:    cobra.NoArgs,
	}
	dir := dirFlag(c)
	asJSON := c.Flags().Bool("json", false, "one JSON object")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := control.NewClient(*dir).Stats(cmd.Context())
		if err != nil {
			return err
		}
		text, err := json.Marshal(s)
		if err != nil {
			return err
		}
		if *asJSON {
			fmt.Fprintln(cmd.OutOrStdout(), string(text))
			return nil
		}
		return printTable(cmd.OutOrStdout(), text)
	}
	return c
}

// printTable prints a flat JSON object, one member a line, in its order.
func printTable(w io.Writer, object []byte) error {
	in := json.NewDecoder(strings.NewReader(string(object)))
	if _, err := in.Token(); err != nil {
		return err
	}
	for in.More() {
		name, err := in.Token()
		if err != nil {
			return err
		}
		var value json.RawMessage
		if err := in.Decode(&value); err != nil {
			return err
		}
		fmt.Fprintf(w, "%-20v %s\n", name, value)
	}
	return nil
}

func arrivalsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "arrivals",
		Short:   "Print everything that has arrived, one JSON object a line",
		Example: "  hubsim arrivals --dir hub",
		Args:    cobra.NoArgs,
	}
	dir := dirFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		out := json.NewEncoder(cmd.OutOrStdout())
		return control.NewClient(*dir).Arrivals(cmd.Context(), false, func(a hubsim.Arrival) error { return out.Encode(a) })
	}
	return c
}

func watchCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "watch",
		Short:   "Show what arrives, live, until interrupted",
		Example: "  hubsim watch --dir hub",
		Args:    cobra.NoArgs,
	}
	dir := dirFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return control.NewClient(*dir).Arrivals(cmd.Context(), true, func(a hubsim.Arrival) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %-20s %5d bytes  %s\n",
				a.Enqueued.Format(time.TimeOnly), a.Device, len(a.Body), preview(a.Body))
			return err
		})
	}
	return c
}

// preview is the beginning of a body, fit for a terminal.
func preview(body []byte) string {
	const most = 80
	if len(body) > most {
		body = body[:most]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return '.'
		}
		return r
	}, string(body))
}
