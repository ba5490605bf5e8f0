package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/control"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

func statsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "stats",
		Short: "Print what the hub counts",
		Long: `Prints what the hub counts: open connections of AMQP and those ever made of all
protocols; identities with a good token, and links, on the open ones; open
connections of MQTT; devices connected by whatever protocol; hubsim's own
processor time in seconds; telemetry messages ever taken, those kept for readers
with their bytes, and those dropped to make room.`,
		Example: "  hubsim stats --dir hub\n  hubsim stats --dir hub --json",
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
		Example: "  hubsim watch --dir hub\n  hubsim watch --dir hub --json | jq -r '.body | @base64d'",
		Args:    cobra.NoArgs,
	}
	dir := dirFlag(c)
	asJSON := c.Flags().Bool("json", false, "one JSON object a line")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if *asJSON {
			out := json.NewEncoder(cmd.OutOrStdout())
			return control.NewClient(*dir).Arrivals(cmd.Context(), true, func(a hubsim.Arrival) error { return out.Encode(a) })
		}
		return control.NewClient(*dir).Arrivals(cmd.Context(), true, func(a hubsim.Arrival) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %-20s %5d bytes  %s%s\n",
				a.Enqueued.Format(time.TimeOnly), sender(a), len(a.Body), preview(a.Body), properties(a))
			return err
		})
	}
	return c
}

// sender names who sent, and what kind of event it is unless it is telemetry.
func sender(a hubsim.Arrival) string {
	name := registry.ID{Device: a.Device, Module: a.Module}.String()
	if a.Kind != "" {
		name += " (" + a.Kind + ")"
	}
	return name
}

// properties are the application properties, in the order of their names.
func properties(a hubsim.Arrival) string {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(a.Properties)) {
		fmt.Fprintf(&text, "  %s=%s", preview([]byte(name)), preview([]byte(a.Properties[name])))
	}
	return text.String()
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
