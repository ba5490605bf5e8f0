package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway/control"
)

func deviceCommand(std streams) *cobra.Command {
	c := group("device", "Look at leaves, talk to them, admit and change them",
		listDevicesCommand(std), showDeviceCommand(std), addDeviceCommand(std),
		twinCommand(std), methodCommand(std), sendCommand(std), deviceLogsCommand(std), hashPasswordCommand(std))
	c.AddCommand(changeDeviceCommands(std)...)
	c.AddCommand(decideCommands(std)...)
	return c
}

// devicesHint is what to do about a leaf that is not found.
const devicesHint = "run: fieldgate device list"

func listDevicesCommand(std streams) *cobra.Command {
	r := remote{list: devicesHint}
	c := &cobra.Command{
		Use:   "list",
		Short: "List all leaves",
		Long: `Lists the leaves with their state. "connected" is one that can be reached now,
"asleep" one that is away and wants what comes for it meanwhile, "away" the rest.
HUB is the hub's last word: "ok" when it has taken something of the leaf since the
start, "not asked yet" when there was nothing to ask, "waits for enrolment" when the
leaf has to become known there first. For a leaf that the hub refuses it says why, and
when the hub is asked again.`,
		Example: "  fieldgate device list\n  fieldgate device list --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := r.client().Devices(cmd.Context())
			if err != nil {
				return r.failed("cannot list the leaves", err)
			}
			if !r.forPeople() {
				return encode(std.out, r.output, all)
			}
			return printDevices(std.out, all, time.Now())
		},
	}
	r.flags(c, forms...)
	return c
}

func printDevices(out io.Writer, all []control.Device, now time.Time) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LEAF\tSTATE\tLAST SEEN\tLISTENS\tHUB")
	for _, d := range all {
		putRow(t, d.ID, d.State, seen(&d, now), orDash(strings.Join(d.Listens, ",")), hubWord(&d, now))
	}
	return t.Flush()
}

// seen says when a leaf was last seen.
func seen(d *control.Device, now time.Time) string {
	switch {
	case d.State == isConnected && (d.LastSeen.IsZero() || now.Sub(d.LastSeen) < 2*time.Second):
		return "now"
	case d.LastSeen.IsZero():
		return "-"
	}
	return short(now.Sub(d.LastSeen)) + " ago"
}

// hubWord says how the hub takes a leaf.
func hubWord(d *control.Device, now time.Time) string {
	switch {
	case d.Refused != "" && d.RetryAt.After(now):
		return fmt.Sprintf("refused, asked again in %s: %s", short(d.RetryAt.Sub(now)), plainly(d.Refused))
	case d.Refused != "":
		return "refused, being asked again: " + plainly(d.Refused)
	case d.Parked:
		return "takes nothing of it for now: what it sends is kept on flash"
	}
	switch d.Hub {
	case control.HubTakes:
		return "ok"
	case control.HubEnrols:
		return "waits for enrolment"
	case control.HubAwaitsToken:
		return "waits for a token of the leaf"
	}
	if d.State == isDisabled {
		return "-"
	}
	return "not asked yet"
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func showDeviceCommand(std streams) *cobra.Command {
	r := remote{list: devicesHint}
	c := &cobra.Command{
		Use:     "show LEAF",
		Short:   "Say how a leaf is",
		Example: "  fieldgate device show pump-1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := r.client().Device(cmd.Context(), args[0])
			if err != nil {
				return r.failed("cannot show the leaf", err)
			}
			if !r.forPeople() {
				return encode(std.out, r.output, d)
			}
			now := time.Now()
			listens := orDash(strings.Join(d.Listens, ", "))
			if d.SendsOnly != "" {
				listens = "nothing: " + d.SendsOnly
			}
			say(std.out, "leaf       %s\nstate      %s\nlast seen  %s\nlistens    %s\nauth       %s\nhub        %s",
				d.ID, d.State, seen(&d, now), listens, d.Auth, hubWord(&d, now))
			return nil
		},
	}
	r.flags(c, textForms...)
	return c
}

func twinCommand(std streams) *cobra.Command {
	r := remote{list: devicesHint}
	c := &cobra.Command{
		Use:   "twin LEAF",
		Short: "Read the twin of a leaf",
		Long: `Writes the twin document of a leaf: the hub's while it can be reached, else the
copy that is kept here, with what the leaf has reported since. Its age is said on
standard error, or stands in the JSON form.`,
		Example: "  fieldgate device twin pump-1\n  fieldgate device twin pump-1 --output json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := r.client().Twin(cmd.Context(), args[0])
			if err != nil {
				return r.failed("cannot read the twin", err)
			}
			if !r.forPeople() {
				return encode(std.out, r.output, t)
			}
			switch {
			case t.AgeSeconds == nil:
				fmt.Fprintln(std.err, "the hub is away: a copy of unknown age")
			case *t.AgeSeconds > 0:
				fmt.Fprintf(std.err, "the hub is away: a copy of %s ago\n", short(time.Duration(*t.AgeSeconds*float64(time.Second))))
			}
			return writeJSON(std.out, t.Twin)
		},
	}
	r.flags(c, textForms...)
	return c
}

