package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway/control"
)

func completionCommand(std streams) *cobra.Command {
	return &cobra.Command{
		Use:   "completion {bash | zsh | fish}",
		Short: "Write what a shell needs to complete command lines",
		Long: `Writes a script for a shell. With it, the tabulator completes commands, flags, and
the ids of leaves, for which the daemon is asked.`,
		Example:   "  source <(fieldgate completion bash)\n  fieldgate completion bash > /etc/bash_completion.d/fieldgate\n  fieldgate completion fish > ~/.config/fish/completions/fieldgate.fish",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(std.out, true)
			case "zsh":
				return root.GenZshCompletion(std.out)
			}
			return root.GenFishCompletion(std.out, true)
		},
	}
}

// completeTimeout bounds how long the tabulator waits for the daemon.
const completeTimeout = time.Second

// completeLeaves lets all commands that take the id of a leaf complete it.
func completeLeaves(all ...*cobra.Command) {
	for _, c := range all {
		completeLeaves(c.Commands()...)
		if strings.Contains(c.Use, " LEAF") && c.ValidArgsFunction == nil && len(c.ValidArgs) == 0 && c.Flags().Lookup("socket") != nil {
			c.ValidArgsFunction = leafIDs
		}
	}
}

func leafIDs(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeTimeout)
	defer cancel()
	socket, err := cmd.Flags().GetString("socket")
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	devices, err := control.NewClient(socket).Devices(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, d := range devices {
		if strings.HasPrefix(d.ID, begin) {
			ids = append(ids, d.ID)
		}
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
