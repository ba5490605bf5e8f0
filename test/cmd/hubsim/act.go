package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/test/hubsim/control"
)

// acting makes a command that asks the hub for something and prints the answer.
func acting(c *cobra.Command, do func(ctx context.Context, hub *control.Client, args []string) (string, error)) *cobra.Command {
	dir := dirFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		text, err := do(cmd.Context(), control.NewClient(*dir), args)
		if err == nil && text != "" {
			fmt.Fprintln(cmd.OutOrStdout(), text)
		}
		return err
	}
	return c
}

// argument returns the argument at i, or nothing.
func argument(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}

func deviceCommand() *cobra.Command {
	c := family(&cobra.Command{
		Use:     "device",
		Aliases: []string{"devices"},
		Short:   "Add, list and remove devices",
		Example: "  hubsim device list --dir hub",
	})
	c.AddCommand(
		acting(&cobra.Command{
			Use:     "add ID [KEY]",
			Short:   "Add a device and print its connection string; without a key one is made up",
			Example: "  hubsim device add pump-3 --dir hub",
			Args:    between(1, 2),
		}, func(ctx context.Context, hub *control.Client, args []string) (string, error) {
			return hub.AddDevice(ctx, args[0], argument(args, 1))
		}),
		acting(&cobra.Command{
			Use:     "list",
			Short:   "List the devices, whether they may connect and whether they have",
			Example: "  hubsim device list --dir hub",
			Args:    cobra.NoArgs,
		}, func(ctx context.Context, hub *control.Client, _ []string) (string, error) { return hub.Devices(ctx) }),
		acting(&cobra.Command{
			Use:     "remove ID",
			Short:   "Delete a device; its connections end at once",
			Example: "  hubsim device remove pump-3 --dir hub",
			Args:    between(1, 1),
		}, func(ctx context.Context, hub *control.Client, args []string) (string, error) {
			return "removed " + args[0], hub.RemoveDevice(ctx, args[0])
		}),
	)
	return c
}

func sendCommand() *cobra.Command {
	return acting(&cobra.Command{
		Use:     "send DEVICE TEXT",
		Short:   "Send a cloud-to-device message",
		Example: `  hubsim send pump-1 "open the valve" --dir hub`,
		Args:    between(2, 2),
	}, func(ctx context.Context, hub *control.Client, args []string) (string, error) {
		return "queued for " + args[0], hub.Send(ctx, args[0], args[1])
	})
}

func twinCommand() *cobra.Command {
	return acting(&cobra.Command{
		Use:   "twin DEVICE [PATCH]",
		Short: "Print a device's twin, after changing tags and desired properties if there is a patch",
		Example: `  hubsim twin pump-1 --dir hub
  hubsim twin pump-1 '{"tags":{"hall":4},"properties":{"desired":{"interval":5}}}' --dir hub`,
		Args: between(1, 2),
	}, func(ctx context.Context, hub *control.Client, args []string) (string, error) {
		text, err := hub.Twin(ctx, args[0], argument(args, 1))
		if err != nil {
			return "", err
		}
		var lines bytes.Buffer
		err = json.Indent(&lines, []byte(text), "", "  ")
		return lines.String(), err
	})
}

func callCommand() *cobra.Command {
	return acting(&cobra.Command{
		Use:     "call DEVICE METHOD [JSON]",
		Short:   "Call a direct method and print status and payload of the answer",
		Example: `  hubsim call pump-1 reboot '{"delay":3}' --dir hub`,
		Args:    between(2, 3),
	}, func(ctx context.Context, hub *control.Client, args []string) (string, error) {
		return hub.Call(ctx, args[0], args[1], argument(args, 2))
	})
}