// timeoutFlag adds --timeout.
func timeoutFlag(c *cobra.Command) *time.Duration {
	return c.Flags().Duration("timeout", control.DefaultTimeout, "how long to wait for the leaf, up to "+short(control.MaxTimeout))
}

func methodCommand(std streams) *cobra.Command {
	r := remote{list: devicesHint}
	var body string
	var limit *time.Duration
	c := &cobra.Command{
		Use:   "method LEAF NAME",
		Short: "Call a method of a leaf",
		Long: `Calls a direct method of a leaf, with the hub or without, and writes the leaf's
answer. It exits with 0 if the leaf's status is a success (200 to 299), 7 if the
leaf has not answered in time, 8 if it does not listen for methods now.`,
		Example: "  fieldgate device method pump-1 blink --body '{\"times\": 3}' --timeout 10s",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if body != "" && !json.Valid([]byte(body)) {
				return errors.New("--body is no JSON")
			}
			reply, err := r.client().Call(cmd.Context(), args[0], args[1], []byte(body), *limit)
			if err != nil {
				return r.failed("cannot call the method", err)
			}
			if err := writeJSON(std.out, reply); err != nil {
				return err
			}
			if reply.Status < 200 || reply.Status > 299 {
				return &failure{exitFailed, "the leaf says no", fmt.Errorf("its status is %d", reply.Status), "look at its answer"}
			}
			return nil
		},
	}
	r.flags(c)
	c.Flags().StringVar(&body, "body", "", "payload, `JSON`; none by default")
	limit = timeoutFlag(c)
	return c
}

func sendCommand(std streams) *cobra.Command {
	r := remote{list: devicesHint}
	var body, file string
	var properties []string
	var command control.Command
	var limit *time.Duration
	c := &cobra.Command{
		Use:   "send LEAF {--body TEXT | --file FILE}",
		Short: "Send a command to a leaf",
		Long: `Sends a command to a leaf as the hub's cloud-to-device messages come, and waits for
its acknowledgement; one that is asleep may wake meanwhile. What is not acknowledged
in time is not kept. The property "command" is the name of the command on plain
topics. It exits with 0 if the leaf has taken the command, 1 if it has rejected it,
7 if it has it and has not answered in time, 8 if it was not there.`,
		Example: "  fieldgate device send pump-1 --body '{\"rate\": 5}' --property command=set\n  fieldgate device send pump-1 --file firmware.bin",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if command.Body, err = commandBody(std, body, file); err != nil {
				return err
			}
			if command.Properties, err = propertiesOf(properties); err != nil {
				return err
			}
			verdict, err := r.client().Send(cmd.Context(), args[0], command, *limit)
			if err != nil {
				return r.failed("cannot send the command", err)
			}
			fmt.Fprintln(std.out, verdict)
			return untaken(verdict)
		},
	}
	r.flags(c)
	c.Flags().StringVar(&body, "body", "", "what to send, `TEXT`")
	c.Flags().StringVar(&file, "file", "", "send what is in `FILE`; - is standard input")
	c.Flags().StringArrayVar(&properties, "property", nil, "application property, `NAME=VALUE`; may be repeated")
	c.Flags().StringVar(&command.ContentType, "content-type", "", "content type, like application/json")
	c.Flags().StringVar(&command.MessageID, "message-id", "", "message id")
	c.MarkFlagsMutuallyExclusive("body", "file")
	limit = timeoutFlag(c)
	return c
}

// commandBody is what --body or --file says. One byte more than a leaf takes is
// read at most: the daemon says that it is too much.
func commandBody(std streams, body, file string) ([]byte, error) {
	if file == "" {
		return []byte(body), nil
	}
	in := std.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, &failure{exitFailed, "cannot read the command", err, "name a file that can be read"}
		}
		defer f.Close()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, control.MaxCommand+1))
}

func propertiesOf(list []string) (map[string]string, error) {
	properties := make(map[string]string, len(list))
	for _, p := range list {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--property %q: write NAME=VALUE", p)
		}
		properties[name] = value
	}
	return properties, nil
}
