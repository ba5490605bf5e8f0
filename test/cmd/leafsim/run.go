package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/fieldgate/fieldgate/test/leafsim"
)

// flags describe leaves on the command line.
type flags struct {
	leafsim.Options
	leaves       []string
	protocol     string
	broker, ca   string
	passwordFile string
	keyFile, hub string
	port, acks   string
}

// placeholder stands for the leaf's id in the names of files.
const placeholder = "{leaf}"

func runCommand() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "run",
		Short: "Be one leaf, or several",
		Long: `Connects as one leaf, or as several that differ only in their ids, and sends
numbered messages until SIGINT, or until --count of each are acknowledged. Each
acknowledgement is written to a file at once, for leafsim check; --acks
/dev/stdout shows them. A password or key is read from a file. In the names of
files and ports, {leaf} stands for the leaf's id.`,
		Example: `  leafsim run --leaf pump-1 --broker localhost:8883 --ca ca.pem --password-file pump-1.password --count 100
  leafsim run --leaf sdk-1,sdk-2 --broker localhost:8883 --ca ca.pem --key-file {leaf}.key --hub myhub.azure-devices.net
  leafsim run --leaf meter-1 --protocol serial --port /tmp/tty-meter-1 --acks /dev/stdout`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	s := c.Flags()
	s.StringSliceVar(&f.leaves, "leaf", nil, "`id` of the leaf (required); several with commas, or the flag again")
	s.StringVar(&f.protocol, "protocol", "mqtt311", "mqtt311, mqtt5, serial or mqtt-sn")
	s.StringVar(&f.broker, "broker", "localhost:8883", "`address` of the gateway's MQTT listener")
	s.StringVar(&f.ca, "ca", "", "`file` with the certificate authority to trust; without it plain text is spoken")
	s.StringVar(&f.passwordFile, "password-file", "", "`file` with the leaf's password, for the plain dialect")
	s.StringVar(&f.keyFile, "key-file", "", "`file` with the leaf's hub key, for the dialect of the hub's SDKs")
	s.StringVar(&f.hub, "hub", "", "host `name` of the hub, with --key-file")
	s.StringVar(&f.port, "port", "", "`path` at which the serial port is to appear, with --protocol serial and mqtt-sn")
	s.StringVar(&f.acks, "acks", "acks.jsonl", "`file` for acknowledgements")
	s.Float64Var(&f.Rate, "rate", 1, "messages per second of each leaf, 0 for as fast as it goes")
	s.Uint64Var(&f.Count, "count", 0, "how many messages of each leaf, 0 for no end")
	s.IntVar(&f.Window, "window", 16, "how many of a leaf may be unacknowledged at a time")
	s.IntVar(&f.AlarmEvery, "alarm-every", 0, "every so many messages one is an alarm, 0 for never")
	s.IntVar(&f.Size, "size", 0, "bytes of a message, 0 for as small as it gets")
	_ = c.MarkFlagRequired("leaf") // fails only for a flag that does not exist
	return c
}

func (f *flags) run(cmd *cobra.Command) (err error) {
	log, err := leafsim.OpenAckLog(f.acks)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	var leaves []*leafsim.Leaf
	for _, id := range f.leaves {
		o, err := f.of(id).options()
		if err != nil {
			return err
		}
		o.Log = log
		leaves = append(leaves, leafsim.New(o))
	}
	group, ctx := errgroup.WithContext(cmd.Context())
	for _, leaf := range leaves {
		group.Go(func() error { return leaf.Run(ctx) })
	}
	err = group.Wait()
	if cmd.Context().Err() != nil {
		err = nil // the end that was asked for
	}
	for _, leaf := range leaves {
		err = errors.Join(err, sumUp(cmd, leaf))
	}
	return err
}

// sumUp says what a leaf has done. A leaf that never connected is an error.
func sumUp(cmd *cobra.Command, leaf *leafsim.Leaf) error {
	stats := leaf.Stats()
	fmt.Fprintf(cmd.OutOrStdout(), "%s: %d made, %d acknowledged, %d sent again, %d connections\n",
		leaf.ID(), stats.Made, stats.Acked, stats.Resent, stats.Connects)
	if last := leaf.LastError(); stats.Connects == 0 && last != nil {
		return fmt.Errorf("%s never connected: %w", leaf.ID(), last)
	}
	return nil
}

// of returns the flags as they are for one leaf.
func (f *flags) of(leaf string) *flags {
	own := *f
	own.ID = leaf
	for _, name := range []*string{&own.passwordFile, &own.keyFile, &own.port} {
		*name = strings.ReplaceAll(*name, placeholder, leaf)
	}
	return &own
}

// options describes the leaf to leafsim.
func (f *flags) options() (leafsim.Options, error) {
	line, err := f.line()
	f.Line = line
	return f.Options, err
}

// line makes the way to the gateway that the flags describe.
func (f *flags) line() (leafsim.Line, error) {
	q := &leafsim.MQTT{Address: f.broker, Version: 4}
	switch f.protocol {
	case "serial":
		if f.port == "" {
			return nil, errors.New("--protocol serial needs --port")
		}
		return &leafsim.Serial{Link: f.port}, nil
	case "mqtt-sn":
		if f.port == "" {
			return nil, errors.New("--protocol mqtt-sn needs --port")
		}
		return &leafsim.SN{Link: f.port}, nil
	case "mqtt311":
	case "mqtt5":
		q.Version = 5
	default:
		return nil, fmt.Errorf("--protocol %s is unknown: write mqtt311, mqtt5, serial or mqtt-sn", f.protocol)
	}
	if f.ca != "" {
		var err error
		if q.TLS, err = trust(f.ca); err != nil {
			return nil, err
		}
	}
	return q, f.login(q)
}

func (f *flags) login(q *leafsim.MQTT) error {
	switch {
	case f.keyFile != "" && f.hub != "":
		key, err := os.ReadFile(f.keyFile)
		if err != nil {
			return err
		}
		q.Dialect, f.AlarmEvery = leafsim.IoTHub, 0
		q.Login, err = leafsim.TokenLogin(f.hub, strings.TrimSpace(string(key)))
		return err
	case f.passwordFile != "":
		password, err := os.ReadFile(f.passwordFile)
		q.Login = leafsim.PasswordLogin(strings.TrimRight(string(password), "\r\n"))
		return err
	}
	return errors.New("no credential: give --password-file, or --key-file and --hub")
}

func trust(file string) (*tls.Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}
