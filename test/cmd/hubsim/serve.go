package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/control"
)

func serveCommand() *cobra.Command {
	var cfg hubsim.Config
	var devices []string
	var verbose bool
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve a hub until SIGTERM",
		Long: `Serves a hub until SIGTERM. It writes ca.pem and hub.json (ports, keys,
connection strings) into the directory, prints what it serves, and "ready" when
it does. Keys are random, and stay as long as the directory does; everything
else is in memory.

The vendor's clients insist on the ports 443, 5671 and 8883 in places. To have
them without root, give each hub an address of its own, such as 127.0.0.5, and
the program the right: setcap cap_net_bind_service+ep hubsim.`,
		Example: `  hubsim serve --host 127.0.0.5 --bind 127.0.0.5 --dir hub --device pump-1 --device pump-2:cHVtcC0yLWtleS1mb3ItYmVuY2g=
  hubsim serve --dir hub --mqtt-port 0 --amqp-port 0 --https-port 0 --device pump-1 --tier S1
  hubsim serve --dir hub --blob-endpoint http://127.0.0.1:10000/store --blob-account store --blob-key c3RvcmUta2V5LWZvci1iZW5jaA==`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
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
	f.IntVar(&cfg.MQTTPort, "mqtt-port", 8883, "port for MQTT; 0 picks a free one")
	f.IntVar(&cfg.AMQPPort, "amqp-port", 5671, "port for AMQP; 0 picks a free one")
	f.IntVar(&cfg.HTTPSPort, "https-port", 443, "port for HTTPS and WebSockets; 0 picks a free one")
	f.StringArrayVar(&devices, "device", nil, "`ID[:KEY]` of a device; can be given often")
	f.StringVar(&cfg.CertFile, "cert", "", "PEM `file` with a certificate made elsewhere")
	f.StringVar(&cfg.KeyFile, "key", "", "PEM `file` with its key")
	f.StringVar(&cfg.CAFile, "ca", "", "PEM `file` with the authority that clients should trust")
	f.StringVar(&cfg.BlobEndpoint, "blob-endpoint", "", "`URL` of a blob server for file upload; the built-in one without")
	f.StringVar(&cfg.BlobAccount, "blob-account", "", "its `account`")
	f.StringVar(&cfg.BlobKey, "blob-key", "", "the account's `key` in Base64")
	f.StringVar(&cfg.Tier, "tier", "", "have the rates and quota of F1, S1, S2 or S3")
	f.IntVar(&cfg.Units, "units", 1, "how many units of the tier")
	f.BoolVar(&cfg.SystemEvents, "system-events", false, "write connection, lifecycle and twin events too")
	f.BoolVar(&verbose, "verbose", false, "log connections to standard error")
	return c
}

func serve(ctx context.Context, out io.Writer, cfg hubsim.Config) error {
	switches, err := control.Listen(cfg.Dir) // before ready, and before the directory of another hub is touched
	if err != nil {
		return err
	}
	hub, err := hubsim.Start(cfg)
	if err != nil {
		return errors.Join(hint(err), switches.Close())
	}
	fmt.Fprint(out, served(hub.Info()), "ready\n")
	return errors.Join(control.Serve(ctx, switches, hub), hub.Close())
}

// hint adds to an error of the sockets what a person can do.
func hint(err error) error {
	switch {
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w\nports below 1024 need root, setcap (see hubsim serve --help) or --https-port 0", err)
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w\ngive the hub an address of its own, such as --bind 127.0.0.6, or free ports with --mqtt-port 0 "+
			"--amqp-port 0 --https-port 0", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w\n--bind must be an address of this machine, such as 127.0.0.6", err)
	}
	return err
}

// served says what a hub serves, an endpoint a line.
func served(info hubsim.Info) string {
	var text strings.Builder
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&text, "  %-22s %s\n", what, fmt.Sprintf(format, args...))
	}
	https := fmt.Sprintf("https://%s:%d", info.Bind, info.HTTPSPort)
	fmt.Fprintf(&text, "hub %s with %s, TLS trusted by %s\n", info.Host, devices(len(info.Devices)), info.CAFile)
	line("MQTT 3.1.1", "%s:%d", info.Bind, info.MQTTPort)
	line("AMQP 1.0", "%s:%d", info.Bind, info.AMQPPort)
	line("both in WebSockets", "%s/$iothub/websocket", https)
	line("HTTPS", "%s for devices, registry, twins, jobs, methods", https)
	line("events", "sb://%s:%d/messages/events", info.Bind, info.AMQPPort)
	line("file upload", "%s", info.BlobEndpoint)
	line("provisioning", "%s, id scope %s, group %s", info.DPS.Host, info.DPS.IDScope, info.DPS.Group)
	line("resource provider", "%s", info.ARMEndpoint)
	return text.String()
}

func devices(n int) string {
	if n == 1 {
		return "1 device"
	}
	return fmt.Sprintf("%d devices", n)
}
